"""A recipe at one size: text and images encoded, schedule and noise made, a run that can be iterated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import cast

import torch
from PIL import Image
from torch import Tensor

from sigmafield.core.arrays import Latent
from sigmafield.core.conditioning import Area, Cond, Control, fit
from sigmafield.core.protocols import State
from sigmafield.guidance.guider import Guider
from sigmafield.models.bundle import Pipeline
from sigmafield.models.overrides import parse_model_sampling
from sigmafield.noise.sources import generator_of, initial_noise
from sigmafield.parameterization.prediction import Sampling, shifted
from sigmafield.recipes import image_io
from sigmafield.recipes.inputs import concat_of, read_frames, resized
from sigmafield.recipes.ksampler import ksampler_sigmas, open_run, window
from sigmafield.recipes.mods import parse_mods
from sigmafield.recipes.options import (
    AUTO,
    check_multiple,
    guider_of,
    leaf_strengths,
    leaves_of,
    model_of,
    rows_of,
    seen,
    whose,
    with_vae,
)
from sigmafield.recipes.recipe import Recipe, Region
from sigmafield.runs.mixing import Mixing
from sigmafield.runs.mixing_spec import parse_mixing
from sigmafield.runs.multiphase import Phases
from sigmafield.runs.run import Run
from sigmafield.spatial.inpaint import Inpaint
from sigmafield.spatial.sigma_field import delayed, field_from_mask, own_schedule
from sigmafield.spatial.tiled_model import rows_shown


@dataclass(frozen=True)
class Job:
    """A recipe on a loaded model, ready to iterate: `for state in iterate(job.run, job.start): …`.

    Of a recipe with `demofusion` the run is `Phases`: `for phase, state in job.run.walk(job.start): …`.
    """

    recipe: Recipe
    pipe: Pipeline
    run: Run | Mixing | Phases
    start: State
    whole: int = 0
    """Network rows that one evaluation of the whole image takes, in tiles; 0 without tiles."""

    @torch.no_grad()
    def images(self, state: State) -> list[Image.Image]:
        """The images of a finished run, or at the end of a phase; of videos, the frames of each in turn."""
        return image_io.to_images(self.pipe.decode(self.run.result(state)))

    def rows(self, state: State) -> tuple[int, int]:
        """(network rows so far, those that plain tiling of the whole image would have taken); 0 without tiles."""
        return rows_shown(state.aux), self.whole * state.nfe

    @torch.no_grad()
    def preview(self, state: State) -> list[Image.Image]:
        """What the network takes the clean images to be after a step; none if the model has no cheap preview."""
        if state.pred is None or self.pipe.preview is None:
            return []
        return image_io.to_images(self.pipe.preview(state.pred.x0))


@torch.no_grad()
def open_single(recipe: Recipe, pipe: Pipeline, steered: Sequence[Control]) -> Job:
    """Encode the text and the image, build the schedule, draw the noise; steered: the recipe's `controls_of`."""
    pipe = parse_model_sampling(recipe.model_sampling)(pipe)
    source = read_frames(recipe.image, recipe.image_sha256) if recipe.image else []
    mask = image_io.to_mask(read_frames(recipe.mask, recipe.mask_sha256)[0]) if recipe.mask else None
    size = size_of(recipe, pipe, source)
    shown = seen(recipe.tiling, pipe, size)
    pipe = with_vae(recipe.tiling, pipe, size)
    latent = initial_latent(recipe, pipe, source, size)
    pipe = replace(pipe, sampling=sampling_of(recipe, pipe, shown))
    space = latent.shape[2:]
    sigmas = sigmas_of(recipe, pipe.sampling, space, strengths_of(recipe, pipe, source, size))
    stream = generator_of(recipe.seed)
    noise = initial_noise(stream, latent.shape).to(pipe.device)
    positive, negative, empty = prompts_of(recipe, pipe, size, shown)
    concat = concat_of(pipe, size, source[0] if source else None, mask)

    def complete(cond: Cond) -> Cond:
        cond = replace(cond, concat=concat, controls=steered)
        pipe.check(cond)
        return fit(cond, space)

    cfg = pipe.cfg if recipe.cfg is None else recipe.cfg
    mods = parse_mods(recipe.guidance)
    if mods.fits:
        mods.check(pipe.module)
    positive, negative = [complete(cond) for cond in positive], complete(negative)
    guider = Guider(pipe.model, positive, negative, cfg, mods, complete(empty))
    model = model_of(recipe.tiling, pipe, levels_of(recipe, pipe.sampling, 1.0), recipe.seed)
    denoise = guider_of(recipe.tiling, pipe, guider, model)
    run, start = open_run(
        denoise, pipe.sampling, recipe.sampler, sigmas, latent, noise, stream,
        mask=None if mask is None else mask.to(pipe.device), random_inpaint=recipe.sampler == "ddim", **recipe.params,
    )  # fmt: skip
    prompts = guider.asked(run.sampler.need_uncond)
    whole = 0 if recipe.tiling is None else rows_of(recipe.tiling, pipe, prompts, len(latent), space)
    if (line := parse_mixing(recipe.mixing)) is not None:
        keep = None if mask is None else cast(Inpaint, run.denoise).kept  # as `open_run` made it
        run = line.mixing(run, latent, recipe.seed, keep)
        start = run.start(latent)
    return Job(recipe, pipe, run, start, whole)


