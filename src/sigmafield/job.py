"""From a recipe to pictures: text and images encoded, schedule and noise made, a run that can be iterated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from sigmafield import images
from sigmafield.guidance import parse_mods
from sigmafield.guidance.cond import fit
from sigmafield.guidance.guider import Guider
from sigmafield.hints import concat_of, controls_of, read_frames, resized
from sigmafield.ksampler import ksampler_sigmas, open_run, window
from sigmafield.models import load
from sigmafield.models.model_sampling import parse_model_sampling
from sigmafield.models.pipeline import Pipeline
from sigmafield.noise import generator_of, initial_noise
from sigmafield.param import Sampling, shifted
from sigmafield.recipe import Recipe, Region
from sigmafield.run import Run, finish
from sigmafield.spatial.field import delayed, field_from_mask, own_schedule
from sigmafield.spatial.mixing import Mixing
from sigmafield.spatial.mixing_line import parse_mixing
from sigmafield.types import Area, Cond, Control, Latent, State


@dataclass(frozen=True)
class Job:
    """A recipe on a loaded model, ready to iterate: `for state in iterate(job.run, job.start): …`."""

    recipe: Recipe
    pipe: Pipeline
    run: Run | Mixing
    start: State

    @torch.no_grad()
    def pictures(self, state: State) -> list[Image.Image]:
        """The pictures of a finished run; of videos, the frames of each in turn."""
        run = self.run.run if isinstance(self.run, Mixing) else self.run
        x = run.grid.process.finish(run.end, state.x)
        return images.to_pictures(self.pipe.decode(x))

    @torch.no_grad()
    def preview(self, state: State) -> list[Image.Image]:
        """What the network takes the clean pictures to be after a step; none if the model has no cheap preview."""
        if state.pred is None or self.pipe.preview is None:
            return []
        return images.to_pictures(self.pipe.preview(state.pred.x0))


def open_pipe(recipe: Recipe, **options: Any) -> Pipeline:
    """The model of a recipe with its LoRAs and textual inversions; options: further ones of `load`.

    Raises ValueError also for a LoRA that is not the one that the recipe was made with.
    """
    for lora in recipe.loras:
        if lora.digest() != lora.sha256:
            raise ValueError(f"{lora.path} has changed since this recipe was made: its SHA-256 differs")
    pairs = [(lora.path, lora.strength) for lora in recipe.loras]
    return load(recipe.model, parts=recipe.parts, embeddings=recipe.embeddings, loras=pairs, **options)


@torch.no_grad()
def open_job(recipe: Recipe, pipe: Pipeline, controls: Sequence[Control] | None = None) -> Job:
    """Encode the text and the image, build the schedule, draw the noise. ValueError for what the model refuses.

    controls: those of the recipe, where they are read already (`controls_of`), for many recipes with the same.
    """
    if recipe.loras and [(lora.path, lora.strength) for lora in recipe.loras] != list(pipe.loras):
        raise ValueError(
            "the recipe's loras are not those that the model was loaded with; load it with open_pipe(recipe)"
        )
    pipe = parse_model_sampling(recipe.model_sampling)(pipe)
    source = read_frames(recipe.image, recipe.image_sha256) if recipe.image else []
    mask = images.to_mask(read_frames(recipe.mask, recipe.mask_sha256)[0]) if recipe.mask else None
    size = size_of(recipe, pipe, source)
    latent = initial_latent(recipe, pipe, source, size)
    pipe = replace(pipe, sampling=sampling_of(recipe, pipe, size))
    sigmas = sigmas_of(recipe, pipe.sampling, latent.shape[2:])
    stream = generator_of(recipe.seed)
    noise = initial_noise(stream, latent.shape).to(pipe.device)
    positive, negative, empty = prompts_of(recipe, pipe, size)
    steered = controls_of(recipe.controls, pipe) if controls is None else controls
    concat = concat_of(pipe, size, source[0] if source else None, mask)

    def complete(cond: Cond) -> Cond:
        cond = replace(cond, concat=concat, controls=steered)
        pipe.check(cond)
        return fit(cond, latent.shape[2:])

    cfg = pipe.cfg if recipe.cfg is None else recipe.cfg
    mods = parse_mods(recipe.guidance)
    if mods.fits:
        mods.check(pipe.module)
    guider = Guider(pipe.model, [complete(cond) for cond in positive], complete(negative), cfg, mods, complete(empty))
    run, start = open_run(
        guider, pipe.sampling, recipe.sampler, sigmas, latent, noise, stream,
        mask=None if mask is None else mask.to(pipe.device), random_inpaint=recipe.sampler == "ddim", **recipe.params,
    )  # fmt: skip
    if (line := parse_mixing(recipe.mixing)) is not None:
        run = line.mixing(run, latent, recipe.seed)
        start = run.start(latent)
    return Job(recipe, pipe, run, start)


def generate(pipe: Pipeline, prompt: str, **settings: Any) -> list[Image.Image]:
    """Pictures for a prompt, one for each of the batch (videos: all frames); `settings` are the fields of `Recipe`."""
    job = open_job(Recipe(prompt, **settings), pipe)
    return job.pictures(finish(job.run, job.start))


def prompts_of(recipe: Recipe, pipe: Pipeline, size: tuple[int, int]) -> tuple[list[Cond], Cond, Cond]:
    """Conditionings of the prompt and the regions, of the negative prompt, and of none."""
    positive = [told(recipe, pipe.encode_text([recipe.prompt], size, recipe.clip_skip))]
    for region in recipe.regions:
        cond = told(recipe, pipe.encode_text([region.prompt], size, recipe.clip_skip))
        area = area_of(region, size, pipe.latent.factor, pipe.patch)
        positive.append(replace(cond, area=area, strength=region.strength))
    against = pipe.encode_negative or pipe.encode_text
    negative = told(recipe, against([recipe.negative], size, recipe.clip_skip))
    return positive, negative, told(recipe, against([""], size, recipe.clip_skip)) if recipe.guidance else negative


def sampling_of(recipe: Recipe, pipe: Pipeline, size: tuple[int, int]) -> Sampling:
    """The model's sampling, under the recipe's time shift if it has one; ValueError for a model without such."""
    if recipe.shift is None:
        return pipe.sampling
    if recipe.shift != "size":
        return shifted(pipe.sampling, recipe.shift)
    if pipe.shift_at is None:
        raise ValueError(f"shift 'size' needs a model whose time shift depends on the size; {pipe.name}'s does not")
    return shifted(pipe.sampling, pipe.shift_at(size))


def sigmas_of(recipe: Recipe, sampling: Sampling, space: Sequence[int]) -> Tensor:
    """The noise levels of the run, [steps + 1]; with a denoise map a σ-field of a latent with these axes."""

    def levels(strength: float) -> Tensor:
        denoise = strength * recipe.denoise
        return ksampler_sigmas(
            sampling.levels, recipe.sampler, recipe.scheduler, recipe.steps, denoise, recipe.scheduler_params
        )

    sigmas = window(levels(1.0), recipe.start_step, recipe.last_step)
    if recipe.denoise_map is None:
        return sigmas
    brightness = images.to_mask(read_frames(recipe.denoise_map, recipe.denoise_map_sha256)[0])
    return field_from_mask(own_schedule(levels) if recipe.map_schedule == "own" else delayed(sigmas), brightness, space)


def told(recipe: Recipe, cond: Cond) -> Cond:
    """A conditioning with the recipe's distilled guidance, if any; ValueError for a network that is not told it."""
    if recipe.distilled_guidance is None:
        return cond
    if "guidance" not in cond.extra:
        raise ValueError("distilled_guidance is for networks that were distilled with it, like Flux dev; use cfg")
    guidance = torch.full_like(cond.extra["guidance"], recipe.distilled_guidance)
    return replace(cond, extra={**cond.extra, "guidance": guidance})


