"""Guidance away from a prediction for a latent that is blurred where the network attends most."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from sigmafield.core.arrays import Latent
from sigmafield.core.linear import lincomb
from sigmafield.core.memory import Slot
from sigmafield.core.parameters import Range
from sigmafield.core.protocols import Call, Network
from sigmafield.guidance.frequency import smoothed
from sigmafield.guidance.hooks import Asked, Preds
from sigmafield.guidance.patches.module_hooks import during, inside
from sigmafield.guidance.patches.transformer_blocks import nearest_grid
from sigmafield.guidance.patches.unet_blocks import middle_attentions
from sigmafield.guidance.registry import mod

SEEN = "sag"
"""The note of how much attention each token receives: for each role a list of [rows, tokens], one per network call."""


@dataclass(frozen=True)
class Seen:
    """The last notes that were made: [B, tokens] for each role."""

    maps: Mapping[str, Tensor]


SAG = Slot("sag", Seen)


def seen(network: Network, call: Call) -> Network:
    """A patch that notes how much attention each token receives in the middle's first self-attention.

    It is summed over all queries, of the mean over the heads: 1 on average. Rows of the positive prompt are left out.
    Nothing is changed.
    """
    first, notes = middle_attentions(call.module)[0], call.ctx.notes.setdefault(SEEN, {})
    roles = {role: [i for i, r in enumerate(call.roles) if r == role] for role in set(call.roles) - {"positive"}}

    def noting(q: Tensor, k: Tensor, v: Tensor, attention: partial[Tensor]) -> Tensor:
        for role, rows in roles.items():
            each = torch.eye(k.shape[2], dtype=v.dtype, device=v.device).expand(len(rows), q.shape[1], -1, -1)
            weights = attention(q[rows], k[rows], each)  # of unit vectors, attention gives its own weights
            notes.setdefault(role, []).append(weights.float().mean(1).sum(1))
        return attention(q, k, v)

    return during(network, [partial(inside, first, noting)])


@mod(
    "sag", "after", "arXiv:2210.00939", evals=1, need_uncond=True, fits=middle_attentions, companions={"network": seen}
)
def sag(
    p: Preds,
    at: Asked,
    *,
    scale: Annotated[float, Range(-2, 5)] = 0.5,
    blur_sigma: Annotated[float, Range(0, 10)] = 2.0,
) -> Preds:
    """Self-attention guidance: away from the prediction of a latent that is blurred where the network attends most.

        D ← D + scale (Ũ − A),   A = U at x + α (Ũ − U),   Ũ = M G ∗ U + (1 − M) U

    M is 1 where a token of the UNet's middle receives more attention than the mean, in the negative prompt's rows,
    which the patch `seen` notes; G is a Gaussian of 9×9 latent positions. It acts at cfg 1 too, and on latents with
    sides above 4.

    Args:
        p: The predictions.
        at: What was asked.
        scale: How far away; 0 changes nothing, and costs no evaluation.
        blur_sigma: Deviation of the blur in latent positions; 0 for no blur.

    Raises:
        ValueError: Tiles, areas or windows split the attention map.
    """
    if not scale or p.u is None or at.negative is None or min(at.x.shape[-2:]) <= 4:
        return p
    mass = _map(at, at.negative[0].role)
    grid = nearest_grid(mass.shape[1], at.x.shape[-2:])
    mask = F.interpolate((mass > 1).to(p.u.dtype).unflatten(1, grid)[:, None], p.u.shape[-2:], mode="nearest")
    blurred = p.u + mask * (blur(p.u, blur_sigma) - p.u)
    x = lincomb(1.0, at.x, at.ctx.span.process.alpha(at.sigma), blurred - p.u)
    A = replace(at, x=x).predict(at.model, at.negative, *at.against)
    return p._replace(D=lincomb(1.0, p.D, scale, blurred, -scale, A))


def _map(at: Asked, role: str) -> Tensor:
    """What was noted of the negative prompt, [B, tokens]; ValueError where it is not of the whole image.

    Where a cache has left the call out, it is what was noted of the last one.
    """
    noted, last = at.ctx.notes.get(SEEN, {}).get(role, []), SAG.read(at.ctx.aux) or Seen({})
    if not noted and role in last.maps:
        return last.maps[role]
    if sum(map(len, noted)) != len(at.x):
        raise ValueError(
            "sag needs the negative prompt's attention over the whole image: leave out tiles, areas and windows"
        )
    found = torch.cat(noted)
    SAG.write(at.ctx.aux, Seen({**last.maps, role: found}))
    return found


def blur(z: Latent, sigma: float) -> Latent:
    """A latent blurred by a Gaussian of 9×9 positions, mirrored at its borders; 0 = as it was."""
    if not sigma:
        return z
    return smoothed(z, torch.arange(-4, 5, dtype=z.dtype, device=z.device), sigma)
