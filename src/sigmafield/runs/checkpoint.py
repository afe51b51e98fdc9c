"""A state as one safetensors file: written whole or not at all, read back bit for bit."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from sigmafield.core.memory import Memory
from sigmafield.core.protocols import State
from sigmafield.runs.files import write_whole
from sigmafield.runs.packing import flat, in_order, packed, unpacked

VERSION = 2
FORMAT = "sigmafield-state-"
"""Before the version, the name of the format."""


def save_state(state: State, path: str | Path, meta: Mapping[str, str] | None = None) -> None:
    """Save a state without its preview.

    Args:
        state: The state; its memories hold tensors, None, numbers, booleans, strings, and tuples, lists and dicts of
            these, nested to any depth.
        path: The file to write.
        meta: Strings to store with it, such as how to rebuild the run.

    Raises:
        ValueError: A memory holds a value of another type.
    """
    write_whole(Path(path), state_bytes(state, meta))


def state_bytes(state: State, meta: Mapping[str, str] | None = None) -> bytes:
    """The bytes of a checkpoint; arguments and errors as for `save_state`."""
    tensors = {"x": state.x} | ({"rng": state.rng} if state.rng is not None else {})
    memories = {part: packed(memory, part, tensors) for part, memory in (("mem", state.mem), ("aux", state.aux))}
    whole, orders = flat(tensors)
    header = {"format": f"{FORMAT}{VERSION}", "i": state.i, "nfe": state.nfe, "orders": orders, **memories}
    return save(whole, {**(meta or {}), "state": json.dumps(header)})


def load_state(path: str | Path, device: torch.device | str = "cpu") -> tuple[State, dict[str, str]]:
    """(state, meta) from a file that `save_state` wrote, with x and the latents in its memories on `device`.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is not a checkpoint, or one of another version.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        with cast("Any", safe_open)(str(path), "pt") as file:
            meta: dict[str, str] = dict(file.metadata() or {})
            tensors: dict[str, Tensor] = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from None
    header: dict[str, Any] = json.loads(meta.pop("state", "{}"))
    _check_version(path, str(header.get("format")))
    tensors = in_order(tensors, header.get("orders", {}))
    mem, aux = (cast(Memory, unpacked(header[part], tensors)) for part in ("mem", "aux"))
    state = State(header["i"], tensors["x"], mem, aux, tensors.get("rng"), header["nfe"])
    return moved(state, device), meta


def moved(state: State, device: torch.device | str) -> State:
    """The state with x and the latents in its memories on another device; numbers, 0-d tensors, stay on the CPU."""

    def move(tensor: Tensor) -> Tensor:
        return tensor.to(device) if tensor.ndim else tensor

    mem, aux = (cast(Memory, _mapped(memory, move)) for memory in (state.mem, state.aux))
    return replace(state, x=state.x.to(device), mem=mem, aux=aux)


def _check_version(path: str | Path, name: str) -> None:
    """Raise ValueError unless the format's name is the one that is written here."""
    number = name.removeprefix(FORMAT)
    if number == name or not number.isdecimal():
        raise ValueError(f"{path} is not a checkpoint of a run")
    if int(number) < VERSION:
        raise ValueError(
            f"{path} was saved by an earlier version of sigmafield (format {number}, this one reads {VERSION}): "
            "resume it with that version, or start again"
        )
    if int(number) > VERSION:
        raise ValueError(
            f"{path} was saved by a later version of sigmafield (format {number}, this one reads {VERSION}): update"
        )


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A memory with all of its tensors changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {key: _mapped(each, change) for key, each in cast("dict[str, Any]", value).items()}
    if isinstance(value, tuple):
        return tuple(_mapped(each, change) for each in cast("tuple[Any, ...]", value))
    if isinstance(value, list):
        return [_mapped(each, change) for each in cast("list[Any]", value)]
    return value
