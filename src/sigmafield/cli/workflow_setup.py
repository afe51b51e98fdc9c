"""What `sigmafield run` starts from: folders and classes, and the workflow with its changed values."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfile

from sigmafield.cli.errors import complain
from sigmafield.comfyui.context import Context, Folders
from sigmafield.comfyui.custom_nodes import load_nodes
from sigmafield.comfyui.definition import Definition
from sigmafield.comfyui.environment import extra_folders, joined_folders, model_folders, unknown_classes, with_tiny
from sigmafield.comfyui.nodes import all_nodes
from sigmafield.comfyui.object_info import object_info
from sigmafield.comfyui.problems import Validated
from sigmafield.comfyui.replacements import replaced
from sigmafield.comfyui.validation import validate
from sigmafield.comfyui.workflow.classes import known_classes
from sigmafield.comfyui.workflow.files import read_workflow
from sigmafield.comfyui.workflow.value import Workflow
from sigmafield.models.devices import choose_device


@dataclass(frozen=True)
class Setup:
    """The classes that there are, and where files are."""

    nodes: dict[str, Definition]
    context: Context

    def read(self, file: Path, values: Sequence[str], files: Sequence[str], substitute: str | None) -> Validated:
        """The workflow of a file with other values, checked; ValueError says all that is missing."""
        folders = self.context.folders
        infos = {**known_classes(), **{name: object_info(each, folders) for name, each in self.nodes.items()}}
        found = read_workflow(file)
        if unknown := unknown_classes(found, infos, self.nodes):
            raise ValueError("; ".join(unknown))
        workflow = Workflow.of(found, infos)
        for text in [*values, *(_linked(each, workflow, folders.input) for each in files)]:
            workflow = with_value(workflow, text)
        prompt = replaced(workflow.prompt, self.nodes)
        if substitute:
            prompt, notes = with_tiny(prompt, folders.names("checkpoints"))
            for note in notes:
                complain(note, kind="note")
        validated = validate(prompt, self.nodes, folders)
        validated.check()
        return validated


def setup(
    models: Path | None, extra: Path | None, output: Path, nodes: Path | None, device: str | None, inputs: Path
) -> Setup:
    """The classes and folders that the flags name; `inputs` is where files of inputs are put."""
    if output.exists() and not output.is_dir():
        raise ValueError(f"output must be a folder; {output} is a file")
    found = joined_folders(model_folders(models) if models else {}, extra_folders(extra) if extra else {})
    folders = Folders(found, input=inputs, output=output, temp=output / "previews")
    known = dict(all_nodes().items())
    if nodes is not None:
        loaded = load_nodes(nodes, known)
        for name, reason in loaded.refused.items():
            complain(f"{name} is left out: {reason}", kind="note")
        known |= loaded.nodes
    return Setup(known, Context(folders, str(choose_device(device))))


def with_value(workflow: Workflow, text: str) -> Workflow:
    """The workflow with the value of "node.input=value": JSON, or else a text."""
    key, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"a value is set as NODE.INPUT=VALUE, such as KSampler.steps=10; got {text}")
    try:
        read = json.loads(value)
    except ValueError:  # not JSON: a text
        return workflow.with_inputs({key: value})
    try:
        return workflow.with_inputs({key: read})
    except ValueError as error:
        try:
            return workflow.with_inputs({key: value})  # a text such as 5
        except ValueError:
            raise error from None


def _linked(text: str, workflow: Workflow, folder: Path) -> str:
    """Put a file into the folder of inputs: "image=cat.png" for the only node with that input, as a value to set."""
    key, path = input_file(text, workflow)
    put = folder / path.name
    while put.exists():  # another input's file
        put = put.with_stem(f"{put.stem}-2")
    copyfile(path, put)  # not a link, which would lead out of the folder
    return f"{key}={json.dumps(put.name)}"


def input_file(text: str, workflow: Workflow) -> tuple[str, Path]:
    """("NODE.INPUT", file) of "image=cat.png" for the only node with that input, or of "NODE.image=cat.png".

    Raises:
        ValueError: The text is not of this form, the file does not exist, or not one node has the input.
    """
    key, equals, name = text.partition("=")
    path = Path(name)
    if not equals or not path.is_file():
        raise ValueError(f"a file is given as NODE.INPUT=FILE; got {text}" if not equals else f"no file {path}")
    if "." in key:
        return key, path
    nodes = [node.id for node in workflow.nodes if key in node.inputs and isinstance(node.inputs[key], str)]
    if len(nodes) != 1:
        raise ValueError(f"{len(nodes) or 'no'} nodes have a file as input {key}: name one, as NODE.{key}={name}")
    return f"{nodes[0]}.{key}", path
