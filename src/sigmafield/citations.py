"""BibTeX entries of the sources of samplers, schedules and guidance mods."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from sigmafield.core.registry import nearest
from sigmafield.recipes.mods import MODS
from sigmafield.samplers import SAMPLERS
from sigmafield.schedules import SCHEDULES

ENTRY = re.compile(r"^@(\w+)\{([\w-]+),\n(.*?)^\}$", re.MULTILINE | re.DOTALL)
FIELD = re.compile(r"^  (\w+) = \{(.*)\},$", re.MULTILINE)


@dataclass(frozen=True)
class Entry:
    """One BibTeX entry.

    Args:
        key: Key of the entry.
        fields: Its fields without the outer braces.
        text: The whole entry.
    """

    key: str
    fields: dict[str, str]
    text: str

    def __str__(self) -> str:
        """Authors (year): title. arXiv number or address."""
        names = [name.partition(",")[0].strip("{}") for name in self.fields["author"].split(" and ")]
        who = names[0] if len(names) == 1 else f"{names[0]} and {names[1]}" if len(names) == 2 else f"{names[0]} et al."
        where = f"arXiv:{self.fields['eprint']}" if "eprint" in self.fields else self.fields.get("url", "")
        return f"{who} ({self.fields['year']}): {plain(self.fields['title'])}. {where}".rstrip()

    def is_source_of(self, paper: str) -> bool:
        """Whether a registry's `paper` names this entry: by arXiv number, or software by its title."""
        if "eprint" in self.fields:
            return f"arXiv:{self.fields['eprint']}" in paper
        return plain(self.fields["title"]) in paper


def plain(text: str) -> str:
    """A field without the braces that protect capital letters."""
    return text.replace("{", "").replace("}", "")


@cache
def bibliography() -> dict[str, Entry]:
    """All entries of `data/papers.bib` by key, papers in the order of their arXiv numbers."""
    text = (files("sigmafield") / "data" / "papers.bib").read_text("utf-8")
    return {m[2]: Entry(m[2], dict(FIELD.findall(m[3])), m[0]) for m in ENTRY.finditer(text)}


def sources(paper: str) -> list[Entry]:
    """The entries that a registry's `paper` names, in the order in which it names them."""
    found = [entry for entry in bibliography().values() if entry.is_source_of(paper)]
    return sorted(found, key=lambda e: paper.index(e.fields.get("eprint", plain(e.fields["title"]))))


def cite(*names: str) -> list[Entry]:
    """The entries for samplers, schedules and mods, each entry once.

    Args:
        *names: Names of samplers, schedules, mods or entries; without names, sigmafield's own entry is returned.

    Raises:
        ValueError: If a name is unknown; the message suggests the nearest one.
    """
    found: dict[str, Entry] = {}
    for name in names or ("sigmafield",):
        papers = [table[name].paper for table in (SAMPLERS, SCHEDULES, MODS) if name in table]
        if name in bibliography():
            papers = [plain(bibliography()[name].fields["title"])]
        if not papers:
            known = [*SAMPLERS, *SCHEDULES, *MODS]
            near = nearest(name, known) or "; `sigmafield samplers`, `schedules` and `guidance` list them"
            raise ValueError(f"no sampler, schedule or guidance {name!r} to cite{near}")
        found |= {entry.key: entry for paper in papers for entry in sources(paper)}
    return list(found.values())
