"""LATENT: latents as nodes pass them to each other."""

from __future__ import annotations

from torch import Tensor
from typing_extensions import NotRequired, TypedDict

from sigmafield.parameterization.latent_format import LatentFormat
from sigmafield.recipes.ksampler import repaired


class LatentDict(TypedDict):
    """Latents in the VAE's scale. A node returns another dict, with the other keys of its input kept.

    samples: [B, C, H, W], or [B, C, frames, H, W] for videos. noise_mask: [B, 1, h, w] of any size, 1 = denoise.
    batch_index: which draw of the noise each sample has. downscale_ratio_spacial (ComfyUI's spelling): pixels along a
    side of each position that an empty latent was made for.
    """

    samples: Tensor
    noise_mask: NotRequired[Tensor]
    batch_index: NotRequired[list[int]]
    downscale_ratio_spacial: NotRequired[int]


def samples_for(latent: LatentDict, form: LatentFormat) -> Tensor:
    """The samples of a latent with the axes and channels of a network's, see `repaired`.

    An empty one for positions of fewer pixels than the network's is given fewer positions, for as many pixels.
    """
    samples, ratio = latent["samples"], latent.get("downscale_ratio_spacial", form.factor)
    if ratio < form.factor and not samples.any():
        height, width = (round(side * ratio / form.factor) for side in samples.shape[-2:])
        samples = samples.new_zeros(*samples.shape[:-2], height, width)
    return repaired(samples, form)
