"""Guidance away from the prediction of a transformer without some of its blocks."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from sigmafield.core.conditioning import Cond
from sigmafield.core.parameters import Range, Share
from sigmafield.core.protocols import Call, Network
from sigmafield.core.statistics import TINY, std
from sigmafield.core.time_windows import within
from sigmafield.guidance.autoguidance import away
from sigmafield.guidance.hooks import Asked, Preds, choose
from sigmafield.guidance.patches.module_hooks import Change, during, instead
from sigmafield.guidance.patches.transformer_blocks import Kind, numbers, of_kind, transformer
from sigmafield.guidance.registry import mod


def hooks(module: nn.Module, *, double: str, single: str) -> list[Change]:
    """The hooks that turn the blocks with these numbers into the identity; numbers beyond the last are ignored.

    Raises:
        ValueError: The network has none of the blocks.
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


def _passing(module: nn.Module, kind: Kind | None, text: str) -> list[Change]:
    there = of_kind(module, kind)
    through = _both if kind and kind.pair else _alone
    return [partial(instead, there[n], through) for n in dict.fromkeys(numbers(text)) if n < len(there)]


def _both(hidden_states: Tensor, encoder_hidden_states: Tensor, *rest: Any, **named: Any) -> tuple[Tensor, Tensor]:
    return encoder_hidden_states, hidden_states


def _alone(hidden_states: Tensor, *rest: Any, **named: Any) -> Tensor:
    return hidden_states


def skipped(network: Network, call: Call, *, double: str, single: str) -> Network:
    """A patch: the network without these blocks."""
    return during(network, hooks(call.module, double=double, single=single))


@mod("slg", "after", "ComfyUI (SkipLayerGuidanceDiT)", evals=1, fits=hooks)
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
    """Skip-layer guidance: away from the prediction W for the prompt of the transformer without some of its blocks.

        D ← D + scale (C − W),   then D ← (ψ std(C)/std(D) + 1 − ψ) D,   ψ = rescaling_scale

    Outside the window, and with scale 0 or no blocks, there is no evaluation.

    Args:
        p: The predictions.
        at: What was asked.
        double: Numbers of the blocks in which text and image are two streams; those that the network does not have are
            ignored.
        single: Numbers of the blocks in which text and image are one stream; those that the network does not have are
            ignored.
        scale: How far away; 0 changes nothing.
        start_percent: Share of the way through sampling from which it acts.
        end_percent: Share of the way through sampling up to which it acts.
        rescaling_scale: How much of the positive prediction's deviation is restored.
        over: Whether deviations are of the whole batch, as in ComfyUI, where a sample depends on the others, or of each
            sample.
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


@mod("slg_simple", "against", "ComfyUI (SkipLayerGuidanceDiTSimple)", fits=hooks)
def slg_simple(
    network: Network,
    call: Call,
    *,
    double: str = "7, 8, 9",
    single: str = "7, 8, 9",
    start_percent: Share = 0.0,
    end_percent: Share = 1.0,
) -> Network:
    """Skip-layer guidance without a further evaluation: the negative prompt is evaluated without some of the blocks.

        D = U + cfg (C − U),   U of the network without the blocks

    Args:
        network: The network.
        call: The call of it.
        double: Numbers of the blocks in which text and image are two streams; those that the network does not have are
            ignored.
        single: Numbers of the blocks in which text and image are one stream; those that the network does not have are
            ignored.
        start_percent: Share of the way through sampling from which the blocks are left out.
        end_percent: Share of the way through sampling up to which the blocks are left out.
    """
    inside = within((start_percent, end_percent), call.sigma, call.ctx.span.sigma_at)
    without = skipped(network, call, double=double, single=single)
    if inside.all() or not inside.any():
        return without if inside.all() else network

    def by_row(x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        return torch.where(inside.to(x.device), without(x, t, cond), network(x, t, cond))

    return by_row
