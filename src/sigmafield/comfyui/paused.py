"""A prompt that stopped in the middle, as a value and as a file: finished nodes, and the state of the one that ran."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from sigmafield.comfyui.context import Outcome
from sigmafield.comfyui.entries import Entry
from sigmafield.comfyui.graph import Prompt
from sigmafield.comfyui.problems import Validated
from sigmafield.core.protocols import State
from sigmafield.core.registry import shown
from sigmafield.runs.checkpoint import moved
from sigmafield.runs.files import write_whole
from sigmafield.runs.packing import flat, in_order, packed, unpacked

FORMAT = "sigmafield-workflow-2"


@dataclass(frozen=True)
class Paused:
    """What is needed to finish a prompt elsewhere.

    Args:
        prompt: The prompt.
        outputs: The outputs that are wanted.
        done: Results of the nodes that others still need, and of outputs.
        extra: What is written into images, such as the workflow.
        node: The node that was running; "" between two nodes.
        earlier: Outcomes of its earlier calls, where it runs once for each of several values.
        state: The sampler's state; None where the node has to start again.
        files: Bytes of the files of the input folder that do not exist elsewhere, by name.
    """

    prompt: Prompt
    outputs: tuple[str, ...]
    done: Mapping[str, Entry] = field(default_factory=dict[str, Entry])
    extra: Mapping[str, Any] | None = None
    node: str = ""
    earlier: tuple[Outcome, ...] = ()
    state: State | None = None
    files: Mapping[str, bytes] = field(default_factory=dict[str, bytes], repr=False)

    @property
    def validated(self) -> Validated:
        """The prompt as the executor takes it."""
        return Validated(self.prompt, self.outputs)


def save_paused(paused: Paused, path: str | Path) -> None:
    """Write a paused prompt, see `paused_bytes`.

    Args:
        paused: The prompt.
        path: The file to write.

    Raises:
        ValueError: The sampler's state or an earlier call's outcome cannot be saved.
    """
    write_whole(Path(path), paused_bytes(paused))


def paused_bytes(paused: Paused) -> bytes:
    """The bytes of a paused prompt's file.

    Results that hold more than tensors and plain values, such as models, are left out: their nodes run again.

    Raises:
        ValueError: The sampler's state or an earlier call's outcome cannot be saved.
    """
    tensors: dict[str, Tensor] = {}
    done: dict[str, Any] = {}
    for name, entry in paused.done.items():
        own: dict[str, Tensor] = {}
        try:
            done[name] = packed([list(map(list, entry.values)), _plain(entry.ui)], f"done/{name}", own)
        except ValueError:
            continue
        tensors |= own
    earlier = [
        packed([list(each.values), _plain(each.ui)], f"earlier/{k}", tensors) for k, each in enumerate(paused.earlier)
    ]
    state = _packed_state(paused.state, tensors)
    whole, orders = flat(tensors)
    header = {
        "prompt": paused.prompt,
        "outputs": paused.outputs,
        "extra": paused.extra,
        "node": paused.node,
        "done": done,
        "earlier": earlier,
        "state": state,
        "files": list(paused.files),
        "orders": orders,
    }
    for name, each in paused.files.items():
        whole[f"files/{name}"] = torch.from_numpy(np.frombuffer(each, np.uint8).copy())
    return save(whole, {"format": FORMAT, "workflow": json.dumps(header)})


def is_paused(path: str | Path) -> bool:
    """Whether a file is a paused workflow, of any version; False if it cannot be read."""
    try:
        with safe_open(str(path), "pt") as file:
            return str((file.metadata() or {}).get("format")).startswith("sigmafield-workflow-")
    except (OSError, SafetensorError):
        return False


def load_paused(path: str | Path, device: str = "cpu") -> Paused:
    """The prompt in a file that `save_paused` wrote; the sampler's state is put on a device.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: It is not such a file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no paused workflow at {path}")
    try:
        with safe_open(str(path), "pt") as file:  # pyright: ignore[reportUnknownVariableType]
            meta: dict[str, str] = dict(file.metadata() or {})
            tensors: dict[str, Tensor] = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from None
    if meta.get("format") != FORMAT:
        raise ValueError(f"{path} is not a paused workflow of this version: its format is {meta.get('format')}")
    try:
        return _unpacked(json.loads(meta["workflow"]), tensors, device)
    except (KeyError, TypeError, AttributeError, IndexError) as error:  # damaged, or not written by `paused_bytes`
        raise ValueError(f"{path} is not a whole paused workflow: {type(error).__name__} {error}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _unpacked(header: dict[str, Any], tensors: dict[str, Tensor], device: str) -> Paused:
    if strange := [name for name in header["files"] if Path(name).name != name or name in ("", "..")]:
        raise ValueError(f"a file has the name {shown(strange[0])}, which leads out of its folder")
    tensors = in_order(tensors, header["orders"])
    done = {name: unpacked(each, tensors) for name, each in header["done"].items()}
    return Paused(
        header["prompt"],
        tuple(header["outputs"]),
        {name: Entry(tuple(values), ui) for name, (values, ui) in done.items()},
        header["extra"],
        header["node"],
        tuple(Outcome(tuple(values), ui) for values, ui in (unpacked(each, tensors) for each in header["earlier"])),
        _unpacked_state(header["state"], tensors, device),
        {name: tensors[f"files/{name}"].numpy().tobytes() for name in header["files"]},
    )


def _plain(ui: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if ui is None else dict(ui)


def _packed_state(state: State | None, tensors: dict[str, Tensor]) -> Any:
    if state is None:
        return None
    parts = {"i": state.i, "x": state.x, "mem": state.mem, "aux": state.aux, "rng": state.rng, "nfe": state.nfe}
    return packed(parts, "state", tensors)


def _unpacked_state(header: Any, tensors: Mapping[str, Tensor], device: str) -> State | None:
    return None if header is None else moved(State(**unpacked(header, tensors)), device)
