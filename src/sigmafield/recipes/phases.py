"""DemoFusion: a image drawn at the network's own size, then again and again at 2, 3, … times that. arXiv:2311.16973.

    job = open_job(Recipe("a red heart", demofusion=DemoFusion(scale=4)), pipe)
    for phase, state in job.run.walk(job.start):
        job.images(state)[0].save(f"{phase.scale}x.png")

Its parts: `spatial.demofusion`, `spatial.mixing`, `spatial.phases`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import torch

from sigmafield.core.arrays import Latent
from sigmafield.core.conditioning import Control
from sigmafield.core.process import Grid
from sigmafield.guidance.guider import Guider
from sigmafield.models.bundle import Pipeline
from sigmafield.models.overrides import parse_model_sampling
from sigmafield.noise.policy import default_noise
from sigmafield.noise.sources import seed_word
from sigmafield.recipes.build import Job, initial_latent, levels_of, open_single, sampling_of, size_of
from sigmafield.recipes.inputs import read_frames
from sigmafield.recipes.options import DemoFusion, with_vae
from sigmafield.recipes.recipe import Recipe
from sigmafield.runs.level_noise import KeyedLevels
from sigmafield.runs.mixing import Mixing
from sigmafield.runs.multiphase import Phase, Phases
from sigmafield.runs.run import Run
from sigmafield.samplers import SAMPLERS
from sigmafield.spatial.demofusion_views import Windows, clock, fused, residual_weights


@torch.no_grad()
def open_phases(recipe: Recipe, pipe: Pipeline, steered: Sequence[Control]) -> Job:
    """A run through all phases of a recipe with `demofusion`; steered: its `controls_of`.

    The first phase is the recipe's own, at its width and height, best those of the network. A recipe with an image
    begins from it instead, and its first phase is mixed as well, at the image's size; with denoise < 1 every phase runs
    the end of its schedule only. Regions and controls grow along. Raises ValueError for a stride above the network's
    size, for models of videos and of inpainting, and for a recipe without `demofusion`.
    """
    if (how := recipe.demofusion) is None:
        raise ValueError("phases need a recipe with demofusion")
    window, stride = _windows(how, pipe)
    source = read_frames(recipe.image, recipe.image_sha256) if recipe.image else []
    size = size_of(recipe, pipe, source)
    pipe = with_vae(how, pipe, (size[0] * how.scale, size[1] * how.scale))
    pipe = parse_model_sampling(recipe.model_sampling)(pipe)
    pipe = replace(pipe, sampling=sampling_of(recipe, pipe, size))
    one = replace(recipe, demofusion=None, model_sampling="", shift=None)
    sigmas = levels_of(recipe, pipe.sampling, 1.0)
    sampler = SAMPLERS.lookup(recipe.sampler)

    def phase(q: int) -> Phase:
        (guider, x), seed = prompted(one, pipe, q, size, steered), seed_word(recipe.seed, (q,))
        local = Windows(guider.model, window, stride, seed, how.batch, pipe.latent.factor)
        model = fused(
            local, q, clock(pipe.sampling), cosine_scale_2=how.cosine_scale_2, cosine_scale_3=how.cosine_scale_3,
            sigma=how.sigma, multiple=pipe.patch,
        )  # fmt: skip
        grid = Grid(sigmas, pipe.sampling.process, clock=pipe.sampling.clock)
        noise = default_noise(sampler.noise, seed, grid, x)
        run = Run(replace(guider, model=model), sampler, grid, noise, recipe.params)
        c = residual_weights(run.grid.sigmas, clock(pipe.sampling), how.cosine_scale_1)
        seeds = [seed_word(recipe.seed, (q, b), np.uint64) for b in range(len(x))]
        levels = KeyedLevels(seeds, x.shape, x.dtype, x.device, shared=True)
        return Phase(q, (size[0] * q, size[1] * q), Mixing(run, levels, c, align="before"))

    if source:
        run = Phases([phase(q) for q in range(1, how.scale + 1)], pipe.latent.factor)
        return Job(recipe, pipe, run, run.start(initial_latent(one, pipe, source, size)))
    first = open_single(one, pipe, steered)
    phases = [Phase(1, size, cast(Run, first.run)), *(phase(q) for q in range(2, how.scale + 1))]
    return Job(recipe, pipe, Phases(phases, pipe.latent.factor), first.start)


def _windows(how: DemoFusion, pipe: Pipeline) -> tuple[tuple[int, int], int]:
    """(height, width) of the windows in places, and the stride; ValueError for what cannot be drawn."""
    if pipe.latent.axes != 2 or pipe.concat:
        raise ValueError(f"demofusion needs a model that draws images from noise; {pipe.name} is none")
    window = pipe.size[0] // pipe.latent.factor, pipe.size[1] // pipe.latent.factor
    stride = max(min(window) // 2, 1) if how.stride is None else how.stride
    if stride > min(window):
        raise ValueError(f"stride must be at most {min(window)}, the network's own size in places; got {stride}")
    return window, stride


def prompted(
    recipe: Recipe, pipe: Pipeline, q: int, size: tuple[int, int], steered: Sequence[Control]
) -> tuple[Guider, Latent]:
    """The recipe's guidance at q times its size, and a latent of that size.

    The largest side that the network has positions for holds for its windows, not here.
    """
    boxes = [{name: q * getattr(region, name) for name in ("x", "y", "width", "height")} for region in recipe.regions]
    regions = tuple(replace(region, **box) for region, box in zip(recipe.regions, boxes))
    large = replace(
        recipe, width=size[1] * q, height=size[0] * q, scale=1.0, regions=regions,
        image=None, image_sha256=None, denoise=1.0,
    )  # fmt: skip
    job = open_single(large, replace(pipe, max_side=None), steered)
    return cast(Guider, cast(Run, job.run).denoise), job.start.x
