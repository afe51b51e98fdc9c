"""The files that a recipe names, read: images, masks, maps and control images, each known by its digest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from PIL import Image
from torch import Tensor

from sigmafield.core.conditioning import Control
from sigmafield.models.bundle import Pipeline
from sigmafield.models.diffusion_model import no_controls
from sigmafield.models.load import load_control
from sigmafield.recipes.image_io import digest, open_frames, to_mask, to_tensor
from sigmafield.recipes.options import AUTO, ControlImage, Lora
from sigmafield.recipes.recipe import Recipe


@dataclass(frozen=True)
class Inputs:
    """What a recipe starts from and is steered by, in memory.

    Args:
        frames: The input image, or the frames of an animation; empty for a run from noise.
        mask: [1, height, width] in 0 … 1, 1 = draw again; any resolution.
        denoise_map: [1, height, width] in 0 … 1, brightness of the map; any resolution. None without a map, and for
            the map "auto".
        hints: [1, 3, height, width] in 0 … 1, one for each of the recipe's controls.
    """

    frames: Sequence[Image.Image] = ()
    mask: Tensor | None = None
    denoise_map: Tensor | None = None
    hints: Sequence[Tensor] = ()


def read_inputs(recipe: Recipe) -> tuple[Recipe, Inputs]:
    """Read the files that a recipe names: the recipe with their digests, and what is in them.

    Raises:
        FileNotFoundError: A file or a control's directory does not exist.
        ValueError: A file cannot be read as an image, or is not the one whose digest the recipe has.
    """
    changes: dict[str, object] = {}
    frames: list[Image.Image] = []
    mask = levels = None
    if recipe.image is not None:
        frames, changes["image_sha256"] = _read(str(recipe.image), recipe.image_sha256)
    if recipe.mask is not None:
        [first, *_], changes["mask_sha256"] = _read(str(recipe.mask), recipe.mask_sha256)
        mask = to_mask(first)
    if recipe.denoise_map not in (None, AUTO):
        [first, *_], changes["denoise_map_sha256"] = _read(str(recipe.denoise_map), recipe.denoise_map_sha256)
        levels = to_mask(first)
    controls, hints = [], []
    for control in recipe.controls:
        sealed, hint = _read_control(control)
        controls.append(sealed)
        hints.append(hint)
    loras = tuple(_sealed(lora) for lora in recipe.loras)
    return replace(recipe, **changes, controls=tuple(controls), loras=loras), Inputs(frames, mask, levels, hints)


def _read(path: str, known: str | None) -> tuple[list[Image.Image], str]:
    """(the frames of a file, its digest)."""
    frames, now = open_frames(path), digest(path)
    return frames, _same(path, known, now)


def _same(path: str, known: str | None, now: str) -> str:
    """The digest of a file; ValueError if it is not the one that a recipe has."""
    if known is not None and known != now:
        raise ValueError(f"{path} has changed since this recipe was made: its SHA-256 differs")
    return now


def _read_control(control: ControlImage) -> tuple[ControlImage, Tensor]:
    if not Path(control.net).expanduser().is_dir():
        raise FileNotFoundError(f"{control.net}: no such directory; a control's net is one in diffusers' layout")
    [first, *_], now = _read(control.image, control.image_sha256)
    return replace(control, image_sha256=now), to_tensor(first)


def _sealed(lora: Lora) -> Lora:
    """The LoRA with the digest of its file."""
    path = Path(lora.path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"LoRA {lora.path!r}: no such file")
    return replace(lora, sha256=_same(lora.path, lora.sha256, _digest_at(path, path.stat().st_mtime_ns)))


@lru_cache(64)
def _digest_at(path: Path, time: int) -> str:
    """The digest of a file as it was at a time; a LoRA is large, and `generate` asks at each call."""
    return digest(path)


def controls_of(entries: Sequence[ControlImage], hints: Sequence[Tensor], pipe: Pipeline) -> tuple[Control, ...]:
    """The images that steer, with the networks that read them, on the pipeline's device in its network's dtype.

    Raises:
        ValueError: The model takes no controls, or a control's network is not supported.
    """
    if entries and pipe.model.controls is None:
        raise no_controls(pipe.model.name)
    dtype = getattr(pipe.model.module, "dtype", None)
    return tuple(
        Control(
            load_control(entry.net, device=pipe.device, dtype=dtype, kind=entry.kind),
            hint.to(pipe.device),
            entry.strength,
            (entry.start, entry.end),
        )
        for entry, hint in zip(entries, hints)
    )
