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
    """Self-attention with the outputs of its linear layers multiplied, in every layer of the UNet.

        softmax(q k QKᵀ/√d) v V,   and its output projection times `out`

    All 1 changes nothing.

    Args:
        network: The network.
        call: The call of it.
        q: Factor of the queries; above 1 attention is sharper, below 1 flatter.
        k: Factor of the keys, which acts as that of the queries does.
        v: Factor of the values.
        out: Factor of the output.
    """
    return _multiplied(network, call, "attn1", (q, k, v, out))


@mod("cross_attention_multiply", "network", "ComfyUI (UNetCrossAttentionMultiply)", fits=unet)
def cross_attention_multiply(
    network: Network, call: Call, *, q: Factor = 1.0, k: Factor = 1.0, v: Factor = 1.0, out: Factor = 1.0
) -> Network:
    """Attention to the text with the outputs of its linear layers multiplied, in every layer of the UNet.

        softmax(q k QKᵀ/√d) v V,   and its output projection times `out`

    With v or out above 1 the text counts for more, of the positive prompt and of the negative one. All 1 changes
    nothing.

    Args:
        network: The network.
        call: The call of it.
        q: Factor of the queries; above 1 attention is sharper, below 1 flatter.
        k: Factor of the keys, which acts as that of the queries does.
        v: Factor of the values.
        out: Factor of the output.
    """
    return _multiplied(network, call, "attn2", (q, k, v, out))


def _multiplied(network: Network, call: Call, name: str, factors: tuple[float, float, float, float]) -> Network:
    """The network with the outputs of all such linear layers times the factors, biases included."""

    def times(part: nn.Module, args: Any, kwargs: Any, output: Tensor, factor: float) -> Tensor:
        return output * factor

    modules = [module for _, module in attentions(call.module, name)]
    linears = [(each.to_q, each.to_k, each.to_v, each.to_out[0]) for each in modules]
    pairs = [pair for each in linears for pair in zip(each, factors) if pair[1] != 1]
    return during(network, [partial(after, linear, partial(times, factor=factor)) for linear, factor in pairs])
