"""Environments of clients of ComfyUI: each client is installed, unchanged, in one of its own, which is kept."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "sigmafield-tests" / "clients"


@dataclass(frozen=True)
class Environment:
    """An environment.

    Args:
        folder: Where it is.
        url: The server's address.
    """

    folder: Path
    url: str

    def run(self, *words: str | Path, code: int = 0, variables: Mapping[str, str] = {}) -> str:
        """What a program of the environment prints, output and errors together.

        Args:
            words: The program's name and its arguments.
            code: The exit code that is expected.
            variables: Of the environment, in addition.
        """
        path = self.folder / "bin" / str(words[0])
        program = str(path) if path.exists() else str(words[0])
        home = self.folder / "home"
        home.mkdir(exist_ok=True)
        own = {"HOME": str(home), "DO_NOT_TRACK": "1", "NO_COLOR": "1", "COLUMNS": "200", **variables}
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COMFY"))}
        made = subprocess.run(
            [program, *map(str, words[1:])], env={**kept, **own}, cwd=home, timeout=150, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert made.returncode == code, made.stdout
        return made.stdout


def python(name: str, url: str, *requirements: str) -> Environment:
    """An environment of Python with some packages, made where it is not there."""
    folder = CACHE / name
    if _missing(folder, requirements):
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        pip = [folder / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *requirements], check=True)
        _note(folder, requirements)
    return Environment(folder, url)


def node(name: str, url: str, *packages: str) -> Environment:
    """An environment of Node with some packages, made where it is not there."""
    folder = CACHE / name
    if _missing(folder, packages):
        folder.mkdir(parents=True)
        (folder / "package.json").write_text("{}")
        npm = ["npm", "install", "--no-audit", "--no-fund", "--silent", "--ignore-scripts"]
        subprocess.run([*npm, *packages], cwd=folder, check=True)
        _note(folder, packages)
    return Environment(folder, url)


def _missing(folder: Path, wanted: tuple[str, ...]) -> bool:
    """Whether an environment is not there; one that is not whole, or has other packages, is removed."""
    mark = folder / "installed"
    if mark.is_file() and mark.read_text() == "\n".join(wanted):
        return False
    shutil.rmtree(folder, ignore_errors=True)
    return True


def _note(folder: Path, wanted: tuple[str, ...]) -> None:
    (folder / "installed").write_text("\n".join(wanted))
