"""Files that a client may name: those below a folder, and nothing that leads out of it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from sigmafield.core.registry import shown


def inside(root: Path, name: str, what: str) -> Path:
    """The file or folder of a relative name below a root, with all links followed.

    Args:
        root: The folder that clients may read.
        name: A name relative to it, with forward slashes.
        what: What the name is, for errors: "image".

    Raises:
        ValueError: The name is absolute, leads out of the root (through a link as well), is hidden, or does not exist.
            The message is the same for all of them, so that it does not tell which files exist outside.
    """
    parts = name.split("/")
    # a colon is a drive or a stream on Windows, a backslash a separator
    plain = bool(name) and not any(c in name for c in "\\:\0") and all(part not in ("", ".", "..") for part in parts)
    hidden = any(part.startswith(".") for part in parts)
    if plain and not hidden:
        with suppress(OSError, RuntimeError, ValueError):  # missing, a loop of links, too long, not encodable
            top = root.resolve(strict=True)
            path = top.joinpath(*parts).resolve(strict=True)
            if path.is_relative_to(top):
                return path
    raise ValueError(f"{what}: no file {shown(name)} in the folder that this server gives access to")
