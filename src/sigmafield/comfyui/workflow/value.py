"""A workflow as a value: read from a file, looked at through its nodes, changed into another one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from PIL import Image

from sigmafield.comfyui.convert import to_prompt
from sigmafield.comfyui.graph import Prompt, is_link
from sigmafield.comfyui.workflow.classes import Classes, check_value, inputs_of
from sigmafield.comfyui.workflow.files import Embedded, of_image, of_value, read_workflow
from sigmafield.comfyui.workflow.offered import offered_classes
from sigmafield.comfyui.workflow.page import own_title, to_page
from sigmafield.core.registry import near_miss, shown


@dataclass(frozen=True)
class Handle:
    """A node of a workflow.

    Args:
        workflow: The workflow.
        id: The node's id.
    """

    workflow: Workflow
    id: str

    @property
    def class_type(self) -> str:
        """Its class."""
        return self.workflow.prompt[self.id]["class_type"]

    @property
    def title(self) -> str:
        """Its title; "" if it has none."""
        return own_title(self.workflow.prompt[self.id])

    @property
    def inputs(self) -> Mapping[str, Any]:
        """Its inputs: values, and links [id, slot]."""
        return MappingProxyType(self.workflow.prompt[self.id]["inputs"])

    def __getitem__(self, name: str) -> Any:
        """The value of an input; KeyError with the near miss if it has no such input."""
        if name not in self.inputs:
            raise KeyError(f"{self} has no input {shown(name)}{near_miss(name, self.inputs)}")
        return self.inputs[name]

    def with_inputs(self, **values: Any) -> Workflow:
        """The workflow with other values of this node's inputs; errors as for `Workflow.with_inputs`."""
        return self.workflow.with_inputs({f"{self.id}.{name}": value for name, value in values.items()})

    def __str__(self) -> str:
        return f"node {self.id} ({self.class_type})"


@dataclass(frozen=True)
class Workflow:
    """A workflow of ComfyUI in API form, with the classes of its nodes.

        wf = sf.Workflow.load("heart.png").with_inputs({"KSampler.steps": 10, "3.seed": 5})
        wf["KSampler"]["cfg"]

    Args:
        prompt: The prompt in API form.
        classes: What the nodes' classes take: entries of `/object_info`.
    """

    prompt: Prompt
    classes: Classes

    @classmethod
    def load(cls, source: str | Path | Image.Image | Mapping[str, Any], classes: Classes | None = None) -> Workflow:
        """The workflow of a file, an image in memory or a JSON object.

        A prompt in API form is preferred to a workflow of ComfyUI's page, which is converted.

        Args:
            source: JSON of either form, an image of ComfyUI (PNG, WebP, AVIF), or a file of tensors.
            classes: Entries of `/object_info`; None are ComfyUI's core classes, and those of this project.

        Raises:
            FileNotFoundError: The file does not exist.
            ValueError: It has no workflow, or one with nodes of unknown classes; the message lists these.
        """
        classes = offered_classes() if classes is None else classes
        if isinstance(source, Image.Image):
            return cls.of(of_image(source), classes)
        return cls.of(of_value(source) if isinstance(source, Mapping) else read_workflow(source), classes)

    @classmethod
    def of(cls, found: Embedded, classes: Classes) -> Workflow:
        """The workflow of what a file says; ValueError for nodes of unknown classes."""
        if found.prompt is None:
            assert found.page is not None  # one of the two is there
            return cls(to_prompt(found.page, classes), classes)
        nodes = {
            name: node for name, node in found.prompt.items() if isinstance(node, Mapping) and "class_type" in node
        }
        return cls({n: {k: v for k, v in node.items() if k != "is_changed"} for n, node in nodes.items()}, classes)

    @property
    def nodes(self) -> Iterator[Handle]:
        """Its nodes."""
        return (Handle(self, name) for name in self.prompt)

    def __getitem__(self, key: str | int) -> Handle:
        """The node with an id, a title or a class.

        Raises:
            KeyError: No node or several have it; the message has the near miss, or their ids.
        """
        name = str(key)
        if name in self.prompt:
            return Handle(self, name)
        for kind in ("title", "class_type"):
            found = [node for node in self.nodes if getattr(node, kind) == name]
            if len(found) == 1:
                return found[0]
            if found:
                several = ", ".join(node.id for node in found)
                raise KeyError(f"{len(found)} nodes are called {shown(name)}: take one by its id, {several}")
        known = {text for node in self.nodes for text in (node.id, node.title, node.class_type) if text}
        raise KeyError(f"no node has the id, title or class {shown(name)}{near_miss(name, known)}")

    def with_inputs(self, values: Mapping[str, Any]) -> Workflow:
        """The workflow with other values of some inputs.

        Args:
            values: By "node.input", where the node is an id, a title or a class: {"KSampler.steps": 10}. A value may be
                a link [id, slot].

        Raises:
            ValueError: The node or input does not exist, a value has the wrong type, is out of range, or is not one of
                the choices.
        """
        prompt = deepcopy(self.prompt)
        for key, value in values.items():
            node, name = self._place(key)
            declared = {each.name: each for each in inputs_of(self.classes.get(node.class_type, {}))}
            if name not in node.inputs and name not in declared:
                known = {*node.inputs, *declared}
                raise ValueError(f"{node} has no input {shown(name)}{near_miss(name, known)}")
            if is_link(value):
                self._check_link(key, value)
            elif name in declared:
                check_value(key, declared[name], value)
            prompt[node.id]["inputs"][name] = (
                {"__value__": value} if isinstance(value, list) and not is_link(value) else value
            )
        return Workflow(prompt, self.classes)

    def _place(self, key: str) -> tuple[Handle, str]:
        """The node and the input's name of "node.input"; both may have dots in them."""
        parts, error = key.split("."), ""
        for cut in range(len(parts) - 1, 0, -1):
            try:
                return self[".".join(parts[:cut])], ".".join(parts[cut:])
            except KeyError as reason:
                error = str(reason.args[0])
        raise ValueError(error or f"an input is named NODE.INPUT, such as KSampler.steps; got {shown(key)}")

    def _check_link(self, key: str, value: Any) -> None:
        if value[0] not in self.prompt:
            raise ValueError(f"{key} cannot be linked to {value[0]!r}{near_miss(value[0], self.prompt)}")

    def to_page(self) -> dict[str, Any]:
        """The workflow as ComfyUI's page opens it, laid out by depth; ValueError for nodes of unknown classes."""
        return to_page(self.prompt, self.classes)

    def to_json(self) -> str:
        """The prompt in API form as JSON, which ComfyUI's server and page take."""
        return json.dumps(self.prompt, indent=2, ensure_ascii=False)