def prompts_of(
    recipe: Recipe, pipe: Pipeline, size: tuple[int, int], shown: tuple[int, int]
) -> tuple[list[Cond], Cond, Cond]:
    """Conditionings of the prompt and the regions, of the negative prompt, and of none.

    size: of the image; shown: of what the network sees of it, which some networks are told.
    """
    positive = [told(recipe, pipe.encode_text([recipe.prompt], shown, recipe.clip_skip))]
    for region in recipe.regions:
        cond = told(recipe, pipe.encode_text([region.prompt], shown, recipe.clip_skip))
        area = area_of(region, size, pipe.latent.factor, pipe.patch)
        positive.append(replace(cond, area=area, strength=region.strength))
    against = pipe.encode_negative or pipe.encode_text
    negative = told(recipe, against([recipe.negative], shown, recipe.clip_skip))
    return positive, negative, told(recipe, against([""], shown, recipe.clip_skip)) if recipe.guidance else negative


def sampling_of(recipe: Recipe, pipe: Pipeline, size: tuple[int, int]) -> Sampling:
    """The model's sampling, under the recipe's time shift if it has one; ValueError for a model without such."""
    if recipe.shift is None:
        return pipe.sampling
    if recipe.shift != "size":
        return shifted(pipe.sampling, recipe.shift)
    if pipe.shift_at is None:
        raise ValueError(f"shift 'size' needs a model whose time shift depends on the size; {pipe.name}'s does not")
    return shifted(pipe.sampling, pipe.shift_at(size))


def levels_of(recipe: Recipe, sampling: Sampling, strength: float) -> Tensor:
    """The whole schedule of a place with a share of the recipe's denoise strength."""
    return ksampler_sigmas(
        sampling.levels, recipe.sampler, recipe.schedule, recipe.steps, strength * recipe.denoise,
        recipe.schedule_params,
    )  # fmt: skip


def sigmas_of(recipe: Recipe, sampling: Sampling, space: Sequence[int], strengths: Tensor | None) -> Tensor:
    """The noise levels of the run, [steps + 1]; with `strengths_of` a σ-field of a latent with these axes."""
    sigmas = window(levels_of(recipe, sampling, 1.0), recipe.start_step, recipe.last_step)
    if strengths is None:
        return sigmas
    own = own_schedule(partial(levels_of, recipe, sampling))
    return field_from_mask(own if recipe.map_schedule == "own" else delayed(sigmas), strengths, space)


def strengths_of(recipe: Recipe, pipe: Pipeline, source: Sequence[Image.Image], size: tuple[int, int]) -> Tensor | None:
    """Each place's share of the recipe's denoise strength by its denoise map, [1, h, w] of any resolution."""
    if recipe.denoise_map is None:
        return None
    low = recipe.min_denoise / recipe.denoise
    if recipe.denoise_map == AUTO:
        leaves = leaves_of(recipe.detail, recipe.tiling, pipe, resized(source[0], size))
        return leaf_strengths(leaves, low, size, pipe.latent.factor)
    brightness = image_io.to_mask(read_frames(recipe.denoise_map, recipe.denoise_map_sha256)[0])
    return low + (1 - low) * brightness.double()


