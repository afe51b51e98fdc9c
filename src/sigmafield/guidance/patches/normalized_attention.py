"""Guidance within attention: the output for the positive prompt is moved away from that for the negative one."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from sigmafield.core.conditioning import Cond
from sigmafield.core.parameters import Range, Share
from sigmafield.core.protocols import Call, Network
from sigmafield.guidance.hooks import Asked, Preds
from sigmafield.guidance.patches.module_hooks import after, during
from sigmafield.guidance.patches.transformer_blocks import ImageTokens, every_self_attention
from sigmafield.guidance.registry import mod

ROLES = ("positive", "negative")
ALONE = "nag"
"""The note that a network call had rows of the positive prompt and none of the negative one."""


def met(p: Preds, at: Asked) -> Preds:
    """The predictions as they are; ValueError if a positive prompt was evaluated without its negative one."""
    if at.ctx.notes.get(ALONE):
        raise ValueError(
            "nag needs the positive and the negative prompt in one network call: leave out max_rows and slg_simple, "
            "and make the prompts as long as each other"
        )
    return p


@mod("nag", "network", "arXiv:2505.21179", need_uncond=True, fits=every_self_attention, companions={"after": met})
def nag(
    network: Network,
    call: Call,
    *,
    scale: Annotated[float, Range(0, 50)] = 5.0,
    alpha: Share = 0.5,
    tau: Annotated[float, Range(1, 10)] = 1.5,
) -> Network:
    """Normalized attention guidance: the output of self-attention is moved away from the negative prompt's.

        Z ← α G min(1, τ/ρ) + (1 − α) Z⁺,   G = scale Z⁺ − (scale − 1) Z⁻,   ρ = ‖G‖₁/‖Z⁺‖₁,   α = alpha, τ = tau

    At every token, with norms over the channels. Z⁺ and Z⁻ are of the positive and the negative prompt's rows, and Z is
    given to the positive ones; where the text is in the same sequence, only the image's tokens change, in both. It is
    made for cfg 1, where the negative prompt is evaluated all the same.

    Args:
        network: The network.
        call: The call of it.
        scale: How far away from the negative prompt's output; 1 changes nothing of the positive prompt.
        alpha: Share of the guided output; 0 changes nothing of the positive prompt.
        tau: Largest norm of the guided output, in terms of the positive prompt's.

    Raises:
        ValueError: The two prompts are not in one network call.
    """
    positive, negative = ([i for i, role in enumerate(call.roles) if role == which] for which in ROLES)
    if positive and not negative:
        call.ctx.notes[ALONE] = True
    if not positive or not negative:
        return network
    if len(positive) != len(negative):
        raise ValueError(
            f"nag needs as many rows of the positive prompt as of the negative one; got {len(positive)} and "
            f"{len(negative)}: give each one conditioning, and leave out max_rows"
        )
    rule = partial(normalized, scale=scale, alpha=alpha, tau=tau)

    def patched(x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        image = ImageTokens(call.module, x, cond)

        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
            stream = output[0] if isinstance(output, tuple) else output
            joint = isinstance(output, tuple) or image.positions(stream.shape[1]).shape[1] < stream.shape[1]
            at = image.positions(stream.shape[1])[..., None].expand(len(stream), -1, stream.shape[2])
            own = stream.gather(1, at)
            z = rule(own[positive], own[negative])
            rows = [*positive, *negative] if joint else positive
            index = torch.tensor(rows, device=own.device)
            changed = stream.scatter(1, at, own.index_copy(0, index, torch.cat([z, z]) if joint else z))
            return (changed, *output[1:]) if isinstance(output, tuple) else changed

        return during(network, [partial(after, part, hook) for part in every_self_attention(call.module)])(x, t, cond)

    return patched


def normalized(positive: Tensor, negative: Tensor, *, scale: float, alpha: float, tau: float) -> Tensor:
    """The rule of `nag` for Z⁺ and Z⁻ of one shape, [rows, tokens, channels]."""
    far = scale * positive - (scale - 1) * negative
    lengths = [torch.linalg.vector_norm(z, 1, -1, keepdim=True, dtype=torch.float32) for z in (far, positive)]
    ratio = lengths[0].clamp(min=1e-6) / lengths[1].clamp(min=1e-6)
    return alpha * far * (ratio.clamp(max=tau) / ratio).to(far) + (1 - alpha) * positive
