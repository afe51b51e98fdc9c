"""Attention with its queries, keys, values or output multiplied, in every layer of a UNet."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from torch import Tensor, nn

from sigmafield.core.parameters import Range
from sigmafield.core.protocols import Call, Network
from sigmafield.guidance.patches.module_hooks import after, during
from sigmafield.guidance.patches.unet_blocks import attentions, unet
from sigmafield.guidance.registry import mod

Factor = Annotated[float, Range(0, 10)]


@mod("self_attention_multiply", "network", "ComfyUI (UNetSelfAttentionMultiply)", fits=unet)
def self_attention_multiply(
    network: Network, call: Call, *, q: Factor = 1.0, k: Factor = 1.0, v: Factor = 1.0, out: Factor = 1.0
) -> Network:
    """Self-attention with what its linear layers give times a factor, in every layer of the UNet.

        softmax(q k QKᵀ/√d) v V,   and what is made of it times `out`

    q or k above 1 makes attention sharper, below 1 flatter; v and out make it count for more or less. All 1 changes
    nothing.
    """
    return _multiplied(network, call, "attn1", (q, k, v, out))


@mod("cross_attention_multiply", "network", "ComfyUI (UNetCrossAttentionMultiply)", fits=unet)
def cross_attention_multiply(
    network: Network, call: Call, *, q: Factor = 1.0, k: Factor = 1.0, v: Factor = 1.0, out: Factor = 1.0
) -> Network:
    """Attention to the text with what its linear layers give times a factor: q, k, v, out as `self_attention_multiply`.

    v or out above 1 makes the text count for more, of the positive prompt and of the negative one.
    """
    return _multiplied(network, call, "attn2", (q, k, v, out))


def _multiplied(network: Network, call: Call, name: str, factors: tuple[float, float, float, float]) -> Network:
    """The network with the outputs of all such linear layers times the factors: weights and biases, times them."""

    def times(part: nn.Module, args: Any, kwargs: Any, output: Tensor, factor: float) -> Tensor:
        return output * factor

    modules = [module for _, module in attentions(call.module, name)]
    linears = [(each.to_q, each.to_k, each.to_v, each.to_out[0]) for each in modules]
    pairs = [pair for each in linears for pair in zip(each, factors) if pair[1] != 1]
    return during(network, [partial(after, linear, partial(times, factor=factor)) for linear, factor in pairs])
