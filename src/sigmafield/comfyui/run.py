"""A workflow run to its end in one call, plain or awaited."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sigmafield.comfyui import events as happened
from sigmafield.comfyui.cache import Cache
from sigmafield.comfyui.context import Context, Folders
from sigmafield.comfyui.definition import Definition
from sigmafield.comfyui.executor import execute
from sigmafield.comfyui.graph import Prompt
from sigmafield.comfyui.nodes import all_nodes
from sigmafield.comfyui.validation import validate


@dataclass(frozen=True)
class Result:
    """What a workflow gave.

    Args:
        shown: What nodes show, by id: {"9": {"images": [{"filename": …}]}}.
        values: A list per output, by id, of all nodes that ran.
        files: The files that were saved.
    """

    shown: Mapping[str, Mapping[str, Sequence[Any]]]
    values: Mapping[str, tuple[Sequence[Any], ...]]
    files: tuple[Path, ...]


def run_workflow(
    prompt: Prompt,
    context: Context = Context(),
    nodes: Mapping[str, Definition] | None = None,
    cache: Cache | None = None,
) -> Result:
    """Run a workflow to its end.

    Args:
        prompt: The prompt in API form, such as `Workflow.prompt`.
        context: Where files are, the device, and what is written into images.
        nodes: The classes by class type; None: all that there are.
        cache: Where results are kept from one prompt to the next; None: nowhere.

    Raises:
        ValueError: It cannot run; the message lists everything that is missing.
        RuntimeError: A node failed; its error is the cause.
    """
    nodes = all_nodes() if nodes is None else nodes
    validated = validate(prompt, nodes, context.folders)
    validated.check()
    shown: dict[str, Mapping[str, Sequence[Any]]] = {}
    values: dict[str, tuple[Sequence[Any], ...]] = {}
    for event in execute(validated, nodes, context, cache):
        if isinstance(event, happened.Executed) and event.ui is not None:
            shown[event.node] = event.ui
        elif isinstance(event, happened.Finished):
            values[event.node] = event.values
        elif isinstance(event, happened.Failed):
            raise RuntimeError(f"node {event.node} ({event.class_type}): {event.error}") from event.error
    return Result(shown, values, tuple(path for ui in shown.values() for path in files_of(ui, context.folders)))


async def run_workflow_async(
    prompt: Prompt,
    context: Context = Context(),
    nodes: Mapping[str, Definition] | None = None,
    cache: Cache | None = None,
) -> Result:
    """Run a workflow in a thread; arguments and errors as for `run_workflow`."""
    return await asyncio.to_thread(run_workflow, prompt, context, nodes, cache)


def files_of(ui: Mapping[str, Sequence[Any]], folders: Folders) -> list[Path]:
    """The files that a node shows; values that are not lists, which custom nodes may give, have none."""
    lists = [items for items in ui.values() if isinstance(items, (list, tuple))]
    items = [item for items in lists for item in items if isinstance(item, Mapping) and "filename" in item]
    roots = {"temp": folders.temp, "input": folders.input}
    return [
        roots.get(each.get("type", "output"), folders.output) / each.get("subfolder", "") / each["filename"]
        for each in items
    ]
