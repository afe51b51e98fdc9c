"""DemoFusion: a picture drawn at the network's own size, then again and again at 2, 3, … times that. arXiv:2311.16973.

    demo = open_demofusion(Recipe("a red heart"), pipe, DemoFusion(scale=4))
    for phase, state in demo.phases():
        demo.pictures(state)[0].save(f"{phase.scale}x.png")

Or step by step, `for state in iterate(demo.run, demo.start)`: states are saved and resumed like any other run's, in the
middle of any phase. Its parts: `spatial.demofusion`, `spatial.mixing`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import Annotated, cast

import numpy as np
import torch
from PIL import Image

from sigmafield import images
from sigmafield.grid import Grid
from sigmafield.guidance.guider import Guider
from sigmafield.hints import controls_of, read_frames
from sigmafield.job import initial_latent, open_job, sampling_of, size_of
from sigmafield.ksampler import ksampler_sigmas
from sigmafield.methods import lookup
from sigmafield.models.model_sampling import parse_model_sampling
from sigmafield.models.pipeline import Pipeline
from sigmafield.noise import seed_word
from sigmafield.ranges import NonNegative, Positive, Range, check, parameters
from sigmafield.recipe import Recipe
from sigmafield.resize import resize
from sigmafield.run import Run, default_noise, iterate
from sigmafield.spatial.demofusion import Windows, clock, fused, moments, residual_weights, standardised
from sigmafield.spatial.mixing import KeyedLevels, Mixing
from sigmafield.types import Control, Latent, Memory, State

MEAN, STD = "demofusion.mean", "demofusion.std"
"""Names in a state's aux: what each phase's end is brought to, of each sample of the first."""


@dataclass(frozen=True)
class DemoFusion:
    """How a picture is enlarged.

    scale ≥ 1: sides of the last phase, in terms of the first; stride ≥ 1: places of the latent between two windows, at
    most the network's own size, None = half of that; cosine_scale_1 ≥ 0: α₁ of the skip residual's weight κ^α₁, large =
    free of the phase before; cosine_scale_2 ≥ 0: α₂ of the dilated views' weight κ^α₂, large = windows alone soon;
    cosine_scale_3 ≥ 0, sigma > 0: α₃ and s of the views' blur, of s (0.99 κ^α₃ + 0.01) places; batch ≥ 1: windows or
    views a network call. Raises ValueError for a value out of its range.
    """

    scale: Annotated[int, Range(1)]
    stride: Annotated[int | None, Range(1)] = None
    cosine_scale_1: NonNegative = 3.0
    cosine_scale_2: NonNegative = 1.0
    cosine_scale_3: NonNegative = 1.0
    sigma: Positive = 1.0
    batch: Annotated[int, Range(1)] = 16

    def __post_init__(self) -> None:
        check("demofusion", {p.name: p for p in parameters(DemoFusion, _every)}, vars(self))


def _every(argument: inspect.Parameter) -> bool:
    return True


@dataclass(frozen=True)
class Phase:
    """The steps at one size: scale times the first, (height, width) in pixels, and the run; the first is not mixed."""

    scale: int
    size: tuple[int, int]
    run: Run | Mixing

    @property
    def plain(self) -> Run:
        """The run itself, without the skip residual."""
        return self.run.run if isinstance(self.run, Mixing) else self.run

    @property
    def n(self) -> int:
        """Steps."""
        return self.plain.grid.n


@dataclass(frozen=True)
class Phases:
    """Phases as one run, which `iterate` takes; the states' i counts steps over all of them.

    A phase begins with the latent of the one before, enlarged by bicubic interpolation and noised; at its end the
    latent has the mean and deviation, sample by sample, of the first phase's, or of the latent that all began with.
    """

    phases: Sequence[Phase]
    factor: int = 8

    @cached_property
    def ends(self) -> list[int]:
        """The steps that are done at the end of each phase."""
        return list(accumulate(phase.n for phase in self.phases))

    def place(self, i: int) -> tuple[int, int]:
        """(phase, step within it) of the i-th step in all."""
        k = next(k for k, end in enumerate(self.ends) if i < end)
        return k, i - (self.ends[k - 1] if k else 0)

    def start(self, x: Latent) -> State:
        """The state before the first step: from noise, or where the first phase is mixed from a clean latent."""
        first = self.phases[0].run
        return State(0, x, aux=_anchor(x)) if isinstance(first, Mixing) else first.start(x)

    def done(self, st: State) -> bool:
        """Whether the last phase has come to its end."""
        return st.i >= self.ends[-1]

    def progress(self, st: State) -> float:
        """Share of all steps that is done, 0 … 1; a step of a large phase takes longer."""
        return st.i / self.ends[-1]

    @torch.no_grad()
    def step(self, st: State) -> State:
        """The state after one step. Pure, as a run's."""
        k, i = self.place(st.i)
        phase = self.phases[k]
        if isinstance(phase.run, Mixing) and not i:
            st = self._begun(phase.run, phase.size, st)
        local = phase.run.step(replace(st, i=i))
        if i + 1 == phase.n:
            x = phase.plain.grid.process.finish(phase.plain.end, local.x)
            if MEAN in local.aux:
                anchor = {name: local.aux[name] for name in (MEAN, STD)}
                x = standardised(x, anchor[MEAN], anchor[STD])
            else:
                anchor = _anchor(x)
            local = replace(local, x=x, aux=anchor)
        return replace(local, i=st.i + 1)

    def _begun(self, mixing: Mixing, size: tuple[int, int], st: State) -> State:
        """The state before the first step of a mixed phase, from the end of the one before."""
        height, width = (side // self.factor for side in size)
        fresh = mixing.start(resize(st.x, height, width, "bicubic"))
        anchor = {name: st.aux[name] for name in (MEAN, STD)}
        return replace(fresh, i=st.i, aux={**fresh.aux, **anchor}, nfe=st.nfe)


def _anchor(x: Latent) -> Memory:
    return dict(zip((MEAN, STD), moments(x)))


@dataclass(frozen=True)
class Demo:
    """A recipe to draw large, on a loaded model; iterated as a `Job` is, or phase by phase."""

    recipe: Recipe
    pipe: Pipeline
    run: Phases
    start: State

    def phases(self, start: State | None = None) -> Iterator[tuple[Phase, State]]:
        """Each phase with the state at its end, where `pictures` shows it; start: a state to go on from."""
        for state in iterate(self.run, start or self.start):
            if state.i in self.run.ends:
                yield self.run.phases[self.run.ends.index(state.i)], state

    @torch.no_grad()
    def pictures(self, state: State) -> list[Image.Image]:
        """The pictures of a state at the end of a phase. For large ones give `tiled_pictures(pipe)`."""
        return images.to_pictures(self.pipe.decode(state.x))

    @torch.no_grad()
    def preview(self, state: State) -> list[Image.Image]:
        """What the network takes the clean pictures to be after a step; none if the model has no cheap preview."""
        if state.pred is None or self.pipe.preview is None:
            return []
        return images.to_pictures(self.pipe.preview(state.pred.x0))


@torch.no_grad()
def open_demofusion(recipe: Recipe, pipe: Pipeline, how: DemoFusion) -> Demo:
    """A run through all phases. The first is the recipe's own, at its width and height, best those of the network.

    A recipe with an image begins from it instead, and its first phase is mixed as well, at the image's size; with
    denoise < 1 every phase runs the end of its schedule only. Regions and controls grow along. pipe: for large
    pictures, `tiled_pictures(pipe)`. Raises ValueError for a stride above the network's size, for models of videos and
    of inpainting, for a method that chooses its own steps, and for recipes with a mask, a denoise map, mixing, or a
    part of the steps.
    """
    window, stride = _windows(recipe, pipe, how)
    source = read_frames(recipe.image, recipe.image_sha256) if recipe.image else []
    size = size_of(recipe, pipe, source)
    pipe = parse_model_sampling(recipe.model_sampling)(pipe)
    pipe = replace(pipe, sampling=sampling_of(recipe, pipe, size))
    recipe = replace(recipe, model_sampling="", shift=None)
    sigmas = ksampler_sigmas(
        pipe.sampling.levels, recipe.sampler, recipe.scheduler, recipe.steps, recipe.denoise, recipe.scheduler_params
    )
    steered, method = controls_of(recipe.controls, pipe), lookup(recipe.sampler)

    def phase(q: int) -> Phase:
        (guider, x), seed = prompted(recipe, pipe, q, size, steered), seed_word(recipe.seed, (q,))
        local = Windows(guider.model, window, stride, seed, how.batch, pipe.latent.factor)
        model = fused(
            local, q, clock(pipe.sampling), cosine_scale_2=how.cosine_scale_2, cosine_scale_3=how.cosine_scale_3,
            sigma=how.sigma, multiple=pipe.patch,
        )  # fmt: skip
        grid = Grid(sigmas, pipe.sampling.process)
        noise = default_noise(method, seed, grid, x)
        run = Run(replace(guider, model=model), method, grid, noise, recipe.params)
        c = residual_weights(run.grid.sigmas, clock(pipe.sampling), how.cosine_scale_1)
        seeds = [seed_word(recipe.seed, (q, b), np.uint64) for b in range(len(x))]
        levels = KeyedLevels(seeds, x.shape, x.dtype, x.device, shared=True)
        return Phase(q, (size[0] * q, size[1] * q), Mixing(run, levels, c, align="before"))

    if source:
        run = Phases([phase(q) for q in range(1, how.scale + 1)], pipe.latent.factor)
        return Demo(recipe, pipe, run, run.start(initial_latent(recipe, pipe, source, size)))
    first = open_job(recipe, pipe, steered)
    phases = [Phase(1, size, first.run), *(phase(q) for q in range(2, how.scale + 1))]
    return Demo(recipe, pipe, Phases(phases, pipe.latent.factor), first.start)


def _windows(recipe: Recipe, pipe: Pipeline, how: DemoFusion) -> tuple[tuple[int, int], int]:
    """(height, width) of the windows in places, and the stride; ValueError for what cannot be drawn."""
    for name in ("mask", "denoise_map", "mixing", "start_step", "last_step"):
        if getattr(recipe, name):
            raise ValueError(f"demofusion draws whole pictures in whole runs: leave {name} out")
    if lookup(recipe.sampler).adaptive:
        raise ValueError(f"{recipe.sampler} chooses its own steps: demofusion needs those of the schedule")
    if pipe.latent.axes != 2 or pipe.concat:
        raise ValueError(f"demofusion needs a model that draws pictures from noise; {pipe.name} is none")
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
        recipe, width=size[1] * q, height=size[0] * q, regions=regions, image=None, image_sha256=None, denoise=1.0
    )
    job = open_job(large, replace(pipe, max_side=None), steered)
    return cast(Guider, cast(Run, job.run).denoise), job.start.x
