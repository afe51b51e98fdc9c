"""`sigmafield sample --prompts`: a job of many lines, which the same command goes on with wherever it was stopped."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

from sigmafield.cli.batch_cluster import check_workers, draw_on_cluster
from sigmafield.cli.batch_lines import Outcomes, checkpoint_of, state_of, write_line
from sigmafield.cli.batch_server import draw_on_server
from sigmafield.cli.errors import USER_ERRORS
from sigmafield.cli.manifest import Manifest
from sigmafield.cli.prompts import Line
from sigmafield.cli.remote_draw import sealed_images
from sigmafield.cli.runner import Watch, Watching, drawn, enough_memory
from sigmafield.cli.shared import Shared
from sigmafield.cli.signals import Interrupted
from sigmafield.cli.single import check_previews, facts_of, say_savings, stem_of, words_of
from sigmafield.cli.terminal import Display
from sigmafield.cli.understood import say_notes
from sigmafield.comfyui.workflow.carried import workflow_texts
from sigmafield.recipes.execute import open_job
from sigmafield.recipes.options import MachineOptions
from sigmafield.recipes.output import files_of
from sigmafield.recipes.recipe import Recipe
from sigmafield.runs.files import check_writable


def draw_all(
    lines: Sequence[Line],
    folder: Path,
    prompts: Path,
    machine: MachineOptions,
    how: Watching,
    *,
    as_json: bool,
    cluster: str | None = None,
    server: str | None = None,
) -> None:
    """Draw each line once: those that were written before are skipped, a bad one is named and the others go on.

    The status is 0 if all lines are written, 2 if some failed, and 128 and the signal's number after a signal.

    Args:
        lines: What is drawn.
        folder: Where files and manifest are written; it is made if it does not exist.
        prompts: The file of prompts, for the manifest's name.
        machine: What the models run on.
        how: What is written on the way.
        as_json: Print JSON for machines, and no progress.
        cluster: Address of the Ray cluster whose workers draw the lines, see `cluster.joined`; None draws them here.
        server: Address of the server that draws them; None draws them here.

    Raises:
        ValueError: It is not the address of a cluster, or its workers cannot have the machine's device.
        ImportError: Ray is not installed.
        OSError: The folder cannot be written to, another process works on this batch, or no cluster answers.
    """
    if cluster is not None:
        check_workers(cluster, machine)
    outcomes, shared, status = Outcomes(), Shared(machine), 0
    with Manifest(folder, prompts) as manifest:
        seal = sealed_images if server else lambda recipe: shared.inputs(recipe)[0]
        todo = planned(lines, manifest, seal, outcomes)
        try:
            if server:
                draw_on_server(todo, server, manifest, how, outcomes, as_json=as_json)
            elif cluster is None:
                draw_here(todo, manifest, shared, how, outcomes, as_json=as_json)
            elif todo:
                draw_on_cluster(todo, cluster, manifest, shared, how, outcomes, as_json=as_json)
        except Interrupted as end:
            status = end.status
        print(outcomes.json() if as_json else outcomes.text(len(lines), manifest.path))
    if status or outcomes.failed:
        sys.exit(status or 2)


def draw_here(
    todo: Sequence[tuple[Line, Recipe]],
    manifest: Manifest,
    shared: Shared,
    how: Watching,
    outcomes: Outcomes,
    *,
    as_json: bool,
) -> None:
    """Draw lines one after another in this process; arguments and errors as for `draw_on_cluster`."""
    display = Display(as_json, [recipe.steps for _, recipe in todo])
    for part, (line, recipe) in enumerate(todo):
        try:
            facts, words = draw_line(line, recipe, part, manifest, shared, how, display, as_json)
        except USER_ERRORS as error:
            outcomes.fail(line, recipe, error, manifest)
            continue
        outcomes.images.append(facts)
        if not as_json:
            print(words, flush=True)


def planned(
    lines: Sequence[Line], manifest: Manifest, seal: Callable[[Recipe], Recipe], outcomes: Outcomes
) -> list[tuple[Line, Recipe]]:
    """The lines that are to be drawn, with their recipes and the digests of their files; others are reported."""
    todo = []
    for line in lines:
        try:
            if line.recipe is None:
                raise ValueError(line.error)
            sealed = seal(line.recipe)
            if line.drawn:
                sealed = replace(sealed, seed=manifest.seed(line.number, sealed.to_plain()))
        except USER_ERRORS as error:
            outcomes.fail(line, line.recipe, error, manifest)
            continue
        if files := manifest.written(line.number, sealed.to_plain()):
            outcomes.skipped.append({"line": line.number, "files": [str(file) for file in files]})
            checkpoint_of(line, manifest).remove()  # a kill may have come between the files and this
        else:
            todo.append((line, sealed))
    return todo


@enough_memory()
def draw_line(
    line: Line,
    recipe: Recipe,
    part: int,
    manifest: Manifest,
    shared: Shared,
    how: Watching,
    display: Display,
    as_json: bool,
) -> tuple[dict[str, Any], str]:
    """Draw a line, from its checkpoint if it has one, and write its files: (facts, the same for people).

    Raises:
        Interrupted: A signal came; the state is saved where the next command finds it.
    """
    began = perf_counter()
    check_writable(manifest.folder)
    sealed, inputs = shared.inputs(recipe)
    pipe = shared.pipe(sealed)
    check_previews(pipe, how)
    job = open_job(sealed, pipe, inputs, shared.steering(sealed, inputs, pipe))
    say_notes(job, quiet=part > 0 or as_json)
    path = manifest.folder / f"{stem_of(sealed)}.png"
    checkpoint = checkpoint_of(line, manifest)
    watch, texts = (
        Watch(job, path, display, shared.machine, how, checkpoint, part, "the same command"),
        workflow_texts(job),
    )
    result, files = drawn(
        watch,
        lambda end: write_line(
            line.number, job.recipe, path, files_of(end.images, ".png", job.recipe, texts), manifest
        ),
        state_of(checkpoint.path, job.recipe),
    )
    say_savings(result.savings)
    facts = facts_of(job.recipe, result.state.nfe, result.rows, perf_counter() - began, files)
    return {**facts, "line": line.number}, words_of(facts)
