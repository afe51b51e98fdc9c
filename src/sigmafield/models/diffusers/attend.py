"""How networks of diffusers attend to images: what `ImagePrompt`s add, as hooks on a module of the call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from sigmafield.core.conditioning import ImagePrompt
from sigmafield.models.diffusers.flux_tokens import PATCH

Hooks = Callable[[Any, ImagePrompt, int], Sequence[Any]]
"""(what an adapter's layer adds to, the image, the layer's number) → handles of hooks that add it."""


@contextmanager
def attending(network: Any, prompts: Sequence[ImagePrompt], hooks: Hooks) -> Iterator[None]:
    """The network attends to images while the context is open.

    Args:
        network: The network's module.
        prompts: The images.
        hooks: Puts hooks on the module that a layer is named after.
    """
    handles = list[Any]()
    try:
        for prompt in prompts:
            for k, name in enumerate(prompt.adapter.layers):
                if prompt.weights[k]:
                    handles += hooks(network.get_submodule(name), prompt, k)
        yield
    finally:
        for handle in handles:
            handle.remove()


def on_cross_attention(attention: Any, prompt: ImagePrompt, layer: int) -> list[Any]:
    """A hook on a UNet's cross-attention: the image is attended to before its last projection."""

    def add(attention: Any, args: Any, kwargs: Any, out: Tensor) -> Tensor:
        x = args[0] if args else kwargs["hidden_states"]
        seen = _seen(attention, attention.to_q(x), prompt, layer)
        if prompt.mask is not None:
            seen = seen * _of_queries(prompt.mask, x.shape[1])[..., None].to(seen)
        last = attention.to_out[0]
        made = last(seen) if last.bias is None else last(seen) - last.bias
        return out + prompt.weights[layer] * made / attention.rescale_output_factor

    return [attention.register_forward_hook(add, with_kwargs=True)]


def on_joint_block(block: Any, prompt: ImagePrompt, layer: int) -> list[Any]:
    """Hooks on Flux's joint block, whose queries attend without a position; the result is added after the block."""
    found = list[Tensor]()

    def look(attention: Any, args: Any, kwargs: Any) -> None:
        x = kwargs["hidden_states"]
        query = attention.norm_q(attention.to_q(x).unflatten(-1, (attention.heads, -1))).flatten(2)
        found.append(_seen(attention, query, prompt, layer))

    def add(block: Any, args: Any, out: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        text, image = out
        seen = found.pop()
        if prompt.mask is not None:
            m = F.avg_pool2d(prompt.mask[:, None].float(), PATCH).flatten(1)
            seen = seen * F.pad(m, (0, seen.shape[1] - m.shape[1]))[..., None].to(seen)
        return text, image + prompt.weights[layer] * seen

    return [
        block.attn.register_forward_pre_hook(look, with_kwargs=True),
        block.register_forward_hook(add),
    ]


def _seen(attention: Any, query: Tensor, prompt: ImagePrompt, layer: int) -> Tensor:
    """softmax(q kᵀ) v [B, queries, width] of queries [B, queries, width] and an image's keys and values."""
    keys, values = prompt.adapter.keys_and_values(layer, prompt.tokens)
    q, k, v = (each.unflatten(-1, (attention.heads, -1)).transpose(1, 2) for each in (query, keys, values))
    return F.scaled_dot_product_attention(q, k.to(q), v.to(q)).transpose(1, 2).flatten(2)


def _of_queries(mask: Tensor, queries: int) -> Tensor:
    """A mask [B, h, w] of the latent's size at the level of a UNet that has this many positions: [B, queries]."""
    sides = tuple(mask.shape[-2:])
    while prod(sides) > queries:
        sides = tuple((side + 1) // 2 for side in sides)
    if prod(sides) != queries:
        raise ValueError(f"an image prompt's mask needs levels of half the sides each; got one of {queries} positions")
    m = mask[:, None].float()
    return (m if tuple(m.shape[2:]) == sides else F.interpolate(m, sides, mode="bicubic")).flatten(1)
