"""A server instead of this machine: which one, and how a job there is followed in the terminal."""

from __future__ import annotations

import io
import os
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from PIL import Image

from sigmafield.cli.errors import complain
from sigmafield.cli.panels import panel
from sigmafield.cli.signals import Interrupted, Signals

if TYPE_CHECKING:
    from sigmafield.client import Client, Event, Job, JobInfo

HERE = "http://127.0.0.1:8188"
"""Where `sigmafield serve` listens unless it is asked for another address."""

ADDRESS, TOKEN = "SIGMAFIELD_SERVER", "SIGMAFIELD_TOKEN"
"""Environment variables with a server's address, and with a token in the form "TOKEN" or "OWNER TOKEN"."""

Server = Annotated[
    str | None,
    Parameter(
        name="--server",
        env_var=ADDRESS,
        help=f"Have the server at this address draw, such as {HERE}; {TOKEN} has its token.",
        group=panel("Machine"),
    ),
]


@contextmanager
def connected(url: str) -> Iterator[Client]:
    """A client of a server, with the token of the environment.

    Raises:
        ImportError: The extra `client` is not installed.
        ValueError: It is not an address.
    """
    try:
        from sigmafield.client import Client
    except ImportError as error:
        raise ImportError(f"a server's client needs {error.name}: pip install 'sigmafield[client]'") from None
    words = next(iter(os.environ.get(TOKEN, "").splitlines()), "").split()
    with Client(url, words[-1] if words else None) as client:
        yield client


@contextmanager
def detaching(command: str) -> Iterator[Signals]:
    """A signal inside of this context leaves the server's jobs alone, and says how to get at them.

    Args:
        command: What fetches the images, with the arguments that it needs.

    Raises:
        Interrupted: A signal came.
    """
    signals = Signals()
    try:
        with signals.raised():
            yield signals
    except Interrupted:
        complain(f"interrupted; the server goes on: fetch the images with {command}", kind="note")
        raise


def fetching(url: str, id: str, *more: str | Path) -> str:
    """The command that fetches a job's images."""
    return shlex.join(["sigmafield", "jobs", "fetch", id, *map(str, more), "--server", url])


def followed(job: Job, note: Callable[[Event], None]) -> JobInfo:
    """The job once it is done, each event of which is noted; JobFailed if it fails or is cancelled."""
    for event in job.events():
        note(event)
    return job.wait()


def preview_of(event: Event) -> list[Image.Image]:
    """What a step sees, where the server shows it."""
    return [Image.open(io.BytesIO(event.preview))] if event.preview else []


def refuse_here(here: Mapping[str, Any]) -> None:
    """Raise ValueError for a flag that says how this machine draws, and that was given.

    Args:
        here: Values by the flags' names; None or False is not given.
    """
    for name, value in here.items():
        if value is not None and value is not False:
            flag = name.replace("_", "-")
            raise ValueError(f'--{flag} is about this machine: leave it out with --server, or give --server ""')
