"""Nodes that steer Wan by a video: VACE and Fun-Control."""

from __future__ import annotations

from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sigmafield.comfyui.conditioning import changed
from sigmafield.comfyui.declare import node
from sigmafield.comfyui.nodes.editing import shown
from sigmafield.comfyui.nodes.latents import empty_video
from sigmafield.comfyui.nodes.vision import SeenValue
from sigmafield.comfyui.nodes.wan import EACH, OUTPUTS, Length, both, fitted, seen
from sigmafield.comfyui.scaling import scaled
from sigmafield.comfyui.sockets import Input
from sigmafield.comfyui.values import Conditioning, Image, Latent, Mask, Vae
from sigmafield.comfyui.widgets import Batch, Side16
from sigmafield.core.annotations import Range
from sigmafield.models.vace import control_latents, control_mask
from sigmafield.parameterization.latent_format import LatentFormat, latent_format


@node("WanVaceToVideo", "model/conditioning/wan", outputs=(*OUTPUTS, "trim_latent"), version=3)
def wan_vace_to_video(
    positive: Conditioning,
    negative: Conditioning,
    vae: Vae,
    width: Side16 = 832,
    height: Side16 = 480,
    length: Length = 81,
    batch_size: Batch = 1,
    strength: Annotated[float, Range(0, 1000), Input(step=0.01)] = 1.0,
    control_video: Image | None = None,
    control_masks: Mask | None = None,
    reference_image: Image | None = None,
) -> tuple[Conditioning, Conditioning, Latent, int]:
    """Shows Wan VACE a video, the parts of it that are drawn again, and a reference image.

    Args:
        positive: What to draw.
        negative: What to avoid.
        vae: The VAE.
        width: Width of the video in pixels.
        height: Height of the video in pixels.
        length: Number of frames.
        batch_size: Number of videos.
        strength: Factor of what the control adds.
        control_video: The video; if it is shorter than `length`, grey frames follow.
        control_masks: Masks of its frames, 1 for what is drawn again; frames without a mask are drawn whole.
        reference_image: An image of what the video contains. It adds a latent frame, which TrimVideoLatent removes.
    """
    given = torch.zeros(0, 3, height, width) if control_video is None else fitted(control_video[:length], width, height)
    video = lengthened(given, length, 0.5)
    masks = (
        torch.zeros(0, height, width) if control_masks is None else control_masks.reshape(-1, *control_masks.shape[-2:])
    )
    mask = lengthened(scaled(masks[:length, None], width, height, "bilinear", "center"), length, 1.0)
    image = None if reference_image is None else fitted(reference_image[:1], width, height)
    count = 0 if image is None else len(image)
    frames = control_latents(vae, form_of(vae), as_video(video), as_video(mask), image).cpu()
    cells = control_mask(mask.movedim(0, 1)[None], 8, count)
    latent = empty_video(16, 8, width, height, length + EACH * count, batch_size)
    made = [steered(each, frames, cells, strength) for each in (positive, negative)]
    return made[0], made[1], latent, count


def steered(conditioning: Conditioning, frames: Tensor, mask: Tensor, strength: float) -> Conditioning:
    """A conditioning with one more control of VACE.

    Args:
        conditioning: The conditioning.
        frames: From `control_latents`.
        mask: From `control_mask`.
        strength: Factor of what the control adds.
    """
    more = {"vace_frames": frames, "vace_mask": mask, "vace_strength": strength}
    return [
        (embeds, {**extra, **{name: [*extra.get(name, ()), value] for name, value in more.items()}})
        for embeds, extra in conditioning
    ]


@node("WanFunControlToVideo", "model/conditioning/wan", outputs=OUTPUTS, version=3)
def wan_fun_control_to_video(
    positive: Conditioning,
    negative: Conditioning,
    vae: Vae,
    width: Side16 = 832,
    height: Side16 = 480,
    length: Length = 81,
    batch_size: Batch = 1,
    clip_vision_output: SeenValue | None = None,
    start_image: Image | None = None,
    control_video: Image | None = None,
) -> tuple[Conditioning, Conditioning, Latent]:
    """Shows Wan 2.1 Fun-Control a control video and the first frames.

    Args:
        positive: What to draw.
        negative: What to avoid.
        vae: The VAE.
        width: Width of the video in pixels.
        height: Height of the video in pixels.
        length: Number of frames.
        batch_size: Number of videos.
        clip_vision_output: What a vision encoder sees in the first frame.
        start_image: The first frames.
        control_video: Edges, poses or depth of each frame.
    """
    latent = empty_video(16, 8, width, height, length, batch_size)
    space = latent["samples"].shape[2:]
    parts = [begun(vae, video, length, width, height, space) for video in (control_video, start_image)]
    more = {"concat_latent_image": torch.cat(parts, dim=1)} | seen(clip_vision_output)
    return both(positive, negative, latent, more)


