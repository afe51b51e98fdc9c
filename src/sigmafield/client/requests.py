"""What is posted for a recipe: its JSON, in which the images of this machine have the names of their uploads."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sigmafield.client.errors import Refused

if TYPE_CHECKING:
    from sigmafield.recipes.recipe import Recipe
    from sigmafield.recipes.settings import Seed, Settings

IMAGES = ("image", "mask", "denoise_map")
"""Entries of a recipe that name an image."""

NESTED = ("controls", "ip_adapters", "references")
"""Entries of a recipe that hold objects which name an image."""

WEIGHTS = {
    "model": (), "parts": (), "embeddings": (), "loras": ("path",), "controls": ("net",),
    "ip_adapters": ("net", "encoder"),
}  # fmt: skip
"""Entries of a recipe that name weights, with what names them where an entry is a list of objects."""

THERE = ("upload:", "data:")
"""How names of images begin that the server knows."""


@dataclass(frozen=True)
class Request:
    """A recipe as a server is asked for it.

    Args:
        entries: The recipe, as JSON holds it.
        files: What the images of this machine hold, by the names that the recipe has for them.
    """

    entries: Mapping[str, Any]
    files: Mapping[str, bytes] = field(default_factory=dict)


def whole_of(
    what: str | Recipe | Mapping[str, Any], seed: Seed | None, model: str | None, settings: Settings
) -> Recipe | Mapping[str, Any]:
    """The recipe that `submit` is asked for; a prompt's has a model only where one is given."""
    if not isinstance(what, str):
        given = [*settings, *(name for name, value in (("seed", seed), ("model", model)) if value is not None)]
        if given:
            raise TypeError(f"{', '.join(given)} must be in the recipe, not next to it")
        return what
    from sigmafield.recipes.generate import check_names
    from sigmafield.recipes.recipe import Recipe

    check_names(settings)
    own: dict[str, Any] = dict(settings)
    entries = Recipe(what, seed=0 if seed is None else seed, **own).to_plain()
    return {**entries, "model": model} if model else {k: v for k, v in entries.items() if k != "model"}


def request_of(what: Recipe | Mapping[str, Any]) -> Request:
    """The request of a recipe, or of some of its entries.

    Raises:
        FileNotFoundError: An image is not there.
        ValueError: An image cannot be read.
    """
    entries = dict(what) if isinstance(what, Mapping) else what.to_plain()
    entries = {name: in_memory(name, value) if name in IMAGES else value for name, value in entries.items()}
    files = {name: content(name) for name in names_in(entries) if not name.startswith(THERE)}
    digests = {f"{key}_sha256": known for key in IMAGES if (known := digest_of(entries.get(key)))}
    return Request({**digests, **entries}, files)


def in_memory(name: str, value: Any) -> Any:
    """The name of an image, which may be in memory."""
    if value is None or isinstance(value, str):
        return value
    from sigmafield.recipes.in_memory import image_source

    return image_source(name, value, mask=name != "image")


def names_in(entries: Mapping[str, Any]) -> Iterator[str]:
    """The names of the images of a recipe."""
    nested = [each for key in NESTED for each in entries.get(key) or ()]
    given = [*(entries.get(key) for key in IMAGES), *(each.get("image") for each in nested)]
    yield from (name for name in given if isinstance(name, str) and name != "auto")


def renamed(entries: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """A recipe with other names of its images, where these have some."""

    def other(value: Any) -> Any:
        return names.get(value, value) if isinstance(value, str) else value

    found = {key: other(value) if key in IMAGES else value for key, value in entries.items()}
    for key in NESTED:
        if nested := found.get(key):
            found[key] = [{**each, "image": other(each.get("image"))} for each in nested]
    return found


def digest_of(name: Any) -> str | None:
    """The digest that a server finds as well for an image in memory; None for a file, of which it finds it itself."""
    frames = getattr(name, "content", None)
    return name.sha256 if isinstance(frames, tuple) and len(frames) == 1 and frames[0].mode == "RGB" else None


def content(name: str) -> bytes:
    """The bytes of a file with an image that a recipe names; errors as for `request_of`."""
    from PIL import Image

    from sigmafield.recipes.image_io import read_bytes
    from sigmafield.recipes.output import encoded

    held = getattr(name, "content", None)
    if held is None:
        return read_bytes(name)
    if isinstance(held, bytes):
        return held
    if isinstance(held, tuple):
        return encoded(held, ".png")
    buffer = io.BytesIO()
    Image.fromarray(held[0].numpy()).save(buffer, "TIFF")  # a mask, in floating point
    return buffer.getvalue()


def with_advice(error: Refused, entries: Mapping[str, Any]) -> Refused:
    """What a server's refusal of a recipe means where the name is that of weights on this machine.

    Weights are not uploaded: they are too large for a request, and which ones a server runs is its owner's choice.
    """
    local = next((name for name in weights_in(entries, error.field) if Path(name).expanduser().exists()), None)
    if local is None:
        return error
    advice = (
        f"{local} is on this machine, and weights are not uploaded: copy it into the server's folder of models "
        "(sigmafield serve --models FOLDER) and give its name there"
    )
    return Refused(f"{error}; {advice}", error.field, error.status)


def weights_in(entries: Mapping[str, Any], name: str | None) -> Iterator[str]:
    """The names of weights in an entry of a recipe."""
    value = entries.get(name or "")
    if name in WEIGHTS and value:
        given = value if isinstance(value, list | tuple) else [value]
        for each in given:
            yield from (each[key] for key in WEIGHTS[name]) if isinstance(each, Mapping) else [str(each)]
