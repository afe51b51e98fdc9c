"""Muon: momentum whose matrices are made orthogonal (Jordan et al. 2024; scaled as in Liu et al., arXiv:2502.16982).

torch.optim.Muon does the same in bfloat16, which is ten times slower than float32 on a CPU without bfloat16 units;
matrices of one shape are made orthogonal together here.
"""

import torch


def orthogonal(x, steps=5):
    """The nearest orthogonal matrices of x [n, rows, columns], roughly: five Newton–Schulz steps."""
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / (x.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = 3.4445 * x + (2.0315 * (gram @ gram) - 4.7750 * gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Steps of the size of AdamW's at the same learning rate, for matrices only."""

    def __init__(self, params, lr, momentum=0.95, weight_decay=0.02):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self):
        """One step from the gradients."""
        for group in self.param_groups:
            shapes = {}
            for p in group["params"]:
                kept = self.state[p].setdefault("momentum", torch.zeros_like(p))
                kept.lerp_(p.grad, 1 - group["momentum"])
                shapes.setdefault(p.shape, []).append((p, p.grad.lerp(kept, group["momentum"])))
            for shape, items in shapes.items():
                updates = orthogonal(torch.stack([update for _, update in items]))
                for (p, _), update in zip(items, updates, strict=True):
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                    p.add_(update, alpha=-group["lr"] * 0.2 * max(shape) ** 0.5)
