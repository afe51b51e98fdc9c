"""Assets in a workflow: {"__type": "core/ASSET", "info": {"id": …}} in place of a file's name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sigmafield.serve.comfyui.v2.errors import Refused

TYPE = "core/ASSET"


def resolved(workflow: Any, name_of: Callable[[str | None, str | None], str | None]) -> Any:
    """A workflow with the names of files in place of assets.

    Args:
        workflow: Nodes by id.
        name_of: Gives the name of an asset by its id and its hash; None where there is no such asset.

    Raises:
        Refused: Assets are not there; all are listed.
    """
    missing: list[str] = []

    def walk(value: Any) -> Any:
        if isinstance(value, dict):
            if value.get("__type") == TYPE:
                return found(value)
            return {key: walk(each) for key, each in value.items()}
        return [walk(each) for each in value] if isinstance(value, list) else value

    def found(reference: dict[str, Any]) -> str:
        info = reference.get("info")
        info = info if isinstance(info, dict) else {}
        id, hash = (each if isinstance(each := info.get(key), str) else None for key in ("id", "hash"))
        name = name_of(id, hash) if id or hash else None
        if name is None:
            missing.append(id or hash or "")
        return name or ""

    try:
        made = walk(workflow)
    except RecursionError:
        raise Refused(422, "invalid_workflow", "The workflow is nested too deeply.") from None
    if missing:
        said = f"Unresolvable {TYPE} reference(s): {', '.join(missing) or 'without an id'}"
        raise Refused(422, "missing_asset", said, {"missing_ids": missing})
    return made
