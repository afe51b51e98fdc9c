"""Where the files of a recipe are now, for a run that goes on or is drawn again in another place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sigmafield.core.parameters import settle
from sigmafield.recipes.recipe import Recipe

NESTED = {
    "lora_files": ("loras", "path"), "control_images": ("controls", "image"), "control_nets": ("controls", "net"),
    "ip_adapter_images": ("ip_adapters", "image"), "ip_adapter_nets": ("ip_adapters", "net"),
    "ip_adapter_encoders": ("ip_adapters", "encoder"), "reference_images": ("references", "image"),
}  # fmt: skip
"""Options for what lies in a list of a recipe: the list's name, and that of the path in an entry."""


@dataclass(frozen=True, kw_only=True)
class MovedOptions:
    """Where the files that a recipe names are now, if they have moved; they must be the same files.

    Args:
        image: The input image.
        mask: The mask.
        denoise_map: The denoise map.
        model: The model.
        parts: Directory for what the checkpoint lacks.
        embeddings: Directory of textual inversions.
        lora_files: A LoRA file; one for each of the recipe's, in their order.
        control_images: An image that steers; one for each of the recipe's, in their order.
        control_nets: A directory or file of a network that steers; one for each of the recipe's, in their order.
        ip_adapter_images: An image that the network attends to; one for each of the recipe's, in their order.
        ip_adapter_nets: An IP-Adapter; one for each of the recipe's, in their order.
        ip_adapter_encoders: A vision encoder of an IP-Adapter; one for each of the recipe's, in their order.
        reference_images: An image that an editing network is shown; one for each of the recipe's, in their order.
    """

    image: str | None = None
    mask: str | None = None
    denoise_map: str | None = None
    model: str | None = None
    parts: str | None = None
    embeddings: str | None = None
    lora_files: Sequence[str] = ()
    control_images: Sequence[str] = ()
    control_nets: Sequence[str] = ()
    ip_adapter_images: Sequence[str] = ()
    ip_adapter_nets: Sequence[str] = ()
    ip_adapter_encoders: Sequence[str] = ()
    reference_images: Sequence[str] = ()

    def __post_init__(self) -> None:
        settle(self, "what has moved")


def with_moved(recipe: Recipe, given: Mapping[str, Any]) -> Recipe:
    """The recipe with other paths, and the digests that it has, so that other files are refused.

    Args:
        recipe: The recipe.
        given: Fields of `MovedOptions`.

    Raises:
        ValueError: There are more or fewer paths than the recipe has files, or it has no such file.
    """
    moved = MovedOptions(**given)
    paths = {name: getattr(moved, name) for name in ("image", "mask", "denoise_map", "model", "parts", "embeddings")}
    paths = {name: path for name, path in paths.items() if path is not None}
    for name in paths:
        if getattr(recipe, name) is None:
            raise ValueError(f"{name} cannot have moved: the recipe has none")
    lists: dict[str, Any] = {}
    for option, (name, key) in NESTED.items():
        if given_paths := getattr(moved, option):
            entries = lists.get(name, getattr(recipe, name))
            check_number(option.replace("_", "-"), given_paths, entries)
            lists[name] = tuple(replace(each, **{key: path}) for each, path in zip(entries, given_paths))
    return replace(recipe, **paths, **lists)


def check_number(name: str, paths: Sequence[str], known: Sequence[object]) -> None:
    """Raise ValueError unless there is one path for each of the recipe's."""
    if len(paths) != len(known):
        raise ValueError(f"--{name} must be given {len(known)} times, in the recipe's order; got {len(paths)}")
