"""Guidance away from the network's own prediction with its self-attention disturbed: one more evaluation."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated

import torch
from torch import Tensor

from sigmafield.core.conditioning import Cond
from sigmafield.core.parameters import Range
from sigmafield.core.protocols import Call, Network
from sigmafield.guidance.autoguidance import away
from sigmafield.guidance.hooks import Asked, Preds
from sigmafield.guidance.patches.module_hooks import during, inside
from sigmafield.guidance.patches.transformer_blocks import ImageTokens, self_attentions
from sigmafield.guidance.registry import mod

Disturb = Callable[[ImageTokens, Tensor, Tensor, Tensor, "partial[Tensor]"], Tensor]
"""(which tokens are the image's, q, k, v, attention) → the replacement of attention(q, k, v)."""

Scale = Annotated[float, Range(0, 100)]


def disturbed(network: Network, call: Call, layers: str, change: Disturb) -> Network:
    """The network with a change in the self-attention of these blocks."""
    attentions = self_attentions(call.module, layers=layers)

    def patched(x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        attend = partial(change, ImageTokens(call.module, x, cond))
        return during(network, [partial(inside, attention, attend) for attention in attentions])(x, t, cond)

    return patched


@mod("pag", "after", "arXiv:2403.17377", evals=1, fits=self_attentions)
def pag(p: Preds, at: Asked, *, scale: Scale = 3.0, layers: str = "") -> Preds:
    """Perturbed-attention guidance: away from the prediction W for the prompt with identity attention.

        D ← D + scale (C − W)

    In W a token of the image attends to no other token of the image: in self-attention the output is v; where the text
    is in the same sequence, all of it is attended to, and its own tokens are left alone. With scale 0 there is no
    evaluation. Lower cfg by about the scale.

    Args:
        p: The predictions.
        at: What was asked.
        scale: How far away; 0 changes nothing.
        layers: Numbers of blocks, such as "7, 8, 9": of a UNet those in its middle, where "" is all of them; of a
            transformer all, double-stream ones first, where "" is the one in the middle.
    """
    if not scale:
        return p
    W = at.predict(at.model, at.positive, partial(identity_attention, layers=layers))
    return p._replace(D=away(p, W, scale))


def identity_attention(network: Network, call: Call, *, layers: str = "") -> Network:
    """A patch: tokens of the image attend to themselves, and to the text if it is in their sequence."""
    return disturbed(network, call, layers, _themselves)


def _themselves(image: ImageTokens, q: Tensor, k: Tensor, v: Tensor, attention: partial[Tensor]) -> Tensor:
    length = k.shape[2]
    at = image.positions(length)
    if at.shape[1] == length:
        return v
    own = torch.zeros(len(at), length, dtype=torch.bool, device=q.device).scatter(1, at, True)
    others = own[:, :, None] & own[:, None, :] & ~torch.eye(length, dtype=torch.bool, device=q.device)
    seen, mask = ~others[:, None], attention.keywords.get("attn_mask")
    return attention(q, k, v, attn_mask=seen if mask is None else seen & mask)


@mod("seg", "after", "arXiv:2408.00760", evals=1, fits=self_attentions)
def seg(
    p: Preds,
    at: Asked,
    *,
    scale: Scale = 3.0,
    blur_sigma: Annotated[float, Range(0, 10000)] = 10000.0,
    layers: str = "",
) -> Preds:
    """Smoothed energy guidance: away from the prediction W for the prompt with blurred attention.

        D ← D + scale (C − W),   W: q ← G ∗ q,   G a Gaussian on the image's grid

    The logits q·k, rotary positions included, are then blurred along the queries. G is normalised within the grid.
    Queries of the text are left alone, and frames are blurred one by one. With scale 0 there is no evaluation.

    Args:
        p: The predictions.
        at: What was asked.
        scale: How far away; 0 changes nothing.
        blur_sigma: Deviation of G in tokens; 0 changes nothing, and at the default every query is in effect the mean of
            all.
        layers: Numbers of blocks, such as "7, 8, 9": of a UNet those in its middle, where "" is all of them; of a
            transformer all, double-stream ones first, where "" is the one in the middle.
    """
    if not scale:
        return p
    W = at.predict(at.model, at.positive, partial(blurred_attention, sigma=blur_sigma, layers=layers))
    return p._replace(D=away(p, W, scale))


def blurred_attention(network: Network, call: Call, *, sigma: float, layers: str = "") -> Network:
    """A patch: the image's queries are blurred on their grid."""
    return disturbed(network, call, layers, partial(_blurred, sigma))


def _blurred(sigma: float, image: ImageTokens, q: Tensor, k: Tensor, v: Tensor, attention: partial[Tensor]) -> Tensor:
    at = image.positions(q.shape[2])[:, None, :, None].expand(len(q), q.shape[1], -1, q.shape[3])
    own = q.gather(2, at)
    for_each = own.unflatten(2, image.grid(own.shape[2]))
    return attention(q.scatter(2, at, blurred(for_each, sigma).reshape(own.shape)), k, v)


def blurred(z: Tensor, sigma: float) -> Tensor:
    """[…, rows, columns, C] blurred along rows and columns by a Gaussian that is normalised within the grid."""
    z = gaussian(z.shape[-2], sigma).to(z) @ z
    return (gaussian(z.shape[-3], sigma).to(z) @ z.transpose(-3, -2)).transpose(-3, -2)


def gaussian(n: int, sigma: float) -> Tensor:
    """Weights [n, n] of n positions for each: exp(−(i − j)²/2σ²), with sums of 1; σ = 0 is the identity."""
    at = torch.arange(n, dtype=torch.float64)
    return torch.softmax(-((at[:, None] - at) ** 2) / (2 * max(sigma, 1e-3) ** 2), dim=1)
