"""What Wan VACE is shown: a video, a mask of what is drawn again, and reference images in front. arXiv:2503.07598."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sigmafield.models.diffusion_model import DiffusionModel
from sigmafield.models.vae.vae import Vae
from sigmafield.parameterization.latent_format import LatentFormat

GREY = 0.5
"""The value of pixels that are hidden from the network."""
STRENGTH = "vace_strength"
"""Name of the control's strength [B] among a conditioning's further inputs; without it, 1."""


def takes_control(model: DiffusionModel) -> bool:
    """Whether a model is Wan VACE, whose concat is a control."""
    return model.family is not None and model.family.name == "WAN21_Vace"


def control_latents(vae: Vae, form: LatentFormat, video: Tensor, mask: Tensor, references: Tensor | None) -> Tensor:
    """The latents of a control, in the VAE's scale: of what the mask keeps and, in further channels, of the rest.

        v = video − ½,   (E(v (1 − m) + ½), E(v m + ½)),   after the frames (E(reference), 0)

    Args:
        vae: The VAE.
        form: The network's format, which says what 0 is to the network.
        video: [1, 3, frames, H, W] in [0, 1].
        mask: [1, 1, frames, H, W], 1 for what is drawn again.
        references: Images [n, 3, H, W] in [0, 1], each in a latent frame of its own; or None.

    Returns:
        [1, 2 C, n + T, h, w], float32, on the VAE's device.
    """
    v = video - GREY
    halves = torch.cat([vae.encode(v * (1 - mask) + GREY), vae.encode(v * mask + GREY)], dim=1)
    if references is None:
        return halves
    seen = vae.encode(references[:, :, None]).transpose(0, 2)
    return torch.cat([torch.cat([seen, form.to_vae(torch.zeros_like(seen))], dim=1), halves], dim=2)


def control_mask(mask: Tensor, factor: int, references: int) -> Tensor:
    """A mask as the network sees it: the pixels of each latent position in its channels, 0 for reference images.

    Args:
        mask: [1, 1, frames, H, W].
        factor: Pixels of a latent position along a side.
        references: Number of reference images.

    Returns:
        [1, factor², references + T, H/factor, W/factor].
    """
    cells = F.pixel_unshuffle(mask[0].transpose(0, 1), factor).transpose(0, 1)[None]
    frames = (mask.shape[2] - 1) // 4 + 1
    cells = F.interpolate(cells, (frames, *cells.shape[3:]), mode="nearest-exact")
    return torch.cat([cells.new_zeros(1, cells.shape[1], references, *cells.shape[3:]), cells], dim=2)


def control_of(form: LatentFormat, latents: Tensor, mask: Tensor) -> Tensor:
    """A `Cond.concat` [1, 2 C + factor², *space].

    Args:
        form: The network's format.
        latents: From `control_latents`.
        mask: From `control_mask`, for as many reference images.
    """
    halves = (form.to_network(half) for half in latents.chunk(2, dim=1))
    return torch.cat([*halves, mask.to(latents)], dim=1)
