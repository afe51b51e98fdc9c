"""From a recipe to images: its model loaded, its run opened, whatever it says, and finished."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image

from sigmafield.core.conditioning import Control
from sigmafield.models.bundle import Pipeline
from sigmafield.models.load import load
from sigmafield.recipes.build import Job, open_single
from sigmafield.recipes.inputs import controls_of
from sigmafield.recipes.phases import open_phases
from sigmafield.recipes.recipe import Recipe
from sigmafield.runs.run import finish


def open_pipe(recipe: Recipe, **options: Any) -> Pipeline:
    """The model of a recipe with its LoRAs and textual inversions; options: further ones of `load`.

    Raises ValueError also for a LoRA that is not the one that the recipe was made with.
    """
    for lora in recipe.loras:
        if lora.digest() != lora.sha256:
            raise ValueError(f"{lora.path} has changed since this recipe was made: its SHA-256 differs")
    pairs = [(lora.path, lora.strength) for lora in recipe.loras]
    return load(recipe.model, parts=recipe.parts, embeddings=recipe.embeddings, loras=pairs, **options)


def open_job(recipe: Recipe, pipe: Pipeline, controls: Sequence[Control] | None = None) -> Job:
    """The run that a recipe asks for, at one size or by DemoFusion's phases. ValueError for what the model refuses.

    controls: those of the recipe, where they are read already (`controls_of`), for many recipes with the same.
    """
    if recipe.loras and [(lora.path, lora.strength) for lora in recipe.loras] != list(pipe.loras):
        raise ValueError(
            "the recipe's loras are not those that the model was loaded with; load it with open_pipe(recipe)"
        )
    steered = controls_of(recipe.controls, pipe) if controls is None else controls
    return (open_single if recipe.demofusion is None else open_phases)(recipe, pipe, steered)


def generate(pipe: Pipeline, prompt: str, **settings: Any) -> list[Image.Image]:
    """Images for a prompt, one for each of the batch (videos: all frames); `settings` are the fields of `Recipe`."""
    job = open_job(Recipe(prompt, **settings), pipe)
    return job.images(finish(job.run, job.start))
