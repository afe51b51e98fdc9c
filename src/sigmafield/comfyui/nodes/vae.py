"""Nodes that turn images into latents and back."""

from __future__ import annotations

from typing import Annotated

import torch.nn.functional as F
from torch import Tensor

from sigmafield.comfyui.declare import node
from sigmafield.comfyui.sockets import Input
from sigmafield.comfyui.values import Image, Latent, Mask, Vae
from sigmafield.core.annotations import Range
from sigmafield.core.resize import resize_mask
from sigmafield.models.vae.vae import Vae as VaeValue
from sigmafield.models.vae.vae import whole_positions
from sigmafield.spatial.inpaint import hidden

Temporal = Annotated[int, Range(8, 4096), Input(step=4)]
TemporalOverlap = Annotated[int, Range(4, 4096), Input(step=4)]
Overlap = Annotated[int, Range(0, 4096), Input(step=32)]


def _images(samples: Tensor, vae: VaeValue) -> Tensor:
    """Images [B, H, W, C] of latents; the frames of videos one after the other. An image is a video of one frame."""
    if vae.frame_factor is not None and samples.ndim == 4:
        samples = samples[:, :, None]
    elif vae.frame_factor is None and samples.ndim == 5 and samples.shape[2] == 1:
        samples = samples[:, :, 0]
    made = vae.decode(samples).movedim(1, -1)
    return made.flatten(0, 1) if made.ndim == 5 else made


def _by_tiles(vae: VaeValue, pixels: int) -> VaeValue:
    """The VAE working in tiles; one that cannot, such as one of videos, works in one piece."""
    return vae.tiled(pixels // vae.factor) if vae.in_parts else vae


@node("VAEDecode", "latent", title="VAE Decode")
def vae_decode(samples: Latent, vae: Vae) -> Image:
    """Turns latents into images.

    Args:
        samples: The latents.
        vae: The VAE.
    """
    return _images(samples["samples"], vae)


@node("VAEDecodeTiled", "_for_testing", title="VAE Decode (Tiled)")
def vae_decode_tiled(
    samples: Latent,
    vae: Vae,
    tile_size: Annotated[int, Range(64, 4096), Input(step=32)] = 512,
    overlap: Overlap = 64,
    temporal_size: Temporal = 64,
    temporal_overlap: TemporalOverlap = 8,
) -> Image:
    """Turns latents into images in little memory; the images are those of VAE Decode, up to rounding.

    Args:
        samples: The latents.
        vae: The VAE; those of videos work in one piece.
        tile_size: Side in pixels of the square that is worked on at a time.
        overlap: Ignored: the result has no seams.
        temporal_size: Not needed.
        temporal_overlap: Not needed.
    """
    return _images(samples["samples"], _by_tiles(vae, tile_size))


@node("VAEEncode", "latent", title="VAE Encode")
def vae_encode(pixels: Image, vae: Vae) -> Latent:
    """Turns images into latents.

    Args:
        pixels: The images; of sides that are not multiples of the VAE's factor the middle is used. To a VAE of videos
            they are frames.
        vae: The VAE.
    """
    return {"samples": vae.encode(_readable(pixels, vae))}


@node("VAEEncodeTiled", "_for_testing", title="VAE Encode (Tiled)")
def vae_encode_tiled(
    pixels: Image,
    vae: Vae,
    tile_size: Annotated[int, Range(64, 4096), Input(step=64)] = 512,
    overlap: Overlap = 64,
    temporal_size: Temporal = 64,
    temporal_overlap: TemporalOverlap = 8,
) -> Latent:
    """Turns images into latents in little memory; the latents are those of VAE Encode, up to rounding.

    Args:
        pixels: The images.
        vae: The VAE; those of videos work in one piece.
        tile_size: Side in pixels of the square that is worked on at a time.
        overlap: Ignored: the result has no seams.
        temporal_size: Not needed.
        temporal_overlap: Not needed.
    """
    return {"samples": _by_tiles(vae, tile_size).encode(_readable(pixels, vae))}


@node("VAEEncodeForInpaint", "latent/inpaint", title="VAE Encode (for Inpainting)")
def vae_encode_for_inpaint(
    pixels: Image, vae: Vae, mask: Mask, grow_mask_by: Annotated[int, Range(0, 64), Input(step=1)] = 6
) -> Latent:
    """Turns images into latents for inpainting: what the mask covers is grey, and the mask goes with the latents.

    Args:
        pixels: The images.
        vae: The VAE.
        mask: What is drawn; it is resized to the size of the images and rounded to 0 or 1.
        grow_mask_by: Pixels by which the mask that goes with the latents is wider, all in all along each axis.
    """
    images = pixels[..., :3].movedim(-1, 1)
    m = resize_mask(mask.reshape(-1, 1, *mask.shape[-2:]), images.shape[-2:])
    images, m = (whole_positions(each, vae.factor) for each in (images, m))
    latents = vae.encode(hidden(images, m))
    return {"samples": latents, "noise_mask": grown(m.round(), grow_mask_by)}


def grown(mask: Tensor, by: int) -> Tensor:
    """A mask [B, 1, H, W] that is 1 wherever one of the by × by positions around is 1; as it is where by is 0."""
    height, width = mask.shape[-2:]
    return F.max_pool2d(mask, by, 1, by // 2)[..., :height, :width] if by else mask


def _readable(pixels: Tensor, vae: VaeValue) -> Tensor:
    """Images as the VAE reads them; to one of videos they are the frames of one video, as many as it can read."""
    images = pixels[..., :3].movedim(-1, 1)
    if vae.frame_factor is None:
        return images
    frames = (len(images) - 1) // vae.frame_factor * vae.frame_factor + 1
    return images[:frames].movedim(0, 1)[None]
