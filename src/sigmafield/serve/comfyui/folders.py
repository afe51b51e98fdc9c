"""The directories of ComfyUI's protocol: models, images that are read, files that are saved, and what users keep."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from sigmafield.comfyui.context import Folders
from sigmafield.comfyui.environment import DIRECTORIES, Models, extra_folders, joined_folders, model_folders
from sigmafield.core.registry import near_miss, shown
from sigmafield.serve.comfyui.file_settings import FileSettings
from sigmafield.serve.uploads import owner_folder

KINDS = ("input", "output", "temp")
"""The directories of files that routes name."""

SAVED_MODELS = {
    "checkpoints": "checkpoints", "loras": "loras", "vae": "vae", "text_encoders": "clip",
    "diffusion_models": "diffusion_models",
}  # fmt: skip
"""Kinds of models that workflows save, with the folder below the output directory that they are in."""

KEPT_PREVIEWS = 24 * 3600.0
"""Seconds for which files of the temp directory are kept: jobs go on after a restart, and refer to them."""

LONGEST_NAME = 240
"""Bytes of a name in a path that a client gives; file systems take 255, and " (1)" may follow."""

DEEPEST = 32
"""Names in such a path."""

DEFAULT_USER = "default"
"""The user where users have no names."""


@dataclass(frozen=True)
class Directories:
    """Where files are.

    Args:
        base: The folder that holds the others unless they are given.
        models: Directories of each kind of model.
        input: Of images that workflows load.
        output: Of what they save.
        temp: Of previews.
        user: Of settings and saved workflows.
        settings: What they come from.
    """

    base: Path
    models: Models
    input: Path
    output: Path
    temp: Path
    user: Path
    settings: FileSettings = FileSettings()

    @property
    def folders(self) -> Folders:
        """The directories as workflows find them."""
        return Folders(self.models, self.input, self.output, self.temp)

    def of(self, owner: str) -> Directories:
        """The directories of an owner of a token, below those of all."""
        roots = {kind: owner_folder(getattr(self, kind), owner) for kind in KINDS}
        return replace(self, **roots)

    def root(self, kind: str) -> Path:
        """The directory "input", "output" or "temp"; ValueError for another kind."""
        if kind not in KINDS:
            raise ValueError(f"type must be one of {', '.join(KINDS)}{near_miss(kind, KINDS)}")
        return getattr(self, kind)

    def kind_of(self, kind: str) -> list[Path]:
        """The directories of a kind of model; LookupError if there is no such kind."""
        if kind not in self.models:
            raise LookupError(f"no kind of models {shown(kind)}")
        return [Path(path) for path in self.models[kind]]


def make_directories(settings: FileSettings, folder: Path, models: Path | None) -> Directories:
    """The directories of a server, made where they do not exist.

    Args:
        settings: Where they are.
        folder: Of the server's jobs.
        models: Folder of models; None is models in the base directory.

    Raises:
        FileNotFoundError: A file of further model folders does not exist.
        ValueError: It has another form.
    """
    base = (settings.base_directory or folder).expanduser().resolve()
    top = models.resolve() if models is not None else base / "models"
    made = {
        "input": settings.input_directory or base / "input",
        "output": settings.output_directory or base / "output",
        "temp": (settings.temp_directory or base) / "temp",
        "user": settings.user_directory or base / "user",
    }
    paths = {name: path.expanduser().resolve() for name, path in made.items()}
    for path in (top, *paths.values()):
        path.mkdir(parents=True, exist_ok=True)
    found: Models = {}
    for file in settings.extra_model_paths_config:
        found = joined_folders(found, extra_folders(file))
    saved: Models = {kind: [paths["output"] / name] for kind, name in SAVED_MODELS.items()}
    own = joined_folders(model_folders(top), saved)
    known = joined_folders(found, own) if found else own
    order = {kind: known[kind] for kind in (*DIRECTORIES, *known)}
    return Directories(base, order, **paths, settings=settings)


def inside(root: Path, *parts: str) -> Path:
    """A path below a directory, which may not exist.

    Raises:
        ValueError: It leads out of the directory, through a link as well, or cannot be a path; or a name in it is
            longer than `LONGEST_NAME`, it is deeper than `DEEPEST`, or a file is where it needs a folder.
    """
    given = shown("/".join(part for part in parts if part))
    try:
        path = root.joinpath(*parts)
        below = "\0" not in str(path) and path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError, ValueError):  # too long, a loop of links, not encodable
        below = False
    if not below:
        raise ValueError(f"{given} is not in the {root.name} folder")
    names = path.parts[len(root.parts) :]
    if (longest := max((len(os.fsencode(name)) for name in names), default=0)) > LONGEST_NAME:
        raise ValueError(f"a name may have at most {LONGEST_NAME} bytes; one in {given} has {longest}")
    if len(names) > DEEPEST:
        raise ValueError(f"a path may have at most {DEEPEST} names; {given} has {len(names)}")
    if any(root.joinpath(*names[:k]).is_file() for k in range(1, len(names))):
        raise ValueError(f"{given} has a file where it needs a folder")
    return path


def annotated(name: str) -> tuple[str, str | None]:
    """A name without "[input]", "[output]" or "[temp]" after it, and which of them it was."""
    found = re.fullmatch(r"(.*?) ?\[(input|output|temp)\]", name, re.DOTALL)
    return (found[1], found[2]) if found else (name, None)


def tidy_temp(root: Path, used: Callable[[str], bool]) -> None:
    """Remove files of the temp directory that are older than `KEPT_PREVIEWS`: previews, and uploads that were cut off.

    Args:
        root: The directory.
        used: Whether a job that has not ended names the file, given its name as JSON has it, without quotes.
    """
    oldest = time.time() - KEPT_PREVIEWS
    for folder, _, names in os.walk(root):
        for path in (Path(folder, name) for name in names):
            with suppress(OSError):  # deleted meanwhile
                if path.lstat().st_mtime < oldest and not used(json.dumps(path.name)[1:-1]):
                    path.unlink()


def user_name(owner: str) -> str:
    """The folder of an owner's settings and workflows."""
    if not owner:
        return DEFAULT_USER
    plain = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", owner) and os.path.normcase(owner) == owner
    return f"owner-{owner if plain else hashlib.sha256(owner.encode()).hexdigest()[:32]}"
