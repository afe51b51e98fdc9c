"""Samplers that run another one differently: with a noise level per position, or mixed with the source."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from sigmafield.comfyui.sampling import Asked, Begun, NamedSampler, SamplerValue
from sigmafield.recipes.ksampler import open_run
from sigmafield.runs.mixing_spec import EXAMPLE, Line, parse_mixing
from sigmafield.samplers import SAMPLERS
from sigmafield.spatial.sigma_field import by_steps, by_timestep, delayed, field_from_mask

Joined = Literal["steps", "timesteps"]
"""Whether a strength is a share of the steps, or of the way through the network's timesteps."""


def named_sampler(sampler: SamplerValue, by: str) -> NamedSampler:
    """The sampler, if it is one of the table; else ValueError.

    Args:
        sampler: A sampler.
        by: What needs it, for the error.
    """
    if not isinstance(sampler, NamedSampler):
        raise ValueError(f"{by} needs a sampler of the table of samplers; got {type(sampler).__name__}")
    return sampler


@dataclass(frozen=True)
class FieldSampler:
    """A sampler that denoises every position with a strength of its own.

    Args:
        sampler: The sampler; it must follow the schedule.
        strengths: Denoise strengths [M, *space] of any resolution: 0 = keep … 1 = all new.
        join: What a strength is a share of.

    Raises:
        ValueError: The sampler chooses its own steps, or is wrapped itself.
    """

    sampler: NamedSampler
    strengths: Tensor = field(repr=False)
    join: Joined = "steps"

    def __post_init__(self) -> None:
        name = named_sampler(self.sampler, "a σ-field").spec.name
        if SAMPLERS[name].adaptive:
            raise ValueError(f"{name} chooses its own steps: a σ-field needs a sampler that follows the schedule")

    def open(self, asked: Asked) -> Begun:
        """A run over the levels of each position, which follow from the run's schedule."""
        sigmas, levels = asked.sigmas, asked.sampling.levels
        if sigmas.ndim > 1:
            raise ValueError("sigmas are a σ-field already: give either it or strengths")
        if len(sigmas) < 2:
            return self.sampler.open(asked)
        steps = by_steps(len(sigmas) - 1) if self.join == "steps" else by_timestep(levels, sigmas)
        levels_of_each = field_from_mask(delayed(sigmas, steps), self.strengths, asked.source.shape[2:])
        return self.sampler.open(asked._replace(sigmas=levels_of_each))


@dataclass(frozen=True)
class MixedSampler:
    """A sampler whose latent is blended with the noised source between its steps.

    Args:
        sampler: The sampler; it must follow the schedule.
        mixing: How, as `runs.mixing_spec` reads it: "cosine(alpha_1=0.3, align=next)+rewind(least=0.5)".

    Raises:
        ValueError: The sampler chooses its own steps, or is wrapped itself, or the text cannot be read.
    """

    sampler: NamedSampler
    mixing: str = EXAMPLE
    line: Line = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        name = named_sampler(self.sampler, "mixing").spec.name
        if SAMPLERS[name].adaptive:
            raise ValueError(f"{name} chooses its own steps: mixing needs a sampler that follows the schedule")
        if (line := parse_mixing(self.mixing)) is None:
            raise ValueError(f"mixing must begin with a curve, such as {EXAMPLE}; got an empty text")
        object.__setattr__(self, "line", line)

    def open(self, asked: Asked) -> Begun:
        """A mixed run from the source; the run's own noise is used where a mask keeps the source."""
        if asked.sigmas.ndim > 1:
            raise ValueError("mixing needs one noise level per step; sigmas are a σ-field")
        spec = self.sampler.spec
        run, _, kept = open_run(
            asked.guider, asked.sampling, spec.name, asked.sigmas, asked.source, asked.noise, asked.stream,
            mask=asked.mask, mask_of=asked.mask_of, random_inpaint=self.sampler.random_inpaint, **spec.params,
        )  # fmt: skip
        seed = asked.stream.initial_seed()
        mixing = self.line.mixing(run, asked.source, seed, keep=None if kept is None else kept.kept)
        return Begun(mixing, mixing.start(asked.source))
