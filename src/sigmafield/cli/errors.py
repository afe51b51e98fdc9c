"""Errors about what the user gave: one line on the error stream and status 2, never a traceback."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NoReturn

from rich.text import Text

from sigmafield.cli.console import console
from sigmafield.core.registry import nearest

USER_ERRORS = (ValueError, OSError, ImportError, FloatingPointError)
"""What is raised about values, files and packages, and about latents that are not finite."""

WORDS: ContextVar[Sequence[str]] = ContextVar("WORDS", default=())
"""The command line, without the program's name."""


def as_json() -> bool:
    """Whether this command was given --json, so that what it says is for machines."""
    return "--json" in WORDS.get()


@contextmanager
def user_errors() -> Iterator[None]:
    """Errors about what the user gave end the program with one line."""
    try:
        yield
    except USER_ERRORS as error:
        fail(text_of(error))


def text_of(error: Exception) -> str:
    """What is wrong, in words: without the number of a system's error, and with the nearest name of a missing file."""
    if isinstance(error, OSError) and error.errno is not None and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    message = str(error)
    missing = isinstance(error, FileNotFoundError) or "no such" in message
    return message + (nearest_file(message) if missing and "did you mean" not in message else "")


def nearest_file(message: str) -> str:
    """The end of an error about a file of the command line that does not exist: "; did you mean …?", or nothing."""
    for word in WORDS.get():
        path = Path(word.partition("=")[2] if word.startswith("-") else word)
        with suppress(OSError, ValueError):  # a text that is not a path
            said = path.name and str(path) in message and not path.exists()
            if said and (near := nearest(path.name, (file.name for file in path.parent.iterdir()))):
                return near
    return ""


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
    if as_json():
        print(json.dumps({kind: text}), file=sys.stderr)
        return
    line = Text.assemble((f"{kind}: ", "bold red" if kind == "error" else "bold"), text)
    console(stderr=True, soft_wrap=True).print(line)


def fail(message: str, status: int = 2) -> NoReturn:
    """End the program with one line on the error stream."""
    complain(message)
    sys.exit(status)
