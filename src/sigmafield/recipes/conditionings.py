"""Conditionings of a recipe: its prompts encoded, placed and steered, ready for a latent of one size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sigmafield.core.conditioning import Area, Cond
from sigmafield.core.fitting import fit
from sigmafield.core.resize import resize_mask
from sigmafield.models.bundle import Pipeline
from sigmafield.models.diffusion_model import DiffusionModel
from sigmafield.models.vace import control_latents, control_mask, control_of, takes_control
from sigmafield.recipes.editing import Shown, encoded
from sigmafield.recipes.image_io import resized, to_tensor
from sigmafield.recipes.inputs import Inputs
from sigmafield.recipes.options import Region
from sigmafield.recipes.recipe import Recipe
from sigmafield.recipes.steering import Steering
from sigmafield.recipes.tiling import unit_of, unit_words
from sigmafield.spatial.inpaint import fill_concat, hidden, inpaint_concat

GREY = (0.8223, -0.6876, 0.6364, 0.1380)
"""The grey latent that ComfyUI gives inpainting networks of Stable Diffusion without a mask."""


@dataclass(frozen=True)
class Prompts:
    """What guidance is given: the prompt with its regions, the negative prompt, and the empty one."""

    positive: list[Cond]
    negative: Cond
    empty: Cond


def prompts_of(
    recipe: Recipe,
    pipe: Pipeline,
    steering: Steering,
    concat: Tensor | None,
    size: tuple[int, int],
    shown: tuple[int, int],
    space: Sequence[int],
    edited: Shown | None = None,
) -> Prompts:
    """The recipe's conditionings, complete and fitted to a latent.

    Args:
        recipe: Prompts, regions, crop of the controls, CLIP skip and distilled guidance.
        pipe: The model.
        steering: What steers, see `steering.steering_of`.
        concat: What an inpainting network is given, see `concat_of`.
        size: (height, width) of the image in pixels.
        shown: (height, width) of what the network sees of it, which some networks are conditioned on.
        space: Axes of space of the latent.
        edited: Images that the network is shown, see `editing.shown_of`.

    Raises:
        ValueError: The network cannot take one of them.
    """

    cropped = tuple(replace(control, crop=recipe.control_crop) for control in steering.controls)

    def complete(cond: Cond, negative: bool = False) -> Cond:
        images = steering.nothing if negative else steering.shown
        cond = replace(distilled(recipe, cond), concat=concat, controls=cropped, image_prompts=images)
        pipe.model.check(cond)
        return fit(cond, space)

    def read(text: str, negative: bool = False) -> Cond:
        if edited is not None:
            return encoded(pipe, edited, text, shown, recipe.clip_skip)
        encode = pipe.text.encode_negative if negative else pipe.text.encode
        return encode([text], shown, recipe.clip_skip)

    positive = [complete(read(recipe.prompt))]
    for region in recipe.regions:
        area = area_of(region, size, pipe.model)
        positive.append(complete(replace(read(region.prompt), area=area, strength=region.strength)))
    negative = complete(read(recipe.negative, negative=True), negative=True)
    empty = complete(read("", negative=True), negative=True) if recipe.guidance else negative
    return Prompts(positive, negative, empty)


def distilled(recipe: Recipe, cond: Cond) -> Cond:
    """The conditioning with the recipe's distilled guidance, if it has one.

    Raises:
        ValueError: The network does not take distilled guidance.
    """
    if recipe.distilled_guidance is None:
        return cond
    if "guidance" not in cond.extra:
        raise ValueError("distilled_guidance is for networks that were distilled with it, like Flux dev; use cfg")
    guidance = torch.full_like(cond.extra["guidance"], recipe.distilled_guidance)
    return replace(cond, extra={**cond.extra, "guidance": guidance})


def area_of(region: Region, size: tuple[int, int], model: DiffusionModel) -> Area:
    """A region in latent positions.

    Raises:
        ValueError: The region is not within the image of (height, width) pixels, or cuts a patch of the network.
    """
    box = {"x": region.x, "y": region.y, "width": region.width, "height": region.height}
    for name, value in box.items():
        if value % unit_of(model):
            raise ValueError(f"a region's {name} must be a multiple of {unit_words(model)}; got {value}")
    if region.x + region.width > size[1] or region.y + region.height > size[0]:
        raise ValueError(f"the region {','.join(map(str, box.values()))} is not within {size[1]}x{size[0]} pixels")
    factor = model.latent.factor
    return Area((region.height // factor, region.width // factor), (region.y // factor, region.x // factor))


def mask_of(model: DiffusionModel, inputs: Inputs, size: tuple[int, int]) -> Tensor | None:
    """The mask of a run, [1, height, width]; for an inpainting network at the image's size, as in ComfyUI.

    Args:
        model: The network.
        inputs: What the recipe's files hold.
        size: (height, width) of the image in pixels.
    """
    return inputs.mask if inputs.mask is None or not inpaints(model) else resize_mask(inputs.mask, size)


def inpaints(model: DiffusionModel) -> bool:
    """Whether a network needs to be shown more than the latent."""
    return bool(model.concat) and not model.may_lack_concat


def concat_of(pipe: Pipeline, inputs: Inputs, size: tuple[int, int], frames: int) -> Tensor | None:
    """What an inpainting network or Wan VACE is given of the image outside the mask; None for other networks.

    Without a mask everything is masked, and the latent of the image is the grey one that ComfyUI gives.

    Args:
        pipe: The model.
        inputs: What the recipe's files hold.
        size: (height, width) of the image in pixels.
        frames: Number of frames.

    Raises:
        ValueError: The network takes another concat, which a recipe cannot make.
    """
    model, mask = pipe.model, mask_of(pipe.model, inputs, size)
    if not inpaints(model):
        return None
    if takes_control(model):
        return _control_of(pipe, inputs, mask, size, frames)
    filling = model.concat == model.latent.channels + model.latent.factor**2
    if not filling and model.concat != 1 + model.latent.channels:
        raise ValueError(f"{model.name} takes {model.concat} channels of concat: give them in Python, as Cond.concat")
    if mask is None and model.latent.channels == len(GREY):
        space = model.latent.shape(1, size)[2:]
        return torch.tensor([1.0, *GREY], device=pipe.device).reshape(1, -1, 1, 1).expand(1, -1, *space)
    image = to_tensor(resized(inputs.frames[0], size)) if inputs.frames else torch.full((1, 3, *size), 0.5)
    mask = torch.ones(1, *size) if mask is None else mask
    latent = pipe.encode(hidden(image, mask).to(pipe.device))
    return fill_concat(mask, latent, model.latent.factor) if filling else inpaint_concat(mask, latent)


def _control_of(pipe: Pipeline, inputs: Inputs, mask: Tensor | None, size: tuple[int, int], frames: int) -> Tensor:
    """What Wan VACE is shown: the video around the mask; without a mask a grey video, all of which is drawn."""
    video, drawn = torch.full((1, 3, frames, *size), 0.5), torch.ones(1, 1, frames, *size)
    if mask is not None and inputs.frames:
        shown = [to_tensor(resized(frame, size)) for frame in inputs.frames[:frames]]
        video = torch.stack(shown * (frames if len(shown) == 1 else 1), dim=2)
        drawn = mask.reshape(1, 1, 1, *size).expand_as(drawn)
    latents = control_latents(pipe.vae, pipe.model.latent, video, drawn, None)
    return control_of(pipe.model.latent, latents, control_mask(drawn, pipe.model.latent.factor, 0)).to(pipe.device)
