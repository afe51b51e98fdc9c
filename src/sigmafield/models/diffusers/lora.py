"""LoRA: changes of low rank in the weights of a model. Hu et al., arXiv:2106.09685.

    W ← W + s (α/r) B A,   A [r, in], B [out, r], s the strength; a convolution's kernel belongs to A

Files by diffusers' or peft's names (unet.….lora_A.weight) and by kohya's (lora_unet_….lora_down.weight).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.lora_pipeline import StableDiffusionXLLoraLoaderMixin
from diffusers.utils.state_dict_utils import StateDictType, convert_state_dict_to_peft, convert_unet_state_dict_to_peft
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from sigmafield.models.directory import opened
from sigmafield.models.loras import Strengths
from sigmafield.models.module_view import view_of

A, B = ".lora_A.weight", ".lora_B.weight"
DOWN, UP = ".lora_down.weight", ".lora_up.weight"
KOHYA = re.compile(r"lora_(unet|te|te1|te2)_\w+\.(lora_down\.weight|lora_up\.weight|alpha)")


@dataclass(frozen=True, eq=False)
class Change:
    """What a LoRA adds to one weight: scale B A.

    Args:
        a: A [r, …], with the axes that a row of the weight has.
        b: B [out, r].
        scale: α/r, or α/√r.
    """

    a: Tensor
    b: Tensor
    scale: float

    def times(self, strength: float, weight: Tensor) -> Tensor:
        """The change at a strength, with the weight's shape and device, in float32 or the weight's wider dtype."""
        a, b = (each.to(weight.device, wide(weight.dtype)) for each in (self.a, self.b))
        return (b @ a.flatten(1)).mul_(strength * self.scale).reshape(weight.shape)


Lora = Mapping[str, Mapping[str, Change]]
"""What a file holds: for each part of the model, unet, text_encoder, …, the change of each layer by its name."""


def read_lora(path: Path, modules: Mapping[str, Any]) -> Lora:
    """Reads a LoRA.

    Args:
        path: The LoRA's file.
        modules: The modules that it is for, by diffusers' names.

    Raises:
        ValueError: If the file does not fit the modules.
    """
    parts, settings = tensors_of(path, modules)
    foreign = sorted(parts.keys() - modules.keys())
    if foreign:
        raise ValueError(f"{path} is for {', '.join(foreign)}; this model has {', '.join(modules)}")
    return {
        part: fitted(f"{path}: {part}", modules[part], tensors, settings.get(part, {}))
        for part, tensors in parts.items()
    }


def with_changes(modules: Mapping[str, Any], loras: Sequence[tuple[Lora, Strengths]]) -> dict[str, Any]:
    """The modules with LoRAs in their weights; the given ones are left as they are.

    A module that is changed is a view (`models.module_view`) in which the changed layers have weights of their own; all
    other weights are shared with the given module.
    """
    out = dict(modules)
    for part in modules:
        if any(lora.get(part) for lora, _ in loras):
            out[part] = view_of(modules[part])
            merge(part, out[part], loras)
    return out


def merge(part: str, module: nn.Module, loras: Sequence[tuple[Lora, Strengths]]) -> None:
    """Adds LoRAs to the weights of a part of the model, in the order given.

    They are added up in float32 and rounded once to the weight's dtype. Layers of which nothing is added, at a strength
    of 0 too, keep their weights.
    """
    each: dict[str, list[tuple[Change, float]]] = {}
    for lora, strengths in loras:
        strength = strengths.text if part.startswith("text_encoder") else strengths.network
        for name, change in lora.get(part, {}).items() if strength else ():
            each.setdefault(name, []).append((change, strength))
    for name, changes in each.items():
        layer = module.get_submodule(name)
        weight: Any = layer.weight
        total = weight.detach().to(wide(weight.dtype), copy=True)
        for change, strength in changes:
            total += change.times(strength, weight)
        own = nn.Parameter(total.to(weight.dtype), requires_grad=False)
        layer._parameters = {**layer._parameters, "weight": own}  # a table of its own: views share them


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which changes are added to a weight."""
    return torch.promote_types(dtype, torch.float32)


