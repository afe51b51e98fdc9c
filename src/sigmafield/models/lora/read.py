"""Reads a LoRA file for a model: which change of which weight each of its tensors belongs to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sigmafield.models.directory import opened
from sigmafield.models.experts import LOW, side_of
from sigmafield.models.lora.adapters import Change
from sigmafield.models.lora.bundled import bundled_in, widths_of
from sigmafield.models.lora.changes import changes_of, without_effect
from sigmafield.models.lora.keys import ALPHA, BUNDLED, PEFT, parse
from sigmafield.models.lora.names import Names, Piece, names_of, shapes_of
from sigmafield.models.lora.settings import ANY_PART, Settings, alpha_of_kohya, settings_of
from sigmafield.models.text.bundled import Bundled

ENDINGS = (".safetensors", ".sft")


@dataclass(frozen=True, eq=False)
class Lora:
    """What a file changes in a model.

    Args:
        path: The file.
        changes: For each part of the model the changes of its parameters, by their names.
        unused: What cannot be used: the reason, and the names in the file.
        bundled: The textual inversions in it.
    """

    path: Path
    changes: Mapping[str, Mapping[str, Sequence[Change]]]
    unused: Mapping[str, Sequence[str]]
    bundled: Bundled = field(default_factory=dict)

    def left_out(self) -> str | None:
        """Says what of the file cannot be used; None where all of it can."""
        if not self.unused:
            return None
        count = sum(map(len, self.unused.values()))
        reasons = "; ".join(f"{reason}: {_some(names)}" for reason, names in self.unused.items())
        return f"{self.path}: {count} {'entry' if count == 1 else 'entries'} cannot be used: {reasons}"


def read_lora(path: Path, modules: Mapping[str, Any]) -> Lora:
    """Reads a LoRA; what of it cannot be used is listed in `Lora.unused`, see `usable`.

    Args:
        path: The LoRA's file.
        modules: The modules that it is for, by diffusers' names.

    Raises:
        ValueError: If the file is broken.
    """
    tensors, header = tensors_of(path)
    settings = settings_of(path, header, peft=any(key.startswith(PEFT) for key in tensors))
    lora = fitted(path, tensors, modules, settings, alpha_of_kohya(path, header, tensors))
    return for_experts(lora) if LOW in modules else lora


def for_experts(lora: Lora) -> Lora:
    """A LoRA of a model with two networks: for both, or for the one that its names or its file's name say."""
    changes, side = dict(lora.changes), side_of(lora.path)
    if LOW not in changes and "transformer" in changes and side != "high":
        changes[LOW] = changes["transformer"]
        if side == "low":
            del changes["transformer"]
    return replace(lora, changes=changes)


def usable(lora: Lora, partial: bool) -> Lora:
    """Returns a LoRA that can be used.

    Args:
        lora: The LoRA.
        partial: Whether it may have entries that cannot be used.

    Raises:
        ValueError: If nothing in it can be used, or not all of it and `partial` is false.
    """
    what = lora.left_out()
    if what is not None and not any(lora.changes.values()) and not lora.bundled:
        raise ValueError(f"{what}; nothing of it is for this model")
    if what is not None and not partial:
        raise ValueError(f"{what}; lora_partial=True (--lora-partial) loads the rest")
    return lora


def notes_of(loras: Iterable[Lora]) -> Sequence[str]:
    """What a user should know about LoRAs that were loaded in part."""
    return tuple(f"LoRA {what}" for lora in loras if (what := lora.left_out()) is not None)


