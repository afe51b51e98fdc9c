"""Where the files of ComfyUI's page are: in a folder, or in packages that its user has installed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from pkgutil import iter_modules

PACKAGE = "comfyui-frontend-package"
TEMPLATES = "comfyui-workflow-templates"
INDEX = "index.html"


@dataclass(frozen=True)
class Frontend:
    """ComfyUI's page.

    Args:
        root: Folder of its files.
        version: As the package says it; "" for a folder.
        templates: Files of templates, by name.
        templates_version: As the package says it; None without one.
        docs: Folder of the nodes' documentation; None without one.
    """

    root: Path
    version: str = ""
    templates: Mapping[str, Path] = field(default_factory=dict[str, Path])
    templates_version: str | None = None
    docs: Path | None = None


def find_frontend(root: Path | None) -> Frontend | None:
    """The page in a folder, or in the installed package; None without one."""
    folder = root.resolve() if root is not None else package_folder("comfyui_frontend_package", "static")
    if folder is None or not (folder / INDEX).is_file():
        return None
    docs = package_folder("comfyui_embedded_docs", "docs")
    return Frontend(folder, version_in(folder), template_files(), installed(TEMPLATES), docs)


def version_in(folder: Path) -> str:
    """The version of a page: of the installed package if the folder is in it, else of the metadata beside it."""
    for file in folder.parent.parent.glob("comfyui_frontend_package-*.dist-info"):
        return file.name.removeprefix("comfyui_frontend_package-").removesuffix(".dist-info")
    return ""


def installed(name: str) -> str | None:
    """The version of an installed package; None if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def package_folder(package: str, name: str) -> Path | None:
    """A folder of an installed package, which is not imported; None if it is not there."""
    try:
        spec = find_spec(package)
    except (ImportError, ValueError):
        return None
    for place in (spec.submodule_search_locations or ()) if spec is not None else ():
        if (Path(place) / name).is_dir():
            return Path(place) / name
    return None


def template_files() -> dict[str, Path]:
    """The files of the installed packages of templates, by name."""
    found: dict[str, Path] = {}
    for module in sorted(each.name for each in iter_modules() if each.name.startswith("comfyui_workflow_templates")):
        folder = package_folder(module, "templates")
        for path in sorted(folder.rglob("*")) if folder is not None else ():
            if path.is_file():
                found.setdefault(path.name, path)
    return found
