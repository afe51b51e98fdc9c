"""Vision encoders, CLIP's and SigLIP's, and the style model of Flux Redux, which turns what one sees into tokens."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sigmafield.models.weights.files import open_weights

LONGEST = 8
"""Lengths of an image's shorter side, of which at most its longer one is resized to what an encoder sees."""


@dataclass(frozen=True)
class Seen:
    """What an encoder sees; names are ComfyUI's.

    Args:
        last_hidden_state: Tokens of the last layer [B, tokens, width].
        penultimate_hidden_states: Tokens of the layer before it.
        image_embeds: The whole image as one vector [B, dim].
    """

    last_hidden_state: Tensor = field(repr=False)
    penultimate_hidden_states: Tensor = field(repr=False)
    image_embeds: Tensor = field(repr=False)


@dataclass(frozen=True, eq=False)
class VisionEncoder:
    """A vision encoder.

    Args:
        module: The module of transformers.
        size: Pixels along a side of what it sees.
        mean: Of the colours that it was trained on.
        std: Their deviation.
    """

    module: Any = field(repr=False)
    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @torch.no_grad()
    def encode(self, images: Tensor, crop: Literal["center", "none"] = "center") -> Seen:
        """What the encoder sees in images.

        Args:
            images: [B, H, W, C] in [0, 1].
            crop: center: the middle square; none: the whole image, stretched.
        """
        device = next(self.module.parameters()).device
        x = images[..., :3].movedim(-1, 1)
        x = (long_cut(x) if crop == "center" else x).to(device, torch.float32)
        height, width = x.shape[-2:]
        share = self.size / min(height, width)
        size = (round(height * share), round(width * share)) if crop == "center" else (self.size, self.size)
        x = F.interpolate(x, size, mode="bicubic", antialias=True)
        top, left = ((n - self.size) // 2 for n in size)
        x = x[..., top : top + self.size, left : left + self.size].clamp(0, 1)
        x = (x * 255).round() / 255
        mean, std = (torch.tensor(each, device=device)[:, None, None] for each in (self.mean, self.std))
        return self._seen((x - mean) / std)

    @torch.no_grad()
    def nothing(self, images: int, *, zeros: bool) -> Seen:
        """What stands for no image: what is seen of the mean colour, or with `zeros` numbers of 0 in its place."""
        like = next(self.module.parameters())
        seen = self._seen(like.new_zeros(images, 3, self.size, self.size, dtype=torch.float32))
        if not zeros:
            return seen
        states = seen.last_hidden_state, seen.penultimate_hidden_states, seen.image_embeds
        return Seen(*map(torch.zeros_like, states))

    def _seen(self, pixels: Tensor) -> Seen:
        """What is seen of normalised pixels."""
        found = self.module(pixel_values=pixels, output_hidden_states=True)
        whole = found.image_embeds if hasattr(found, "image_embeds") else found.pooler_output
        return Seen(found.last_hidden_state.float(), found.hidden_states[-2].float(), whole.float())


def long_cut(images: Tensor) -> Tensor:
    """The middle of images [..., H, W] that are longer than `LONGEST` times their shorter side, others as they are.

    Only the middle square is seen; enlarged as a whole, a long image would take memory by the square of its length.
    """
    for axis in (-2, -1):
        length, most = images.shape[axis], LONGEST * min(images.shape[-2:])
        if length > most:
            most += (length - most) % 2
            images = images.narrow(axis, (length - most) // 2, most)
    return images


@dataclass(frozen=True, eq=False)
class Redux:
    """Flux Redux: tokens of a prompt from tokens of SigLIP, down(silu(up(x))).

    Args:
        up: Weight and bias of the first layer.
        down: Those of the second one.
    """

    up: tuple[Tensor, Tensor] = field(repr=False)
    down: tuple[Tensor, Tensor] = field(repr=False)

    def tokens(self, seen: Seen) -> Tensor:
        """Tokens [B, tokens, dim of the text encoder]; ValueError for an encoder of another width."""
        x = seen.last_hidden_state.to(self.up[0])
        if x.shape[-1] != self.up[0].shape[1]:
            raise ValueError(
                f"the style model takes tokens of width {self.up[0].shape[1]}, as SigLIP's of Flux Redux; "
                f"the vision encoder's have {x.shape[-1]}"
            )
        return F.linear(F.silu(F.linear(x, *self.up)), *self.down)


def load_style(path: Path, *, device: str = "cpu") -> Redux:
    """Loads a style model in a file, in float32.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: It is not Flux Redux's.
    """
    weights = open_weights([path])
    names = [f"redux_{part}.{kind}" for part in ("up", "down") for kind in ("weight", "bias")]
    if missing := [name for name in names if name not in weights.shapes]:
        raise ValueError(f"{path} has no {missing[0]}: of style models, Flux Redux is supported")
    found = {name: torch.as_tensor(value).to(device, torch.float32) for name, value in weights.read(names)}
    up_weight, up_bias, down_weight, down_bias = (found[name] for name in names)
    return Redux((up_weight, up_bias), (down_weight, down_bias))
