"""Progress of many lines at once in the terminal: a bar for all of them, and one for each line that is being drawn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from types import TracebackType

from rich.live import Live
from rich.progress import TaskID

from sigmafield.cli.console import console
from sigmafield.cli.terminal import progress_bar


class PoolDisplay:
    """A bar that counts images, and one for each line that a worker draws; shown in a terminal, inside of this context.

    Args:
        quiet: Show nothing.
        steps: Steps of each line, by its number.
    """

    def __init__(self, quiet: bool, steps: Mapping[int, int]):
        out = console(stderr=True)
        self._bar = progress_bar(out)
        self._steps, self._done = steps, dict.fromkeys(steps, 0.0)
        self._all = self._bar.add_task(f"0 of {len(steps)}", total=sum(steps.values()), note="")
        self._tasks: dict[int, TaskID] = {}
        # what is printed meanwhile goes to its own stream, see `aside`
        self._live = Live(
            self._bar, console=out, refresh_per_second=8, transient=True, redirect_stdout=False, redirect_stderr=False
        )
        self._quiet = quiet or not out.is_terminal
        self._finished = 0

    def __enter__(self) -> PoolDisplay:
        if not self._quiet:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        if not self._quiet:
            with suppress(OSError):  # the terminal has been closed, which the signal that follows says
                self._live.stop()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """The bars are away inside of this context, so that lines can be printed."""
        with suppress(OSError):
            self._live.stop()
        try:
            yield
        finally:
            self.__enter__()

    def update(self, number: int, prompt: str, progress: float, note: str = "") -> None:
        """Show how far a line is, 0 … 1."""
        steps = self._steps[number]
        if number not in self._tasks:
            self._tasks[number] = self._bar.add_task(f"line {number}: {prompt[:40]}", total=steps, note="")
        self._done[number] = steps * progress
        self._bar.update(self._tasks[number], completed=self._done[number], note=note)
        self._bar.update(self._all, completed=sum(self._done.values()))

    def end(self, number: int) -> None:
        """A line is finished, or failed."""
        if (task := self._tasks.pop(number, None)) is not None:
            self._bar.remove_task(task)
        self._finished += 1
        self._done[number] = float(self._steps[number])
        words = f"{self._finished} of {len(self._steps)}"
        self._bar.update(self._all, completed=sum(self._done.values()), description=words)
