"""`sigmafield models`: what a folder of models holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.text import Text

from sigmafield.cli.console import as_json, escaped, show_table
from sigmafield.cli.flags import with_flags
from sigmafield.cli.groups import Json
from sigmafield.cli.inspect import amount
from sigmafield.models.inspection.folder import Entry, listed


@with_flags()
def models(
    folder: Annotated[Path, Parameter(help="Folder to list, with those below it.")] = Path("."),
    /,
    *,
    json: Json = False,
) -> None:
    """List the models in a folder: checkpoints, LoRAs, control nets, …, in ComfyUI's layout or any other.

    Only the headers of files are read. Files that cannot be used, pickles, and files in a folder for another kind are
    listed with the reason.
    """
    found = list(listed(folder))
    if json:
        print(as_json([row(entry) for entry in found]))
        return
    if not found:
        raise ValueError(f"{folder} holds no models: no file of weights and no directory of diffusers")
    cells = [
        (escaped(each.path), escaped(about(each)), amount(each.size), weights(each), Text(escaped(each.note), "dim"))
        for each in found
    ]
    note = f"{len(found)} models, {amount(sum(each.size for each in found))}. sigmafield inspect FILE says more."
    show_table(("file", "is", "size", "weights", "note"), cells, note)


def row(entry: Entry) -> dict[str, object]:
    """An entry as JSON has it."""
    found = entry.found.to_dict() if entry.found else None
    return {"path": entry.path, "size": entry.size, "note": entry.note, "found": found}


def about(entry: Entry) -> str:
    """What a file is, and a LoRA's rank."""
    if entry.found is None:
        return ""
    ranks = sorted(entry.found.lora.ranks) if entry.found.lora else []
    return entry.found.about + (f", rank {'–'.join(map(str, dict.fromkeys((ranks[0], ranks[-1]))))}" if ranks else "")


def weights(entry: Entry) -> str:
    """How a file's weights are stored."""
    return entry.found.weights if entry.found else ""
