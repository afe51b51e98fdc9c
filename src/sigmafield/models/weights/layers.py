"""Layers whose weights stay quantised in memory: numbers are made of them at each call, and dropped after it.

They are layers of torch with the same hooks and attributes, and `weight` gives the numbers, so that whoever reads it
gets what the layer computes with. What changes the weights of a layer, as LoRAs do, calls `change_weight`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeGuard, cast

import torch
from torch import Tensor, nn

from sigmafield.models.weights.packed import Packed, unpacked

Change = Callable[[Tensor], Tensor]
"""A weight in float32 or wider → the changed weight in that dtype; may work in place."""


class _Latest(threading.local):
    """The numbers of the layer whose weight this thread asked for last, until it is called.

    T5 asks for the dtype of the weight three times before each call.
    """

    codes: Tensor | None = None
    change: Change | None = None
    numbers: Tensor | None = None


_LATEST = _Latest()


class PackedLayer(nn.Module):
    """A layer with a quantised weight, in buffers: codes, uint8, and scale, float32."""

    kind: str
    shape: torch.Size
    dtype: torch.dtype
    change: Change | None

    @property
    def packed(self) -> Packed:
        """The quantised weight."""
        return Packed(self.kind, cast(Tensor, self._buffers["codes"]), self._buffers["scale"], self.shape)

    @property
    def weight(self) -> Tensor:
        """The numbers of the weight in the dtype that the layer computes in."""
        if (own := self._parameters.get("weight")) is not None:  # one that was put in its place
            return own
        codes = self._buffers["codes"]
        if _LATEST.numbers is None or _LATEST.codes is not codes or _LATEST.change is not self.change:
            wide = unpacked(self.packed)
            _LATEST.numbers = (wide if self.change is None else self.change(wide)).to(self.dtype)
            _LATEST.codes, _LATEST.change = codes, self.change
        return _LATEST.numbers

    def forward(self, *args: Any) -> Tensor:
        """Calls the layer with the numbers of its weight."""
        try:
            return super().forward(*args)
        finally:
            _LATEST.codes = _LATEST.change = _LATEST.numbers = None

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight"] = self.weight.detach()


class PackedLinear(PackedLayer, nn.Linear):  # pyright: ignore[reportIncompatibleVariableOverride]
    """A linear layer with a quantised weight."""


class PackedConv2d(PackedLayer, nn.Conv2d):  # pyright: ignore[reportIncompatibleVariableOverride]
    """A convolution with a quantised weight."""


KINDS: dict[type[nn.Module], type[PackedLayer]] = {nn.Linear: PackedLinear, nn.Conv2d: PackedConv2d}
"""Layers of torch, and those with quantised weights in their place."""


def packed_layer(layer: nn.Module, weight: Packed, dtype: torch.dtype) -> PackedLayer:
    """A layer like one of torch, with a quantised weight.

    Args:
        layer: A layer of a type in `KINDS`, whose bias and attributes it gets.
        weight: The weight.
        dtype: What it computes in.
    """
    kind = KINDS[type(layer)]
    made = kind.__new__(kind)
    vars(made).update(vars(layer))
    made._parameters = {name: value for name, value in layer._parameters.items() if name != "weight"}
    made._buffers = {"codes": weight.codes, "scale": weight.scale}
    made._non_persistent_buffers_set = {"codes", "scale"}
    made.kind, made.shape, made.dtype, made.change = weight.kind, weight.shape, dtype, None
    return made


def weights_of(module: nn.Module, remove_duplicate: bool = True) -> dict[str, tuple[int, ...]]:
    """The shape of each parameter of a module, and of each quantised weight, by their names.

    Args:
        module: The module.
        remove_duplicate: Whether a parameter that goes by two names is given once.
    """
    plain = module.named_parameters(remove_duplicate=remove_duplicate)
    packed = ((name, part) for name, part in module.named_modules(remove_duplicate=remove_duplicate))
    return {
        **{name: tuple(value.shape) for name, value in plain},
        **{f"{name}.weight".lstrip("."): tuple(part.shape) for name, part in packed if isinstance(part, PackedLayer)},
    }


def dense_weight(layer: nn.Module, name: str = "weight") -> Tensor:
    """The numbers of a weight, the caller's own, in float32 or the layer's wider dtype.

    Args:
        layer: The layer.
        name: The weight's name in the layer: weight, bias, ….
    """
    if is_packed(layer, name):
        wide = unpacked(layer.packed)
        return wide if layer.change is None else layer.change(wide)
    weight = layer.get_parameter(name).detach()
    return weight.to(torch.promote_types(weight.dtype, torch.float32), copy=True)


def set_weight(layer: nn.Module, value: Tensor, name: str = "weight") -> None:
    """Gives a layer a weight of its own, rounded to the dtype of the one it has; arguments as for `dense_weight`.

    Views of the module (`models.module_view`) that have the layer's weight in common keep it.
    """
    dtype = layer.dtype if is_packed(layer, name) else layer.get_parameter(name).dtype
    own = nn.Parameter(value.to(dtype), requires_grad=False)
    layer._parameters = {**layer._parameters, name: own}  # a table of its own: views share them


def change_weight(layer: nn.Module, change: Change, name: str = "weight") -> None:
    """Replaces a weight W by change(W), rounded once to the layer's dtype.

    Of a plain layer W changes now. A quantised one stays quantised, and the change is made at each call. Views of the
    module that have the layer's weight in common keep it.

    Args:
        layer: The layer.
        change: Gives the changed weight.
        name: As for `dense_weight`.
    """
    if not is_packed(layer, name):
        set_weight(layer, change(dense_weight(layer, name)), name)
        return
    before = layer.change
    layer.change = change if before is None else lambda wide: change(before(wide))


def is_packed(layer: nn.Module, name: str) -> TypeGuard[PackedLayer]:
    """Whether a weight of a layer is quantised."""
    return isinstance(layer, PackedLayer) and name == "weight" and layer._parameters.get(name) is None
