"""Engines that are killed: what `test_crashes` runs in a process without threads."""

import os
import random
import signal
import time
from collections.abc import Mapping
from os import _exit
from pathlib import Path
from typing import Any

from forked import ended
from sigmafield.comfyui.nodes import all_nodes
from sigmafield.serve.engine import Engine
from sigmafield.serve.jobs import FINISHED
from sigmafield.serve.settings import EngineSettings

Requests = Mapping[str, tuple[Any, dict[str, Any]]]
"""Key of a job → its kind and request."""


def served(folder: Path, settings: EngineSettings, requests: Requests, moments: random.Random, killed: bool) -> int:
    """A process in which an engine does all jobs; it may be killed in the middle of one."""
    child = os.fork()
    if child == 0:
        engine = Engine(folder, settings)
        if killed:
            engine.listen(lambda id: kill_in_the_middle(folder / "jobs"))
        engine.start()
        for name, (kind, request) in requests.items():
            engine.submit(kind, request, key=name, priority=moments.choice((0, 1)))
        while sum(n for status, n in engine.counts().items() if status not in FINISHED):
            time.sleep(0.01)
        engine.stop()
        _exit(0)
    return child


def kill_in_the_middle(jobs: Path) -> None:
    """Kills this process if a job has saved its third step."""
    if any(jobs.rglob("state-000003.*")):
        os.kill(os.getpid(), signal.SIGKILL)


def served_and_killed(
    root: Path, settings: EngineSettings, requests: Requests, kills: int, often: float, seed: int
) -> int:
    """Serves jobs in a process that is left alone, then in processes that are killed, all on one folder, until one of
    them has no jobs left.

    The first one is killed in the middle of a job whatever the machine's speed, the others at random moments, `often`
    of them in the time of one that is left alone. Returns the number of kills.
    """
    all_nodes()  # imported here, for all of them
    moments, began = random.Random(seed), time.monotonic()
    assert os.waitpid(served(root / "whole", settings, requests, moments, False), 0)[1] == 0
    longest = (time.monotonic() - began) / often
    for k in range(kills + 1):
        child = served(root / "killed", settings, requests, moments, killed=k == 0)
        status = ended(child, moments.uniform(0, longest) if 0 < k < kills else 900)
        if status != signal.SIGKILL:
            assert status == 0, status
            return k
    return kills + 1
