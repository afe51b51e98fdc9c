"""Parts of generated pages: tables, docstrings as Markdown, citations, figures."""

from __future__ import annotations

import inspect
import io
import re
from collections.abc import Iterable

from matplotlib.figure import Figure

from sigmafield.citations import sources
from sigmafield.cli.explain import settings
from sigmafield.guidance.registry import Mod
from sigmafield.samplers import Sampler
from sigmafield.schedules import Schedule

SECTION = re.compile(r"^(Args|Returns|Raises|Yields):\n((?:[ \t]+.*\n?|\n)*)", re.MULTILINE)
"""A section of a docstring in Google style: its name, its indented lines."""


def parameters(owner: Sampler | Schedule | Mod) -> list[str]:
    """The table of parameters, if there are any."""
    rows = [
        (f"`{name}`", default, values, meaning.replace("|", "\\|"))
        for name, default, values, meaning in settings(owner)
    ]
    return ["## Parameters", block(grid(("name", "default", "values", "meaning"), rows))] if rows else []


def citation(paper: str) -> list[str]:
    """Its sources in words and as BibTeX."""
    entries = sources(paper)
    listed = block(f"- {entry}" for entry in entries)
    return ["## Source", f"{paper}:", listed, "```bibtex\n" + "\n\n".join(entry.text for entry in entries) + "\n```"]


def prose(doc: str) -> str:
    """A docstring as Markdown, without its arguments: they have a table of their own.

    Its equation is the second paragraph where nothing is indented.
    """
    sections = {name: inspect.cleandoc(lines) for name, lines in SECTION.findall(doc)}
    paragraphs = SECTION.sub("", doc).strip().split("\n\n")
    indented = any(re.search("^    ", paragraph, re.MULTILINE) for paragraph in paragraphs)
    if len(paragraphs) > 1 and not indented and re.search(" [=←] ", paragraphs[1]):
        paragraphs[1] = block("    " + line for line in paragraphs[1].splitlines())
    for name in ("Returns", "Raises"):
        if name in sections:
            paragraphs.append(f"**{name}:** {' '.join(sections[name].split())}")
    return "\n\n".join(paragraphs)


def grid(head: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """Lines of a Markdown table."""
    head = list(head)
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def block(lines: Iterable[str]) -> str:
    """Lines of one block."""
    return "\n".join(lines)


def svg(figure: Figure) -> str:
    """A figure as text, without a date, so that equal figures are equal files."""
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()