def tensors_of(
    path: Path, modules: Mapping[str, Any]
) -> tuple[dict[str, dict[str, Tensor]], dict[str, dict[str, Any]]]:
    """Reads a file: for each part of the model the tensors by peft's names, and the peft settings in the file."""
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: a LoRA must be a .safetensors file; a pickle can run any code and is not opened")
    tensors = load_file(opened(path))
    if any(key.startswith("lora_") for key in tensors):
        refuse(path, [key for key in tensors if not KOHYA.fullmatch(key)])
        tensors = from_kohya(path, tensors, modules)
    parts: dict[str, dict[str, Tensor]] = by_part(tensors)
    for part, values in parts.items():
        if part.startswith("text_encoder"):
            values = convert_state_dict_to_peft(values, StateDictType.DIFFUSERS_OLD)
        parts[part] = with_alpha(f"{path}: {part}", convert_unet_state_dict_to_peft(values), A, B)
    with safe_open(path, "pt") as file:
        return parts, by_part(json.loads((file.metadata() or {}).get("lora_adapter_metadata", "{}")))


def by_part(values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Groups values by the part of the model that their names begin with."""
    parts: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        part, _, rest = key.partition(".")
        parts.setdefault(part, {})[rest] = value
    return parts


def refuse(where: object, keys: Sequence[str]) -> None:
    """Raises ValueError if there are unknown keys."""
    if keys:
        more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
        raise ValueError(f"{where}: unknown keys {', '.join(sorted(keys)[:3])}{more}; a LoRA has pairs of matrices")


def with_alpha(where: object, tensors: Mapping[str, Tensor], a: str, b: str) -> dict[str, Tensor]:
    """Multiplies each module's α/r into its second matrix; a, b: suffixes of the matrices' names."""
    stems = {key.removesuffix(end) for key in tensors for end in (a, b, ".alpha") if key.endswith(end)}
    refuse(where, [key for key in tensors if not key.endswith((a, b, ".alpha"))])
    out: dict[str, Tensor] = {}
    for stem in sorted(stems):
        first, second, alpha = (tensors.get(stem + end) for end in (a, b, ".alpha"))
        if first is None or second is None:
            raise ValueError(f"{where}: {stem} has no pair of {a[1:]} and {b[1:]}")
        scale = 1.0 if alpha is None else float(alpha) / len(first)
        out |= {stem + a: first.float(), stem + b: second.float() * scale}
    return out


def from_kohya(path: Path, tensors: Mapping[str, Tensor], modules: Mapping[str, Any]) -> dict[str, Tensor]:
    """Translates kohya's names, including those of SDXL's blocks, to diffusers'."""
    pairs = with_alpha(path, tensors, DOWN, UP)
    config = getattr(modules.get("unet"), "config", None)
    try:
        return StableDiffusionXLLoraLoaderMixin.lora_state_dict(pairs, unet_config=config)[0]
    except (AttributeError, IndexError, KeyError, ValueError) as error:
        why = " ".join(str(error).split())[:200]
        raise ValueError(f"{path}: its names are not those of a Stable Diffusion model ({why})") from error


def fitted(
    where: str, module: nn.Module, tensors: Mapping[str, Tensor], settings: Mapping[str, Any]
) -> dict[str, Change]:
    """Matches tensors to the names and shapes of a module's layers; settings: those of peft in the file.

    Raises:
        ValueError: If a layer does not exist, or a matrix has another shape.
    """
    layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)}
    out: dict[str, Change] = {}
    unknown: list[str] = []
    for stem in (key.removesuffix(A) for key in tensors if key.endswith(A)):
        spellings = (stem, stem.removeprefix("text_model."), f"text_model.{stem}")  # transformers 4 and 5 differ
        name = next((name for name in spellings if name in layers), None)
        if name is None:
            unknown.append(stem)
            continue
        first, second, weight = tensors[stem + A], tensors[stem + B], layers[name].weight
        rank = len(first)
        if first.numel() != rank * weight[0].numel() or second.numel() != len(weight) * rank:
            a, b, w = ("×".join(map(str, t.shape)) for t in (first, second, weight))
            raise ValueError(f"{where}: {stem} has matrices of {a} and {b}, which do not fit the weight's {w}")
        a, b = first.reshape(rank, *weight.shape[1:]), second.reshape(len(weight), rank)
        out[name] = Change(a, b, scale_of(settings, name, rank))
    if unknown:
        more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
        raise ValueError(f"{where} has no layers {', '.join(sorted(unknown)[:3])}{more}; it is for another model")
    return out


def scale_of(settings: Mapping[str, Any], name: str, rank: int) -> float:
    """The factor of B A by peft's settings, α/r or with rsLoRA α/√r; 1 where the file has none."""
    if not settings.keys() & {"lora_alpha", "alpha_pattern", "use_rslora"}:
        return 1.0
    patterns: Mapping[str, float] = settings.get("alpha_pattern") or {}
    own = (alpha for pattern, alpha in patterns.items() if re.match(rf"(.*\.)?({pattern})$", name))
    alpha = next(own, settings.get("lora_alpha", 8))
    return alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)
