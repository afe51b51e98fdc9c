"""Pages of the command line, of the Python API, and of the files at the root: a hook of mkdocs, run by `make docs`."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

import sigmafield as sf

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "sigmafield"

ROOMS = {
    "core": "types, processes, conditionings, geometry, parameters, registries: no network and no file",
    "parameterization": "what a network predicts, its noise levels, latent formats, model families",
    "noise": "sources of noise: streams, noise keyed by sample, Brownian paths, spectra",
    "schedules": "noise levels of a run",
    "samplers": "one file per family",
    "runs": "the loop, checkpoints, iterative mixing, multiphase runs",
    "guidance": "guiders, guidance mods and patches of networks",
    "spatial": "σ-fields, tiles, context windows, inpainting, quadtrees",
    "models": "loading models; network, text encoder and VAE",
    "recipes": "from a recipe to images",
    "comfyui": "nodes of ComfyUI as functions",
    "serve": "the HTTP server",
    "client": "a server's jobs from Python",
    "lab": "coefficients, convergence, stability, plots; experiments with their statistics and reports",
    "cli": "the command line",
}
"""The rooms of the package in the order of the table in CONTRIBUTING.md, and what is in them."""

TABLES = {
    "MODS": "../mods/index.md",
    "SAMPLERS": "../samplers/index.md",
    "SCHEDULES": "../schedules/index.md",
}
"""Public names that are tables of named rows, and the pages that list them."""

COLUMNS = "100"
"""Width of the text of `--help`."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put a page for each room under 'Python API'."""
    for section in config.nav or []:
        for item in next(iter(section.values())):
            if "api/index.md" in item.values():
                item["Python API"] = ["api/index.md", *(f"api/{room}.md" for room in rooms())]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    pages = {"cli.md": cli_page(), "api/index.md": api_page()}
    pages |= {f"api/{room}.md": room_page(room) for room in rooms()}
    for name in ("CONTRIBUTING", "CHANGELOG"):
        text = (ROOT / f"{name}.md").read_text("utf-8").replace("](docs/", "](")
        pages[f"{name.lower()}.md"] = text.replace("](CONTRIBUTING.md", "](contributing.md")
    for path, content in pages.items():
        files.append(File.generated(config, path, content=content))
    return files


def rooms() -> list[str]:
    """The rooms that have modules."""
    return [room for room in ROOMS if modules(room)]


def modules(room: str) -> list[str]:
    """Public modules below a room, by their dotted names."""
    paths = sorted((PACKAGE / room).rglob("*.py"), key=lambda path: (len(path.parts), path))
    dotted = (".".join(path.relative_to(PACKAGE).with_suffix("").parts) for path in paths)
    return [f"sigmafield.{name}" for name in dotted if not name.endswith("__init__")]


def api_page() -> str:
    """The names of `sigmafield` itself, each with its first line, and the rooms."""
    rows = [f"| {link(name)} | {summary(getattr(sf, name))} |" for name in sf.__all__]
    lines = ["# Python API", "", "`import sigmafield as sf` has these names. They are imported when first used."]
    lines += ["", "| `sf.` | |", "|---|---|", *rows]
    lines += ["", "Everything else is in one of these rooms; a room imports only from rooms above it.", ""]
    lines += ["| room | |", "|---|---|", *(f"| [`sigmafield.{room}`]({room}.md) | {ROOMS[room]} |" for room in rooms())]
    lines += ["", "::: sigmafield.diffusers_scheduler", "", "::: sigmafield.citations", ""]
    return "\n".join(lines)


def link(name: str) -> str:
    """A public name with a link to what documents it: a table's own page, or the entry on a room's page."""
    value = getattr(sf, name)
    if name in TABLES:
        return f"[`{name}`]({TABLES[name]})"
    return f"[`{name}`][{value.__module__}.{name}]"


def summary(value: Any) -> str:
    """The first line of a docstring; of a registry, how many rows it has."""
    if isinstance(value, type) or inspect.isfunction(value):
        return (inspect.getdoc(value) or "").partition("\n")[0]
    return f"Table of {len(value)} rows by name; `lookup(name)` finds one and names near misses."


def room_page(room: str) -> str:
    """All modules of a room."""
    lines = [f"# sigmafield.{room}", "", f"{ROOMS[room][0].upper()}{ROOMS[room][1:]}.", ""]
    for module in modules(room):
        lines += [f"::: {module}", ""]
    return "\n".join(lines)


def cli_page() -> str:
    """The help of each command, as the command line prints it."""
    top = help_of()
    commands = commands_in(top)
    if not commands:
        raise ValueError(f"no commands found in the help of sigmafield:\n{top}")
    lines = ["# Command line", "", "What `sigmafield --help` and `sigmafield COMMAND --help` print.", ""]
    lines += ["```text", top, "```", ""]
    for command in commands:
        lines += [f"## {command}", "", "```text", text := help_of(command), "```", ""]
        for part in commands_in(text):
            lines += [f"### {command} {part}", "", "```text", help_of(command, part), "```", ""]
    return "\n".join(lines)


def commands_in(text: str) -> list[str]:
    """The commands that a help lists; of a command without any, none."""
    return re.findall(r"^ {0,4}([a-z][a-z-]+)(?:  +\S.*)?$", text.partition("\nCommands:")[2], re.MULTILINE)


def help_of(*command: str) -> str:
    """The help of a command in plain text: panels become headings."""
    plain = {"COLUMNS": COLUMNS, "TERMINAL_WIDTH": COLUMNS, "NO_COLOR": "1", "TERM": "dumb", "PYTHONUTF8": "1"}
    paths = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")]))
    run = subprocess.run(
        [sys.executable, "-m", "sigmafield", *command, "--help"],
        env={**os.environ, **plain, "PYTHONPATH": paths}, capture_output=True, text=True, encoding="utf-8", check=True,
    )  # fmt: skip
    text = re.sub(r"^[╭┌][─ ]*([^─╮┐]*?)[─ ]*[╮┐]$", r"\1:", run.stdout, flags=re.MULTILINE)  # a panel's title
    text = re.sub(r"^[╰└]─*[╯┘]$", "", text, flags=re.MULTILINE)
    text = re.sub(r"^│ ?(.*?) *│$", r"  \1", text, flags=re.MULTILINE)
    text = re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE).replace("python -m sigmafield", "sigmafield")
    return re.sub(r"\n{3,}", "\n\n", text).strip("\n")
