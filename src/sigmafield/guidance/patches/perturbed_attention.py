"""Guidance away from the network's own prediction with a part of it disturbed: one more evaluation of the prompt."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from torch import Tensor

from sigmafield.guidance.hooks import Asked, Preds
from sigmafield.guidance.patches.seams import during, inside
from sigmafield.guidance.patches.where import middle_attentions
from sigmafield.guidance.registry import mod
from sigmafield.maths import lincomb
from sigmafield.ranges import Range
from sigmafield.types import Call, Network


def identity_attention(network: Network, call: Call) -> Network:
    """A patch: the middle's self-attention looks at its own token alone, so that its output is v."""
    return during(network, [partial(inside, attention, _values) for attention in middle_attentions(call.module)])


def _values(q: Tensor, k: Tensor, v: Tensor, attention: object) -> Tensor:
    return v


@mod("pag", "after", "arXiv:2403.17377", evals=1, fits=middle_attentions)
def pag(p: Preds, at: Asked, *, scale: Annotated[float, Range(0, 100)] = 3.0) -> Preds:
    """Perturbed-attention guidance: away from what the network makes of the prompt with identity attention, W.

        D ← D + scale (C − W)

    W has the values v in the place of self-attention in the middle of the UNet. With 0 there is no evaluation. Lower
    cfg by about the scale.
    """
    if not scale:
        return p
    W = at.predict(at.model, at.positive, identity_attention)
    return p._replace(D=lincomb(1.0, p.D, scale, p.c, -scale, W))
