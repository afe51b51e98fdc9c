"""DemoFusion's run: an image drawn at the network's own size, then at 2, 3, … times that. arXiv:2311.16973.

job = open_job(Recipe("a red heart", demofusion=DemoFusion(scale=4)), pipe)
for phase, state in job.run.walk(job.start):
    job.images(state)[0].save(f"{phase.scale}x.png")
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from sigmafield.core.grid import Grid
from sigmafield.core.protocols import Noise
from sigmafield.models.bundle import Pipeline
from sigmafield.models.diffusion_model import DiffusionModel
from sigmafield.noise.policy import default_noise
from sigmafield.noise.sources import generator_of, initial_noise, seed_word
from sigmafield.noise.spectrum import parse_filter
from sigmafield.recipes.build import Job, guider_of, levels_of, model_of, source_latent
from sigmafield.recipes.conditionings import Prompts, prompts_of
from sigmafield.recipes.field_values import number, spec, spec_or_none
from sigmafield.recipes.inputs import Inputs
from sigmafield.recipes.ksampler import open_run
from sigmafield.recipes.limits import check_canvas, check_shown
from sigmafield.recipes.options import DemoFusion
from sigmafield.recipes.recipe import Recipe
from sigmafield.recipes.sizes import middle_of, size_notes, size_of
from sigmafield.recipes.steering import Steering
from sigmafield.recipes.tiling import vae_for
from sigmafield.runs.level_noise import KeyedLevels
from sigmafield.runs.mixing import Mixing
from sigmafield.runs.multiphase import Phase, Phases
from sigmafield.runs.run import Run
from sigmafield.samplers import SAMPLERS
from sigmafield.spatial.demofusion_views import Windows, clock, fused, residual_weights, skip_of


@torch.no_grad()
def open_phases(recipe: Recipe, how: DemoFusion, pipe: Pipeline, inputs: Inputs, steering: Steering) -> Job:
    """A run through all phases of a recipe with `demofusion`.

    The first phase is at the recipe's width and height, best those of the network. A recipe with an image begins from
    it instead, and its first phase is mixed as well, at the image's size; with denoise < 1 every phase runs the end of
    its schedule only. Regions grow with the image; controls are resized.

    Args:
        recipe: What to draw.
        how: Its `demofusion`.
        pipe: The model.
        inputs: What the recipe's files hold.
        steering: What steers, see `steering.steering_of`.

    Raises:
        ValueError: The stride is above the network's size, or the model is one of videos or of inpainting.
    """
    window, stride = windows_of(how, pipe.model)
    size, given, loaded = size_of(recipe, pipe.model, inputs), inputs, pipe
    inputs = middle_of(recipe, given, size)
    check_canvas(pipe.model, (size[0] * how.scale, size[1] * how.scale), recipe.batch)
    check_shown(pipe.model, size)
    model = model_of(recipe, pipe.model, size)
    pipe = replace(pipe, model=model, vae=vae_for(how, pipe.vae, (size[0] * how.scale, size[1] * how.scale)))
    sampler, params = SAMPLERS[spec(recipe.sampler).name], spec(recipe.sampler).params
    sigmas = levels_of(recipe, model, 1.0)
    grid, time = Grid(sigmas, model.sampling.process, clock=model.sampling.clock), clock(model.sampling)

    def noise_of(seed: int, shape: Sequence[int]) -> Noise:
        return default_noise(sampler.noise, seed, grid, torch.empty(tuple(shape), device=pipe.device))

    def phase(q: int) -> Phase:
        """The steps at q times the size: windows and dilated views, led by the phase before."""
        large = (size[0] * q, size[1] * q)
        shape, seed = model.latent.shape(recipe.batch, large), seed_word(number(recipe.seed), (q,))
        prompts = prompts_at(recipe, pipe, steering, size, q)
        local = Windows(model, window, stride, seed, how.batch, model.latent.factor)
        views = fused(
            local, q, time, skip_of(model.sampling), cosine_scale_2=how.cosine_scale_2,
            cosine_scale_3=how.cosine_scale_3, sigma=how.sigma, multiple=model.patch,
        )  # fmt: skip
        guider = replace(guider_of(recipe, model, prompts), model=views)
        run = Run(guider, sampler, grid, noise_of(seed, shape), params)
        weights = residual_weights(run.grid.sigmas, time, how.cosine_scale_1)
        seeds = [seed_word(number(recipe.seed), (q, b), np.uint64) for b in range(recipe.batch)]
        levels = KeyedLevels(seeds, shape, torch.float32, pipe.device, shared=True)
        return Phase(q, large, Mixing(run, levels, weights, align="before"))

    if inputs.frames:
        run = Phases([phase(q) for q in range(1, how.scale + 1)], model.latent.factor)
        notes = [*pipe.notes, *size_notes(model, given, inputs)]
        start = run.start(source_latent(recipe, pipe, inputs, size))
        return Job(recipe, pipe, run, start, loaded, given, steering, notes=notes)
    source = source_latent(recipe, pipe, inputs, size)
    stream, spectrum = generator_of(number(recipe.seed)), parse_filter(spec_or_none(recipe.noise))
    noise = spectrum(initial_noise(stream, source.shape)).to(pipe.device)
    prompts = prompts_at(recipe, pipe, steering, size, 1)
    guider = guider_of(recipe, model, prompts)
    first, start, _ = open_run(
        guider,
        model.sampling,
        sampler.name,
        sigmas,
        source,
        noise,
        stream,
        spectrum=spectrum,
        **params,
    )
    phases = [Phase(1, size, first), *(phase(q) for q in range(2, how.scale + 1))]
    return Job(recipe, pipe, Phases(phases, model.latent.factor), start, loaded, inputs, steering, notes=pipe.notes)


def windows_of(how: DemoFusion, model: DiffusionModel) -> tuple[tuple[int, int], int]:
    """((height, width) of the windows, stride) in latent positions; ValueError for what cannot be drawn so."""
    if model.latent.axes != 2 or model.concat:
        raise ValueError(f"demofusion needs a model that draws images from noise, which {model.name} does not")
    window = model.size[0] // model.latent.factor, model.size[1] // model.latent.factor
    stride = max(min(window) // 2, 1) if how.stride is None else how.stride
    if stride > min(window):
        raise ValueError(
            f"stride must be at most {min(window)}, the network's own size in latent positions; got {stride}"
        )
    return window, stride


def prompts_at(recipe: Recipe, pipe: Pipeline, steering: Steering, size: tuple[int, int], q: int) -> Prompts:
    """The recipe's conditionings at q times a size, with regions q times as large.

    Args:
        recipe: The recipe.
        pipe: The model.
        steering: What steers it.
        size: (height, width) in pixels.
        q: A whole number ≥ 1.
    """
    large = (size[0] * q, size[1] * q)
    space = pipe.model.latent.shape(1, large)[2:]
    scaled = replace(recipe, regions=tuple(region.scaled(q) for region in recipe.regions))
    return prompts_of(scaled, pipe, steering, None, large, large, space)
