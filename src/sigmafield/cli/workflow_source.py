"""What `sigmafield workflow` reads: workflows and prompts of ComfyUI, and recipes, which become workflows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sigmafield.cli.errors import complain
from sigmafield.cli.recipe import own_recipe
from sigmafield.comfyui.workflow.classes import Classes
from sigmafield.comfyui.workflow.files import read_workflow, text_in
from sigmafield.comfyui.workflow.from_recipe import prompt_of, with_own_values
from sigmafield.comfyui.workflow.offered import offered_classes
from sigmafield.comfyui.workflow.value import Workflow
from sigmafield.recipes.execute import open_pipe
from sigmafield.recipes.output import recipe_of as carried
from sigmafield.recipes.recipe import Recipe, json_object

Form = Literal["api", "page", "recipe"]


@dataclass(frozen=True)
class Source:
    """What a file holds.

    Args:
        page: The workflow of ComfyUI's page, if it has one.
        workflow: The prompt.
        recipe: The recipe that sigmafield wrote, if it has one.
    """

    page: Mapping[str, Any] | None
    workflow: Workflow
    recipe: Recipe | None = None

    @property
    def form(self) -> Form:
        """The form to give by default."""
        return "page" if self.page is None or self.recipe is not None else "api"


def read_source(file: Path, classes: Classes) -> Source:
    """What a file holds; a recipe becomes a workflow, and what is to be known about it is said.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: It holds neither a workflow nor a recipe, or one that cannot be converted.
    """
    recipe = _recipe_in(file)
    try:
        found = read_workflow(file)
    except ValueError:
        if recipe is None:
            raise
    else:
        return Source(found.page, Workflow.of(found, classes), recipe)
    whole = recipe
    if None in (recipe.cfg, recipe.schedule) or (recipe.width is None and recipe.image is None):
        whole = with_own_values(recipe, open_pipe(recipe).model)
    prompt, notes = prompt_of(whole)
    for note in notes:
        complain(note, kind="note")
    return Source(None, Workflow(prompt, classes), recipe)


def _recipe_in(file: Path) -> Recipe | None:
    """The recipe in a file; None if it has none."""
    if file.suffix.lower() == ".json":
        entries = json_object(text_in(file), str(file))
        return Recipe.from_plain(entries) if isinstance(entries.get("prompt"), str) else None
    try:
        return own_recipe(carried(file), file)
    except ValueError:
        return None


def known_and(file: Path | None) -> Classes:
    """The classes that are known, and those of a file with what ComfyUI's /object_info gives."""
    return {**offered_classes(), **json_object(text_in(file), str(file))} if file else offered_classes()
