"""What jobs have made, as assets: files under any key of a node's results, and plain texts."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from aiohttp import web

from sigmafield.runs.files import write_whole
from sigmafield.serve.comfyui.folders import KINDS, Directories, inside
from sigmafield.serve.comfyui.v2.assets import absolute, soon
from sigmafield.serve.comfyui.v2.digests import digest
from sigmafield.serve.comfyui.v2.errors import BASE
from sigmafield.serve.comfyui.v2.records import Asset, Records
from sigmafield.serve.comfyui.v2.uploaded import made
from sigmafield.serve.comfyui.view import media_type

NAMESPACE = uuid.UUID("b7a6ad6e-6f6a-5b5e-9a43-3d7b6cf1a5f0")
"""What ids of outputs are drawn from: the same output always has the same id."""

TYPES = {"images": "image", "gifs": "video", "video": "video", "audio": "audio", "text": "text", "latents": "latent"}
"""Types of outputs by the key that they are under, where their media type says nothing."""

Results = Mapping[str, Mapping[str, Sequence[Any]]]


def assets_of(
    job: str, results: Results, owner: str, here: Directories, records: Records, texts: Path
) -> list[dict[str, Any]]:
    """The outputs of a job, each with what clients see of it except for its address; new ones become assets.

    Args:
        job: The job.
        results: Of its nodes, by key.
        owner: Whose job it is.
        here: The owner's directories.
        records: The assets that there are.
        texts: Folder in which plain texts are kept.
    """
    found: dict[str, dict[str, Any]] = {}
    for node, key, item in items(results):
        id = str(uuid.uuid5(NAMESPACE, f"{job}/{node}/{key if isinstance(item, str) else ''}/{item}"))
        with suppress(OSError, ValueError):  # deleted meanwhile, or a custom node names a file elsewhere
            asset = known(id, owner, records) or records.add(new(id, job, node, item, owner, here, texts))
            found[id] = {
                "node_id": node, "name": Path(asset.path).name, "type": type_of(asset, key),
                "content_type": asset.content_type, "size_bytes": asset.size, "id": id, "hash": asset.hash,
                "job_id": job,
            }  # fmt: skip
    return list(found.values())


def items(results: Results) -> Iterator[tuple[str, str, Any]]:
    """(node, key, item) of each result that is a file or a text; a text without a file is itself the item."""
    for node, shown in results.items():
        for key, values in shown.items():
            for item in values if isinstance(values, (list, tuple)) else ():
                if isinstance(item, Mapping) and isinstance(item.get("filename"), str):
                    names = ("filename", "subfolder", "type")
                    yield node, key, {name: str(item.get(name) or "") for name in names}
                elif isinstance(item, str) and key == "text":
                    yield node, key, item


def known(id: str, owner: str, records: Records) -> Asset | None:
    """The asset of an id, if there is one."""
    try:
        return records.asset(id, owner)
    except LookupError:
        return None


def new(id: str, job: str, node: str, item: Any, owner: str, here: Directories, texts: Path) -> Asset:
    """A new asset of a result.

    Raises:
        OSError: Its file is gone.
        ValueError: Its file is not in one of the directories.
    """
    if isinstance(item, str):
        texts.mkdir(parents=True, exist_ok=True)
        path = texts / f"{id}.txt"
        write_whole(path, item.encode())
        return made(path, path.name, "text", "text/plain; charset=utf-8", owner, digest(path), id, job, node)
    kind = item["type"] if item["type"] in KINDS else "output"
    path = inside(here.root(kind), item["subfolder"], item["filename"])
    return made(path, path.name, kind, media_type(path.name), owner, digest(path), id, job, node)


def type_of(asset: Asset, key: str) -> str:
    """The type of an output: image, video, audio, text, latent or file."""
    top = asset.content_type.partition("/")[0]
    return top if top in ("image", "video", "audio", "text") else TYPES.get(key, "file")


def with_address(request: web.Request, output: Mapping[str, Any]) -> dict[str, Any]:
    """An output with the address of its bytes."""
    url = absolute(request, f"{BASE}/assets/{output['id']}/content")
    return {**output, "url": url, "url_expires_at": soon()}
