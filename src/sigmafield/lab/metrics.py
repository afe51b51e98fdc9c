"""Metrics of images by name, or any function by "module:function"."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from PIL import Image

from sigmafield.core.registry import near_miss, shown
from sigmafield.lab.columns import Column
from sigmafield.recipes.recipe import Recipe

Metric = Callable[[Sequence[Image.Image], Recipe], float]
"""(images of a run, its recipe) → a number."""


def brightness(images: Sequence[Image.Image], recipe: Recipe) -> float:
    """Mean of all values, 0 … 1."""
    return float(_values(images).mean())


def contrast(images: Sequence[Image.Image], recipe: Recipe) -> float:
    """Standard deviation of the luma, 0 … ½."""
    return float(_luma(images).std())


def colourfulness(images: Sequence[Image.Image], recipe: Recipe) -> float:
    """Hasler & Süsstrunk (2003): √(σ_rg² + σ_yb²) + 0.3 √(μ_rg² + μ_yb²), of values in 0 … 1."""
    red, green, blue = np.moveaxis(_values(images), -1, 0)
    rg, yb = red - green, (red + green) / 2 - blue
    return float(np.hypot(rg.std(), yb.std()) + 0.3 * np.hypot(rg.mean(), yb.mean()))


def saturated(images: Sequence[Image.Image], recipe: Recipe) -> float:
    """Share of the values that are 0 or 255."""
    values = _values(images)
    return float(((values == 0) | (values == 1)).mean())


def sharpness(images: Sequence[Image.Image], recipe: Recipe) -> float:
    """Root mean square of the luma's five-point Laplacian."""
    y = _luma(images)
    inner = y[:, 1:-1, 1:-1]
    around = y[:, :-2, 1:-1] + y[:, 2:, 1:-1] + y[:, 1:-1, :-2] + y[:, 1:-1, 2:]
    return float(np.sqrt(np.square(around - 4 * inner).mean()))


METRICS: Mapping[str, Metric] = {
    "brightness": brightness, "colourfulness": colourfulness, "contrast": contrast, "saturated": saturated,
    "sharpness": sharpness,
}  # fmt: skip
"""The metrics that have names."""

LABELS: Mapping[str, str] = {
    "brightness": "brightness, 0 … 1", "colourfulness": "colourfulness", "contrast": "contrast, 0 … ½",
    "saturated": "share of saturated values", "sharpness": "sharpness (rms Laplacian)",
}  # fmt: skip
"""What they are called on axes."""


def metric_of(name: str) -> Metric:
    """A metric by its name, or a function by "module:function".

    Raises:
        ValueError: The metric, module or function does not exist.
    """
    if ":" not in name:
        if name not in METRICS:
            raise ValueError(f"unknown metric {name!r}{near_miss(name, METRICS)}; or give module:function")
        return METRICS[name]
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"there is no metric {name}: {error}") from None
    if not callable(found):
        raise ValueError(f"the metric {name} must be a function; got {type(found).__name__}")
    return found  # pyright: ignore[reportReturnType]


def column_of(name: str) -> Column:
    """What the column of a metric is called: a function of your own has its name and the first line of its docstring.

    Raises:
        ValueError: The metric, module or function does not exist.
    """
    about = (metric_of(name).__doc__ or "").partition("\n")[0]
    return Column(LABELS.get(name, name.rpartition(":")[2].replace("_", " ")), about)


def measured_by(name: str, images: Sequence[Image.Image], recipe: Recipe) -> float:
    """What a metric gives for some images.

    Raises:
        ValueError: It fails, or does not give a number.
    """
    try:
        found = metric_of(name)(images, recipe)
    except Exception as error:  # whatever a function of the user's raises
        raise ValueError(f"the metric {name} has failed: {type(error).__name__}: {error}") from error
    try:
        return float(found)
    except (TypeError, ValueError):
        raise ValueError(f"the metric {name} must give a number; got {shown(found)}") from None


def _values(images: Sequence[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(image.convert("RGB"), dtype=np.float64) / 255 for image in images])


def _luma(images: Sequence[Image.Image]) -> np.ndarray:
    return _values(images) @ np.array([0.299, 0.587, 0.114])
