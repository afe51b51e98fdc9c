"""What there is to measure of a server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from sigmafield.serve.jobs import Status


@dataclass(frozen=True)
class BatchFigures:
    """What a batcher has done so far.

    Args:
        calls: Network calls, except those that exact mode makes to compare their bits.
        rows: Rows that runs asked for.
        computed: Rows that were computed: those, what fills calls up in exact mode, and what it compares.
        by_rows: Rows asked for in one call → number of such calls.
        seconds: Time in network calls.
        waits: Calls that were made without a run that they had waited for.
        halvings: How often memory did not suffice, and the rows of a call were halved.
    """

    calls: int = 0
    rows: int = 0
    computed: int = 0
    by_rows: Mapping[int, int] = field(default_factory=dict)
    seconds: float = 0.0
    waits: int = 0
    halvings: int = 0


@dataclass(frozen=True)
class DeviceFigures:
    """One device.

    Args:
        name: As torch names it.
        running: Jobs that it runs.
        models: Names of the models that are loaded on it.
        batch: What its batcher has done.
        memory: Bytes of tensors on it; None where that is not counted, as on the CPU.
    """

    name: str
    running: int
    models: Sequence[str]
    batch: BatchFigures
    memory: int | None


@dataclass(frozen=True)
class EngineFigures:
    """All of the server.

    Args:
        counts: Jobs by status.
        devices: Its devices.
        step_seconds: How long the latest steps took, of all jobs, oldest first.
        memory: Bytes of memory that the process has; None where the system does not say.
    """

    counts: Mapping[Status, int]
    devices: Sequence[DeviceFigures]
    step_seconds: Sequence[float]
    memory: int | None


def memory_of(device: str) -> int | None:
    """Bytes of tensors on a device; None where that is not counted."""
    return torch.cuda.memory_allocated(device) if device.startswith("cuda") else None


def own_memory() -> int | None:
    """Bytes of memory that the process has; None where /proc does not say."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmRSS:")), None)
