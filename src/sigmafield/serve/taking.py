"""A paused workflow of a server, as a file that finishes it on another machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from sigmafield.comfyui.graph import Prompt
from sigmafield.comfyui.paused import Paused, load_paused, paused_bytes
from sigmafield.comfyui.run import files_of
from sigmafield.serve.files import JobFiles
from sigmafield.serve.jobs import JobRecord, WrongState
from sigmafield.serve.workflow_job import Workflows


def paused_file(record: JobRecord, running: bool, files: JobFiles, workflows: Workflows) -> bytes:
    """The file of a paused workflow, with the images that it reads.

    Nodes that have saved files already run again where it goes on, because those files stay here.

    Args:
        record: The job.
        running: Whether it has a thread, which saves its state when it ends.
        files: Its folder; without a saved state the workflow begins at its start.
        workflows: What workflows find.

    Raises:
        WrongState: It is not a paused workflow, or its thread has not saved its state yet.
    """
    if record.kind != "workflow" or record.status != "paused":
        raise WrongState(f"job {record.id} is a {record.kind} that is {record.status}, and not a paused workflow")
    if running:
        raise WrongState(f"job {record.id} takes its step to the end before it is saved: ask again")
    own = workflows.of(record.owner, record.client)
    folders = replace(own.folders, output=files.outputs, temp=files.folder / "temp")
    states = list(files.states().values())
    if states:
        paused = load_paused(states[-1])
    else:
        checked = own.checked(record.request)
        paused = Paused(checked.prompt, tuple(checked.outputs))
    done = {name: entry for name, entry in paused.done.items() if not files_of(entry.ui or {}, folders)}
    read = read_by(paused.prompt, folders.input)
    return paused_bytes(replace(paused, done=done, files=read, extra=record.request.get("extra")))


def read_by(prompt: Prompt, folder: Path) -> Mapping[str, bytes]:
    """The files of the folder of inputs that a prompt names, by their names."""
    values = [value for node in prompt.values() for value in node.get("inputs", {}).values()]
    names = {value for value in values if isinstance(value, str) and value and Path(value).name == value}
    return {name: (folder / name).read_bytes() for name in sorted(names) if (folder / name).is_file()}
