"""Images in [0, 1] to latents in the network's scale and back, around a VAE that knows neither."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sigmafield.parameterization.latent_format import LatentFormat

Codec = Callable[[Tensor], Tensor]


def codec(
    encode: Codec, decode: Codec, latent: LatentFormat, device: torch.device, dtype: torch.dtype
) -> tuple[Codec, Codec]:
    """`Pipeline.encode` and `Pipeline.decode` from a VAE's: images in [−1, 1] ↔ its own latents, in its dtype.

    Both answer float32 on the device and raise ValueError for a wrong shape. A VAE of videos is given and gives
    [B, 3, frames, H, W]; images [B, 3, H, W] are videos of one frame to it.
    """
    video = latent.axes == 3

    def to_latents(images: Tensor) -> Tensor:
        images = images[:, :, None] if video and images.ndim == 4 else images
        if images.ndim != 2 + latent.axes or images.shape[1] != 3 or any(s % latent.factor for s in images.shape[-2:]):
            rule = f"must be [B, 3, {'frames, ' * video}H, W] with H and W multiples of {latent.factor}"
            raise ValueError(f"images {rule}; got shape {tuple(images.shape)}")
        if video and (images.shape[2] - 1) % latent.frame_factor:
            raise ValueError(f"frames must be 1 and a multiple of {latent.frame_factor}; got {images.shape[2]}")
        z = encode(images.to(device, dtype) * 2 - 1).float()
        return latent.to_network(z)

    def to_images(latents: Tensor) -> Tensor:
        if latents.ndim != 2 + latent.axes or latents.shape[1] != latent.channels:
            shape = f"[B, {latent.channels}, {'frames, ' * video}h, w]"
            raise ValueError(f"latents must be {shape}; got shape {tuple(latents.shape)}")
        z = latent.to_vae(latents.to(device, torch.float32))
        return (decode(z.to(dtype)).float() / 2 + 0.5).clamp(0, 1)

    return to_latents, to_images


def sides(sample_size: int | tuple[int, ...] | list[int] | None, factor: int, default: int) -> tuple[int, int]:
    """Height and width in pixels, from a network's sample_size (a side of the latent, or two)."""
    size = sample_size or default
    height, width = (size, size) if isinstance(size, int) else size
    return height * factor, width * factor
