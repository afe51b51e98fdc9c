"""Prompts read from their end, node by node, for those who look for a shape in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from sigmafield.comfyui.graph import Prompt, is_link
from sigmafield.core.registry import shown

PRIMITIVES = ("PrimitiveInt", "PrimitiveFloat", "PrimitiveString", "PrimitiveStringMultiline", "PrimitiveBoolean")
"""Classes that give out the value which they are given."""


class Found(NamedTuple):
    """A node of a prompt, and the number of the output that a link takes of it."""

    id: str
    kind: str
    inputs: Mapping[str, Any]
    slot: int = 0


class Reader:
    """A prompt that is read from its end, and the nodes that were read.

    Args:
        prompt: The prompt in API form.
    """

    def __init__(self, prompt: Prompt):
        self.prompt = prompt
        self.seen: set[str] = set()

    def at(self, node: Found, name: str, *kinds: str) -> Found:
        """The node that an input is linked to.

        Raises:
            ValueError: It is not linked, or to a node of another class than these, if any are given.
        """
        value = node.inputs.get(name, "")
        if not is_link(value) or value[0] not in self.prompt:
            raise ValueError(f"node {node.id} ({node.kind}): {name} is not linked")
        other = self.prompt[value[0]]
        found = Found(value[0], other["class_type"], other["inputs"], int(value[1]))
        if kinds and found.kind not in kinds:
            wanted = f"{' or '.join(kinds)} as {name} of {node.kind}"
            raise ValueError(f"node {found.id} ({found.kind}): a recipe can have {wanted} there")
        self.seen.add(found.id)
        return found

    def value(self, node: Found, name: str) -> Any:
        """The value of an input, or that of a primitive which it is linked to; ValueError for other links."""
        value = node.inputs.get(name)
        if is_link(value):
            return self.at(node, name, *PRIMITIVES).inputs.get("value")
        if value is None:
            raise ValueError(f"node {node.id} ({node.kind}): {name} is missing")
        return value

    def number(self, node: Found, name: str) -> float:
        """The number that an input has; ValueError for other values."""
        value = self.value(node, name)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError(f"node {node.id} ({node.kind}): {name} must be a number; got {shown(value)}")
        return float(value)
