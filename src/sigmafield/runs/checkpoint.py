"""A state as one safetensors file: written whole or not at all, read back bit-exactly."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from sigmafield.core.memory import Memory
from sigmafield.core.protocols import State

FORMAT = "sigmafield-state-1"


def write_whole(path: Path, data: bytes) -> None:
    """Write a file under a temporary name beside it, then rename: a reader never sees half of it."""
    path = Path(path)
    fd, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp's file is for the owner alone
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def save_state(state: State, path: str | Path, meta: Mapping[str, str] | None = None) -> None:
    """Save all of a state but its preview, with strings of the caller's (how to rebuild the run)."""
    tensors = {"x": state.x} | ({"rng": state.rng} if state.rng is not None else {})
    plain: dict[str, Memory] = {"mem": {}, "aux": {}}
    for part, memory in (("mem", state.mem), ("aux", state.aux)):
        for key, value in memory.items():
            if isinstance(value, Tensor):
                tensors[f"{part}.{key}"] = value
            else:
                plain[part][key] = value
    tensors = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in tensors.items()}
    header = {"format": FORMAT, "i": state.i, "nfe": state.nfe, **plain}
    write_whole(Path(path), save(tensors, {**(meta or {}), "state": json.dumps(header)}))


def load_state(path: str | Path, device: torch.device | str = "cpu") -> tuple[State, dict[str, str]]:
    """(state, strings of the caller's) from a file that `save_state` wrote; x and the latents on `device`.

    Raises FileNotFoundError, or ValueError for a file that is not such a checkpoint.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        with safe_open(str(path), "pt") as file:
            meta = dict(file.metadata() or {})
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from None
    header: dict[str, Any] = json.loads(meta.pop("state", "{}"))
    if header.get("format") != FORMAT:
        raise ValueError(f"{path} is not a checkpoint of a run (format {header.get('format')}, not {FORMAT})")
    memory: dict[str, Memory] = {part: _tuples(header[part]) for part in ("mem", "aux")}
    for key, tensor in tensors.items():
        part, _, name = key.partition(".")
        if name:  # coefficients stay float64 on the CPU, latents go to the device
            memory[part][name] = tensor if tensor.ndim == 0 else tensor.to(device)
    state = State(header["i"], tensors["x"].to(device), memory["mem"], memory["aux"], tensors.get("rng"), header["nfe"])
    return state, meta


def moved(state: State, device: torch.device | str) -> State:
    """The state with x and the latents of its memories on another device; coefficients stay on the CPU."""
    mem, aux = (
        {key: value.to(device) if isinstance(value, Tensor) and value.ndim else value for key, value in memory.items()}
        for memory in (state.mem, state.aux)
    )
    return replace(state, x=state.x.to(device), mem=mem, aux=aux)


def _tuples(memory: Memory) -> Memory:
    """JSON has no tuples: what was saved as one comes back as one."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in memory.items()}
