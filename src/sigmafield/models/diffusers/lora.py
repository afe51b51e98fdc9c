"""LoRA: changes of low rank, merged into the weights of a model. Hu et al., arXiv:2106.09685.

    W ← W + s (α/r) B A,   A [r, in], B [out, r], s the strength; a convolution's kernel belongs to A

Files by diffusers' or peft's names (unet.….lora_A.weight) and by kohya's (lora_unet_….lora_down.weight).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffusers.loaders.lora_pipeline import StableDiffusionXLLoraLoaderMixin
from diffusers.utils.state_dict_utils import StateDictType, convert_state_dict_to_peft, convert_unet_state_dict_to_peft
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from sigmafield.models.directory import opened

try:
    from peft import LoraConfig, LoraModel, set_peft_model_state_dict
    from peft.tuners.tuners_utils import BaseTunerLayer
except ImportError as error:
    raise ImportError(f'a LoRA needs peft ({error}):\npip install "sigmafield[diffusers]"') from error

A, B = ".lora_A.weight", ".lora_B.weight"
DOWN, UP = ".lora_down.weight", ".lora_up.weight"
KOHYA = re.compile(r"lora_(unet|te|te1|te2)_\w+\.(lora_down\.weight|lora_up\.weight|alpha)")
NAME = "sigmafield"


def merge_lora(modules: Mapping[str, Any], path: Path, strength: float) -> None:
    """Merges a LoRA into the modules of a model, all of it or nothing.

    Args:
        modules: The modules by diffusers' names, as in `Pipeline.modules`.
        path: The LoRA's file.
        strength: Factor s of the changes.

    Raises:
        ValueError: If the file does not fit the model.
    """
    parts, settings = read_lora(path, modules)
    foreign = sorted(parts.keys() - modules.keys())
    if foreign:
        raise ValueError(f"{path} is for {', '.join(foreign)}; this model has {', '.join(modules)}")
    fitting = {part: fitted(f"{path}: {part}", modules[part], tensors) for part, tensors in parts.items()}
    for part, tensors in fitting.items():
        merge(modules[part], tensors, settings.get(part, {}), strength)


def read_lora(path: Path, modules: Mapping[str, Any]) -> tuple[dict[str, dict[str, Tensor]], dict[str, dict[str, Any]]]:
    """Reads a LoRA: for each part of the model the tensors by peft's names, and the peft settings in the file."""
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


def fitted(where: str, module: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Matches tensors to the names and shapes of a module's layers.

    Raises:
        ValueError: If a layer does not exist, or a matrix has another shape.
    """
    layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)}
    out: dict[str, Tensor] = {}
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
        out[name + A] = first.reshape(rank, *weight.shape[1:])
        out[name + B] = second.reshape(len(weight), rank, *[1] * (weight.ndim - 2))
    if unknown:
        more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
        raise ValueError(f"{where} has no layers {', '.join(sorted(unknown)[:3])}{more}; it is for another model")
    return out


def merge(module: nn.Module, tensors: Mapping[str, Tensor], settings: Mapping[str, Any], strength: float) -> None:
    """Adds the products of the matrices to a module's weights, with the peft settings of the file."""
    names = [key.removesuffix(A) for key in tensors if key.endswith(A)]
    ranks = {f"^{re.escape(name)}": len(tensors[name + A]) for name in names}
    scales = {key: settings[key] for key in ("lora_alpha", "alpha_pattern", "use_rslora") if key in settings}
    config = LoraConfig(
        target_modules="|".join(map(re.escape, names)), rank_pattern=ranks, **scales or {"alpha_pattern": ranks}
    )
    adapted: Any = LoraModel(module, config, NAME, low_cpu_mem_usage=True)  # which draws no random numbers
    set_peft_model_state_dict(module, dict(tensors), NAME, low_cpu_mem_usage=True)
    tuned: list[Any] = [layer for layer in module.modules() if isinstance(layer, BaseTunerLayer)]
    for layer in tuned:
        layer.scale_layer(strength)
    adapted.merge_and_unload()
