"""`sigmafield jobs`: the jobs of a server, listed and steered."""

from __future__ import annotations

import json as json_
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from sigmafield.cli.errors import user_errors
from sigmafield.cli.jobs_steer import ACTIONS, changes_of, priority_of, steered, take
from sigmafield.cli.jobs_table import plain_of, show_job, show_jobs, watch
from sigmafield.cli.remote import ADDRESS, HERE, TOKEN, connected, detaching, fetching
from sigmafield.cli.signals import Signals

if TYPE_CHECKING:
    from sigmafield.client import Client, JobInfo


def jobs(
    *words: Annotated[str, Parameter(help="Ids of jobs, after what is to be done with them; none lists all.")],
    server: Annotated[str, Parameter(env_var=ADDRESS, help=f"Address of the server; {TOKEN} has its token.")] = HERE,
    status: Annotated[
        Literal["queued", "running", "paused", "done", "failed", "cancelled"] | None, Parameter(help="List only these.")
    ] = None,
    limit: Annotated[int, Parameter(help="List this many at most, the latest.")] = 20,
    watch_: Annotated[
        bool, Parameter(name="--watch", negative="", help="Show the list as it changes, until all have ended.")
    ] = False,
    set: Annotated[
        tuple[str, ...], Parameter(negative=(), help="Other value of a clone's recipe: seed=5, 'prompt=a green heart'.")
    ] = (),
    step: Annotated[int | None, Parameter(help="Saved step that a clone goes on from. [default: the start]")] = None,
    output: Annotated[
        Path | None,
        Parameter(
            name=["--output", "-o"], help="File to write, or folder, of `fetch` and `take`. [default: this folder]"
        ),
    ] = None,
    json: Annotated[bool, Parameter(negative="", help="Print one JSON object for machines.")] = False,
) -> None:
    """List, watch and steer the jobs of a server.

    `sigmafield jobs` lists the latest, and `sigmafield jobs ID` says all about one.

    The first word says what is done with jobs: `pause ID…`, `resume ID…`, `cancel ID…`, `delete ID…`; `priority N ID…`,
    the highest of which run first; `clone ID…`, with other values by --set; `fetch ID…`, which waits for images and
    writes them; and `take ID…`, which writes a paused workflow that `sigmafield run` finishes here. For example:
    sigmafield jobs fetch 3f2a9c0d41b7e685 -o heart.png
    """
    with user_errors():
        action, ids = (words[0], list(words[1:])) if words and words[0] in ACTIONS else ("", list(words))
        number = priority_of(ids) if action == "priority" else 0
        if action and not ids:
            raise ValueError(f"give the id of a job: sigmafield jobs {action} ID")
        with connected(server) as client:
            if action == "fetch":
                fetch(client, ids, server, output, as_json=json)
                return
            if action == "take":
                print(*take(client, ids, output), sep="\n")
                return
            if action:
                infos = [steered(client, id, action, number, changes_of(set), step) for id in ids]
            else:
                infos = listed(client, ids, status, limit)
                if watch_:
                    with Signals().raised():
                        infos = watch(lambda: listed(client, ids, status, limit))
            shown(infos, whole=bool(ids) and not action, as_json=json)


def shown(infos: Sequence[JobInfo | str], whole: bool, as_json: bool) -> None:
    """Print jobs, or the ids of those that are deleted."""
    if as_json:
        print(json_.dumps({"jobs": [i if isinstance(i, str) else plain_of(i) for i in infos]}, ensure_ascii=False))
        return
    kept = [info for info in infos if not isinstance(info, str)]
    for info in kept if whole else ():
        show_job(info)
    if not whole and (kept or not infos):
        show_jobs(kept)


def listed(client: Client, ids: Sequence[str], status: Any, limit: int) -> Sequence[JobInfo]:
    """The jobs with these ids, or the latest."""
    return [client.job(id).info for id in ids] if ids else client.jobs(status=status, limit=limit)


def fetch(client: Client, ids: Sequence[str], server: str, output: Path | None, *, as_json: bool) -> None:
    """Wait for jobs and write their images."""
    from sigmafield.cli.remote_draw import fetched

    for id in ids:
        with detaching(fetching(server, id, *(() if output is None else ("-o", output)))):
            fetched(client.job(id), output, as_json=as_json)