def tensors_of(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Reads the tensors and the header's metadata of a file.

    Raises:
        ValueError: If it is not a safetensors file, has no tensors, or its numbers are not finite.
    """
    if path.suffix.lower() not in ENDINGS:
        raise ValueError(f"{path}: a LoRA must be a .safetensors file; a pickle can run any code and is not opened")
    with safe_open(opened(path), "pt") as file:
        header = file.metadata() or {}
        try:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        except (AttributeError, KeyError, RuntimeError, SafetensorError, TypeError) as error:
            raise ValueError(f"{path}: its numbers have a type that torch does not read ({error})") from None
    if not tensors:
        raise ValueError(f"{path}: the file has no tensors")
    for name, value in tensors.items():
        if not value.is_complex() and not value.float().isfinite().all():
            raise ValueError(f"{path}: {name} has NaN or infinity; the file is broken")
    return tensors, header


def fitted(
    path: Path, tensors: Mapping[str, Tensor], modules: Mapping[str, Any], settings: Settings, alpha: float | None
) -> Lora:
    """Matches the tensors of a file to the layers of a model.

    Args:
        path: The file, for messages.
        tensors: Its tensors.
        modules: As for `read_lora`.
        settings: What its header says of α.
        alpha: The file's α where neither a tensor nor `settings` has one.
    """
    layers: dict[tuple[Sequence[str], str], dict[str, Tensor]] = {}
    called: dict[tuple[Sequence[str], str], str] = {}
    twice: dict[tuple[Sequence[str], str], str] = {}
    unused: dict[str, list[str]] = {}
    parameters = {part: shapes_of(module) for part, module in modules.items()}
    words = {name: value for name, value in tensors.items() if name.startswith(BUNDLED)}
    bundled, refused = bundled_in(path, words, widths_of(parameters))
    for name, reason in refused.items():
        unused.setdefault(reason, []).append(name)
    for name, value in tensors.items():
        key = parse(name)
        if name in words:
            continue
        if key is None or value.is_complex():
            unused.setdefault("unknown names", []).append(name)
        elif key.role != ALPHA and not value.is_floating_point():
            unused.setdefault(WHOLE, []).append(name)
        else:
            layer = layers.setdefault((key.parts, key.layer), {})
            if not equal(layer.setdefault(key.role, value), value):
                twice.setdefault((key.parts, key.layer), name)
            called.setdefault((key.parts, key.layer), name)
    names = {part: names_of(shapes) for part, shapes in parameters.items()}
    changes: dict[str, dict[str, list[Change]]] = {}
    for name in twice.values():
        unused.setdefault(TWICE, []).append(name)
    for (parts, layer), values in layers.items():
        if (parts, layer) in twice:  # matrices of one spelling do not belong to those of the other
            continue
        try:
            part, pieces = located(parts, layer, names)
            known = settings.get(part, settings.get(ANY_PART, {}))
            own = changes_of(pieces, values, parameters[part], known, alpha)
            before = changes.setdefault(part, {})
            if any(parameter in before for parameter, _ in own):
                raise ValueError(TWICE)
            for parameter, change in own:
                before.setdefault(parameter, []).append(change)
        except ValueError as error:
            if not without_effect(values):
                reason, *details = error.args
                name = called[parts, layer]
                unused.setdefault(reason, []).append(f"{name} ({details[0]})" if details else name)
    return Lora(path, changes, unused, bundled)


WHOLE = "integers, quantised without a scale"
TWICE = "given twice, with different values or for the same weight"


def equal(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same numbers; one number alone may have any number of axes."""
    same = one.shape == other.shape or one.numel() == other.numel() == 1
    return same and torch.equal(one.reshape(-1).float(), other.reshape(-1).float())


def located(parts: Sequence[str], layer: str, names: Mapping[str, Names]) -> tuple[str, Sequence[Piece]]:
    """The part of a model and the layers that a name means; raises ValueError where the model does not have them."""
    there = [part for part in parts if part in names]
    if not there:
        raise ValueError(f"for {parts[0]}, while this model has {', '.join(names)}")
    plain = layer.replace(".processor.", ".")
    for part in there:
        for spelling in (layer, plain, plain.replace(".", "_")):
            if spelling in names[part]:
                return part, names[part][spelling]
    raise ValueError(f"no such layers in {there[0] if len(there) == 1 else 'this model'}")


def _some(names: Sequence[str]) -> str:
    """The first names of a list, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(sorted(names)[:3]) + more
