"""Jobs of a server as people see them: a table, which can be watched."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from rich.live import Live
from rich.table import Column, Table

from sigmafield.cli.console import console, escaped, show_table

if TYPE_CHECKING:
    from sigmafield.client import JobInfo

HEAD = ("id", "status", "progress", "priority", "age", "what")

EVERY = 0.5
"""Seconds between two looks at jobs that are watched."""


def plain_of(info: JobInfo) -> dict[str, Any]:
    """A job as JSON holds it."""
    return dataclasses.asdict(info)


def row_of(info: JobInfo) -> list[str]:
    """A job as a row of the table."""
    share = f"{info.progress:4.0%} of {info.steps} steps" if info.steps else ""
    label = f", {info.label}" if info.label and info.status == "running" else ""
    age = short_time((info.ended or time.time()) - info.created)
    return [info.id, info.status, share + label, str(info.priority), age, escaped(what_of(info))]


def what_of(info: JobInfo) -> str:
    """What a job draws, or why it failed."""
    if info.error:
        return info.error
    return info.request["prompt"][:60] if info.kind == "recipe" else f"workflow of {len(info.request)} nodes"


def short_time(seconds: float) -> str:
    """A duration in words: 12 s, 3 min, 5 h, 2 d."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def show_jobs(infos: Sequence[JobInfo]) -> None:
    """Print a table of jobs."""
    if infos:
        show_table(HEAD, [row_of(info) for info in infos])
    else:
        print("no jobs")


def show_job(info: JobInfo) -> None:
    """Print all that is known of a job."""
    out = console(soft_wrap=True)
    for name, value in zip(HEAD, row_of(info)):
        if value:
            out.print(f"{name}: {value}")
    if info.saved:
        out.print(f"saved steps: {', '.join(map(str, info.saved))}")
    for n, each in enumerate(info.outputs):
        size = f", {each.width}x{each.height}" if each.width else ""
        out.print(f"output {n}: {escaped(each.name)}, {each.media_type}{size}, {each.size} bytes")


def watch(ask: Callable[[], Sequence[JobInfo]]) -> Sequence[JobInfo]:
    """Show jobs as they change until all have ended; the jobs then."""
    from sigmafield.recipes.jobs import FINISHED

    with Live(console=console(), refresh_per_second=4, transient=True) as live:
        while True:
            infos = ask()
            table = Table(Column(HEAD[0], no_wrap=True), *HEAD[1:], box=None, header_style="bold")
            for info in infos:
                table.add_row(*row_of(info))
            live.update(table)
            if all(info.status in FINISHED for info in infos):
                return infos
            time.sleep(EVERY)
