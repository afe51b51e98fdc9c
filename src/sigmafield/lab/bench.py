"""Where experiments open recipes: on a network, which is loaded once, or on a distribution with exact scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from sigmafield.core.arrays import Latent, Sigma
from sigmafield.core.conditioning import Cond
from sigmafield.core.process import Process
from sigmafield.core.protocols import Ctx, Denoiser, State
from sigmafield.core.registry import Spec
from sigmafield.guidance.guider import Guider
from sigmafield.guidance.registry import mods_of
from sigmafield.lab.problems import SAMPLING, components, law_of
from sigmafield.models.analytic import GaussianMixture
from sigmafield.models.bundle import Pipeline
from sigmafield.noise.sources import randn, seed_word
from sigmafield.parameterization.prediction import Sampling
from sigmafield.recipes.build import Job
from sigmafield.recipes.execute import open_job, open_pipe
from sigmafield.recipes.field_values import number, spec, specs
from sigmafield.recipes.ksampler import ksampler_sigmas, open_run
from sigmafield.recipes.mods import MODS
from sigmafield.recipes.recipe import Recipe
from sigmafield.recipes.settings import OF_THE_MODEL
from sigmafield.runs.run import Run
from sigmafield.schedules import SCHEDULES

V = TypeVar("V")

SCHEDULE = "karras"
"""Schedule of analytic models where the recipe names none."""


@dataclass(frozen=True)
class Opened:
    """A recipe that is ready to run on any levels.

    Args:
        recipe: The recipe.
        denoise: The guided model.
        sampling: Levels and process of the model.
        source: The clean latent that noise is added to: exact samples of an analytic model, zeros of a network.
        noise: The noise of the start.
        law: The distribution, of an analytic model.
        job: The job, of a network.
    """

    recipe: Recipe
    denoise: Denoiser
    sampling: Sampling
    source: Latent
    noise: Latent
    law: GaussianMixture | None = None
    job: Job | None = None

    @property
    def process(self) -> Process:
        """The process of the model."""
        return self.sampling.process

    def sigmas(self) -> Tensor:
        """The levels of the recipe's schedule, [steps + 1], which end at 0."""
        if self.job is not None and isinstance(self.job.run, Run):
            return self.job.run.grid.sigmas
        schedule, sampler = spec(self.recipe.schedule or Spec(SCHEDULE)), spec(self.recipe.sampler)
        levels, steps = self.sampling.levels, self.recipe.steps
        return ksampler_sigmas(levels, sampler.name, schedule.name, steps, params=schedule.params)

    def above_zero(self, schedule: str, steps: int) -> Tensor:
        """The first levels [steps + 1] of a schedule of one step more, without its end at 0."""
        return SCHEDULES.lookup(schedule)(steps + 1, self.sampling.levels)[: steps + 1]

    def run(self, sigmas: Tensor | None = None, **params: Any) -> tuple[Run, State]:
        """The run of the recipe's sampler over some levels, and its start.

        Args:
            sigmas: The levels; None is the recipe's schedule.
            params: Parameters of the sampler that replace the recipe's.
        """
        sampler = spec(self.recipe.sampler)
        levels = self.sigmas() if sigmas is None else sigmas
        run, start, _ = open_run(
            self.denoise, self.sampling, sampler.name, levels, self.source, self.noise, number(self.recipe.seed),
            **{**sampler.params, **params},
        )  # fmt: skip
        return run, start


@dataclass
class Bench:
    """Opens recipes, and keeps what several of them need: the model loaded last, and results by their keys."""

    _pipe: tuple[tuple[Any, ...], Pipeline] | None = None
    _kept: dict[tuple[Any, ...], Any] = field(default_factory=dict[tuple[Any, ...], Any])

    def pipe(self, recipe: Recipe) -> Pipeline:
        """The model of a recipe, loaded once for all recipes that follow with the same one."""
        key = (*(str(getattr(recipe, name)) for name in OF_THE_MODEL), str(recipe.loras))
        if self._pipe is None or self._pipe[0] != key:
            self._pipe = key, open_pipe(recipe)
        return self._pipe[1]

    def kept(self, key: tuple[Any, ...], make: Callable[[], V]) -> V:
        """What `make` gives, made once for each key; the 16 latest are kept."""
        if key not in self._kept:
            while len(self._kept) >= 16:
                del self._kept[next(iter(self._kept))]
            self._kept[key] = make()
        return self._kept[key]

    def open(self, recipe: Recipe) -> Opened:
        """A recipe, ready to run.

        Raises:
            ValueError: The model cannot do what the recipe asks for.
        """
        law = law_of(str(recipe.model))
        if law is not None:
            return analytic(recipe, law)
        job = open_job(recipe, self.pipe(recipe))
        if not isinstance(job.run, Run):
            raise ValueError("experiments take recipes with a single run: leave mixing and demofusion out")
        if recipe.image is not None:
            raise ValueError(f"this experiment begins from noise: leave the image out; got {recipe.image}")
        start, process = job.run.grid.sigmas[0], job.run.grid.process
        source = torch.zeros_like(job.start.x)
        # the start is the noise times its scale at the first level
        one = torch.ones(1, 1, dtype=torch.float64)
        noise = job.start.x / float(process.start(start, one, torch.zeros_like(one)))
        return Opened(recipe, job.run.denoise, job.pipe.model.sampling, source, noise.to(job.start.x), job=job)


def analytic(recipe: Recipe, law: GaussianMixture) -> Opened:
    """A recipe on an analytic model: `batch` particles that start from exact samples of the marginal.

    Raises:
        ValueError: The recipe asks for something that an analytic model does not have.
    """
    for name in ("image", "mask", "denoise_map", "tiling", "demofusion", "regions", "controls", "loras", "mixing"):
        if getattr(recipe, name):
            raise ValueError(f"an analytic model has no {name}")
    seed, n = number(recipe.seed), recipe.batch
    meant = components(law, recipe.prompt)
    generator = torch.Generator().manual_seed(seed_word(seed, (1,)) % 2**63)
    source = GaussianMixture(law.means, law.deviations, _positive(meant), law.shape, law.process, law.basis).drawn(
        n, 0.0, generator
    )
    noise = randn(seed, (n, *law.shape), torch.float64)
    cfg = 1.0 if recipe.cfg is None else recipe.cfg
    mods = mods_of(specs(recipe.guidance), MODS)
    negative = components(law, recipe.negative)
    denoise = Guider(Exact(law), _cond(meant, n), _cond(negative, n), cfg, mods)
    return Opened(recipe, denoise, SAMPLING, source, noise, law=law)


@dataclass(frozen=True)
class Exact:
    """A distribution as a model that is asked about conditionings: each has the weights of the components.

    Args:
        law: The distribution.
    """

    law: GaussianMixture

    def __call__(self, x: Latent, sigma: Sigma, conds: Sequence[Cond], ctx: Ctx) -> list[Tensor]:
        """The prediction for each conditioning; x has the rows of the first, then those of the second, …"""
        parts = x.chunk(len(conds))
        levels = [sigma] * len(conds) if sigma.ndim == 0 or len(sigma) != len(x) else sigma.chunk(len(conds))
        return [self.law.denoised(p, s, c.embeds[:, 0]) for p, s, c in zip(parts, levels, conds)]


def _positive(weights: Tensor) -> Tensor:
    """Weights above 0 with the same samples: those of left-out components are below any draw."""
    floored = weights.clamp(min=1e-300)
    return floored / floored.sum()


def _cond(weights: Tensor, n: int) -> Cond:
    return Cond(weights.expand(n, 1, -1))
