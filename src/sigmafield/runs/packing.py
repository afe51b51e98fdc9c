"""Nested values that hold tensors, as JSON and a table of tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from torch import Tensor


def packed(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """A value as JSON holds it: containers as {kind: content}, tensors moved to `tensors` under their path.

    Args:
        value: A tensor, None, a number, a boolean, a string, or a tuple, list or dict of these, nested to any depth.
        path: Its name.
        tensors: Receives the tensors.

    Raises:
        ValueError: It holds a value of another type.
    """
    if isinstance(value, Tensor):
        name = f"{path}#{len(tensors)}" if path in tensors else path  # two paths are equal where keys hold slashes
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, dict):
        entries = cast("dict[Any, Any]", value)
        if not all(isinstance(key, str) for key in entries):
            raise ValueError(f"{path} cannot be saved: its keys must be strings; got {list(entries)}")
        return {"dict": {key: packed(each, f"{path}/{key}", tensors) for key, each in entries.items()}}
    if isinstance(value, (tuple, list)):
        items = cast("tuple[Any, ...] | list[Any]", value)
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [packed(each, f"{path}/{k}", tensors) for k, each in enumerate(items)]}
    if value is not None and not isinstance(value, (bool, int, float, str)):
        raise ValueError(f"{path} cannot be saved: a memory holds tensors and plain values; got {value!r}")
    return value


def unpacked(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The value that `packed` was given."""
    if not isinstance(value, dict):
        return value
    [(kind, content)] = cast("dict[str, Any]", value).items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: unpacked(each, tensors) for key, each in content.items()}
    items = [unpacked(each, tensors) for each in content]
    return tuple(items) if kind == "tuple" else items


def flat(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, list[int]]]:
    """Tensors as a file holds them, and the axes from the outermost to the innermost of those in another order.

    A network computes with latents whose channels are innermost in another way, which changes the last bits: a run that
    goes on has to have its tensors in the order that they had.
    """
    orders = {name: sorted(range(each.ndim), key=lambda k: -each.stride(k)) for name, each in tensors.items()}
    whole = {name: each.detach().cpu().contiguous().clone() for name, each in tensors.items()}
    return whole, {name: order for name, order in orders.items() if order != sorted(order)}


def in_order(tensors: Mapping[str, Tensor], orders: Mapping[str, list[int]]) -> dict[str, Tensor]:
    """The tensors with their axes in memory as they were when `flat` was given them."""
    found = dict(tensors)
    for name, order in orders.items():
        inverse = sorted(range(len(order)), key=order.__getitem__)
        found[name] = tensors[name].permute(order).contiguous().permute(inverse)
    return found
