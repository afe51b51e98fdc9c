"""Commands that are killed: what `test_kill` runs in a process without threads."""

import os
import random
import signal
import time
from collections.abc import Sequence
from os import _exit
from pathlib import Path

from forked import at_step, ended
from sigmafield.cli import main


def begun(words: Sequence[str], killed_at: int | None = None) -> int:
    """The process of a command, which may be killed after a step."""
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if killed_at is not None:
            at_step(killed_at, lambda: os.kill(os.getpid(), signal.SIGKILL))
        status = 1
        try:
            main(words)
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
        finally:
            _exit(status)
    return child


def killed_at_step(words: Sequence[str], step: int) -> None:
    """Kills a run after a step."""
    assert os.waitpid(begun(words, step), 0)[1] == signal.SIGKILL


def killed_at_random(words: Sequence[str], root: Path, kills: int, seed: int) -> tuple[int, int]:
    """Draws a batch whole, then batches that are killed at random moments and started again until they are finished.

    Returns the number of these batches, and that of the kills that came after a further image.
    """
    moments, began = random.Random(seed), time.monotonic()
    assert os.waitpid(begun([*words, str(root / "whole")]), 0)[1] == 0
    longest = time.monotonic() - began
    killed, finished, hits = 0, 0, 0
    while killed < kills or (root / str(finished)).exists():
        folder = root / str(finished)
        before, child = len(list(folder.glob("*.png"))), begun([*words, str(folder)])
        status = ended(child, moments.uniform(0, longest / 4) if killed < kills else 600)
        if status == signal.SIGKILL:
            killed, hits = killed + 1, hits + (len(list(folder.glob("*.png"))) > before)
        else:
            assert status == 0
            finished += 1
    return finished, hits
