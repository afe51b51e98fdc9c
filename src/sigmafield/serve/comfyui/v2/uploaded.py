"""Files that become assets: where they may be, and whether they are what they have to be."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sigmafield.serve.comfyui.folders import KINDS, Directories, inside
from sigmafield.serve.comfyui.uploads import kept
from sigmafield.serve.comfyui.v2.digests import digest, is_safetensors
from sigmafield.serve.comfyui.v2.errors import Refused
from sigmafield.serve.comfyui.v2.records import Asset, Records
from sigmafield.serve.comfyui.view import media_type

NOT_MODELS = ("custom_nodes", "configs")
"""Kinds of models whose folders take no files."""


@dataclass(frozen=True)
class Target:
    """Where a file goes.

    Args:
        kind: "input", or a kind of models.
        root: The directory.
        name: The file's name below it.
    """

    kind: str
    root: Path
    name: str

    @property
    def is_model(self) -> bool:
        """Whether it is a file of weights."""
        return self.kind not in KINDS


def target_of(file_path: str, here: Directories) -> Target:
    """Where a client's path leads: one name is in the input folder, "input/…" and "KIND/…" in that folder.

    Raises:
        Refused: It leads anywhere else.
    """
    parts = file_path.split("/")
    if not file_path or "\\" in file_path or any(part in ("", ".", "..") for part in parts) or ":" in parts[0]:
        raise Refused(422, "invalid_request", "file_path must be a relative path with forward slashes.")
    models = parts[0] == "models" and len(parts) > 2
    first, *rest = parts[1:] if models else parts
    if not rest:
        return Target("input", here.input, first)
    if first == "input" and not models:
        return Target("input", here.input, "/".join(rest))
    if first in here.models and first not in NOT_MODELS:
        return Target(first, here.kind_of(first)[0], "/".join(rest))
    known = ", ".join(["input", *(kind for kind in here.models if kind not in NOT_MODELS)])
    raise Refused(422, "invalid_request", f"file_path must begin with one of {known}.")


def check_weights(file: Path, name: str) -> None:
    """Raise Refused for a file that is not one of weights in safetensors."""
    if not name.endswith(".safetensors") or not is_safetensors(file):
        raise Refused(422, "invalid_request", "Models must be valid safetensors files; the header of this one is not.")


def stored(
    file: Path, file_path: str, content_type: str, expected: str | None, owner: str, here: Directories, records: Records
) -> tuple[Asset, bool]:
    """An asset of a file that has arrived, and whether its bytes are new.

    Args:
        file: The file, which is moved.
        file_path: Where its sender wants it.
        content_type: Its media type.
        expected: Its digest as the sender knows it; None is not checked.
        owner: Who sends it.
        here: The owner's directories.
        records: The assets that there are.

    Raises:
        Refused: It may not be there, is not what it has to be, or has another digest.
    """
    where = target_of(file_path, here)
    found = digest(file)
    if expected is not None and expected.lower() != found:
        raise Refused(409, "hash_mismatch", "The bytes have another hash than the one that was given.")
    if where.is_model:
        check_weights(file, where.name)
    for asset in records.with_hash(found, owner):
        if asset.kind == where.kind and asset.job is None:
            return asset, False
    try:
        path = inside(where.root, where.name)
    except ValueError as error:
        raise Refused(422, "invalid_request", str(error)) from None
    if where.is_model and path.exists():
        raise Refused(409, "hash_mismatch", f"There is another model {where.name} already.")
    path = kept(file, path)
    file.unlink(missing_ok=True)
    return records.add(
        made(path, path.relative_to(where.root).as_posix(), where.kind, content_type, owner, found)
    ), True


def made(
    path: Path, file_path: str, kind: str, content_type: str, owner: str, hash: str,
    id: str | None = None, job: str | None = None, node: str | None = None,
) -> Asset:  # fmt: skip
    """A new asset of a file; arguments as for `Asset`."""
    at = path.stat()
    return Asset(
        id or str(uuid.uuid4()), owner, kind, file_path, str(path), hash, at.st_size, at.st_mtime_ns, content_type,
        time.time(), job, node,
    )  # fmt: skip


def from_hash(hash: str, file_path: str | None, owner: str, records: Records) -> tuple[Asset, bool]:
    """An asset of bytes that are here, and whether it is new.

    Raises:
        Refused: There are no such bytes of this owner.
    """
    found = records.with_hash(hash, owner)
    if not found:
        raise Refused(404, "blob_not_found", "There are no bytes with this hash.")
    first = found[0]
    if first.job is None:
        return first, False
    path = Path(first.path)
    return records.add(made(path, file_path or path.name, first.kind, first.content_type, owner, first.hash)), True


def from_path(
    text: str, file_path: str | None, content_type: str | None, owner: str, here: Directories, records: Records
) -> tuple[Asset, bool]:
    """An asset of a file in one of the server's directories, and whether it is new.

    Raises:
        Refused: The path leads elsewhere, or there is no such file.
    """
    path = Path(text)
    places = [(kind, here.root(kind)) for kind in KINDS]
    places += [(kind, root) for kind in here.models if kind not in NOT_MODELS for root in here.kind_of(kind)]
    real = path.resolve() if path.is_absolute() and "\0" not in text else None
    place = next((p for p in places if real is not None and real.is_relative_to(p[1].resolve())), None)
    if real is None or place is None:
        raise Refused(422, "invalid_request", "path must be that of a file in a folder of inputs, outputs or models.")
    if not real.is_file():
        raise Refused(404, "blob_not_found", "There is no such file.")
    kind, root = place
    if kind not in KINDS:
        check_weights(real, real.name)
    found = digest(real)
    for asset in records.with_hash(found, owner):
        if Path(asset.path) == real and asset.job is None:
            return asset, False
    name = real.relative_to(root.resolve()).as_posix()
    shown = file_path or (f"{kind}/{name}" if kind in KINDS else name)
    return records.add(made(real, shown, kind, content_type or media_type(real.name), owner, found)), True


REFERENCE = re.compile(r"blake3:[0-9a-fA-F]{64}")


def named_in_workflow(asset: Asset, here: Directories) -> str:
    """An asset as a node's input names it: the path in the input folder or a model's folder, or with "[output]"."""
    path = Path(asset.path)
    if asset.kind in KINDS:
        root = here.root(asset.kind)
        name = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
        return name if asset.kind == "input" else f"{name} [{asset.kind}]"
    roots: Mapping[str, list[Path]] = {kind: here.kind_of(kind) for kind in here.models}
    root = next((each for each in roots.get(asset.kind, ()) if path.is_relative_to(each)), path.parent)
    return path.relative_to(root).as_posix()
