"""LATENT: latents as nodes pass them to each other."""

from __future__ import annotations

from torch import Tensor
from typing_extensions import NotRequired, TypedDict


class LatentDict(TypedDict):
    """Latents in the VAE's scale. A node returns another dict, with the other keys of its input kept.

    samples: [B, C, H, W], or [B, C, frames, H, W] for videos. noise_mask: [B, 1, h, w] of any size, 1 = denoise.
    batch_index: which draw of the noise each sample has.
    """

    samples: Tensor
    noise_mask: NotRequired[Tensor]
    batch_index: NotRequired[list[int]]