def area_of(region: Region, size: tuple[int, int], factor: int, patch: int = 1) -> Area:
    """A region in latent places; ValueError if it is not within the picture of (height, width), or cuts a patch."""
    box = {"x": region.x, "y": region.y, "width": region.width, "height": region.height}
    for name, value in box.items():
        if value % (factor * patch):
            raise ValueError(f"a region's {name} must be a multiple of {whose(factor, patch)}; got {value}")
    if region.x + region.width > size[1] or region.y + region.height > size[0]:
        raise ValueError(f"the region {','.join(map(str, box.values()))} is not within {size[1]}x{size[0]} pixels")
    return Area((region.height // factor, region.width // factor), (region.y // factor, region.x // factor))


def whose(factor: int, patch: int) -> str:
    """The number that sides in pixels are multiples of, and why."""
    return f"{factor * patch}, the VAE's factor" + (f" of {factor} times patches of {patch}" if patch > 1 else "")


def size_of(recipe: Recipe, pipe: Pipeline, source: Sequence[Image.Image]) -> tuple[int, int]:
    """(height, width) of the pictures: asked for, or the image's, or the model's own."""
    if recipe.width and recipe.height:
        height, width = recipe.height, recipe.width
    elif source:
        width, height = source[0].size
    else:
        height, width = pipe.size
    factor = pipe.latent.factor * pipe.patch
    for name, value in (("width", width), ("height", height)):
        if value % factor or value < factor:
            low, rule = max(value // factor, 1) * factor, whose(pipe.latent.factor, pipe.patch)
            raise ValueError(f"{name} must be a multiple of {rule}; got {value}: try {low} or {low + factor}")
        if pipe.max_side and value > pipe.max_side:
            raise ValueError(f"{name} must be at most {pipe.max_side}, where the network's positions end; got {value}")
    return height, width


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

    A video begins from the frames of the image, or from the same picture for each.
    """
    frames = frames_of(recipe, pipe, source)
    if not source:
        return torch.zeros(pipe.latent.shape(recipe.batch, size, frames), device=pipe.device)
    tensors = [images.to_tensor(resized(picture, size)) for picture in source[:frames]]
    tensors = tensors * frames if len(tensors) == 1 else tensors
    pictures = torch.stack(tensors, dim=2) if pipe.latent.axes == 3 else tensors[0]
    latent = pipe.encode(pictures.to(pipe.device))
    return latent.expand(recipe.batch, *latent.shape[1:]).contiguous()
