"""A VAE as a value: what maps images to latents and back, and what it says of itself."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from sigmafield.models.diffusion_model import Running
from sigmafield.models.vae.tiled import Collected, tiled_decode, tiled_encode

Codec = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Vae:
    """Maps images to latents in the VAE's own scale, and back; `LatentFormat.to_network` leads to the network's.

    Args:
        encoder: Images in [−1, 1] → means of latents, in the module's dtype.
        decoder: Latents → images in [−1, 1], in the module's dtype.
        channels: Channels of the latents.
        factor: Image pixels per latent position along a side.
        frame_factor: Frames per latent frame of a video, after the first; None for a VAE of images.
        device: Where the module is, or is brought to.
        dtype: The module's dtype.
        module: The torch module; None where there is not one.
        cheap: Whether decoding is cheap enough for a preview of every step.
        running: Makes the context in which the module is called.
        decodes_only: Why images cannot be encoded; None if they can.
        whole: Whether it cannot work in parts, see `tiled`.
    """

    encoder: Codec
    decoder: Codec
    channels: int = 4
    factor: int = 8
    frame_factor: int | None = None
    device: torch.device = torch.device("cpu")
    dtype: torch.dtype = torch.float32
    module: Any = field(default=None, repr=False)
    cheap: bool = False
    running: Running = nullcontext
    decodes_only: str | None = None
    whole: bool = False

    @property
    def in_parts(self) -> bool:
        """Whether it can work band by band or tile by tile."""
        return self.module is not None and self.frame_factor is None and not self.whole

    def encode(self, images: Tensor) -> Tensor:
        """Encodes images.

        Args:
            images: [B, 3, H, W] in [0, 1], or [B, 3, frames, H, W] for a VAE of videos, to which an image is a video
                of one frame. Of H and W that are not multiples of `factor` the middle is encoded, as in ComfyUI.

        Returns:
            Latents [B, C, H/factor, W/factor] or [B, C, frames, …] in the VAE's own scale, float32, on the device.

        Raises:
            ValueError: If the shape is wrong, or the VAE has no encoder.
        """
        if self.decodes_only is not None:
            raise ValueError(self.decodes_only)
        video = self.frame_factor is not None
        images = images[:, :, None] if video and images.ndim == 4 else images
        if images.ndim != 4 + video or images.shape[1] != 3 or min(images.shape[-2:]) < self.factor:
            rule = f"must be [B, 3, {'frames, ' * video}H, W] with H and W of at least {self.factor}"
            raise ValueError(f"images {rule}; got shape {tuple(images.shape)}")
        images = whole_positions(images, self.factor)
        if self.frame_factor and (images.shape[2] - 1) % self.frame_factor:
            raise ValueError(f"frames must be 1 more than a multiple of {self.frame_factor}; got {images.shape[2]}")
        with self.running():
            return self.encoder(images.to(self.device, self.dtype) * 2 - 1).float()

    def decode(self, latents: Tensor) -> Tensor:
        """Decodes latents in the VAE's own scale to images in [0, 1], float32; raises ValueError for a wrong shape."""
        video = self.frame_factor is not None
        if latents.ndim != 4 + video or latents.shape[1] != self.channels:
            shape = f"[B, {self.channels}, {'frames, ' * video}h, w]"
            raise ValueError(f"latents must be {shape}; got shape {tuple(latents.shape)}")
        with self.running():
            return (self.decoder(latents.to(self.device, self.dtype)).float() / 2 + 0.5).clamp(0, 1)

    def tiled(self, tile: int = 64, collected: Collected = "exact") -> Vae:
        """The VAE working in bands or tile by tile, for large images in little memory.

        Args:
            tile: Latent positions along a side that a tile owns, at most; bands are of about as many positions.
            collected: How an image is run; see `models.vae.tiled`.

        Raises:
            ValueError: For a VAE of videos, or of Qwen-Image or Flux 2.
        """
        if not self.in_parts:
            raise ValueError("only a VAE of the kind of Stable Diffusion's and Flux's can work tile by tile")
        pixels = tile * self.factor

        def encoder(images: Tensor) -> Tensor:
            return tiled_encode(self.module, images, pixels, collected=collected)

        def decoder(latents: Tensor) -> Tensor:
            return tiled_decode(self.module, latents, tile, collected=collected)

        return replace(self, encoder=encoder, decoder=decoder)


def whole_positions(images: Tensor, factor: int) -> Tensor:
    """The middle of images or masks [..., H, W] with sides that are multiples of a VAE's factor."""
    for axis in (-2, -1):
        rest = images.shape[axis] % factor
        images = images.narrow(axis, rest // 2, images.shape[axis] - rest)
    return images
