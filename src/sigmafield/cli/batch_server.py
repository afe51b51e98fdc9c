"""The lines of a batch drawn by a server; files and manifest are written here, as without it."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator, Sequence
from hashlib import sha256
from itertools import count
from typing import TYPE_CHECKING

from sigmafield.cli.batch_lines import Outcomes, checkpoint_of, write_line
from sigmafield.cli.errors import USER_ERRORS
from sigmafield.cli.manifest import Manifest
from sigmafield.cli.prompts import Line
from sigmafield.cli.remote import connected, detaching
from sigmafield.cli.remote_draw import drawn_there, facts_there, watched, words_there
from sigmafield.cli.runner import Watching
from sigmafield.cli.single import stem_of
from sigmafield.cli.terminal import Display
from sigmafield.recipes.output import files_of
from sigmafield.recipes.recipe import Recipe
from sigmafield.runs.files import check_writable

if TYPE_CHECKING:
    from sigmafield.client import Client, Job

AHEAD = 16
"""Lines that are with the server at once."""

Todo = Sequence[tuple[Line, Recipe]]
"""Lines with their recipes."""


def default_model(url: str) -> str:
    """The model of a server for recipes that name none."""
    with connected(url) as client:
        return client.models()[0]


def draw_on_server(
    todo: Todo, url: str, manifest: Manifest, how: Watching, outcomes: Outcomes, *, as_json: bool
) -> None:
    """Draw lines with a server, several at once.

    Args:
        todo: The lines with their recipes.
        url: The server's address.
        manifest: Of the batch.
        how: What is written on the way.
        outcomes: What becomes of the lines.
        as_json: Show no progress.

    Raises:
        OSError: The server does not answer.
        Interrupted: A signal came; the server goes on, and the same command fetches what it has drawn.
    """
    display = Display(as_json, [recipe.steps for _, recipe in todo])
    with connected(url) as client, detaching("the same command") as signals:
        for part, line, recipe, job in submitted(client, todo, manifest, outcomes):
            path = manifest.folder / f"{stem_of(recipe)}.png"
            try:
                info = watched(job, recipe, display, how, path, part)
                drawn = drawn_there(job)
                made = files_of(drawn.images, ".png", drawn.recipe, drawn.texts)
                with signals.held():
                    files = write_line(line.number, recipe, path, made, manifest)
                    checkpoint_of(line, manifest).remove()
            except USER_ERRORS as error:
                fail(outcomes, line, recipe, error, manifest)
                continue
            facts = facts_there(info, drawn.recipe, files)
            outcomes.images.append({**facts, "line": line.number})
            if not as_json:
                print(words_there(facts), flush=True)


def submitted(
    client: Client, todo: Todo, manifest: Manifest, outcomes: Outcomes
) -> Iterator[tuple[int, Line, Recipe, Job]]:
    """(position, line, recipe, job) of each line that the server takes, while some more are with it already."""
    going: deque[tuple[int, Line, Recipe, Job]] = deque()
    for part, (line, recipe) in enumerate(todo):
        try:
            check_writable(manifest.folder)
            going.append((part, line, recipe, job_of(client, line, recipe, manifest)))
        except USER_ERRORS as error:
            fail(outcomes, line, recipe, error, manifest)
        if len(going) == AHEAD:
            yield going.popleft()
    yield from going


def job_of(client: Client, line: Line, recipe: Recipe, manifest: Manifest) -> Job:
    """The job of a line: the one of an earlier command, unless that failed or was cancelled."""
    text = json.dumps([str(manifest.path.absolute()), line.number, recipe.to_plain()])
    key = sha256(text.encode()).hexdigest()
    for attempt in count(1):
        job = client.submit(recipe, key=f"{key}-{attempt}")
        if job.info.status not in ("failed", "cancelled"):
            return job
    raise AssertionError("attempts never end")


def fail(outcomes: Outcomes, line: Line, recipe: Recipe, error: Exception, manifest: Manifest) -> None:
    """Note that a line cannot be drawn; where the server is gone, no other line can be."""
    from sigmafield.client import Denied, Unavailable

    if isinstance(error, (Denied, Unavailable)):
        raise error
    outcomes.fail(line, recipe, error, manifest)
