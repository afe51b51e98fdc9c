"""What `sigmafield run` does: folders and classes, the workflow with its changed values, and its events."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import mkdtemp

from sigmafield.cli.errors import complain
from sigmafield.cli.signals import Interrupted, Signals
from sigmafield.comfyui import events as happened
from sigmafield.comfyui.cache import Cache
from sigmafield.comfyui.context import Context, Folders
from sigmafield.comfyui.custom_nodes import load_nodes
from sigmafield.comfyui.definition import Definition
from sigmafield.comfyui.environment import extra_folders, joined_folders, model_folders, unknown_classes, with_tiny
from sigmafield.comfyui.executor import execute
from sigmafield.comfyui.nodes import all_nodes
from sigmafield.comfyui.object_info import object_info
from sigmafield.comfyui.paused import Paused, save_paused
from sigmafield.comfyui.problems import Validated
from sigmafield.comfyui.validation import validate
from sigmafield.comfyui.workflow.classes import known_classes
from sigmafield.comfyui.workflow.files import read_workflow
from sigmafield.comfyui.workflow.value import Workflow
from sigmafield.models.load import choose_device


@dataclass(frozen=True)
class Setup:
    """The classes that there are, and where files are."""

    nodes: dict[str, Definition]
    context: Context

    def read(self, file: Path, values: Sequence[str], files: Sequence[str], substitute: str | None) -> Validated:
        """The workflow of a file with other values, checked; ValueError says all that is missing."""
        folders = self.context.folders
        infos = {**known_classes(), **{name: object_info(each, folders) for name, each in self.nodes.items()}}
        workflow = Workflow.of(read_workflow(file), infos)
        for text in [*values, *(_linked(each, workflow, folders.input) for each in files)]:
            workflow = _with(workflow, text)
        prompt = workflow.prompt
        if unknown := unknown_classes(prompt, self.nodes):
            raise ValueError("; ".join(unknown))
        if substitute:
            prompt, notes = with_tiny(prompt, folders.names("checkpoints"))
            for note in notes:
                complain(note, kind="note")
        validated = validate(prompt, self.nodes, folders)
        validated.check()
        return validated


def setup(models: Path | None, extra: Path | None, output: Path, nodes: Path | None, device: str | None) -> Setup:
    """The classes and folders that the flags name."""
    found = joined_folders(model_folders(models) if models else {}, extra_folders(extra) if extra else {})
    temporary = Path(mkdtemp(prefix="sigmafield-"))
    folders = Folders(found, input=temporary, output=output, temp=temporary)
    known = dict(all_nodes().items())
    if nodes is not None:
        loaded = load_nodes(nodes, known)
        for name, reason in loaded.refused.items():
            complain(f"{name} is left out: {reason}", kind="note")
        known |= loaded.nodes
    return Setup(known, Context(folders, str(choose_device(device))))


def _with(workflow: Workflow, text: str) -> Workflow:
    """The workflow with the value of "node.input=value": JSON, or else a text."""
    key, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"a value is set as NODE.INPUT=VALUE, such as KSampler.steps=10; got {text}")
    try:
        return workflow.with_inputs({key: json.loads(value)})
    except ValueError:  # not JSON, or a text such as 5
        return workflow.with_inputs({key: value})


def _linked(text: str, workflow: Workflow, folder: Path) -> str:
    """Put a file into the folder of inputs: "image=cat.png" for the only node with that input, as a value to set."""
    key, equals, name = text.partition("=")
    path = Path(name)
    if not equals or not path.is_file():
        raise ValueError(f"a file is given as NODE.INPUT=FILE; got {text}" if not equals else f"no file {path}")
    link = folder / path.name
    link.unlink(missing_ok=True)
    link.symlink_to(path.resolve())
    if "." in key:
        return f"{key}={json.dumps(path.name)}"
    nodes = [node.id for node in workflow.nodes if key in node.inputs and isinstance(node.inputs[key], str)]
    if len(nodes) != 1:
        raise ValueError(f"{len(nodes) or 'no'} nodes have a file as input {key}: name one, as NODE.{key}={name}")
    return f"{nodes[0]}.{key}={json.dumps(path.name)}"


def once(made: Setup, validated: Validated, cache: Cache, paused: Paused | None = None) -> int:
    """Run a workflow and print what it saves; the status that the program should end with."""
    context = replace(made.context, extra=paused.extra if paused else None)
    last: Paused | None = None
    try:
        with Signals().raised():
            for event in execute(validated, made.nodes, context, cache, paused=paused):
                last = event.paused if isinstance(event, happened.Stepped) else last
                if not _say(event, validated, made.context.folders):
                    return 1
    except Interrupted as signal:
        if last is not None:
            path = made.context.folders.output / f"paused-{time.strftime('%Y%m%d-%H%M%S')}.safetensors"
            path.parent.mkdir(parents=True, exist_ok=True)
            save_paused(last, path)
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
    for items in (event.ui or {}).values():
        for item in items:
            if isinstance(item, dict) and "filename" in item:
                root = folders.temp if item.get("type") == "temp" else folders.output
                yield str(root / item.get("subfolder", "") / item["filename"])
            else:
                yield str(item)


def changes(file: Path) -> Iterator[None]:
    """Now, and whenever a file has changed since."""
    seen = -1.0
    while True:
        changed = file.stat().st_mtime if file.exists() else seen
        if changed != seen:
            seen = changed
            yield
        time.sleep(0.3)


def finish(status: int) -> None:
    """End the program unless all went well."""
    if status:
        raise SystemExit(status)
