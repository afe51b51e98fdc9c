"""Images from a prompt in one call."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from PIL import Image
from typing_extensions import Unpack

from sigmafield.core.registry import near_miss, shown
from sigmafield.models.bundle import Pipeline
from sigmafield.recipes.execute import execute, open_job
from sigmafield.recipes.inputs import read_inputs
from sigmafield.recipes.options import Lora
from sigmafield.recipes.recipe import Recipe
from sigmafield.recipes.settings import OF_THE_MODEL, Seed, Settings
from sigmafield.recipes.steering import steering_of

V = TypeVar("V")


def generate(
    pipe: Pipeline, prompt: str | Sequence[str], *, seed: Seed | Sequence[Seed] = 0, **settings: Unpack[Settings]
) -> list[Image.Image]:
    """Images for a prompt, one per sample of the batch; of videos, the frames of each in turn.

        [heart] = sf.generate(pipe, "a red heart", cfg=3.0, seed=1)
        hearts = sf.generate(pipe, "a red heart", cfg=3.0, seed=range(4))
        heart, apple = sf.generate(pipe, ["a red heart", "a green apple"], cfg=3.0, seed=[1, 2])

    Images, masks and maps are paths or in memory, see `in_memory.image_source`. What a user should know about them,
    such as a mask that keeps everything, is a warning.

    Args:
        pipe: The model, as `load` gives it.
        prompt: What to draw; of several prompts, each is drawn as if it were given alone.
        seed: Seed of the noise, one for all prompts or one for each; with one prompt, an image for each seed.
        settings: The further fields of `Recipe`, except those that are arguments of `load`: model, parts,
            embeddings and skip_unknown_embeddings. Without `loras`, those of the model are kept.

    Raises:
        ValueError: A value has the wrong type or is out of range, a name is unknown, values contradict each other, or
            the model cannot do what they ask for.
        TypeError: A setting is unknown, or pipe is not a loaded model.
        FileNotFoundError: A file is missing.
        FloatingPointError: The latent or the image has NaN or infinity.
    """
    if not isinstance(pipe, Pipeline):
        raise TypeError(f"generate needs a model, as sf.load gives it; got {shown(pipe)}")
    check_names(settings)
    own: dict[str, Any] = {**settled(pipe), **settings}
    (text, one), *others = pairs(prompt, seed)
    recipe = Recipe(text, seed=one, **own)  # the others share its images: an open file is read once
    recipes = [recipe, *(replace(recipe, prompt=text, seed=each) for text, each in others)]
    first, inputs = read_inputs(recipes[0])
    if "loras" in settings:
        pipe = pipe.with_loras([lora.pair for lora in first.loras], first.lora_partial)
    steering = steering_of(first, inputs, pipe)
    images: list[Image.Image] = []
    for k, recipe in enumerate(recipes):
        job = open_job(replace(first, prompt=recipe.prompt, seed=recipe.seed), pipe, inputs, steering)
        for note in job.notes if k == 0 else ():
            warnings.warn(note, stacklevel=2)
        images += [image for frames in execute(job).images for image in frames]
    return images


def check_names(settings: Mapping[str, Any]) -> None:
    """Raise TypeError for a setting that does not exist, and ValueError for one that the model has settled."""
    for name, value in settings.items():
        if name in OF_THE_MODEL:
            raise ValueError(
                f"{name} belongs to sf.load: generate draws with the model that was loaded; got {shown(value)}"
            )
        if name not in Settings.__annotations__:
            raise TypeError(f"generate has no argument {name!r}{near_miss(name, Settings.__annotations__)}")


def settled(pipe: Pipeline) -> dict[str, Any]:
    """The fields of a recipe that a loaded model has settled; where a part was exchanged, its name alone."""
    loras = tuple(
        Lora(path, network, text_strength=None if text == network else text) for path, (network, text) in pipe.loras
    )
    own = {"loras": loras, "lora_partial": bool(pipe.notes)}
    if pipe.source is None:
        return {"model": pipe.model.name, **own}
    given = {"model": pipe.source.args[0], **pipe.source.keywords}
    return {name: given[name] for name in OF_THE_MODEL} | own


def pairs(prompt: str | Sequence[str], seed: Seed | Sequence[Seed]) -> Iterator[tuple[str, Seed]]:
    """Each prompt with its seed; ValueError unless there is one seed for all, or one for each."""
    prompts: list[str] = listed(prompt)
    seeds: list[Seed] = listed(seed)
    if not prompts or not seeds:
        raise ValueError(f"prompt and seed must be one or more; got {shown(prompt)} and {shown(seed)}")
    if len(prompts) == 1:
        prompts = prompts * len(seeds)
    if len(seeds) == 1:
        seeds = seeds * len(prompts)
    if len(seeds) != len(prompts):
        raise ValueError(
            f"seed must be one for all prompts or one for each; got {len(seeds)} seeds for {len(prompts)} prompts"
        )
    return zip(prompts, seeds)


def listed(value: V | Sequence[V]) -> list[V]:
    """One value, or several, as a list; text is one value."""
    if isinstance(value, np.ndarray) and value.ndim == 1:
        return list(value)
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]  # pyright: ignore
