"""What `generate` takes: the fields of a recipe, typed one by one, so that an editor completes and checks them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypedDict

from sigmafield.core.registry import Spec
from sigmafield.recipes.groups import Specs
from sigmafield.recipes.options import ControlImage, DemoFusion, Detail, Region, Tiling

OF_THE_MODEL = ("model", "parts", "loras", "embeddings")
"""Fields of a recipe that a loaded model has settled."""


class Settings(TypedDict, total=False):
    """The fields of `Recipe`, except its prompt, digests, and those that the loaded model has settled."""

    negative: str

    width: int | None
    height: int | None
    batch: int
    frames: int | None

    sampler: Spec | str
    schedule: Spec | str | None
    steps: int
    cfg: float | None
    guidance: Specs
    noise: Spec | str | None
    distilled_guidance: float | None
    shift: float | Literal["size"] | None
    allow_nonfinite: bool
    start_step: int | None
    last_step: int | None

    image: str | Path | None
    denoise: float
    mask: str | Path | None
    denoise_map: str | Path | None
    min_denoise: float
    map_schedule: Literal["delayed", "own"]
    mixing: Specs
    scale: float

    regions: Sequence[Region]
    controls: Sequence[ControlImage]

    clip_skip: int | None
    model_sampling: Spec | str | None

    tiling: Tiling | None
    detail: Detail
    demofusion: DemoFusion | None


Seed = int | Literal["random"]
"""A seed: a number, or one that is drawn."""
