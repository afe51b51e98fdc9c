"""The command line run in this process, with what it printed.

The shipped model, where nothing is added to it, is loaded once for all commands, as a value that none of them changes.
So are the arguments of each command, which cyclopts makes of its signature in most of the time that a line takes it.
"""

import contextlib
import copy
import io
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any
from unittest import mock

import pytest
from cyclopts import App, ArgumentCollection

from sigmafield.cli import main
from sigmafield.cli.terminal import Display
from sigmafield.core.protocols import State
from sigmafield.models import tiny
from sigmafield.models.directory import TINY
from sigmafield.models.load import load
from sigmafield.recipes import execute
from sigmafield.recipes.build import Job


@cache
def loaded(read: Any, options: frozenset[tuple[str, Any]]) -> Any:
    """The shipped model, whose modules a function reads."""
    return load(TINY, **dict(options))


@dataclass
class Ran:
    """What a command left."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def output(self):
        return self.stdout + self.stderr


def load_once(models: Mapping[str, Any], model: Any, **options: Any) -> Any:
    """`load`, which reads the shipped model once for each way of running it, and none of those that were loaded."""
    if str(model) in models and not options.get("loras"):
        return models[str(model)]
    if model != TINY or options.get("loras") or options.get("embeddings") is not None:
        return load(model, **options)
    return loaded(tiny.read_module, frozenset((name, value) for name, value in options.items() if name != "loras"))


BY_CYCLOPTS = App.assemble_argument_collection
ARGUMENTS: dict[tuple[Any, bool], ArgumentCollection] = {}
"""(command, with its docstring?) → its arguments, as they are before a line is read."""


def arguments_of(app: App, *, parse_docstring: bool = False, **more: Any) -> ArgumentCollection:
    """The arguments of a command, which have read nothing yet."""
    key = (app.default_command, parse_docstring)
    if more or key not in ARGUMENTS:
        made = BY_CYCLOPTS(app, parse_docstring=parse_docstring, **more)
        if more or any(argument.children for argument in made):
            return made
        ARGUMENTS[key] = made
    fresh = ArgumentCollection(copy.copy(argument) for argument in ARGUMENTS[key])
    for argument in fresh:
        argument.tokens = []  # a line's words
    return fresh


def run(*arguments, columns=140, stdout=None, stderr=None, models: Mapping[str, Any] = {}):
    """`sigmafield` with these arguments; streams may be given that act on what they are shown.

    models: Path → the pipeline that was loaded from it, which the command need not load.
    """
    out, err, before = stdout or io.StringIO(), stderr or io.StringIO(), os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(columns)
    code = 0
    try:
        shared = mock.patch.object(execute, "load", partial(load_once, models))
        once = mock.patch.object(App, "assemble_argument_collection", arguments_of)
        with shared, once, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main([str(argument) for argument in arguments])
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        os.environ.pop("COLUMNS") if before is None else os.environ.update(COLUMNS=before)
    return Ran(code, out.getvalue(), err.getvalue())


def interrupted(*arguments, when: Callable[[Job, State], bool]):
    """`sigmafield` with these arguments, which gets a real Ctrl-C after the first step of which `when` is true.

    What it prints is what a terminal shows, its progress bar included.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FORCE_COLOR", "1")
        patch.setenv("TERM", "xterm")
        patch.delenv("COLORTERM", raising=False)  # which would draw previews
        update, sent = Display.update, []

        def followed(display, job, state, part=0):
            update(display, job, state, part)
            if not sent and when(job, state):
                sent.append(True)
                os.kill(os.getpid(), signal.SIGINT)

        patch.setattr(Display, "update", followed)
        with heard():
            return run(*arguments, columns=200)


class Pressing(io.StringIO):
    """A terminal in which Ctrl-C is pressed as soon as a text is shown.

    at: Text → what is done as soon as it is shown.
    """

    def __init__(self, text: str, at: Mapping[str, Callable[[], object]] = {}):
        super().__init__()
        self.actions = {**at, text: lambda: os.kill(os.getpid(), signal.SIGINT)}

    def write(self, text: str) -> int:
        n = super().write(text)
        for shown in [each for each in self.actions if each in text]:
            self.actions.pop(shown)()
        return n


@contextlib.contextmanager
def heard():
    """Ctrl-C acts as in a terminal: `nohup make test &` ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
