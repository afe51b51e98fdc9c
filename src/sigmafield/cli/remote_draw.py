"""An image, or a batch of them, that a server draws: followed, and written here as one that is drawn here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import Image

from sigmafield.cli.remote import connected, detaching, fetching, followed, preview_of
from sigmafield.cli.replay_here import Replayed, chosen
from sigmafield.cli.runner import Watching
from sigmafield.cli.single import Target, written_names
from sigmafield.cli.terminal import Display
from sigmafield.recipes.image_io import digest, read_bytes, sheet
from sigmafield.recipes.in_memory import ImageSource
from sigmafield.recipes.inputs import read_inputs
from sigmafield.recipes.label import label, read_label
from sigmafield.recipes.output import FORMATS, KEY, check_format, encoded, files_of
from sigmafield.recipes.recipe import Recipe
from sigmafield.runs.files import OwnFile

if TYPE_CHECKING:
    from sigmafield.client import Event, Job, JobInfo


def draw_there(url: str, target: Target, how: Watching, given: Mapping[str, Any], *, as_json: bool) -> None:
    """Have a server draw an image, write its files and say what they are.

    Args:
        url: The server's address.
        target: What is drawn, and where it is written.
        how: What is written on the way.
        given: Options of the recipe that were given: without a model, it is the server's default.
        as_json: Print JSON for machines, and no progress.

    Raises:
        Interrupted: A signal came; the server goes on.
    """
    check_format(target.path, moving=(target.recipe.frames or 1) > 1)
    with connected(url) as client:
        job = client.submit(entries_of(sealed_images(target.recipe), given))
        with detaching(fetching(url, job.id, "-o", target.path)):
            finish(job, target, how, as_json=as_json)


def replay_there(url: str, recipe: Recipe, target: Target, index: int | None, *, as_json: bool) -> Replayed:
    """Have a server draw an image again; arguments and errors as for `draw_there`, and of `replay_here`."""
    with connected(url) as client:
        job = client.submit(sealed_images(recipe))
        with detaching(fetching(url, job.id, "-o", target.path)):
            watched(job, recipe, Display(as_json, [recipe.steps]), Watching(), target.path)
            drawn = drawn_there(job)
    frames = chosen(drawn.images, index)
    [written] = target.write({"": encoded(frames, target.path.suffix, label(drawn.recipe, index), drawn.texts)})
    return frames, written


def entries_of(recipe: Recipe, given: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe as it is posted: without a model that was not given."""
    return {name: value for name, value in recipe.to_plain().items() if name != "model" or name in given}


def sealed_images(recipe: Recipe) -> Recipe:
    """The recipe with the digests of its images; models are the server's. Errors as for `read_inputs`."""
    found, _ = read_inputs(replace(recipe, loras=(), controls=(), ip_adapters=()))
    controls, adapters = (
        tuple(replace(each, image_sha256=each.image_sha256 or digest_at(each.image)) for each in entries)
        for entries in (recipe.controls, recipe.ip_adapters)
    )
    return replace(found, loras=recipe.loras, controls=controls, ip_adapters=adapters)


def digest_at(image: ImageSource) -> str:
    """The digest of a file with an image."""
    return digest(read_bytes(str(image)))


def finish(job: Job, target: Target, how: Watching, *, as_json: bool) -> None:
    """Follow a job, write its files and say what they are; arguments as for `draw_there`."""
    info = watched(job, target.recipe, Display(as_json, [target.recipe.steps]), how, target.path)
    drawn = drawn_there(job)
    files = target.write(files_of(drawn.images, target.path.suffix, drawn.recipe, drawn.texts))
    facts = facts_there(info, drawn.recipe, files)
    print(json.dumps(facts, ensure_ascii=False) if as_json else words_there(facts))


def watched(job: Job, recipe: Recipe, display: Display, how: Watching, path: Path, part: int = 0) -> JobInfo:
    """The job once it is done, shown in the terminal meanwhile.

    Args:
        job: The job.
        recipe: What it draws.
        display: Progress bar and live preview.
        how: What is written on the way: the latest preview that the server has made.
        path: The image that will be written.
        part: Which of the display's images it is.
    """
    seen: list[Image.Image] = []
    preview = OwnFile(path.with_name(f"{path.stem}-preview.png"))

    def note(event: Event) -> None:
        seen[:] = preview_of(event) or seen
        if event.kind != "step":
            return
        display.show(recipe, event.data["progress"], event.data["label"], lambda: seen, part)
        if how.previews and event.data["step"] % how.previews == 0 and seen:
            preview.write(encoded([sheet(seen)], ".png"))

    with display:
        return followed(job, note)


class Drawn(NamedTuple):
    """What a job has drawn.

    Args:
        recipe: The recipe as the images carry it.
        images: For each image of the batch its frames.
        texts: ComfyUI's workflow, as the images carry it.
    """

    recipe: Recipe
    images: list[list[Image.Image]]
    texts: Mapping[str, str]


def drawn_there(job: Job) -> Drawn:
    """What a job has drawn, with this machine's names of images."""
    from sigmafield.client.outputs import frames_of, workflow_in

    files = [job.output(n) for n in range(len(job.info.outputs))]
    images = [frames_of(data, job.names) for data in files]
    return Drawn(read_label(images[0][0].info[KEY]).recipe, images, workflow_in(files[0], job.names))


def facts_there(info: JobInfo, recipe: Recipe, files: Sequence[Path]) -> dict[str, Any]:
    """What was written and what it took, as plain values."""
    seconds = round((info.ended or 0) - (info.started or 0), 3)
    return {"files": [str(file) for file in files], "job": info.id, "seconds": seconds, "recipe": recipe.to_plain()}


def words_there(facts: Mapping[str, Any]) -> str:
    """The same for people."""
    recipe = facts["recipe"]
    took = f"{recipe['steps']} steps in {facts['seconds']:.1f} s, seed {recipe['seed']}"
    return f"{written_names(facts['files'])}: {took}, job {facts['job']}"


def fetched(job: Job, output: Path | None, *, as_json: bool) -> None:
    """Wait for a job and write its images: to a file as they would be here, or into a folder as the server has them."""
    if output is not None and output.suffix.lower() in FORMATS and job.info.kind == "recipe":
        finish(job, Target(output, Recipe.from_plain(job.info.request)), Watching(), as_json=as_json)
        return
    folder = output or Path()
    if job.info.kind == "recipe":
        recipe = Recipe.from_plain(job.info.request)
        watched(job, recipe, Display(as_json, [recipe.steps]), Watching(), folder / job.id)
    files = [str(path) for path in job.fetch(folder)]
    print(json.dumps({"job": job.id, "files": files}, ensure_ascii=False) if as_json else "\n".join(files))
