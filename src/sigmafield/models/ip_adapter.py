"""IP-Adapters: images that a network attends to next to its prompt, through layers of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sigmafield.core.conditioning import ImagePrompt
from sigmafield.core.time_windows import TimeWindow
from sigmafield.models.vision import Seen, VisionEncoder

Weight = float | Mapping[str, float]
"""Factor of what every layer adds; or a factor for each beginning of a layer's name, in whole parts between dots, where
the longest one that fits counts, and 0 for the other layers."""


@dataclass(frozen=True, eq=False)
class IPAdapter:
    """An IP-Adapter for one network. Ye et al., arXiv:2308.06721.

    The network's weights are shared with runs that do not use it: it acts in the calls whose conditionings have its
    `ImagePrompt`s.

    Args:
        name: Name of the network.
        layers: The network's attentions that it adds to.
        projection: The module that makes tokens from what a vision encoder sees.
        whole: Whether it takes one vector for the whole image, and not a vector for each of its patches.
        pairs: For each layer, the modules that make keys and values from tokens.
    """

    name: str
    layers: Sequence[str]
    projection: Any = field(repr=False)
    whole: bool
    pairs: Sequence[tuple[Any, Any]] = field(repr=False)

    def keys_and_values(self, layer: int, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of a layer, [B, tokens, width] each, for tokens [B, tokens, dim]."""
        keys, values = self.pairs[layer]
        tokens = tokens.to(keys.weight)
        return keys(tokens), values(tokens)

    @torch.no_grad()
    def tokens(self, seen: Seen) -> Tensor:
        """Tokens of images together, [1, images · tokens, dim]; ValueError for an encoder of another width."""
        x = seen.image_embeds if self.whole else seen.penultimate_hidden_states
        first = next(part for part in self.projection.modules() if isinstance(part, nn.Linear))
        if x.shape[-1] != first.in_features:
            raise ValueError(
                f"this IP-Adapter takes images as vectors of {first.in_features}; "
                f"the vision encoder's have {x.shape[-1]}"
            )
        made = self.projection(x.to(first.weight)).float().flatten(0, 1)[None]
        if made.shape[-1] != (taken := self.pairs[0][0].in_features):
            raise ValueError(
                f"this IP-Adapter does not fit together: its tokens are of width {made.shape[-1]}, "
                f"and its layers take {taken}"
            )
        return made

    def prompts(
        self,
        encoder: VisionEncoder,
        images: Tensor,
        weight: Weight = 1.0,
        mask: Tensor | None = None,
        window: TimeWindow = (None, None),
    ) -> tuple[ImagePrompt, ImagePrompt]:
        """Gives what a prompt attends to, the images, and what a negative prompt attends to, an empty image.

        Args:
            encoder: The vision encoder that the adapter was trained with.
            images: [B, H, W, 3] in [0, 1]; of each the middle square is seen.
            weight: Factor of what is added, for all layers or by names: {"up_blocks.0.attentions.1": 1.0} for the style
                alone of SDXL; `layers` lists them.
            mask: Where it acts, see `ImagePrompt`.
            window: Shares of the way through sampling, each from 0 to 1, between which it acts.

        Raises:
            ValueError: The encoder does not fit, or no layer's name begins with a name in `weight`.
        """
        seen = encoder.encode(images)
        nothing = self.tokens(encoder.nothing(len(images), zeros=self.whole))
        weights = weights_of(weight, self.layers)
        shown, hidden = (ImagePrompt(self, tokens, weights, mask, window) for tokens in (self.tokens(seen), nothing))
        return shown, hidden


def weights_of(weight: Weight, layers: Sequence[str]) -> tuple[float, ...]:
    """The weight of each layer; ValueError for a name with which no layer begins, in whole parts between dots."""
    if not isinstance(weight, Mapping):
        return (float(weight),) * len(layers)

    def begins(layer: str, name: str) -> bool:
        return f"{layer}.".startswith(f"{name}.")  # transformer_blocks.1 is not the beginning of transformer_blocks.10

    for name in weight:
        if not any(begins(layer, name) for layer in layers):
            raise ValueError(f"weight names {name!r}, with which no layer begins; layers: {', '.join(layers)}")
    ways = sorted(weight, key=len, reverse=True)
    return tuple(next((float(weight[name]) for name in ways if begins(layer, name)), 0.0) for layer in layers)
