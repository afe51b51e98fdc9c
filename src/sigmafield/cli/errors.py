"""Errors about what the user gave: one line on the error stream and status 2, never a traceback."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NoReturn

from rich.text import Text

from sigmafield.cli.console import console

USER_ERRORS = (ValueError, OSError, ImportError, FloatingPointError)
"""What is raised about values, files and packages, and about latents that are not finite."""

AS_JSON = ContextVar("AS_JSON", default=False)
"""Whether this command was given --json, so that what it says is for machines."""


@contextmanager
def user_errors() -> Iterator[None]:
    """Errors about what the user gave end the program with one line."""
    try:
        yield
    except USER_ERRORS as error:
        fail(str(error))


@contextmanager
def warnings_said() -> Iterator[None]:
    """Warnings of this package are notes, one line each, said once; those of others stay as they are."""
    own = str(Path(__file__).parents[1])
    with warnings.catch_warnings():
        others = warnings.showwarning
        said: set[str] = set()

        def show(message: Warning | str, category: type[Warning], filename: str, *rest: Any) -> None:
            if not filename.startswith(own):
                others(message, category, filename, *rest)
            elif str(message) not in said:
                said.add(str(message))
                complain(str(message), "note")

        warnings.showwarning = show
        yield


def complain(message: str, kind: str = "error") -> None:
    """Print one line on the error stream; with --json it is an object whose one key is the kind.

    Args:
        message: A text, which is not markup.
        kind: "error" or "note".
    """
    text = " ".join(message.split())
    if AS_JSON.get():
        print(json.dumps({kind: text}), file=sys.stderr)
        return
    line = Text.assemble((f"{kind}: ", "bold red" if kind == "error" else "bold"), text)
    console(stderr=True, soft_wrap=True).print(line)


def fail(message: str, status: int = 2) -> NoReturn:
    """End the program with one line on the error stream."""
    complain(message)
    sys.exit(status)
