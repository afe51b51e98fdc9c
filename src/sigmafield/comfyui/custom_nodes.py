"""Node classes from Python files that were written for ComfyUI, and use only its forms of classes and values."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType

from sigmafield.comfyui.definition import Definition
from sigmafield.comfyui.from_v1 import v1_definition
from sigmafield.comfyui.from_v3 import v3_definitions
from sigmafield.comfyui.v3_api import MODULES, install

COMFYUI = frozenset(
    ("comfy", "comfy_api", "comfy_api_nodes", "comfy_config", "comfy_execution", "comfy_extras", "execution",
     "folder_paths", "latent_preview", "node_helpers", "nodes", "server")
)  # fmt: skip
"""Modules of ComfyUI itself."""


@dataclass
class Loaded:
    """What a folder of custom nodes has given.

    Args:
        nodes: Definitions by class type.
        refused: Why packs or classes were left out, by their name.
    """

    nodes: dict[str, Definition] = field(default_factory=dict[str, Definition])
    refused: dict[str, str] = field(default_factory=dict[str, str])


def load_nodes(folder: Path, known: Mapping[str, Definition] | None = None) -> Loaded:
    """Import the packs of a folder: Python files, and folders with an __init__.py. This runs their code.

    A pack that fails is left out, and the others are loaded. Of two classes with one name, the later one counts.

    Args:
        folder: The folder.
        known: Classes that packs cannot replace.

    Raises:
        FileNotFoundError: The folder does not exist.
        NotADirectoryError: It is a file.
    """
    if folder.is_file():
        raise NotADirectoryError(f"{folder} is a file, and nodes are in a folder: give {folder.parent}")
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder of nodes {folder}")
    install()
    loaded = Loaded()
    for path in sorted(folder.iterdir()):
        file = path / "__init__.py" if path.is_dir() else path
        if path.name.startswith((".", "__")) or file.suffix != ".py" or not file.is_file():
            continue
        try:
            for name, definition in _definitions(path, file, loaded):
                if known is not None and name in known:
                    loaded.refused[name] = f"{path.name} cannot replace the class {name} of sigmafield"
                else:
                    loaded.nodes[name] = definition
        except (Exception, SystemExit) as error:  # a pack is foreign code: whatever it raises, the others are loaded
            loaded.refused[path.name] = str(error) if isinstance(error, Refused) else f"{type(error).__name__}: {error}"
    return loaded


class Refused(ValueError):
    """A pack that needs ComfyUI."""


def _definitions(path: Path, file: Path, loaded: Loaded) -> Iterator[tuple[str, Definition]]:
    """The definitions of a pack; classes that are not complete are added to the refused ones."""
    for source in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
        for line, module in foreign_imports(source.read_text("utf-8")):
            where = source.relative_to(path.parent)
            raise Refused(f"it imports {module}, a module of ComfyUI, in line {line} of {where.as_posix()}")
    pack, module = _imported(path, file), f"custom_nodes.{path.stem}"
    for name, make in _classes(pack, module):
        try:
            definition = make()
        except Exception as error:  # as above
            loaded.refused[name] = f"{type(error).__name__}: {error}"
        else:
            yield definition.name, definition


def _classes(pack: ModuleType, module: str) -> Iterator[tuple[str, Callable[[], Definition]]]:
    """The classes of a pack: those of the first form if it has any."""
    mappings = getattr(pack, "NODE_CLASS_MAPPINGS", None)
    entry = getattr(pack, "comfy_entrypoint", None)
    if mappings is None:
        if entry is None:
            raise Refused("it has neither NODE_CLASS_MAPPINGS nor comfy_entrypoint")
        yield from v3_definitions(entry, module)
        return
    titles = getattr(pack, "NODE_DISPLAY_NAME_MAPPINGS", None) or {}
    for name, cls in mappings.items():
        yield name, partial(v1_definition, name, cls, titles.get(name), module)


def _imported(path: Path, file: Path) -> ModuleType:
    """The module of a pack, under a name that depends on its path."""
    name = f"sigmafield_nodes_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    inside = [str(path)] if path.is_dir() else None
    spec = importlib.util.spec_from_file_location(name, file, submodule_search_locations=inside)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def foreign_imports(source: str) -> Iterator[tuple[int, str]]:
    """The modules of ComfyUI that a text imports, with their lines; those that it can do without are left out.

    Args:
        source: Python code.
    """
    tree = ast.parse(source)
    optional = {
        id(each)
        for block in ast.walk(tree)
        if isinstance(block, ast.Try) and block.handlers
        for statement in block.body
        for each in ast.walk(statement)
    }
    for each in ast.walk(tree):
        if id(each) in optional:
            continue
        names = [alias.name for alias in each.names] if isinstance(each, ast.Import) else []
        if isinstance(each, ast.ImportFrom) and not each.level and each.module:
            names = [each.module]
        for name in names:
            if name.partition(".")[0] in COMFYUI and name not in MODULES:
                yield each.lineno, name  # pyright: ignore[reportAttributeAccessIssue]
