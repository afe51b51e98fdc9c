"""What a node can ask for next to its inputs: the prompt, the graph as it is now, its own id."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sigmafield.comfyui.context import Context


def asked(context: Context) -> dict[str, Any]:
    """The values by ComfyUI's names; a name that is not there has none.

    The prompt and the further values are None where files are written without them.
    """
    return {
        "PROMPT": context.prompt if context.metadata else None,
        "DYNPROMPT": DynamicPrompt(context),
        "EXTRA_PNGINFO": context.extra if context.metadata else None,
        "UNIQUE_ID": context.node,
    }


class DynamicPrompt:
    """The graph while it runs, with the nodes of expansions; methods have the names that custom nodes call.

    Args:
        context: That of the node that asks.
    """

    def __init__(self, context: Context):
        self._context = context

    def get_original_prompt(self) -> Mapping[str, Any]:
        """The prompt, without expansions."""
        return self._context.prompt

    def all_node_ids(self) -> set[str]:
        """The ids of all nodes."""
        return set(self._context.graph.nodes)

    def has_node(self, node_id: str) -> bool:
        """Whether there is a node of that id."""
        return node_id in self._context.graph.nodes

    def get_node(self, node_id: str) -> Mapping[str, Any]:
        """A node, with its class_type and inputs; KeyError for an unknown id."""
        return self._context.graph.nodes[node_id]

    def get_parent_node_id(self, node_id: str) -> str | None:
        """The node from whose expansion a node comes; None for one of the prompt."""
        return self._context.graph.parents.get(node_id)

    def get_real_node_id(self, node_id: str) -> str:
        """The node of the prompt that a node comes from."""
        return self._context.graph.real(node_id)

    def get_display_node_id(self, node_id: str) -> str:
        """The node that an interface shows in place of one."""
        return self._context.graph.display(node_id)
