"""Where the files of a recipe are now, for a run that goes on or is drawn again in another place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sigmafield.core.parameters import settle
from sigmafield.recipes.recipe import Recipe


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
    loras, controls = recipe.loras, recipe.controls
    if moved.lora_files:
        check_number("lora-files", moved.lora_files, loras)
        loras = tuple(replace(lora, path=path) for lora, path in zip(loras, moved.lora_files))
    if moved.control_images:
        check_number("control-images", moved.control_images, controls)
        controls = tuple(replace(control, image=path) for control, path in zip(controls, moved.control_images))
    if moved.control_nets:
        check_number("control-nets", moved.control_nets, controls)
        controls = tuple(replace(control, net=path) for control, path in zip(controls, moved.control_nets))
    return replace(recipe, **paths, loras=loras, controls=controls)


def check_number(name: str, paths: Sequence[str], known: Sequence[object]) -> None:
    """Raise ValueError unless there is one path for each of the recipe's."""
    if len(paths) != len(known):
        raise ValueError(f"--{name} must be given {len(known)} times, in the recipe's order; got {len(paths)}")
