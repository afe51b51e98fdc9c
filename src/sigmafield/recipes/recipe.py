"""A recipe is everything that a run was asked for, from prompt to parameters, as a pure value that JSON can carry.

No file is read and nothing is loaded when a recipe is made: `inputs` reads the files that it names, `build` opens the
run that it describes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from sigmafield.core.parameters import settle
from sigmafield.core.plain import from_plain, to_plain
from sigmafield.core.registry import Spec, shown
from sigmafield.guidance.registry import mods_of
from sigmafield.models.overrides import override_of
from sigmafield.noise.spectrum import parse_filter
from sigmafield.recipes.field_values import READERS, schedule_of, spec, spec_or_none, specs
from sigmafield.recipes.groups import (
    CanvasOptions,
    ImageOptions,
    LargeOptions,
    ModelOptions,
    SamplingOptions,
    SteeringOptions,
)
from sigmafield.recipes.mods import MODS
from sigmafield.runs.mixing_spec import mixing_of
from sigmafield.samplers import SAMPLERS
from sigmafield.schedules import SCHEDULES

MOST_REFERENCES = 16
"""Images that a network can be shown; its attention grows with the square of their number."""

VERSION = 2
"""Version of the JSON form. A later one is refused, since what it means is not known here."""


@dataclass(frozen=True)
class Recipe(CanvasOptions, SamplingOptions, ImageOptions, SteeringOptions, ModelOptions, LargeOptions):
    """What to draw and how; the same recipe on the same machine gives the same pixels.

        sf.Recipe("a red heart", sampler="dpmpp_2m_sde(eta=0.5)", schedule="karras", steps=30, seed=1)

    The further fields are those of the groups that it consists of; `dataclasses.replace(recipe, seed=2)` gives another
    recipe.

    Args:
        prompt: What to draw.
        negative: What not to draw.

    Raises:
        ValueError: A value has the wrong type or is out of range, a name is unknown, or values contradict each other.
    """

    prompt: str
    negative: str = ""

    def __post_init__(self) -> None:
        for name, read in READERS.items():
            object.__setattr__(self, name, read(getattr(self, name)))
        sampler = spec(self.sampler)
        if "schedule" in sampler.params:  # "DPM++ 2M Karras" names both
            params = dict(sampler.params)
            object.__setattr__(self, "schedule", self.schedule or schedule_of(params.pop("schedule")))
            object.__setattr__(self, "sampler", sampler := Spec(sampler.name, params))
        settle(self, "the recipe")
        SAMPLERS.lookup(sampler.name).check(sampler.params)
        if self.schedule is not None:
            SCHEDULES.lookup(spec(self.schedule).name).check(spec(self.schedule).params)
        override_of(spec_or_none(self.model_sampling))
        parse_filter(spec_or_none(self.noise))
        check_shift(self.shift)
        check_steps(self)
        check_image(self)
        check_large(self)
        if len(self.references) > MOST_REFERENCES:
            raise ValueError(f"references must be at most {MOST_REFERENCES} images; got {len(self.references)}")

    def to_json(self) -> str:
        """The recipe as one line of JSON, which `from_json` reads."""
        return json.dumps(self.to_plain(), ensure_ascii=False)

    def to_plain(self) -> dict[str, Any]:
        """The recipe as JSON holds it, with its version; entries that are None or empty lists are left out."""
        entries = {name: value for name, value in to_plain(self).items() if value is not None and value != []}
        return {"version": VERSION, **entries}

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        """The recipe of a JSON text: a version (this one if it is left out), a prompt, and any further fields.

        Raises:
            ValueError: The text is not JSON, is of a later version, or an entry is unknown, missing, of another type
                or out of range.
        """
        return cls.from_plain(json_object(text, "the recipe"))

    @classmethod
    def from_plain(cls, entries: Mapping[str, Any]) -> Recipe:
        """The recipe of an object as JSON holds it, which `to_plain` gives; errors as for `from_json`."""
        entries = dict(entries)
        version = entries.pop("version", VERSION)
        if type(version) is not int or version != VERSION:
            raise ValueError(f"the recipe is of version {shown(version)}; this sigmafield reads version {VERSION}")
        return from_plain(cls, entries, "the recipe")


def json_object(text: str, what: str) -> dict[str, Any]:
    """The JSON object in a text; ValueError, which names what it is, for anything else."""
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError, TypeError) as error:  # not JSON, too deep, not text
        raise ValueError(f"{what} is not JSON: {error}") from None
    if not isinstance(entries, dict):
        raise ValueError(f"{what} must be a JSON object; got {shown(entries)}")
    return entries


def check_shift(shift: Any) -> None:
    """Raise ValueError for a time shift that is neither a number above 0 nor "size"."""
    if shift is None or shift == "size":
        return
    if isinstance(shift, (str, bool)) or not isinstance(shift, (int, float)) or not 0 < shift < math.inf:
        raise ValueError(f"shift must be a number above 0 or 'size'; got {shown(shift)}")


def check_steps(recipe: Recipe) -> None:
    """Raise ValueError for steps that are not steps of the schedule, and a size without one of its sides."""
    last = recipe.steps if recipe.last_step is None else recipe.last_step
    if not 0 <= (recipe.start_step or 0) < min(last, recipe.steps):
        raise ValueError(
            f"start_step must be at least 0 and below last_step and steps = {recipe.steps}; "
            f"got {recipe.start_step} and {recipe.last_step}"
        )
    if (recipe.width is None) != (recipe.height is None):
        raise ValueError(f"width and height go together; got {recipe.width} and {recipe.height}")


def check_image(recipe: Recipe) -> None:
    """Raise ValueError for options of an input image that contradict each other, or lack the image."""
    if recipe.image is None:
        if recipe.denoise < 1:
            raise ValueError(f"denoise {recipe.denoise} needs an image to start from; without one it must be 1")
        for name in ("mask", "pad", "denoise_map", "mixing"):
            if getattr(recipe, name):
                raise ValueError(f"{name} needs an image to start from: give one with image")
    check_mask(recipe)
    one_sigma = mods_of(specs(recipe.guidance), MODS).one_sigma
    if recipe.denoise_map is not None and one_sigma:
        raise ValueError(f"{one_sigma[0]} needs one sigma per sample: leave it out with a denoise_map")
    if recipe.map_schedule == "own" and (recipe.start_step, recipe.last_step) != (None, None):
        raise ValueError("map_schedule 'own' runs whole schedules: leave start_step and last_step out")
    if recipe.min_denoise and recipe.denoise_map is None:
        raise ValueError(f"min_denoise {recipe.min_denoise} needs a denoise_map, whose black parts have it")
    if mixing_of(specs(recipe.mixing)) is not None:
        if recipe.denoise_map is not None:
            raise ValueError("mixing and a denoise_map exclude each other: leave one of them out")
        if SAMPLERS[spec(recipe.sampler).name].adaptive:
            raise ValueError(f"{spec(recipe.sampler).name} chooses its own steps: mixing needs those of the schedule")


def check_mask(recipe: Recipe) -> None:
    """Raise ValueError for options of a mask without one."""
    if recipe.mask_from != "auto" and recipe.mask is None:
        raise ValueError(f"mask_from {recipe.mask_from!r} needs a mask")
    for name in ("mask_feather", "paste_back"):
        if getattr(recipe, name) and recipe.mask is None and recipe.pad is None:
            raise ValueError(f"{name} needs a mask, or pad, which draws only what it adds")
    if recipe.match_colours and not recipe.paste_back:
        raise ValueError("match_colours needs paste_back, which it brings the colours of the result to")


def check_large(recipe: Recipe) -> None:
    """Raise ValueError for options of large images that contradict each other."""
    if recipe.scale > 1 and (recipe.image is None or recipe.width is not None):
        raise ValueError(f"scale {recipe.scale} needs an image to enlarge, and no width and height")
    shifting = recipe.tiling is not None and recipe.tiling.kind == "spot"
    if shifting and recipe.denoise_map is not None and recipe.map_schedule == "own":
        raise ValueError("tiling 'spot' shifts its tiles with the step: with a denoise map, map_schedule 'delayed'")
    if recipe.demofusion is None:
        return
    for name in ("mask", "pad", "denoise_map", "mixing", "start_step", "last_step", "tiling", "references"):
        if getattr(recipe, name):
            raise ValueError(f"demofusion draws whole images in whole runs: leave {name} out")
    if SAMPLERS[spec(recipe.sampler).name].adaptive:
        raise ValueError(f"{spec(recipe.sampler).name} chooses its own steps: demofusion needs those of the schedule")


def with_entries(recipe: Recipe, **entries: Any) -> Recipe:
    """The recipe with other values of some fields, and their digests forgotten where the path changes."""
    digests = {f"{name}_sha256": None for name in ("image", "mask", "denoise_map") if name in entries}
    return replace(recipe, **{**digests, **entries})
