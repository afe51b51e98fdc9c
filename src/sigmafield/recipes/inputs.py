"""The files that a recipe names, read: images, masks, maps, control images, references, known by their digests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from PIL import Image
from torch import Tensor

from sigmafield.models.load import absolute
from sigmafield.models.lora.strengths import lora_file
from sigmafield.recipes.image_io import decoded, decoded_frames, digest, read_bytes, to_mask, to_rgb, to_tensor
from sigmafield.recipes.in_memory import PREFIX, ImageSource, InMemory, pixel_digest
from sigmafield.recipes.options import AUTO, AdapterImage, ControlImage, Lora, Reference
from sigmafield.recipes.recipe import Recipe

Entry = TypeVar("Entry", AdapterImage, ControlImage, Reference)
"""What of a recipe has an image of its own."""


@dataclass(frozen=True)
class Inputs:
    """What a recipe starts from and is steered by, in memory.

    Args:
        frames: The input image, or the frames of an animation, 8-bit RGB; empty for a run from noise.
        mask: [1, height, width] in 0 … 1, 1 = draw again; any resolution.
        denoise_map: [1, height, width] in 0 … 1, brightness of the map; any resolution. None without a map, and for
            the map "auto".
        hints: [1, 3, height, width] in 0 … 1, one for each of the recipe's controls.
        references: [1, 3, height, width] in 0 … 1, one for each image that an editing network is shown.
        attended: [1, 3, height, width] in 0 … 1, one for each of the recipe's IP-Adapters.
    """

    frames: Sequence[Image.Image] = ()
    mask: Tensor | None = None
    denoise_map: Tensor | None = None
    hints: Sequence[Tensor] = ()
    references: Sequence[Tensor] = ()
    attended: Sequence[Tensor] = ()


def read_inputs(recipe: Recipe) -> tuple[Recipe, Inputs]:
    """Read the images that a recipe names: the recipe with their digests, and what is in them.

    Raises:
        FileNotFoundError: A file or a control's directory does not exist.
        ValueError: A file cannot be read as an image, is not the one whose digest the recipe has, or was in memory
            when the recipe was made and is not there now; or the mask has no alpha to read.
    """
    changes: dict[str, object] = {}
    frames: list[Image.Image] = []
    mask = levels = None
    if recipe.image is not None:
        found, changes["image_sha256"] = _read("image", recipe.image, recipe.image_sha256, moving=True)
        frames = [to_rgb(frame) for frame in _images("image", found)]
    if recipe.mask is not None:
        found, changes["mask_sha256"] = _read("mask", recipe.mask, recipe.mask_sha256)
        mask = found if isinstance(found, Tensor) else to_mask(found[0], recipe.mask_from)
    if recipe.denoise_map is not None and recipe.denoise_map != AUTO:
        found, changes["denoise_map_sha256"] = _read("denoise_map", recipe.denoise_map, recipe.denoise_map_sha256)
        levels = found if isinstance(found, Tensor) else to_mask(found[0])
    controls = [_read_control(control) for control in recipe.controls]
    adapters = [_read_adapter(adapter) for adapter in recipe.ip_adapters]
    shown = [_read_entry("a reference's image", reference) for reference in recipe.references]
    lists = {"controls": controls, "ip_adapters": adapters, "references": shown}
    loras = tuple(sealed_lora(lora) for lora in recipe.loras)
    sealed = {name: tuple(entry for entry, _ in each) for name, each in lists.items()}
    hints, attended, references = ([image for _, image in each] for each in lists.values())
    return replace(recipe, **changes, **sealed, loras=loras), Inputs(frames, mask, levels, hints, references, attended)


def located(recipe: Recipe) -> Recipe:
    """The recipe with absolute paths of its model and networks, for a process with another folder."""
    return replace(
        recipe,
        model=absolute(recipe.model),
        parts=absolute(recipe.parts),
        embeddings=absolute(recipe.embeddings),
        loras=tuple(replace(lora, path=absolute(lora.path)) for lora in recipe.loras),
        controls=tuple(replace(control, net=absolute(control.net)) for control in recipe.controls),
        ip_adapters=tuple(
            replace(each, net=absolute(each.net), encoder=absolute(each.encoder)) for each in recipe.ip_adapters
        ),
    )


def notes_of(inputs: Inputs) -> list[str]:
    """What a user should know about the inputs: a mask that keeps everything, or nothing."""
    if inputs.mask is None:
        return []
    if not inputs.mask.any():
        return ["the mask keeps everything: it is 0 (black, or not painted on) everywhere, so nothing is drawn"]
    if bool((inputs.mask == 1).all()):
        return ["the mask keeps nothing: it is 1 (white, or painted on) everywhere, so everything is drawn again"]
    return []


def _read(
    name: str, source: ImageSource, known: str | None, moving: bool = False
) -> tuple[Sequence[Image.Image] | Tensor, str]:
    """(the frames of an image, or a mask in memory; its digest)."""
    if isinstance(source, InMemory):
        content = source.content
        if isinstance(content, bytes):
            content = _decoded(content, f"the {name} in memory", moving)
        if len(content) > 1 and not moving and not isinstance(content, Tensor):
            raise ValueError(f"{name} must be one image; got {len(content)} in one array")
        return content, _same(f"the {name} in memory", known, source.sha256)
    path = str(source)
    if path.startswith(PREFIX) and not Path(path).exists():
        raise ValueError(
            f"the {name} was in memory when this recipe was made ({path[: len(PREFIX) + 12]}…): "
            f"give the {name} itself, or the path of a file that holds it"
        )
    data = read_bytes(path)
    frames, now = _decoded(data, path, moving), digest(data)
    if known is not None and known == pixel_digest(frames):  # the recipe was made from these pixels in memory
        now = known
    return frames, _same(path, known, now)


def _decoded(data: bytes, name: str, moving: bool) -> Sequence[Image.Image]:
    return decoded_frames(data, name) if moving else [decoded(data, name)]


def _images(name: str, found: Sequence[Image.Image] | Tensor) -> Sequence[Image.Image]:
    if isinstance(found, Tensor):
        raise TypeError(f"{name} is a mask in memory, not an image")
    return found


def _same(path: str, known: str | None, now: str) -> str:
    """The digest of a file; ValueError if it is not the one that a recipe has."""
    if known is not None and known != now:
        raise ValueError(f"{path} has changed since this recipe was made: its SHA-256 differs")
    return now


def _read_control(control: ControlImage) -> tuple[ControlImage, Tensor]:
    if not Path(control.net).expanduser().exists():
        layouts = "a .safetensors file or a directory in diffusers' layout"
        raise FileNotFoundError(f"{control.net}: no such file or directory; a control's net is {layouts}")
    return _read_entry("a control's image", control)


def _read_adapter(adapter: AdapterImage) -> tuple[AdapterImage, Tensor]:
    for what in ("net", "encoder"):
        if not Path(path := getattr(adapter, what)).expanduser().is_file():
            raise FileNotFoundError(f"{path}: no such file; an IP-Adapter's {what} is a .safetensors file")
    return _read_entry("an IP-Adapter's image", adapter)


def _read_entry(name: str, entry: Entry) -> tuple[Entry, Tensor]:
    """An entry with the digest of its image, and the image."""
    found, now = _read(name, entry.image, entry.image_sha256)
    return replace(entry, image_sha256=now), to_tensor(_images(name, found)[0])


def sealed_lora(lora: Lora) -> Lora:
    """The LoRA with the digest of its file.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: It is not the one whose digest the LoRA has.
    """
    path = lora_file(lora.path)
    return replace(lora, sha256=_same(lora.path, lora.sha256, _digest_at(path, path.stat().st_mtime_ns)))


@lru_cache(64)
def _digest_at(path: Path, time: int) -> str:
    """The digest of a file as it was at a time; a LoRA is large, and `generate` asks at each call."""
    return digest(path.read_bytes())
