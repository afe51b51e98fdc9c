"""A run of `sigmafield run`: its events as lines, and what an interruption leaves."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from sigmafield.cli.errors import complain
from sigmafield.cli.signals import Interrupted, Signals
from sigmafield.cli.workflow_setup import Setup
from sigmafield.comfyui import events as happened
from sigmafield.comfyui.cache import Cache
from sigmafield.comfyui.context import Folders
from sigmafield.comfyui.executor import execute
from sigmafield.comfyui.paused import Paused, save_paused
from sigmafield.comfyui.previews import Previews
from sigmafield.comfyui.problems import Validated
from sigmafield.comfyui.run import files_of
from sigmafield.recipes.output import save_image


def once(
    made: Setup, validated: Validated, cache: Cache, paused: Paused | None = None, previews: Previews | None = None
) -> int:
    """Run a workflow and print what it saves; the status that the program should end with."""
    context = replace(made.context, extra=paused.extra if paused else None)
    last: Paused | None = None
    try:
        with Signals().raised():
            for event in execute(validated, made.nodes, context, cache, paused=paused, previews=previews):
                last = event.paused if isinstance(event, happened.Stepped) else last
                if not _say(event, validated, made.context.folders):
                    return 1
    except Interrupted as signal:
        if last is not None:
            path = made.context.folders.output / f"paused-{time.strftime('%Y%m%d-%H%M%S')}.safetensors"
            path.parent.mkdir(parents=True, exist_ok=True)
            inputs = {each.name: each.read_bytes() for each in made.context.folders.input.iterdir()}
            save_paused(replace(last, files=inputs), path)
            complain(f"interrupted: finish it with sigmafield run {path}", kind="note")
        return signal.status
    return 0


def _say(event: happened.Event, validated: Validated, folders: Folders) -> bool:
    """Print an event: files on the output stream, progress on the error stream; False for an error."""
    if isinstance(event, happened.Executing):
        print(f"{event.node} {validated.prompt.get(event.display, {}).get('class_type', '')}", file=sys.stderr)
    elif isinstance(event, happened.Stepped):
        end = "\r" if sys.stderr.isatty() and event.progress.value < event.progress.max else "\n"
        print(f"{event.node} {event.progress.value}/{event.progress.max}", end=end, file=sys.stderr)
        if event.preview is not None:
            folders.temp.mkdir(parents=True, exist_ok=True)
            save_image(event.preview, folders.temp / (re.sub(r"[^\w.]", "-", event.display) + ".png"))
    elif isinstance(event, happened.Said):
        print(f"{event.display} {' '.join(event.text.split())}", file=sys.stderr)
    elif isinstance(event, happened.Executed):
        for line in _shown(event, folders):
            print(line)
    elif isinstance(event, happened.Refused):
        complain(f"node {event.node}: {event.message}", kind="note")
    elif isinstance(event, happened.Failed):
        complain(f"node {event.node} ({event.class_type}): {type(event.error).__name__}: {event.error}")
        return False
    return True


def _shown(event: happened.Executed, folders: Folders) -> Iterator[str]:
    """The files of a node, and the texts that it shows."""
    ui = event.ui or {}
    yield from map(str, files_of(ui, folders))
    yield from (item for items in ui.values() for item in items if isinstance(item, str))


def changes(file: Path) -> Iterator[None]:
    """Now, and whenever a file has changed since."""
    seen = _stamp(file)
    yield
    while True:
        time.sleep(0.3)
        now = _stamp(file)
        if now is not None and now != seen:
            seen = now
            yield


def _stamp(file: Path) -> tuple[int, int] | None:
    """Time and size of a file, None while it is missing; half a file may have the time of the whole one."""
    try:
        found = file.stat()
    except FileNotFoundError:  # programs that save may replace the file
        return None
    return found.st_mtime_ns, found.st_size


def finish(status: int) -> None:
    """End the program unless all went well."""
    if status:
        raise SystemExit(status)
