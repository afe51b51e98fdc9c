"""Iterative mixing as specs: cosine(alpha_1=0.3, align=next)+rewind(least=0.5)+perlin.

The first is a curve; `rewind` and `perlin` may follow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np

from sigmafield.core.arrays import Latent
from sigmafield.core.parameters import NonNegative, Parameter, Positive, Range, Share, check, keywords
from sigmafield.core.registry import Registry, Spec, near_miss, parse_specs
from sigmafield.noise.sources import seed_word
from sigmafield.runs.blends import BLENDS, CURVES, blending_weights
from sigmafield.runs.level_noise import KeyedLevels
from sigmafield.runs.mixing import Align, Keep, Mixing, Part, agree
from sigmafield.runs.perlin_masks import MaskMode, Perlin
from sigmafield.runs.run import Run

EXAMPLE = "cosine(alpha_1=0.3, align=next)+rewind(least=0.5)"

Weight = Annotated[float, Range(-10, 10)]


@dataclass(frozen=True)
class Curve:
    """How strongly the run counts over its steps, and how it is blended; the fields are the arguments of `curve`."""

    name: str
    alpha_1: float
    start: float
    stop: float
    clamp: float
    least: float
    most: float
    blend: Literal["addition", "slerp", "norm_only"]
    align: Align
    of: Part
    shared: bool
    match_source: bool


def curve(
    name: str,
    *,
    alpha_1: Positive = 2.4,
    start: NonNegative = 0.0,
    stop: NonNegative = 1.0,
    clamp: Share = 1.0,
    least: Weight = 0.0,
    most: Weight = 1.0,
    blend: Literal["addition", "slerp", "norm_only"] = "addition",
    align: Align = "after",
    of: Part = "state",
    shared: bool = False,
    match_source: bool = False,
) -> Curve:
    """A curve of weights over the run, by its name: cosine, linear or logistic.

    Args:
        name: Name of the curve, see `CURVES`.
        alpha_1: Steepness of the curve.
        start: Share of the steps at which the curve starts.
        stop: Share of the steps at which the curve reaches its end; it may be above 1.
        clamp: Share of the steps from which on the run counts alone.
        least: Lowest weight of the run: 0 = the noised source alone.
        most: Highest weight of the run: 1 = the run alone.
        blend: How the run and the noised source are blended.
        align: When the blend happens: after the step, after it with the next level, or before the step.
        of: What is blended: the whole state, the denoised latent, or clean and noise parts separately.
        shared: Whether all levels get the same noise, as in DemoFusion.
        match_source: Whether the result gets the colours of the image, by mean and deviation of each channel.
    """
    agree(BLENDS[blend], align, of)
    return Curve(name, alpha_1, start, stop, clamp, least, most, blend, align, of, shared, match_source)


def rewind(*, least: Share = 0.5, most: Share = 0.8) -> tuple[float, float]:
    """When the steps are done, the run starts again with its result as the image; least < most. See `passes`.

    Args:
        least: Share of the remaining steps that each pass skips.
        most: Share of the steps after which no pass starts.
    """
    if not least < most:
        raise ValueError(f"rewind needs least < most; got {least:g} and {most:g}")
    return least, most


def perlin(*, mode: MaskMode = "masks", strength: Weight = 0.75, scale: Positive = 10.0) -> Perlin:
    """Perlin masks decide where the latent is blended. See `Perlin`.

    Args:
        mode: What is done with a mask: it blends in a further step, scales the latent, or is added to it.
        strength: How strongly the masks act; 0 leaves the latent as it is.
        scale: Latent pixels per lattice cell of the masks.
    """
    return Perlin(mode, strength, scale)


@dataclass(frozen=True)
class Term:
    """A part of a mixing spec.

    Args:
        name: Its name.
        function: Makes it from `given` and keyword parameters.
        entry: The field of `Line` that it fills.
        given: Positional arguments of the function.
    """

    name: str
    function: Callable[..., Any]
    entry: Literal["curve", "rewind", "perlin"]
    given: tuple[Any, ...] = ()

    @property
    def parameters(self) -> dict[str, Parameter]:
        """The parameters by name."""
        return keywords(self.function)

    def __call__(self, params: Mapping[str, Any]) -> Any:
        """The part with these parameters; ValueError for an unknown one, or a value out of range."""
        return self.function(*self.given, **check(self.name, self.parameters, params))


TERMS: Registry[Term] = Registry("mixing term", (Term(name, curve, "curve", (name,)) for name in CURVES))
"""All parts of a mixing spec; the curves come first."""

TERMS.add(Term("rewind", rewind, "rewind"))
TERMS.add(Term("perlin", perlin, "perlin"))


@dataclass(frozen=True)
class Line:
    """A mixing spec, read and checked."""

    curve: Curve
    rewind: tuple[float, float] | None = None
    perlin: Perlin | None = None

    def mixing(self, run: Run, source: Latent, seed: int, keep: Keep | None = None) -> Mixing:
        """This mixing of a run.

        Args:
            run: The run to mix.
            source: Clean latent that it is mixed with.
            seed: Noise is a function of this seed, the sample, the pass and the level.
            keep: Keeps a part at the source, see `Mixing`.
        """
        c, n = self.curve, run.n
        weights = blending_weights(
            c.name, n, alpha_1=c.alpha_1, start=math.floor(c.start * n), stop=math.floor(c.stop * n),
            clamp=c.clamp, least=c.least, most=c.most,
        )  # fmt: skip
        seeds = [seed_word(seed, (k,), np.uint64) for k in range(len(source))]
        noise = KeyedLevels(seeds, source.shape, source.dtype, source.device, c.shared)
        drawn = None if self.perlin is None else Perlin(self.perlin.mode, self.perlin.strength, self.perlin.scale, seed)
        return Mixing(
            run, noise, weights, BLENDS[c.blend], c.align, c.of, self.rewind, c.match_source, drawn, keep
        )  # fmt: skip


def mixing_of(specs: Sequence[Spec]) -> Line | None:
    """The mixing of specs: a curve, then what is wanted of `rewind` and `perlin`; None for no specs.

    Raises:
        ValueError: A name or parameter is unknown, a value is out of range, the first is not a curve, a term occurs
            twice, or options contradict each other.
    """
    made: dict[str, Any] = {}
    names: dict[str, str] = {}
    for spec in specs:
        if not made and spec.name not in CURVES:
            there = near_miss(spec.name, CURVES)
            raise ValueError(f"mixing must begin with a curve, such as {EXAMPLE}; got {spec.name!r}{there}")
        term = TERMS.lookup(spec.name)
        if term.entry in made:
            raise ValueError(f"mixing takes one {term.entry}; got {names[term.entry]} and {spec.name}")
        made[term.entry], names[term.entry] = term(spec.params), spec.name
    return Line(**made) if made else None


def parse_mixing(text: str) -> Line | None:
    """The mixing of a text such as "cosine(alpha_1=0.3, align=next)+rewind(least=0.5)+perlin"; see `mixing_of`."""
    return mixing_of(parse_specs(text, "mixing", EXAMPLE))
