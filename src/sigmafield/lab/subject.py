"""What an experiment runs on, and how often: the options that all of them share, and texts of lists."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from sigmafield.core.annotations import Range
from sigmafield.core.parameters import settle
from sigmafield.core.registry import near_miss, shown
from sigmafield.lab.problems import PREFIX, PROBLEMS, components, law_of, model_name
from sigmafield.models.directory import SHIPPED
from sigmafield.recipes.recipe import Recipe

PROMPT = "a red heart"
"""The prompt of networks where none is given."""


@dataclass(frozen=True, kw_only=True)
class SubjectOptions:
    """The model and the seeds.

    Args:
        model: "gaussian", "mixture", "ring", "images" or a file POINTS.npy, which have exact scores; or what `sample`
            takes: "tiny", which is embedded, a directory, a checkpoint.
        prompt: What a network draws; of an analytic model the numbers of the components that are meant, such as "0,2".
            None is "a red heart", and all components.
        seeds: Number of seeds, which are the same in every arm.
        first_seed: The first of them.
        particles: Samples of an analytic model in a run; a network has one.
    """

    model: str = "mixture"
    prompt: str | None = None
    seeds: Annotated[int, Range(1, 100000)] = 8
    first_seed: Annotated[int, Range(0, 2**63)] = 0
    particles: Annotated[int, Range(1, 4096)] = 256

    def __post_init__(self) -> None:
        settle(self, "the lab")
        law = law_of(self.recipe_model)
        if law is not None:
            components(law, self.prompt or "")
        elif self.model not in SHIPPED and not Path(self.model).exists():
            near = near_miss(self.model, (*PROBLEMS, *SHIPPED))
            if near.startswith("; did"):
                raise ValueError(f"unknown model {shown(self.model)}{near}")

    @property
    def recipe_model(self) -> str:
        """The model as a recipe names it."""
        return model_name(self.model)

    @property
    def is_analytic(self) -> bool:
        """Whether the model is a distribution with exact scores."""
        return self.recipe_model.startswith(PREFIX)

    @property
    def seed_list(self) -> list[int]:
        """The seeds."""
        return list(range(self.first_seed, self.first_seed + self.seeds))

    def recipe(self, **entries: Any) -> Recipe:
        """A recipe for the model, with these entries as well; cfg is 1 where it is not among them."""
        prompt = self.prompt if self.prompt is not None else "" if self.is_analytic else PROMPT
        batch = self.particles if self.is_analytic else 1
        return Recipe(prompt, **{"model": self.recipe_model, "batch": batch, "cfg": 1.0, **entries})


def names_in(what: str, value: str | Sequence[str]) -> tuple[str, ...]:
    """Names with parameters, from a sequence or from a text with commas between them: "euler,dpmpp_2m_sde(eta=0)".

    Raises:
        ValueError: There is none, or one twice.
    """
    found = tuple(_split(value)) if isinstance(value, str) else tuple(value)
    found = tuple(name.strip() for name in found if name.strip())
    if not found or len(set(found)) != len(found):
        raise ValueError(f"{what} must be different entries with commas between them; got {shown(value)}")
    return found


def numbers_in(what: str, value: str | Sequence[float], low: float = 0.0) -> tuple[float, ...]:
    """Ascending numbers of at least `low`, from a sequence or from a text such as "1,3,7.5".

    Raises:
        ValueError: It is something else.
    """
    return _ascending(what, value, low, "numbers", "1,3,7.5")


def _ascending(what: str, value: str | Sequence[float], low: float, kind: str, example: str) -> tuple[float, ...]:
    try:
        found = tuple(float(part) for part in (value.split(",") if isinstance(value, str) else value))
    except (TypeError, ValueError, OverflowError):
        found = ()
    if not found or not all(low <= number < math.inf for number in found) or list(found) != sorted(set(found)):
        raise ValueError(
            f"{what} must be {kind} in ascending order, each at least {low:g}, such as {example}; got {shown(value)}"
        )
    return found


def counts_in(what: str, value: str | Sequence[int], least: int = 1) -> tuple[int, ...]:
    """Ascending whole numbers, from a sequence or from a text such as "5,10,20"; errors as for `numbers_in`."""
    found = _ascending(what, value, least, "whole numbers", "5,10,20")
    if any(number != int(number) for number in found):
        raise ValueError(f"{what} must be whole numbers, such as 5,10,20; got {shown(value)}")
    return tuple(map(int, found))


def _split(text: str) -> list[str]:
    """Parts of a text between the commas that are not in brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts
