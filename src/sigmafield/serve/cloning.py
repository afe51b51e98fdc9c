"""A job submitted again, from its start or from a saved state, with some entries of its request changed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sigmafield.recipes.recipe import Recipe
from sigmafield.runs.checkpoint import load_state, state_bytes
from sigmafield.serve.files import JobFiles
from sigmafield.serve.jobs import JobRecord
from sigmafield.serve.recipe_job import META
from sigmafield.serve.workflow_job import Workflows

OF_THE_NETWORK = (
    "prompt", "negative", "cfg", "distilled_guidance", "regions", "controls", "control_crop", "ip_adapters",
    "loras", "lora_partial", "clip_skip", "allow_nonfinite",
)  # fmt: skip
"""Entries of a recipe that may change in the middle of a run: the state's shape and memories do not depend on them."""


def cloned(
    source: JobRecord, files: JobFiles, step: int | None, changes: Mapping[str, Any], workflows: Workflows
) -> tuple[dict[str, Any], bytes | None]:
    """(the request of a clone, the file of the state that it goes on from).

    Args:
        source: The job that is cloned.
        files: Its folder.
        step: Of the state; None is the start.
        changes: Entries of the request; None leaves one out.
        workflows: What workflows find.

    Raises:
        ValueError: The state does not exist, or the changed request is not valid.
    """
    if source.kind == "workflow":
        if step is not None:
            raise ValueError("a workflow is cloned from its start: leave step out")
        request = {name: value for name, value in {**source.request, **changes}.items() if value is not None}
        workflows.of(source.owner, source.client).checked(request)
        return request, None
    if step is None:
        return changed(source.request, changes), None
    states = files.states()
    if step not in states:
        known = ", ".join(map(str, states)) or "none"
        raise ValueError(f"job {source.id} has no saved state of step {step}; saved: {known}")
    return changed_state(states[step], changes)


def changed(entries: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe as JSON holds it with other entries, a None leaving one out; ValueError if it is not valid then."""
    forgotten = {f"{name}_sha256" for name in changes} - changes.keys()
    kept = {name: value for name, value in entries.items() if name not in forgotten}
    given = {name: value for name, value in {**kept, **changes}.items() if value is not None}
    return Recipe.from_plain(given).to_plain()


def changed_state(path: Path, changes: Mapping[str, Any]) -> tuple[dict[str, Any], bytes]:
    """(the recipe of a saved state with other entries, the state's file with that recipe).

    Raises:
        ValueError: The recipe is not valid then, or a change asks for another run than the state is of.
    """
    for name in changes:
        if name not in OF_THE_NETWORK:
            known = ", ".join(OF_THE_NETWORK)
            raise ValueError(
                f"a clone that goes on from a saved state may change what the network is asked, {known}; got {name}"
            )
    state, meta = load_state(path)
    entries = changed(json.loads(meta[META]), changes)
    return entries, state_bytes(state, {META: json.dumps(entries)})
