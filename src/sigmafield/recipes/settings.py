"""What `generate` takes: the fields of a recipe, typed one by one, so that an editor completes and checks them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypedDict

from sigmafield.core.registry import Spec
from sigmafield.recipes.field_values import Specs
from sigmafield.recipes.image_io import MaskFrom
from sigmafield.recipes.in_memory import ImageSource
from sigmafield.recipes.options import AdapterImage, ControlImage, DemoFusion, Detail, Lora, Reference, Region, Tiling

OF_THE_MODEL = ("model", "parts", "embeddings", "skip_unknown_embeddings")
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

    image: ImageSource | None
    denoise: float
    mask: ImageSource | None
    mask_from: MaskFrom
    mask_feather: int | None
    pad: tuple[int, int, int, int] | str | None
    paste_back: bool
    match_colours: bool
    denoise_map: ImageSource | None
    min_denoise: float
    map_schedule: Literal["delayed", "own"]
    mixing: Specs
    scale: float

    regions: Sequence[Region]
    controls: Sequence[ControlImage]
    control_crop: Literal["fit", "along"]
    ip_adapters: Sequence[AdapterImage]
    references: Sequence[Reference]

    loras: Sequence[Lora]
    lora_partial: bool
    clip_skip: int | None
    model_sampling: Spec | str | None

    tiling: Tiling | None
    detail: Detail
    demofusion: DemoFusion | None


Seed = int | Literal["random"]
"""A seed: a number, or one that is drawn."""
