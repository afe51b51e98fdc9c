"""The values of a recipe's fields: read from what a user gives into the one form that a recipe keeps, and taken out."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import Any, Literal, TypeVar

from sigmafield.core.registry import Spec, parse_specs, shown
from sigmafield.recipes.in_memory import image_source
from sigmafield.recipes.names import read_sampler, read_schedule

Specs = Sequence[Spec | str] | Spec | str
"""Several names with parameters: as values, or as text, "apg(eta=0.5)+cfg_norm"."""

V = TypeVar("V")

MOST_PADDING = 16384
"""Pixels that an image can be padded by on a side."""


def sampler_of(value: Spec | str) -> Spec:
    """A sampler from its text; a name that has a schedule in it, "DPM++ 2M Karras", keeps that as a parameter."""
    if isinstance(value, Spec):
        return value
    read = read_sampler(_text("sampler", value))
    return Spec(read.sampler.name, {**read.sampler.params, **({"schedule": read.schedule} if read.schedule else {})})


def schedule_of(value: Spec | str | None) -> Spec | None:
    """A schedule from its text; None is the model's own."""
    return value if value is None or isinstance(value, Spec) else read_schedule(_text("schedule", value))


def guidance_of(value: Specs) -> tuple[Spec, ...]:
    """Guidance mods from their text."""
    return _specs("guidance", "apg(eta=0.5)+cfg_norm", value)


def mixing_terms_of(value: Specs) -> tuple[Spec, ...]:
    """Terms of iterative mixing from their text."""
    return _specs("mixing", "cosine(alpha_1=0.3, align=next)+rewind", value)


def noise_of(value: Spec | str | None) -> Spec | None:
    """A noise spectrum from its text; "" and None are white noise."""
    return _one("noise", "pyramid(discount=0.8)", value)


def model_sampling_of(value: Spec | str | None) -> Spec | None:
    """A model sampling from its text; "" and None are the model's own."""
    return _one("model_sampling", "discrete(prediction=v, zsnr=true)", value)


def seed_of(value: int | Literal["random"]) -> int | Literal["random"]:
    """A seed, drawn if it is -1 or "random": a whole number below 2⁵³, which every reader of JSON keeps exactly."""
    drawn = value == "random" if isinstance(value, str) else isinstance(value, Integral) and value == -1
    return secrets.randbelow(2**53) if drawn else value


def _one(kind: str, example: str, value: Spec | str | None) -> Spec | None:
    found = () if value is None else _specs(kind, example, value)
    if len(found) > 1:
        raise ValueError(f"{kind} takes one name with parameters; got {len(found)}: {shown(value)}")
    return found[0] if found else None


def _specs(kind: str, example: str, value: Specs) -> tuple[Spec, ...]:
    if isinstance(value, Spec):
        return (value,)
    if isinstance(value, str):
        return parse_specs(value, kind, example)
    if not isinstance(value, (tuple, list)) or not all(isinstance(each, (Spec, str)) for each in value):
        raise ValueError(f"{kind} must be names with parameters, such as {example!r}; got {shown(value)}")
    return tuple(each if isinstance(each, Spec) else Spec.parse(each, kind, example) for each in value)


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a name with parameters, as text or a Spec; got {shown(value)}")
    return value


def path_of(value: str | Path | None) -> str | None:
    """A path as text."""
    return str(value) if isinstance(value, Path) else value


def pad_of(value: Any) -> Any:
    """Pixels (left, top, right, bottom) from "left,top,right,bottom"; None adds nothing."""
    if isinstance(value, str):
        parts = value.split(",")
        if len(parts) != 4 or not all(part.strip().isdecimal() for part in parts):
            raise ValueError(f"pad must be LEFT,TOP,RIGHT,BOTTOM in pixels, such as 0,0,256,0; got {value!r}")
        value = tuple(map(int, parts))
    if isinstance(value, (tuple, list)):
        numbers = all(isinstance(side, Integral) and not isinstance(side, bool) for side in value)
        if len(value) != 4 or not numbers or not all(0 <= side <= MOST_PADDING for side in value):
            raise ValueError(f"pad must be four numbers of pixels, 0 … {MOST_PADDING}; got {value!r}")
        return tuple(map(int, value)) if any(value) else None
    return value


def several(value: Sequence[V] | V) -> tuple[V, ...]:
    """One value, or several, as a tuple."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(value)
    return (value,)  # type: ignore[return-value]


READERS: Mapping[str, Callable[[Any], Any]] = {
    "sampler": sampler_of, "schedule": schedule_of, "guidance": guidance_of, "noise": noise_of,
    "mixing": mixing_terms_of, "model_sampling": model_sampling_of, "seed": seed_of,
    **dict.fromkeys(("regions", "controls", "ip_adapters", "references", "loras"), several),
    **dict.fromkeys(("model", "parts", "embeddings"), path_of), "pad": pad_of,
    "image": partial(image_source, "image"), "mask": partial(image_source, "mask", mask=True),
    "denoise_map": partial(image_source, "denoise_map", mask=True),
}  # fmt: skip
"""How the values of some fields are brought to the one form that a recipe keeps."""


def spec(value: Spec | str | None) -> Spec:
    """A field of a recipe that holds a spec, once it is made; TypeError for None."""
    if not isinstance(value, Spec):
        raise TypeError(f"not a spec: {value!r}")
    return value


def number(value: int | Literal["random"]) -> int:
    """The seed of a recipe, once it is made; TypeError for one that is not drawn."""
    if isinstance(value, str):
        raise TypeError(f"not a number: {value!r}")
    return value


def spec_or_none(value: Spec | str | None) -> Spec | None:
    """A field of a recipe that may hold a spec, once it is made."""
    return None if value is None else spec(value)


def specs(value: Specs) -> tuple[Spec, ...]:
    """A field of a recipe that holds several specs, once it is made."""
    return tuple(map(spec, several(value)))
