"""Values in a prompt that are not links: their types, ranges and choices."""

from __future__ import annotations

import math
from typing import Any

from sigmafield.comfyui.definition import Slot
from sigmafield.comfyui.problems import Problem
from sigmafield.core.registry import shown

LONG_LIST = 20
"""Choices up to which an error lists them."""

NOT_FINITE = "A FLOAT is a finite number"

SOCKETS = frozenset(
    ("MODEL", "CLIP", "VAE", "CONDITIONING", "LATENT", "IMAGE", "MASK", "CONTROL_NET", "SAMPLER", "SIGMAS", "NOISE",
     "GUIDER", "CLIP_VISION", "CLIP_VISION_OUTPUT", "STYLE_MODEL", "GLIGEN", "UPSCALE_MODEL", "AUDIO", "VIDEO", "HOOKS",
     "HOOK_KEYFRAMES", "LORA_MODEL", "LATENT_OPERATION", "MODEL_PATCH")
)  # fmt: skip
"""Types of values that only come from nodes, never from a prompt's text."""


def checked(slot: Slot, value: Any, config: Any, own: bool) -> tuple[Any, list[Problem]]:
    """A value in its input's type, and what is wrong with it.

    Args:
        slot: The input.
        value: The value; a list only where it was wrapped.
        config: The input in ComfyUI's form, for the errors.
        own: Whether the class checks the range or the choice itself.
    """
    about = {"input_name": slot.name, "input_config": config, "received_value": value}
    try:
        value = _typed(slot.type, value)
    except (TypeError, ValueError, OverflowError) as error:
        details = (
            f"{slot.name}, {shown(value)}, {error}" if not isinstance(value, str) else f"{slot.name}, {value}, {error}"
        )
        message = f"Failed to convert an input value to a {slot.type} value"
        return value, [Problem("invalid_input_type", details, about | {"exception_message": str(error)}, message)]
    if own:
        return value, []
    about["received_value"] = value
    low, high = slot.options.get("min"), slot.options.get("max")
    if slot.type in ("INT", "FLOAT") and low is not None and value < low:
        return value, [Problem("value_smaller_than_min", slot.name, about, f"Value {value} smaller than min of {low}")]
    if slot.type in ("INT", "FLOAT") and high is not None and value > high:
        return value, [Problem("value_bigger_than_max", slot.name, about, f"Value {value} bigger than max of {high}")]
    if slot.type == "FLOAT" and not math.isfinite(value):
        return value, [Problem("invalid_input_type", f"{slot.name} must be finite; got {value}", about, NOT_FINITE)]
    return value, _chosen(slot, value, config, about) if slot.type == "COMBO" else []


def _typed(kind: str, value: Any) -> Any:
    """The value as a number, a text or a truth value; ValueError or TypeError where it is not one."""
    if kind in SOCKETS:
        raise TypeError(f"a value of type {kind} comes from a node: link one")
    if kind == "INT":
        return int(value)
    if kind == "FLOAT":
        return float(value)
    if kind == "STRING":
        if value is None:
            raise TypeError("a text is needed; got null")
        return str(value)
    return bool(value) if kind == "BOOLEAN" else value


def _chosen(slot: Slot, value: Any, config: Any, about: dict[str, Any]) -> list[Problem]:
    """The error of a choice that is not offered; each of several is looked up."""
    options = config[0] if isinstance(config[0], list) else config[1].get("options")
    if options is None:  # the choices come from elsewhere
        return []
    chosen = value if isinstance(value, list) and slot.options.get("multiselect") else [value]
    wrong = [each for each in chosen if each not in options]
    if not wrong:
        return []
    many = len(options) > LONG_LIST
    which = f"(list of length {len(options)})" if many else f"{options}"
    extra = about | ({"input_config": None} if many else {})
    return [Problem("value_not_in_list", f"{slot.name}: '{wrong[0]}' not in {which}", extra)]
