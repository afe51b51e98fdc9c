"""Real processes that begin with the command line's libraries imported, which is most of what a cold start takes.

They are forked from a process of multiprocessing's that has imported them once and has no threads. What they draw is
drawn by the small network.
"""

from __future__ import annotations

import multiprocessing
import os
import pty
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from os import _exit
from pathlib import Path
from typing import Any, cast

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([f"sigmafield.{name}" for name in "cli.app cli.sample cli.batch serve.engine".split()])


def called(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns in a process of its own."""
    here, there = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=_answer, args=(there, function, arguments))
    process.start()
    there.close()
    try:
        found, error = here.recv()
    except EOFError:
        found, error = None, "it has ended"
    process.join()
    assert error is None and process.exitcode == 0, error
    return found


def _answer(to: Connection, function: Callable[..., Any], arguments: Sequence[Any]) -> None:
    from small_network import few_channels

    try:
        with few_channels():
            to.send((function(*arguments), None))
    except BaseException:
        to.send((None, traceback.format_exc()))


def ended(child: int, seconds: float) -> int:
    """The status with which a child ended, as `os.waitpid` has it; one that takes longer than this is killed."""
    end = time.monotonic() + seconds
    while not (over := os.waitpid(child, os.WNOHANG))[0] and time.monotonic() < end:
        time.sleep(0.002)
    if not over[0]:
        os.kill(child, signal.SIGKILL)
        over = os.waitpid(child, 0)
    return over[1]


def heard() -> None:
    """Signals act as in a terminal in the program that begins: `nohup make test &` ignores some, which is inherited."""
    for kind in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(kind, signal.SIG_DFL)


class Command:
    """`sigmafield` in a process and a terminal of its own.

    Args:
        words: What follows `sigmafield` in the command line.
        folder: Where it runs.
        given: What it reads from its standard input; None is the terminal.
        held_at: A step after which it waits for a signal.
    """

    def __init__(
        self, words: Sequence[object], folder: Path, given: bytes | None = None, held_at: int | None = None
    ) -> None:
        self._terminal, self._theirs = pty.openpty()
        self._open = True
        given_here = [str(word) for word in words], folder, os.ttyname(self._theirs), given, held_at
        self.process = CONTEXT.Process(target=_run, args=given_here)
        self.process.start()
        self.shown = ""

    def read(self, until: str = "(?!)") -> None:
        """Read what it shows until that contains a pattern or the process has ended."""
        with suppress(OSError):  # how Linux says that the other end has closed
            while not re.search(until, self.shown) and (part := os.read(self._terminal, 4096)):
                self.shown += part.decode(errors="replace")
                if self._open:  # the process has opened its own
                    os.close(self._theirs)
                    self._open = False

    def send(self, how: signal.Signals) -> None:
        """Send it a signal."""
        assert self.process.pid is not None
        os.kill(self.process.pid, how)

    def close(self) -> int:
        """Close its terminal and wait for its end; returns its status, or a signal's negative number."""
        os.close(self._terminal)
        self.process.join(60)
        assert self.process.exitcode is not None
        return self.process.exitcode


def _run(words: Sequence[str], folder: Path, terminal: str, given: bytes | None, held_at: int | None) -> None:
    from sigmafield.cli import main
    from small_network import few_channels

    _signals_as_in_a_terminal()
    os.setsid()
    theirs = os.open(terminal, os.O_RDWR)  # which becomes that of the session
    for stream in range(3):
        os.dup2(theirs, stream)
    if given is not None:
        read, write = os.pipe()
        os.write(write, given)
        os.close(write)
        os.dup2(read, 0)
    sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w")
    os.environ.update(TERM="xterm", COLUMNS="200")
    os.chdir(folder)
    if held_at is not None:
        at_step(held_at, lambda: time.sleep(600))
    status = 0
    try:
        with few_channels():
            main(words)
    except SystemExit as end:
        status = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
        status = 70
    with suppress(OSError):  # the terminal is closed
        sys.stdout.flush()
    with suppress(OSError):
        sys.stderr.flush()
    _exit(status)


def at_step(step: int, act: Callable[[], object]) -> None:
    """From now on, something is done in this process after a step of a run, before its checkpoint is written."""
    from sigmafield.cli.terminal import Display

    update = Display.update

    def updated(display: Display, job: Any, state: Any, part: int = 0) -> None:
        update(display, job, state, part)
        if state.i == step:
            act()

    cast(Any, Display).update = updated


def _signals_as_in_a_terminal() -> None:
    """As `heard`, in a process that Python runs already."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for kind in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(kind, signal.SIG_DFL)
