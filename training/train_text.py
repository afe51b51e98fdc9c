"""Pretrain the text encoder alone: a caption must tell the main components of its images' latents.

The target of a caption is the mean latent of one design (and hue) over its copies, as PCA numbers; the loss is their
squared error at the end-of-text positions plus a contrastive term within the batch. Without this start the UNet learns
to ignore the captions.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from common import TEXT_CONFIG, Captioned
from transformers import CLIPTextModel


@torch.no_grad()
def spread(model, ids):
    """Fold into the last LayerNorm: states at the end-of-text positions with mean 0 and variance 1 over the captions.

    What tells captions apart is a small part of the states otherwise, and joint training with the UNet then keeps
    little more than the colour of it.
    """
    ends = ids == TEXT_CONFIG.eos_token_id
    states = model(ids).last_hidden_state[ends]
    mean = states.mean(0)
    gain = 1 / (states - mean).square().mean().sqrt()
    norm = next(m for name, m in model.named_modules() if name.endswith("final_layer_norm"))
    norm.weight *= gain
    norm.bias.copy_((norm.bias - mean) * gain)
    return gain.item()


def main():
    """Command line."""
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--data", type=Path, default=Path("data"))
    ap.add_argument("--tokenizer", type=Path, default=Path("tokenizer"))
    ap.add_argument("--out", type=Path, default=Path("text_encoder"))
    ap.add_argument("--steps", type=int, default=1500)
    ap.add_argument("--batch", type=int, default=64)
    ap.add_argument("--lr", type=float, default=1e-3)
    ap.add_argument("--components", type=int, default=96)
    ap.add_argument("--seed", type=int, default=0)
    args = ap.parse_args()

    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    data = Captioned(args.data, args.tokenizer)
    keys = [f"{m} {w}" for m, w in zip(data.master, data.word, strict=True)]
    _, group = np.unique(keys, return_inverse=True)
    group = torch.from_numpy(group)
    mean = torch.zeros(int(group.max()) + 1, 4 * 16 * 16).index_add_(0, group, data.latents.flatten(1))
    mean /= group.bincount()[:, None]
    centred = mean - mean.mean(0)
    u, s, _ = torch.linalg.svd(centred, full_matrices=False)
    targets = (u * s)[:, : args.components] / s[0] * len(s) ** 0.5
    share = s[: args.components].square().sum() / s.square().sum()
    print(f"{len(mean)} targets; {args.components} components hold {share:.1%} of their variance")

    model = CLIPTextModel(TEXT_CONFIG)
    head = torch.nn.Linear(TEXT_CONFIG.hidden_size, args.components)
    scale = torch.nn.Parameter(torch.tensor(2.0))
    params = [*model.parameters(), *head.parameters(), scale]
    opt = torch.optim.AdamW(params, lr=args.lr, weight_decay=0.01)
    plan = torch.optim.lr_scheduler.OneCycleLR(opt, args.lr, total_steps=args.steps + 1, pct_start=0.1)
    start = time.time()
    right = []
    for step in range(args.steps):
        captions = rng.choice(len(data.rows), args.batch, replace=False)
        picks = np.array([data.draw(rng, c, 0.17) for c in captions])
        ids = data.tokens([data.text(rng, i, 0.0) for i in picks])
        target = targets[group[picks]]
        ends = (ids == TEXT_CONFIG.eos_token_id).float()
        guess = head(model(ids).last_hidden_state)
        each = (guess - target[:, None]).square().mean(-1)
        pooled = (guess * ends[..., None]).sum(1) / ends.sum(1, keepdim=True)
        logits = F.normalize(pooled, dim=1) @ F.normalize(target, dim=1).T * scale.exp()
        labels = torch.arange(args.batch)
        contrast = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
        loss = (each * ends).sum() / ends.sum() + 0.2 * contrast
        opt.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        opt.step()
        plan.step()
        right.append((logits.argmax(1) == labels).float().mean().item())
        if (step + 1) % 100 == 0:
            shown = f"loss {loss.item():.4f} contrast {contrast.item():.3f} retrieval {np.mean(right[-100:]):.1%}"
            print(f"step {step + 1} {time.time() - start:.0f} s {shown}", flush=True)
    gain = spread(model, data.tokens([row["caption"] for row in data.rows]))
    print(f"states centred and multiplied by {gain:.2f}")
    model.save_pretrained(args.out)


if __name__ == "__main__":
    main()
