"""What an image of ours carries: its recipe, which image of the batch it is, and the version that drew it."""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import NamedTuple

from sigmafield.core.registry import shown
from sigmafield.recipes.recipe import Recipe, json_object


class Label(NamedTuple):
    """What an image carries.

    Args:
        recipe: What was drawn.
        index: Which image of the batch it is; None is the sheet of all.
        made_by: The version of sigmafield that drew it.
    """

    recipe: Recipe
    index: int | None
    made_by: str


def label(recipe: Recipe, index: int | None) -> str:
    """The text of a label; index: which image of the batch, None is the sheet of all."""
    whole = {"sigmafield": version("sigmafield"), "image": index, "recipe": recipe.to_plain()}
    return json.dumps(whole, ensure_ascii=False)


def read_label(text: str) -> Label:
    """The label in the text that an image carries.

    Raises:
        ValueError: The text is not JSON of this form, or its recipe is refused by `Recipe.from_json`.
    """
    entries = json_object(text, "what the image carries")
    if not isinstance(entries.get("recipe"), dict):
        raise ValueError(f"what the image carries must be an object with a recipe; got {shown(entries)}")
    recipe, index = Recipe.from_plain(entries["recipe"]), entries.get("image")
    if index is not None and (type(index) is not int or not 0 <= index < recipe.batch):
        raise ValueError(f"image must be one of the batch of {recipe.batch}, from 0; got {shown(index)}")
    return Label(recipe, index, str(entries.get("sigmafield", "an unknown version")))
