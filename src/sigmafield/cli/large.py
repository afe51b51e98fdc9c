"""What the options of `sigmafield upscale` mean together, and which exclude each other."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from sigmafield.cli.flags import Flags
from sigmafield.cli.groups import IMAGE, SAMPLING
from sigmafield.cli.parse import parse_size
from sigmafield.recipes.options import AUTO, DemoFusion, Detail, Tiling

IMAGE_HERE = Flags(
    IMAGE.kind, "Denoise", without=("image", "pad", "mixing", "scale"),
    defaults={"denoise": "", "denoise_map": "auto", "min_denoise": 0.1},
)  # fmt: skip
SAMPLING_HERE = Flags(SAMPLING.kind, SAMPLING.panel, without=("start_step", "last_step"), defaults=SAMPLING.defaults)
TILING = Flags(Tiling, "Tiles", {"kind": "tiling", "batch": "tile_batch"})
DETAIL = Flags(Detail, "Denoise map auto")
VAE = ("vae_tile", "vae_mode")
"""Flags of both methods."""
DEMOFUSION = Flags(
    DemoFusion, "DemoFusion", {"sigma": "blur", "batch": "views_batch"}, without=("scale", *VAE)
)  # fmt: skip

SCALE, MIN_DENOISE, MAX_DENOISE = 2.0, 0.1, 0.4

STRENGTHS = ("denoise", "denoise_map", "min_denoise")
"""Options that are one strength or a map of them, see `strengths`."""

FLAGS = {"kind": "tiling", "sigma": "blur"}
"""Flags of options that have another name there."""


def refuse_others(method: str, own: Mapping[str, Mapping[str, Any]], both: Sequence[str]) -> None:
    """Raise ValueError for an option that was given and that another method has.

    Args:
        method: The method.
        own: The options of each method, by its name; None is not given.
        both: Options that all methods have.
    """
    for other in own.keys() - {method}:
        for name, value in own[other].items():
            if value is not None and name not in both:
                option = FLAGS.get(name, name).replace("_", "-")
                raise ValueError(f"--{option} is for --method {other}: leave it out with --method {method}")


def tiles_recipe(
    image: Mapping[str, Any], high: float | None, scale: float | None, size: str | None, tiling: Tiling, detail: Detail
) -> dict[str, Any]:
    """Fields of a recipe that redraws in tiles; ValueError for options that exclude each other."""
    return {
        **{name: value for name, value in image.items() if name not in STRENGTHS},
        **strengths(image.get("denoise"), image.get("denoise_map"), image.get("min_denoise"), high),
        **parse_size(size), "scale": factor(scale, size), "tiling": tiling, "detail": detail,
    }  # fmt: skip


def demofusion_recipe(
    given: str,
    prompt: str | None,
    image: Mapping[str, Any],
    scale: float | None,
    first_size: str | None,
    shape: Mapping[str, Any],
) -> tuple[str | None, str, dict[str, Any]]:
    """(image or None, prompt, fields of a recipe) of DemoFusion."""
    source, text = image_and_prompt(given, prompt)
    denoise = {name: value for name, value in image.items() if name == "denoise"}
    fusion = DemoFusion(scale=whole(scale), **shape)
    return source, text, {**denoise, **parse_size(first_size), "demofusion": fusion}


def image_and_prompt(given: str, prompt: str | None) -> tuple[str | None, str]:
    """(image or None, prompt); ValueError where the only argument may not be what it is taken for."""
    if prompt is not None:
        return given, prompt
    if os.path.exists(given) or given.lower().endswith((".png", ".jpg", ".jpeg", ".webp")):
        raise ValueError(f'{given} alone would be the prompt: say what the image shows too, or "" for nothing')
    return None, given


def whole(scale: float | None) -> int:
    """DemoFusion's scale; ValueError unless it is a whole number above 1."""
    scale = SCALE if scale is None else scale
    if not (scale > 1 and float(scale).is_integer()):
        raise ValueError(f"with demofusion scale must be a whole number, 2, 3, …; got {scale:g}")
    return int(scale)


def factor(scale: float | None, size: str | None) -> float:
    """The recipe's scale; ValueError for one that enlarges nothing, and for a scale and a size."""
    if scale is not None and size is not None:
        raise ValueError(f"give --scale or --size, not both; got {scale:g} and {size}")
    if scale is not None and not scale > 1:
        raise ValueError(f"scale must be above 1; got {scale:g}: to redraw an image at its size, give --size")
    return 1.0 if size else scale or SCALE


def strengths(denoise: float | None, where: str | None, low: float | None, high: float | None) -> dict[str, Any]:
    """Denoise fields of a recipe; ValueError for one strength and a map."""
    if denoise is not None:
        if (where, low, high) != (None, None, None):
            raise ValueError(
                "give --denoise for all positions, or a map with --min-denoise and --max-denoise, not both"
            )
        return {"denoise": denoise}
    low, high = MIN_DENOISE if low is None else low, MAX_DENOISE if high is None else high
    if not (0 <= low <= high <= 1 and high > 0):
        raise ValueError(
            f"min-denoise and max-denoise must be 0 ≤ min ≤ max ≤ 1, and max above 0; got {low:g} and {high:g}"
        )
    return {"min_denoise": low, "denoise": high, "denoise_map": where or AUTO}
