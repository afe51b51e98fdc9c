"""What the options of `sigmafield upscale` mean together, and which do not go with each other."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from sigmafield.core.registry import named

SCALE, MIN_DENOISE, MAX_DENOISE = 2.0, 0.1, 0.4


def refuse_others(method: str, own: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise ValueError for an unknown method, and for an option that was given and that another one has.

    own: the options that one method alone has, by its name; None = not given.
    """
    named(own, method, "method")
    for other in own.keys() - {method}:
        for name in given(**own[other]):
            option = name.replace("_", "-")
            raise ValueError(f"--{option} is for --method {other}: leave it out with --method {method}")


def given(**options: Any) -> dict[str, Any]:
    """The options that were given: not None."""
    return {name: value for name, value in options.items() if value is not None}


def read(image: str, prompt: str | None, method: str) -> tuple[str | None, str]:
    """(image or none, prompt); ValueError where the only one that there is may not be what it is taken for."""
    if method == "tiles" or prompt is not None:
        return image, prompt or ""
    if os.path.exists(image) or image.lower().endswith((".png", ".jpg", ".jpeg", ".webp")):
        raise ValueError(f'{image} alone would be the prompt: say what the image shows too, or "" for nothing')
    return None, image


def whole(scale: float | None) -> int:
    """DemoFusion's scale; ValueError unless it is a whole number above 1."""
    scale = SCALE if scale is None else scale
    if not (scale > 1 and scale.is_integer()):
        raise ValueError(f"with demofusion scale must be a whole number, 2, 3, …; got {scale:g}")
    return int(scale)


def factor(scale: float | None, size: str | None) -> float:
    """The recipe's scale; ValueError for one that enlarges nothing, and for a scale and a size."""
    if scale is not None and size is not None:
        raise ValueError(f"give --scale or --size, not both; got {scale:g} and {size}")
    if scale is not None and not scale > 1:
        raise ValueError(f"scale must be above 1; got {scale:g}: to redraw a image at its size, give --size")
    return 1.0 if size else scale or SCALE


def strengths(
    denoise: float | None, where: str | None, low: float | None, high: float | None
) -> tuple[float, float, str | None]:
    """(least strength, largest, denoise map) of a recipe; ValueError for one strength and a map."""
    if denoise is not None:
        if (where, low, high) != (None, None, None):
            raise ValueError("give --denoise for all places, or a map with --min-denoise and --max-denoise, not both")
        return 0.0, denoise, None
    low, high = MIN_DENOISE if low is None else low, MAX_DENOISE if high is None else high
    if not (0 <= low <= high <= 1 and high > 0):
        raise ValueError(
            f"min-denoise and max-denoise must be 0 ≤ min ≤ max ≤ 1, and max above 0; got {low:g} and {high:g}"
        )
    return low, high, where or "auto"
