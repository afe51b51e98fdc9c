"""What was understood of names and inputs, said once."""

from __future__ import annotations

from sigmafield.cli.errors import complain
from sigmafield.cli.flags import Given
from sigmafield.recipes.build import Job
from sigmafield.recipes.field_values import spec
from sigmafield.recipes.recipe import Recipe


def say_understood(given: Given, recipe: Recipe, quiet: bool) -> None:
    """Say which sampler and schedule were understood, where they were not written as they are called here.

    Args:
        given: Options that were given, with their texts.
        recipe: The recipe that was made of them.
        quiet: Say nothing.
    """
    for name in ("sampler", "schedule"):
        text = given.get(name)
        if quiet or text is None or text.partition("(")[0] == spec(getattr(recipe, name)).name:
            continue
        named_both = name == "sampler" and "schedule" not in given and recipe.schedule is not None
        complain(
            f"{text!r} is {name} {getattr(recipe, name)}" + (f", schedule {recipe.schedule}" if named_both else ""),
            kind="note",
        )


def say_notes(job: Job, quiet: bool) -> None:
    """Say what a user should know about the inputs of a job, such as a mask that keeps everything."""
    for note in () if quiet else job.notes:
        complain(note, kind="note")