def told(recipe: Recipe, cond: Cond) -> Cond:
    """A conditioning with the recipe's distilled guidance, if any; ValueError for a network that is not told it."""
    if recipe.distilled_guidance is None:
        return cond
    if "guidance" not in cond.extra:
        raise ValueError("distilled_guidance is for networks that were distilled with it, like Flux dev; use cfg")
    guidance = torch.full_like(cond.extra["guidance"], recipe.distilled_guidance)
    return replace(cond, extra={**cond.extra, "guidance": guidance})


def area_of(region: Region, size: tuple[int, int], factor: int, patch: int = 1) -> Area:
    """A region in latent places; ValueError if it is not within the image of (height, width), or cuts a patch."""
    box = {"x": region.x, "y": region.y, "width": region.width, "height": region.height}
    for name, value in box.items():
        if value % (factor * patch):
            raise ValueError(f"a region's {name} must be a multiple of {whose(factor, patch)}; got {value}")
    if region.x + region.width > size[1] or region.y + region.height > size[0]:
        raise ValueError(f"the region {','.join(map(str, box.values()))} is not within {size[1]}x{size[0]} pixels")
    return Area((region.height // factor, region.width // factor), (region.y // factor, region.x // factor))


def size_of(recipe: Recipe, pipe: Pipeline, source: Sequence[Image.Image]) -> tuple[int, int]:
    """(height, width) of the images: asked for, or the image's, enlarged, or the model's own."""
    factor, patch = pipe.latent.factor, pipe.patch
    if recipe.width and recipe.height:
        height, width = recipe.height, recipe.width
    elif source:
        width, height = (enlarged(side, recipe.scale, factor * patch) for side in source[0].size)
    else:
        height, width = pipe.size
    check_multiple("width", width, factor, patch)
    check_multiple("height", height, factor, patch)
    for name, value in zip(("height", "width"), seen(recipe.tiling, pipe, (height, width))):
        if pipe.max_side and value > pipe.max_side:
            raise ValueError(f"{name} must be at most {pipe.max_side}, where the network's positions end; got {value}")
    return height, width


def enlarged(side: int, scale: float, unit: int) -> int:
    """A side times a scale above 1, as the nearest multiple of a unit."""
    return side if scale == 1 else max(round(side * scale / unit), 1) * unit


def frames_of(recipe: Recipe, pipe: Pipeline, source: Sequence[Image.Image]) -> int:
    """Number of frames: asked for, or the image's, or the model's own; ValueError for what the model cannot have."""
    frames = recipe.frames or (len(source) if pipe.latent.axes == 3 else 1) or pipe.frames
    step = pipe.latent.frame_factor
    if pipe.latent.axes != 3 and frames != 1:
        raise ValueError(f"frames must be 1, for {pipe.name} draws no videos; got {frames}")
    if (frames - 1) % step:
        low = (frames - 1) // step * step + 1
        raise ValueError(f"frames must be 1 and a multiple of {step}; got {frames}: try {low} or {low + step}")
    if 1 < len(source) < frames:
        raise ValueError(f"frames must be at most those of {recipe.image}, which has {len(source)}; got {frames}")
    return frames


def initial_latent(recipe: Recipe, pipe: Pipeline, source: Sequence[Image.Image], size: tuple[int, int]) -> Latent:
    """The latent that noise is added to: zeros, or the image's, once for each of the batch.

    A video begins from the frames of the image, or from the same image for each.
    """
    frames = frames_of(recipe, pipe, source)
    if not source:
        return torch.zeros(pipe.latent.shape(recipe.batch, size, frames), device=pipe.device)
    tensors = [image_io.to_tensor(resized(image, size)) for image in source[:frames]]
    tensors = tensors * frames if len(tensors) == 1 else tensors
    images = torch.stack(tensors, dim=2) if pipe.latent.axes == 3 else tensors[0]
    latent = pipe.encode(images.to(pipe.device))
    return latent.expand(recipe.batch, *latent.shape[1:]).contiguous()
