"""Two images of ours compared: their recipes, their pixels, their frequencies, and where their runs part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from sigmafield.core.protocols import State
from sigmafield.lab.bench import Bench
from sigmafield.lab.plot import figure
from sigmafield.lab.reference import rms
from sigmafield.recipes.execute import open_job
from sigmafield.recipes.recipe import Recipe
from sigmafield.runs.run import Run, iterate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PARTED = (0.001, 0.01, 0.1)
"""Relative distances of latents at which runs count as parted."""


@dataclass(frozen=True)
class Comparison:
    """What differs between two images.

    Args:
        recipe: Fields of the recipes that differ, each with its two values.
        pixels: Figures of the difference of the pixels, of values in 0 … 1.
        bands: For each octave of spatial frequency, by its lower end in cycles per image: power of the difference
            against the mean power of the two images.
        path: Relative distance of the latents before the first step and after each; empty where it was not measured.
        why_no_path: Why it was not measured.
    """

    recipe: Mapping[str, tuple[Any, Any]]
    pixels: Mapping[str, float]
    bands: Mapping[int, float]
    path: Sequence[float] = ()
    why_no_path: str = ""

    def sentences(self) -> list[str]:
        """What differs, for people."""
        fields = [f"recipe: {name}: {_shown(a)} → {_shown(b)}" for name, (a, b) in self.recipe.items()]
        found = fields or ["recipe: the same"]
        found.append("pixels: " + ", ".join(f"{name} {value:.4g}" for name, value in self.pixels.items()))
        found.append(
            "frequencies, difference against the images' own power: "
            + ", ".join(f"from {low} cycles {value:.3g}" for low, value in self.bands.items())
        )
        if not self.path:
            return [*found, f"way: {self.why_no_path}"]
        for limit in PARTED:
            k = next((k for k, value in enumerate(self.path) if value > limit), None)
            where = (
                "never" if k is None else "before the first step" if k == 0 else f"in step {k} of {len(self.path) - 1}"
            )
            found.append(f"way: the latents are more than {limit:.1%} apart: {where}")
        return [*found, f"way: at the end they are {self.path[-1]:.1%} apart"]


def compare(a: Image.Image, b: Image.Image, recipes: tuple[Recipe, Recipe], way: bool = True) -> Comparison:
    """Compare two images and, if their runs can be laid side by side, their way.

    Args:
        a: The first image.
        b: The second image, of the same size.
        recipes: What drew them.
        way: Whether the two are drawn again, to find where they part.

    Raises:
        ValueError: The images have different sizes.
    """
    if a.size != b.size:
        raise ValueError(f"images to compare must have one size; got {a.size} and {b.size}")
    one, other = (np.asarray(image.convert("RGB"), dtype=np.float64) / 255 for image in (a, b))
    path, why = way_of(recipes) if way else ([], "not asked for")
    return Comparison(differing(*recipes), pixels_of(one, other), bands_of(one, other), path, why)


def differing(a: Recipe, b: Recipe) -> dict[str, tuple[Any, Any]]:
    """The fields in which two recipes differ, as JSON holds them."""
    one, other = a.to_plain(), b.to_plain()
    names = list(dict.fromkeys([*one, *other]))
    return {name: (one.get(name), other.get(name)) for name in names if one.get(name) != other.get(name)}


def pixels_of(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """Mean, root mean square and largest difference, PSNR in dB, and the share of positions that differ visibly."""
    away = np.abs(a - b)
    mse = float(np.square(away).mean())
    return {
        "mean": float(away.mean()),
        "rms": mse**0.5,
        "largest": float(away.max()),
        "psnr": float(-10 * np.log10(mse)) if mse else float("inf"),
        "share beyond 8/255": float((away.max(-1) > 8 / 255).mean()),
    }


def bands_of(a: np.ndarray, b: np.ndarray) -> dict[int, float]:
    """Power of the difference against the mean power of both images, in octaves of frequency; 0 is the mean colour."""
    height, width = a.shape[:2]
    y, x = np.meshgrid(np.fft.fftfreq(height, 1 / height), np.fft.fftfreq(width, 1 / width), indexing="ij")
    radius = np.hypot(y, x)
    power = [np.square(np.abs(np.fft.fft2(image.mean(-1)))) for image in (a - b, a, b)]
    edges = [0, *(2**k for k in range(int(np.log2(max(min(height, width) / 2, 1))) + 1))]
    found: dict[int, float] = {}
    for low, high in zip(edges, [*edges[1:], np.inf]):
        inside = (radius >= low) & (radius < high)
        own = (power[1][inside].sum() + power[2][inside].sum()) / 2
        found[low] = float(power[0][inside].sum() / own) if own else 0.0
    return found


def way_of(recipes: tuple[Recipe, Recipe]) -> tuple[list[float], str]:
    """Relative distances of the latents of two runs, step by step, or why they cannot be had."""
    bench = Bench()
    states: list[list[State]] = []
    for recipe in recipes:
        try:
            job = open_job(recipe, bench.pipe(recipe))
        except (ValueError, OSError, ImportError) as error:
            return [], f"not drawn again: {error}"
        if not isinstance(job.run, Run):
            return [], "not drawn again: the recipe has several runs"
        states.append([job.start, *iterate(job.run, job.start)])
    first, second = states
    if len(first) != len(second) or first[0].x.shape != second[0].x.shape:
        return [], f"the runs have {len(first) - 1} and {len(second) - 1} steps, or latents of other shapes"
    return [rms(p.x - q.x) / max(rms(p.x), 1e-12) for p, q in zip(first, second)], ""


def drawn(found: Comparison) -> Figure:
    """The distance of the latents along the way, and the difference by frequency."""
    out, (left, right) = figure(2, size=(4.6, 3.6))
    left.semilogy(range(len(found.path)), [max(value, 1e-12) for value in found.path], marker=".")
    left.set(xlabel="step", ylabel="relative distance of the latents")
    right.plot([max(low, 0.5) for low in found.bands], list(found.bands.values()), marker=".")
    right.set(xscale="log", xlabel="cycles per image, from", ylabel="difference against the images' power")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    return out


def _shown(value: Any) -> str:
    return "the model's own" if value is None else str(value)
