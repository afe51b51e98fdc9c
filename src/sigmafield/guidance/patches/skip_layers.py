"""Guidance away from a transformer that some of its blocks are missing from."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from sigmafield.core.conditioning import Cond
from sigmafield.core.parameters import Range, Share
from sigmafield.core.predict import within
from sigmafield.core.protocols import Call, Network
from sigmafield.core.statistics import TINY, std
from sigmafield.guidance.autoguidance import away
from sigmafield.guidance.hooks import Asked, Preds, choose
from sigmafield.guidance.patches.module_hooks import Place, during, instead
from sigmafield.guidance.patches.transformer_blocks import Kind, numbers, of_kind, transformer
from sigmafield.guidance.registry import mod


def places(module: nn.Module, *, double: str, single: str) -> list[Place]:
    """The blocks with these numbers, each giving what it is given. Numbers beyond the last are left out.

    Raises ValueError for numbers none of which the network has.
    """
    family = transformer(module)
    found = _passing(module, family.double, double) + _passing(module, family.single, single)
    if not found and numbers(double) + numbers(single):
        have = [len(of_kind(module, kind)) for kind in (family.double, family.single)]
        raise ValueError(
            f"{type(module).__name__} has {have[0]} double and {have[1]} single blocks, from 0 on; "
            f"got double = {double!r} and single = {single!r}"
        )
    return found


def _passing(module: nn.Module, kind: Kind | None, text: str) -> list[Place]:
    there = of_kind(module, kind)
    through = _both if kind and kind.pair else _alone
    return [partial(instead, there[n], through) for n in dict.fromkeys(numbers(text)) if n < len(there)]


def _both(hidden_states: Tensor, encoder_hidden_states: Tensor, *rest: Any, **named: Any) -> tuple[Tensor, Tensor]:
    return encoder_hidden_states, hidden_states


def _alone(hidden_states: Tensor, *rest: Any, **named: Any) -> Tensor:
    return hidden_states


def skipped(network: Network, call: Call, *, double: str, single: str) -> Network:
    """A patch: the network as if it did not have these blocks."""
    return during(network, places(call.module, double=double, single=single))


@mod("slg", "after", "ComfyUI (SkipLayerGuidanceDiT)", evals=1, fits=places)
def slg(
    p: Preds,
    at: Asked,
    *,
    double: str = "7, 8, 9",
    single: str = "7, 8, 9",
    scale: Annotated[float, Range(0, 10)] = 3.0,
    start_percent: Share = 0.01,
    end_percent: Share = 0.15,
    rescaling_scale: Annotated[float, Range(0, 10)] = 0.0,
    over: Literal["batch", "sample"] = "batch",
) -> Preds:
    """Skip-layer guidance: away from what a transformer without some of its blocks makes of the prompt, W.

        D ← D + scale (C − W),   then D ← (ψ std(C)/std(D) + 1 − ψ) D,   ψ = rescaling_scale

    double, single: numbers of blocks in which text and image are two streams, or one; blocks that a network does not
    have are left out. start_percent, end_percent: shares of the way through sampling between which it acts; outside,
    and with scale 0 or no blocks, there is no evaluation. over: std is of the whole batch, as in ComfyUI, where a
    sample depends on the others, or of each "sample".
    """
    inside = within((start_percent, end_percent), at.sigma, at.ctx.span.sigma_at)
    if not scale or not inside.any() or not numbers(double) + numbers(single):
        return p
    W = at.predict(at.model, at.positive, partial(skipped, double=double, single=single))
    D = away(p, W, scale)
    if rescaling_scale:
        c, d = (std(z) if over == "sample" else z.std() for z in (p.c, D))
        D = D * (rescaling_scale * c / d.clamp(min=TINY) + 1 - rescaling_scale)
    return p._replace(D=choose(inside, D, p.D))


@mod("slg_simple", "against", "ComfyUI (SkipLayerGuidanceDiTSimple)", fits=places)
def slg_simple(
    network: Network,
    call: Call,
    *,
    double: str = "7, 8, 9",
    single: str = "7, 8, 9",
    start_percent: Share = 0.0,
    end_percent: Share = 1.0,
) -> Network:
    """Skip-layer guidance at no further cost: the negative prompt is evaluated without some of the blocks.

    D = U + cfg (C − U),   U of the network without the blocks `double` and `single`: see `slg`

    start_percent, end_percent: shares of the way through sampling between which the blocks are left out.
    """
    inside = within((start_percent, end_percent), call.sigma, call.ctx.span.sigma_at)
    without = skipped(network, call, double=double, single=single)
    if inside.all() or not inside.any():
        return without if inside.all() else network

    def by_row(x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        return torch.where(inside.to(x.device), without(x, t, cond), network(x, t, cond))

    return by_row
