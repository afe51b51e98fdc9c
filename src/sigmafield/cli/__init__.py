"""The command line: `sigmafield sample "a red heart"`. Commands import the engine only when they run."""

from __future__ import annotations

from collections.abc import Sequence

from sigmafield.cli.signals import abrupt

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the `sigmafield` command.

    Until there is something to save, a signal ends the program at once.

    Args:
        arguments: Words of the command line; None is the process's own.
    """
    with abrupt():
        from sigmafield.cli.app import run  # imports the command line's libraries, which takes a while

        run(arguments)
