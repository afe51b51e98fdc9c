"""`sigmafield workflow`: ComfyUI's workflows converted, drawn, and exchanged with recipes."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from sigmafield.cli.errors import complain
from sigmafield.cli.flags import with_flags
from sigmafield.cli.groups import FILES, Overwrite
from sigmafield.cli.workflow_source import Form, Source, known_and, read_source
from sigmafield.comfyui.video_files import copied
from sigmafield.comfyui.workflow.draw import draw as drawn
from sigmafield.comfyui.workflow.files import VIDEOS, Embedded, metadata_of, with_workflow
from sigmafield.comfyui.workflow.to_recipe import recipe_of
from sigmafield.recipes.image_io import open_image
from sigmafield.runs.files import write_new, write_whole


@with_flags()
def workflow(
    file: Annotated[
        Path, Parameter(help="JSON of a workflow, a prompt or a recipe, or an image or video that carries one.")
    ],
    /,
    *,
    output: Annotated[
        Path | None,
        Parameter(
            name=["--output", "-o"],
            help="JSON to write; or PNG, WebP, AVIF, or a video's format: a copy that ComfyUI opens as a workflow. "
            "[default: print JSON]",
            group=FILES,
        ),
    ] = None,
    form: Annotated[
        Form | None,
        Parameter(help="Form of the JSON. [default: api of a workflow of ComfyUI's page, page of anything else]"),
    ] = None,
    draw: Annotated[Path | None, Parameter(help="PNG to draw the graph in.", group=FILES)] = None,
    object_info: Annotated[
        Path | None, Parameter(help="Further node classes: JSON that ComfyUI's /object_info gives.", group=FILES)
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Convert a workflow of ComfyUI, draw its graph, or exchange it with a recipe.

    A workflow of ComfyUI's page becomes a prompt in API form; an image of sigmafield, or a recipe, becomes a workflow
    that ComfyUI opens; a workflow that has the shape of a recipe becomes one with --form recipe.
    """
    source = read_source(file, known_and(object_info))
    if draw is not None:
        buffer = io.BytesIO()
        drawn(source.page or source.workflow.to_page(), source.workflow.classes).save(buffer, "PNG")
        _write(draw, buffer.getvalue(), overwrite)
    if output is not None and output.suffix.lower() != ".json":
        page = source.page or source.workflow.to_page()
        _write(output, _copy(file, Embedded(source.workflow.prompt, page), output.suffix.lower()), overwrite)
    elif output is not None:
        _write(output, (_text(source, form or source.form) + "\n").encode(), overwrite)
    elif draw is None:
        print(_text(source, form or source.form))


def _copy(file: Path, found: Embedded, ending: str) -> bytes:
    """The bytes of a copy of an image or a video that carries a workflow; ValueError for another format."""
    if file.suffix.lower() in VIDEOS:
        if ending != file.suffix.lower():
            raise ValueError(f"a copy of {file} is in its format, {file.suffix}; got {ending!r}")
        return copied(file, metadata_of(found))
    image, buffer = open_image(file), io.BytesIO()
    arguments = with_workflow(image, found, ending)
    image.save(buffer, {".png": "PNG", ".webp": "WEBP", ".avif": "AVIF"}[ending], **arguments)
    return buffer.getvalue()


def _text(source: Source, form: Form) -> str:
    prompt = source.workflow.prompt
    if form == "recipe":
        recipe, notes = (source.recipe, []) if source.recipe else recipe_of(prompt)
        for note in notes:
            complain(note, kind="note")
        return recipe.to_json()
    value = prompt if form == "api" else source.page or source.workflow.to_page()
    return json.dumps(value, indent=2, ensure_ascii=False)


def _write(path: Path, data: bytes, overwrite: bool) -> None:
    if overwrite:
        write_whole(path, data)
    else:
        [path] = write_new(path, {"": data})
    print(path)
