"""Errors about what the user gave: one line on the error stream and status 2, never a traceback."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from rich.console import Console
from rich.text import Text

USER_ERRORS = (ValueError, OSError, ImportError, FloatingPointError)
"""What is raised about values, files and packages, and about latents that are not finite."""


@contextmanager
def user_errors() -> Iterator[None]:
    """Errors about what the user gave end the program with one line."""
    try:
        yield
    except USER_ERRORS as error:
        fail(str(error))


def complain(message: str, kind: str = "error") -> None:
    """Print one line on the error stream; the message is text, not markup."""
    line = Text.assemble((f"{kind}: ", "bold red" if kind == "error" else "bold"), " ".join(message.split()))
    Console(stderr=True, highlight=False, soft_wrap=True).print(line)


def fail(message: str, status: int = 2) -> NoReturn:
    """End the program with one line on the error stream."""
    complain(message)
    sys.exit(status)
