"""Builds modules of diffusers or transformers from a config and weights in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn

from sigmafield.models.weights.layers import KINDS, packed_layer
from sigmafield.models.weights.packed import Packed, Value, unpacked
from sigmafield.models.weights.undrawn import Undrawn, one_at_a_time

WRAP = "text_model."
"""Prefix of a text encoder's weights in transformers 4, which 5 leaves out."""

AUTOENCODERS = (
    "AutoencoderKL", "AutoencoderKLWan", "AutoencoderKLQwenImage", "AutoencoderKLQwenImage21", "AutoencoderKLFlux2",
    "AutoencoderTiny",
    "AutoencoderKLLTXVideo", "AutoencoderKLLTX2Video", "AutoencoderKLHunyuanVideo", "AutoencoderKLHunyuanVideo15",
    "AutoencoderKLHunyuanImage",
)  # fmt: skip
"""Classes whose quantised weights are made numbers of: they are few, and what runs them in tiles reads them."""

NO_ENCODER = ("encoder", "quant_conv")
"""Parts of an autoencoder that a file with its decoder alone lacks."""


@one_at_a_time
def assembled(kind: Any, config: Mapping[str, Any], values: Mapping[str, Value], what: str, dtype: torch.dtype) -> Any:
    """Builds a module of a class with these weights, without gradients.

    Quantised weights of linear layers and convolutions stay quantised. Others are numbers in memory of their own: how a
    file happens to align its numbers would show in the last bit of what kernels compute.

    Args:
        kind: Class of diffusers or transformers.
        config: Its config.
        values: The weights by name. Those of an autoencoder's encoder may be missing together.
        what: Beginning of error messages.
        dtype: Of the numbers, and what quantised layers compute in.

    Raises:
        ValueError: If a weight is missing, unknown or of another shape.
    """
    with init_empty_weights(include_buffers=False), Undrawn():
        module = made(kind, dict(config))
    given = fitting(module, values, what)
    if kind.__name__ in AUTOENCODERS and not any(name.startswith("encoder.") for name in given):
        module = without_encoder(module)
    packed = {} if kind.__name__ in AUTOENCODERS else packed_in(module, given)
    numbers = {name: numbers_of(given.pop(name), dtype) for name in list(given) if name not in packed}
    module.load_state_dict(numbers, strict=False, assign=True)
    kept: set[str] = set(getattr(module, "_keep_in_fp32_modules", None) or ())
    for name, value in packed.items():
        put_packed(module, name.removesuffix(".weight"), value, wide(dtype, name, kept))
    if hasattr(module, "tie_weights"):
        module.tie_weights()  # a weight that goes by two names is in the file once
    missing = sorted(name for name, value in module.named_parameters() if value.is_meta)
    if missing:
        raise ValueError(f"{what}: {len(missing)} weights are missing, the first is {missing[0]}")
    for name, value in module.named_parameters():
        value.data = value.data.to(wide(value.dtype, name, kept))
    return module.eval().requires_grad_(False)


def fitting(module: nn.Module, values: Mapping[str, Value], what: str) -> dict[str, Value]:
    """The weights by the module's names; raises ValueError for an unknown one, or one of another shape."""
    shapes = {name: value.shape for name, value in module.state_dict().items()}
    given = {known_as(name, shapes): value for name, value in values.items()}
    unknown = sorted(given.keys() - shapes.keys())
    other = sorted(name for name in given.keys() & shapes.keys() if given[name].shape != shapes[name])
    for names, rule in ((unknown, "unknown"), (other, "of another shape")):
        if names:
            raise ValueError(f"{what}: {len(names)} weights are {rule}, the first is {names[0]}")
    return given


def put_packed(module: nn.Module, name: str, value: Packed, dtype: torch.dtype) -> None:
    """Puts a layer with a quantised weight in the place of one of the module's."""
    place, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(place), leaf, packed_layer(module.get_submodule(name), value, dtype))


def wide(dtype: torch.dtype, name: str, kept: set[str]) -> torch.dtype:
    """The dtype of a weight: float32 for parts that overflow in float16, as their class says (kept)."""
    return torch.float32 if dtype == torch.float16 and not kept.isdisjoint(name.split(".")) else dtype


def packed_in(module: nn.Module, given: Mapping[str, Value]) -> dict[str, Packed]:
    """The quantised weights that belong to layers which can keep them."""
    layers = {f"{name}.weight" for name, layer in module.named_modules() if type(layer) in KINDS}
    return {name: value for name, value in given.items() if isinstance(value, Packed) and name in layers}


def numbers_of(value: Value, dtype: torch.dtype) -> Tensor:
    """The numbers of a weight in memory of their own, floats in a dtype."""
    numbers = unpacked(value)
    return numbers.to(dtype if numbers.is_floating_point() else numbers.dtype, copy=isinstance(value, Tensor))


def without_encoder(module: Any) -> Any:
    """An autoencoder that decodes only."""
    for name in NO_ENCODER:
        setattr(module, name, None)
    return module


def made(kind: Any, config: dict[str, Any]) -> Any:
    """Builds an empty module; diffusers and transformers take configs in different ways."""
    if hasattr(kind, "from_config"):
        return kind.from_config(config)
    return kind(kind.config_class.from_dict(config))


def known_as(name: str, known: Mapping[str, Any]) -> str:
    """Finds the name of a weight in the class, with or without the text encoders' prefix."""
    spellings = (name, name.removeprefix(WRAP), WRAP + name)
    return next((spelling for spelling in spellings if spelling in known), name)