@node("Wan22FunControlToVideo", "model/conditioning/wan", outputs=OUTPUTS, version=3)
def wan22_fun_control_to_video(
    positive: Conditioning,
    negative: Conditioning,
    vae: Vae,
    width: Side16 = 832,
    height: Side16 = 480,
    length: Length = 81,
    batch_size: Batch = 1,
    ref_image: Image | None = None,
    control_video: Image | None = None,
) -> tuple[Conditioning, Conditioning, Latent]:
    """Shows Wan 2.2 Fun-Control a control video and a reference image.

    Args:
        positive: What to draw.
        negative: What to avoid.
        vae: The VAE.
        width: Width of the video in pixels.
        height: Height of the video in pixels.
        length: Number of frames.
        batch_size: Number of videos.
        ref_image: The image.
        control_video: Edges, poses or depth of each frame.
    """
    latent = empty_video(vae.channels, vae.factor, width, height, length, batch_size)
    frames, *space = latent["samples"].shape[2:]
    control = begun(vae, control_video, length, width, height, (frames, *space))
    more: dict[str, Any] = {
        "concat_latent_image": torch.cat([control, nothing(vae, (frames, *space))], dim=1),
        "concat_mask": torch.ones(1, EACH, frames, *space),
        "concat_mask_index": vae.channels,
    }
    made = [changed(each, **more) for each in (positive, negative)]
    if ref_image is not None:
        image = vae.encode(fitted(ref_image[:1], width, height)).cpu()
        made = [shown(each, [image]) for each in made]
    return made[0], made[1], latent


def lengthened(frames: Tensor, length: int, value: float) -> Tensor:
    """Frames followed by frames of one value.

    Args:
        frames: [n, C, H, W].
        length: Number of frames of the result, at least n.
        value: The value.
    """
    return F.pad(frames, (0, 0, 0, 0, 0, 0, 0, length - len(frames)), value=value)


def as_video(frames: Tensor) -> Tensor:
    """Frames [n, C, H, W] as a video [1, C, frames, H, W] that the VAE can encode, without frames left over."""
    return frames[: len(frames) - (len(frames) - 1) % EACH].movedim(0, 1)[None]


def begun(vae: Vae, video: Tensor | None, length: int, width: int, height: int, space: tuple[int, ...]) -> Tensor:
    """Latents that begin with those of a video and are 0 to the network after it.

    Args:
        vae: The VAE.
        video: Frames [n, H, W, 3] in [0, 1], or None.
        length: Most frames that are used.
        width: Width of the video in pixels.
        height: Height of the video in pixels.
        space: (frames, h, w) of the latents.

    Returns:
        [1, C, *space] in the VAE's scale.
    """
    latents = nothing(vae, space)
    if video is not None:
        given = vae.encode(as_video(fitted(video[:length], width, height))).cpu()
        latents[:, :, : given.shape[2]] = given
    return latents


def nothing(vae: Vae, space: tuple[int, ...]) -> Tensor:
    """Latents [1, C, *space] in the VAE's scale that are 0 to the network."""
    return form_of(vae).to_vae(torch.zeros(1, vae.channels, *space))


def form_of(vae: Vae) -> LatentFormat:
    """The format of Wan's latents, 2.2's 5B or 2.1's; ValueError for the VAE of another network."""
    names = {48: "Wan22", 16: "Wan21"}
    if vae.frame_factor is None or vae.channels not in names:
        videos = "images" if vae.frame_factor is None else "videos"
        raise ValueError(f"vae must be Wan's; this one is for {videos} of {vae.channels} channels")
    return latent_format(names[vae.channels])
