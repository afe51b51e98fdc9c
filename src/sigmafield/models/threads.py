"""How many threads torch uses for a network on the CPU.

With as many threads as CPUs, OpenMP's threads wait for each other in busy loops: on CPUs that other programs use as
well, a small network then takes ten to twenty times longer than with one thread. The number is set for the duration of
a call and restored afterwards.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import torch

from sigmafield.models.bundle import Pipeline
from sigmafield.models.diffusion_model import Running
from sigmafield.models.weights.layers import weights_of

SMALL = 50_000_000
"""A network with fewer parameters gains little from a second thread."""

CGROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")


class _Calls:
    """The calls in progress, and the number of threads outside of them."""

    lock = threading.Lock()
    active = 0
    outside = 0
    thread = threading.local()


@contextmanager
def limited(most: int) -> Iterator[None]:
    """Lets torch use at most `most` threads for the calls of this thread in the context.

    A thread that uses torch for the first time copies the number of the thread that set it last, which may be that of
    a call in progress. Such a thread gets the number outside of the calls when it leaves.
    """
    with _Calls.lock:
        own = torch.get_num_threads()
        if _Calls.active and own == most and not hasattr(_Calls.thread, "known"):
            own = _Calls.outside
        if not _Calls.active:
            _Calls.outside = own
        _Calls.active += 1
        _Calls.thread.known = True
        if most < own:
            torch.set_num_threads(most)
    try:
        yield
    finally:
        with _Calls.lock:
            _Calls.active -= 1
            if torch.get_num_threads() != own:
                torch.set_num_threads(own)


def most_threads(parameters: int) -> int | None:
    """Chooses the number of threads for a network; None: torch's own number.

    Args:
        parameters: Number of the network's parameters.

    Returns:
        None where OMP_NUM_THREADS is set: torch follows it. Otherwise 1 for a small network, and the CPUs that the
        process may use for others.
    """
    if os.environ.get("OMP_NUM_THREADS"):
        return None
    return 1 if parameters < SMALL else cpus()


def cpus(root: Path = CGROUPS, own: Path = OWN_GROUPS) -> int:
    """Counts the CPUs that this process may use: its affinity mask, limited by its control group's quota.

    Args:
        root: Where control groups are mounted.
        own: File that lists the process's own groups.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = quota(root, own)
    return allowed if share is None else max(1, min(allowed, math.ceil(share)))


def quota(root: Path = CGROUPS, own: Path = OWN_GROUPS) -> float | None:
    """Reads the CPU time per second that control groups of version 1 or 2 allow, in CPUs; None: no limit.

    A group's limit holds for the groups below it, so the smallest one of the way up counts. In a container the path of
    the own group may not exist; its limits are then in the directory that is mounted.
    """
    try:
        lines = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        return None
    shares = []
    for _, controllers, path in (line for line in lines if len(line) == 3):
        if controllers and "cpu" not in controllers.split(","):
            continue
        mounts = [root / controllers, root / "cpu"] if controllers else [root, root / "unified"]
        for mount in mounts:
            inner = mount / path.lstrip("/")
            for group in (inner, *inner.parents):
                shares += limit_of(group)
                if group == mount:
                    break
    return min(shares, default=None)


def limit_of(group: Path) -> list[float]:
    """Reads one group's limit in CPUs: cpu.max of version 2, or cpu.cfs_quota_us of version 1; empty: no limit."""
    try:
        if (group / "cpu.max").is_file():
            most, period = (group / "cpu.max").read_text().split()
        else:
            most, period = ((group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return [int(most) / int(period)] if most.strip() != "max" and int(most) > 0 else []
    except (OSError, ValueError):
        return []


def running_of(*modules: Any) -> Running | None:
    """Makes the context in which modules run on the CPU; None where torch's own number of threads is right."""
    most = most_threads(sum(prod(shape) for module in modules for shape in weights_of(module).values()))
    return None if most is None else partial(limited, most)


def with_threads(pipe: Pipeline) -> Pipeline:
    """The pipeline with a suitable number of threads for its text encoder, network and VAE on the CPU."""
    parts: dict[str, Any] = {"model": [pipe.model.module], "text": pipe.text.modules.values(), "vae": [pipe.vae.module]}
    for name, modules in parts.items():
        running = running_of(*(module for module in modules if module is not None))
        if running is not None:
            pipe = replace(pipe, **{name: replace(getattr(pipe, name), running=running)})
    return pipe
