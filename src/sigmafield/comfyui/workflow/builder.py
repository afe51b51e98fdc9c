"""Prompts that are built node by node."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sigmafield.comfyui.graph import is_link
from sigmafield.comfyui.workflow.classes import check_value, inputs_of, known_classes, title_of

Out = list[Any]
"""A link: [id, slot]."""


@dataclass
class Nodes:
    """A prompt that grows node by node."""

    prompt: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, kind: str, /, **inputs: Any) -> str:
        """Add a node; returns its id."""
        name = str(len(self.prompt) + 1)
        meta = {"title": title_of(kind, known_classes()[kind])}
        self.prompt[name] = {"inputs": inputs, "class_type": kind, "_meta": meta}
        return name

    def out(self, kind: str, /, **inputs: Any) -> Out:
        """Add a node; returns the link to its first output."""
        return [self.add(kind, **inputs), 0]

    def text(self, title: str, text: str, clip: Out) -> Out:
        """Add a prompt with a title; returns the link to its conditioning."""
        name = self.add("CLIPTextEncode", text=text, clip=clip)
        self.prompt[name]["_meta"]["title"] = title
        return [name, 0]

    def check(self) -> None:
        """Raise ValueError for values that nodes do not take, such as numbers beyond their ranges."""
        for node in self.prompt.values():
            for declared in inputs_of(known_classes()[node["class_type"]]):
                value = node["inputs"].get(declared.name)
                if value is not None and not is_link(value):
                    check_value(f"{declared.name} of ComfyUI's {node['class_type']}", declared, value)
