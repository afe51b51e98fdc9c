"""`sigmafield run --server`: a workflow that a server runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sigmafield.cli.remote import connected, detaching, fetching, followed
from sigmafield.cli.workflow_setup import input_file, with_value
from sigmafield.comfyui.workflow.classes import known_classes
from sigmafield.comfyui.workflow.files import read_workflow
from sigmafield.comfyui.workflow.value import Workflow

if TYPE_CHECKING:
    from sigmafield.client import Event


def run_there(url: str, file: Path, values: Sequence[str], files: Sequence[str], output: Path) -> None:
    """Have a server run a workflow, and print the files that it saves.

    Args:
        url: The server's address.
        file: The workflow.
        values: Other values of inputs, "NODE.INPUT=VALUE".
        files: Files of inputs, "INPUT=FILE", which are uploaded.
        output: Folder of what is saved.

    Raises:
        Interrupted: A signal came; the server goes on.
    """
    if output.exists() and not output.is_dir():
        raise ValueError(f"output must be a folder; {output} is a file")
    workflow = Workflow.of(read_workflow(file), known_classes())
    for text in values:
        workflow = with_value(workflow, text)
    with connected(url) as client:
        for key, path in [input_file(text, workflow) for text in files]:
            workflow = workflow.with_inputs({key: client.upload(path.read_bytes())})
        job = client.submit_workflow(workflow.prompt)
        with detaching(fetching(url, job.id, "-o", output)) as signals:
            followed(job, say)
            with signals.held():
                paths = job.fetch(output)
    for path in paths:
        print(path)


def say(event: Event) -> None:
    """Print the progress of a sampler on the error stream."""
    if event.kind == "step":
        print(event.data["label"], file=sys.stderr)
