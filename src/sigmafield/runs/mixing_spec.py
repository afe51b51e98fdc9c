"""Iterative mixing as it is written in a line: cosine(alpha_1=0.3, align=next)+rewind(least=0.5)+perlin.

First one of the curves, then what is wanted of `rewind` and `perlin`; parameters are keyword-only arguments below.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np

from sigmafield.core.arrays import Latent
from sigmafield.core.parameters import NonNegative, Positive, Range, Share, check, keywords
from sigmafield.core.registry import named, near_miss, parse_specs
from sigmafield.noise.sources import seed_word
from sigmafield.runs.blends import BLENDS, CURVES, blending_weights
from sigmafield.runs.mixing import KeyedLevels, Mixing, Perlin, agree
from sigmafield.runs.run import Run

EXAMPLE = "cosine(alpha_1=0.3, align=next)+rewind(least=0.5)"


@dataclass(frozen=True)
class Curve:
    """How strongly the run itself counts over its steps, and how it is blended: see `blending_weights` and `Mixing`."""

    name: str
    alpha_1: float
    start: float
    stop: float
    clamp: float
    least: float
    most: float
    blend: Literal["addition", "slerp", "norm_only"]
    align: Literal["after", "next", "before"]
    of: Literal["state", "denoised", "variance"]
    shared: bool
    match_source: bool


def curve(
    name: str,
    *,
    alpha_1: Positive = 2.4,
    start: NonNegative = 0.0,
    stop: NonNegative = 1.0,
    clamp: Share = 1.0,
    least: Annotated[float, Range(-10, 10)] = 0.0,
    most: Annotated[float, Range(-10, 10)] = 1.0,
    blend: Literal["addition", "slerp", "norm_only"] = "addition",
    align: Literal["after", "next", "before"] = "after",
    of: Literal["state", "denoised", "variance"] = "state",
    shared: bool = False,
    match_source: bool = False,
) -> Curve:
    """cosine, linear or logistic; start ≥ 0, stop ≥ 0 and 0 ≤ clamp ≤ 1 are shares of the steps, stop may be above 1.

    alpha_1 > 0: its steepness; -10 ≤ least ≤ 10, -10 ≤ most ≤ 10: the weights it goes between, 1 = the run alone;
    blend: addition, slerp or norm_only; align: after, next or before; of: state, denoised or variance; match_source:
    bring colours back to the image's; see `Mixing`. shared: one noise for all levels, as in DemoFusion.
    """
    agree(BLENDS[blend], align, of)
    return Curve(name, alpha_1, start, stop, clamp, least, most, blend, align, of, shared, match_source)


def rewind(*, least: Share = 0.5, most: Share = 0.8) -> tuple[float, float]:
    """When the steps are done, begin again with the result as the image: see `passes`, 0 ≤ least < most ≤ 1."""
    if not least < most:
        raise ValueError(f"rewind needs least < most; got {least:g} and {most:g}")
    return least, most


def perlin(
    *,
    mode: Literal["masks", "latents", "matched_noise"] = "masks",
    strength: Annotated[float, Range(-10, 10)] = 0.75,
    scale: Positive = 10.0,
) -> Perlin:
    """Perlin masks decide where it is blended: see `Perlin`. mode: masks, latents or matched_noise."""
    return Perlin(mode, strength, scale)


TERMS: dict[str, Callable[..., Any]] = {"rewind": rewind, "perlin": perlin}
"""What may follow the curve."""


@dataclass(frozen=True)
class Line:
    """A line of mixing, read and checked."""

    curve: Curve
    rewind: tuple[float, float] | None = None
    perlin: Perlin | None = None

    def mixing(self, run: Run, source: Latent, seed: int) -> Mixing:
        """That mixing of a run with a clean source; its noise is a function of seed, sample, pass and level."""
        c, n = self.curve, run.grid.n
        weights = blending_weights(
            c.name, n, alpha_1=c.alpha_1, start=math.floor(c.start * n), stop=math.floor(c.stop * n),
            clamp=c.clamp, least=c.least, most=c.most,
        )  # fmt: skip
        seeds = [seed_word(seed, (k,), np.uint64) for k in range(len(source))]
        noise = KeyedLevels(seeds, source.shape, source.dtype, source.device, c.shared)
        drawn = None if self.perlin is None else Perlin(self.perlin.mode, self.perlin.strength, self.perlin.scale, seed)
        return Mixing(run, noise, weights, BLENDS[c.blend], c.align, c.of, self.rewind, c.match_source, drawn)


def parse_mixing(text: str) -> Line | None:
    """A line such as "cosine(alpha_1=0.3, align=next)+rewind(least=0.5)+perlin"; None for "".

    Raises ValueError for what is no such line, unknown names and parameters, values out of range, a line that does not
    begin with a curve, a term given twice, and options that contradict each other.
    """
    found = [(spec.name, spec.params) for spec in parse_specs(text, "mixing", EXAMPLE)]
    if not found:
        return None
    (first, params), *rest = found
    if first not in CURVES:
        raise ValueError(f"mixing must begin with a curve, such as {EXAMPLE}; got {first!r}{near_miss(first, CURVES)}")
    made: dict[str, Any] = {"curve": curve(first, **check(first, keywords(curve), params))}
    for name, params in rest:
        function = named(TERMS, name, "mixing after the curve")
        if name in made:
            raise ValueError(f"mixing has {name} twice")
        made[name] = function(**check(name, keywords(function), params))
    return Line(**made)
