"""Latent formats: how a network's latents relate to the VAE's, and what they look like as small images."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files

import torch
import torch.nn.functional as F
from torch import Tensor

from sigmafield.core.registry import named


@dataclass(frozen=True)
class LatentFormat:
    """How the network's latents relate to the VAE's: z_network = (z_vae − shift) · scale/std.

    channels: of the latent; axes: of its space; factor: image pixels per latent pixel along one side;
    frame_factor: frames per latent frame of a video, after the first, which has one of its own;
    shift, std: one number, or one a channel. folded: pairs of frames lie in the channels (HunyuanImage's refiner).
    rgb: rows [R, G, B] of `to_rgb` for each channel, rgb_shuffle: each channel holds this many positions per side;
    taesd: beginning of the name of a small decoder's file.
    """

    channels: int = 4
    factor: int = 8
    scale: float = 1.0
    shift: float | Sequence[float] = 0.0
    std: float | Sequence[float] = 1.0
    axes: int = 2
    frame_factor: int = 1
    folded: bool = False
    rgb: Sequence[Sequence[float]] = field(default=(), repr=False)
    rgb_bias: Sequence[float] = field(default=(0.0, 0.0, 0.0), repr=False)
    rgb_shuffle: int = 1
    taesd: str = ""

    def shape(self, batch: int, size: tuple[int, int], frames: int = 1) -> tuple[int, ...]:
        """Shape of latents for images of (height, width) pixels, or for videos of this many frames."""
        height, width = size
        time = ((frames - 1) // self.frame_factor + 1,) if self.axes == 3 else ()
        return (batch, self.channels, *time, height // self.factor, width // self.factor)

    def same_numbers(self, other: LatentFormat) -> bool:
        """Whether the latents of two formats have equal channels and are scaled alike."""
        own, others = ((f.channels, f.scale, f.shift, f.std) for f in (self, other))
        return own == others

    def check(self, x: Tensor) -> None:
        """Raises ValueError for network latents that are not [B, channels, *space] with this format's axes."""
        if x.ndim != 2 + self.axes or x.shape[1] != self.channels:
            space = ("length", "h, w", "frames, h, w")[self.axes - 1]
            raise ValueError(f"latents must be [B, {self.channels}, {space}]; got shape {tuple(x.shape)}")

    def to_network(self, z: Tensor) -> Tensor:
        """Latents [B, C, *space] as the network knows them, from the VAE's."""
        z = (z - _channels(self.shift, z)) * self.scale / _channels(self.std, z)
        if self.folded:
            z = torch.cat([z[:, :, :1], z], 2)
            z = z.unflatten(2, (-1, 2)).movedim(3, 1).flatten(1, 2)
        return z

    def to_vae(self, x: Tensor) -> Tensor:
        """The VAE's latents, from the network's."""
        if self.folded:
            x = x.unflatten(1, (2, -1)).movedim(1, 3).flatten(2, 3)[:, :, 1:]
        return x * _channels(self.std, x) / self.scale + _channels(self.shift, x)

    def to_rgb(self, x: Tensor) -> Tensor:
        """Rough images [B, 3, height, width] in [0, 1] of network latents (their first frame).

        Raises ValueError for a format without `rgb`.
        """
        if not self.rgb:
            raise ValueError("nobody has measured what latents of this format look like: it has no rgb factors")
        x = x[:, :, 0] if x.ndim == 5 else x
        x = F.pixel_shuffle(x, self.rgb_shuffle)
        weights, bias = (torch.tensor(v, dtype=x.dtype, device=x.device) for v in (self.rgb, self.rgb_bias))
        return ((torch.einsum("bchw,cr->brhw", x, weights) + bias[:, None, None] + 1) / 2).clamp(0, 1)


def _channels(values: float | Sequence[float], z: Tensor) -> Tensor | float:
    """One number a channel, to broadcast over latents."""
    if isinstance(values, (int, float)):
        return values
    return torch.tensor(values, dtype=z.dtype, device=z.device).reshape(-1, *[1] * (z.ndim - 2))


@cache
def formats() -> dict[str, LatentFormat]:
    """Every latent format by its name in ComfyUI."""
    table = json.loads((files("sigmafield") / "data" / "latent_formats.json").read_text("utf-8"))
    return {name: LatentFormat(**row) for name, row in table.items()}


def latent_format(name: str) -> LatentFormat:
    """The format of that name; ValueError with the nearest names if it is unknown."""
    return named(formats(), name, "latent format")


def recognised(form: LatentFormat) -> LatentFormat:
    """The format with what is known of latents of these numbers: what they look like; itself where nothing is."""
    for known in formats().values():
        if known.same_numbers(form):
            return replace(known, factor=form.factor, axes=form.axes, frame_factor=form.frame_factor)
    return form
