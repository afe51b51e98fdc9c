"""From a recipe to images: its model loaded, its run opened, and executed by the one headless loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from sigmafield.core.protocols import State
from sigmafield.models.bundle import Pipeline
from sigmafield.models.load import load
from sigmafield.recipes.build import Job, open_single
from sigmafield.recipes.framing import framed
from sigmafield.recipes.inputs import Inputs, read_inputs
from sigmafield.recipes.memory import fewer_rows, is_out_of_memory, release, vae_savings
from sigmafield.recipes.output import carrying
from sigmafield.recipes.phases import open_phases
from sigmafield.recipes.recipe import Recipe
from sigmafield.recipes.settings import OF_THE_MODEL
from sigmafield.recipes.steering import Steering, steering_of
from sigmafield.runs.checkpoint import moved
from sigmafield.runs.finite import Finite

OnStep = Callable[[State], None]
"""Called with the state before the first step, and with each one after a step; may raise to stop the run."""


@dataclass(frozen=True)
class Result:
    """A finished run.

    Args:
        images: For each image of the batch its frames: one, or those of a video.
        state: The state at the end.
        rows: (network rows, rows that plain tiling would have taken); 0 without tiles.
        savings: What was done where memory did not suffice, in words; the images are the same up to rounding.
    """

    images: list[list[Image.Image]]
    state: State
    rows: tuple[int, int] = (0, 0)
    savings: Sequence[str] = ()


def open_pipe(recipe: Recipe, **options: Any) -> Pipeline:
    """The model of a recipe, with its LoRAs and textual inversions.

    Args:
        recipe: `model`, `parts`, `embeddings`, `skip_unknown_embeddings`, `loras` and `lora_partial`.
        options: Further arguments of `load`: device, dtype, offload, compile, max_rows, preview.

    Raises:
        ValueError: The model is not supported, or a LoRA does not fit it.
        FileNotFoundError: A file is missing.
    """
    pairs = [lora.pair for lora in recipe.loras]
    settled = {name: getattr(recipe, name) for name in OF_THE_MODEL}
    return load(**settled, loras=pairs, lora_partial=recipe.lora_partial, **options)


def open_job(recipe: Recipe, pipe: Pipeline, inputs: Inputs | None = None, steering: Steering | None = None) -> Job:
    """The run that a recipe asks for, at one size or in DemoFusion's phases.

    Args:
        recipe: What to draw.
        pipe: The model; a recipe's LoRAs are put into the weights of the job's own, where it has others.
        inputs: What the recipe's files hold, where they are in memory already; None reads them.
        steering: What steers, where it is loaded already, for many recipes with the same.

    Raises:
        ValueError: The model cannot do what the recipe asks for, or a file is not the recipe's.
        FileNotFoundError: A file is missing.
    """
    loras = [lora.pair for lora in recipe.loras]
    if loras and loras != list(pipe.loras):
        pipe = pipe.with_loras(loras, recipe.lora_partial)
    if inputs is None:
        recipe, inputs = read_inputs(recipe)
    inputs = framed(recipe, inputs)
    if steering is None:
        steering = steering_of(recipe, inputs, pipe)
    encoding = bool(inputs.frames or inputs.references)
    savings = vae_savings(pipe.vae) if encoding else ()
    for vae in (pipe.vae, *(each for _, each in savings)):
        try:
            return _opened(recipe, replace(pipe, vae=vae), inputs, steering)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or not encoding:
                raise
        release()
    raise MemoryError("the input image does not fit into memory, even if the VAE encodes small tiles of it")


def _opened(recipe: Recipe, pipe: Pipeline, inputs: Inputs, steering: Steering) -> Job:
    if recipe.demofusion is None:
        return open_single(recipe, pipe, inputs, steering)
    return open_phases(recipe, recipe.demofusion, pipe, inputs, steering)


def execute(job: Job, on_step: OnStep | None = None, state: State | None = None) -> Result:
    """Run a job to its end: the one loop of the command line, the server and the workers of a cluster.

    Where memory does not suffice, a step is done again with fewer rows per network call, and the VAE works image by
    image, then tile by tile. The images carry their recipe into the files that they are saved to.

    Args:
        job: What to run.
        on_step: Called with the first state and with each one after a step, for progress, previews and checkpoints;
            what it raises stops the run, with the last state in its hands.
        state: Where to go on from; None is the job's start.

    Raises:
        MemoryError: Memory does not suffice for one row of the network, or for the smallest tile of the VAE.
        FloatingPointError: The latent or the decoded image has NaN or infinity, and the recipe does not allow it.
    """
    state, limit = moved(state or job.start, job.pipe.device), job.pipe.model.max_rows
    if on_step is not None:
        on_step(state)
    seen = Finite()
    while not job.run.done(state):
        job, state = _stepped(job, state)
        seen = seen if job.recipe.allow_nonfinite else seen.after(state)
        if on_step is not None:
            on_step(state)
    seen.check()
    images, saving = _decoded(job, state)
    rows = job.pipe.model.max_rows
    savings = [f"at most {rows} {'row' if rows == 1 else 'rows'} in one network call"] if rows != limit else []
    frames = len(images) // job.recipe.batch
    batch = [images[k : k + frames] for k in range(0, len(images), frames)]
    savings += [saving] if saving else []
    return Result(carrying(batch, job.recipe), state, job.rows(state), savings)


def _stepped(job: Job, state: State) -> tuple[Job, State]:
    """The state after one step, and the job that took it, which may have fewer rows in one network call."""
    failed = ""
    while True:
        try:
            return job, job.run.step(state)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            failed = f"{failed or str(error) or 'out of memory'}"
        except ValueError as error:
            if not failed:
                raise
            raise MemoryError(f"{failed}; fewer rows in one network call do not help: {error}") from None
        release()
        smaller = fewer_rows(job.recipe, job.loaded)
        if smaller is None:
            raise MemoryError(f"{failed}; the network has one row per call already")
        job = _opened(job.recipe, smaller, job.inputs, job.steering)


def _decoded(job: Job, state: State) -> tuple[list[Image.Image], str]:
    """The images of the last state, and how the VAE saved memory, if it had to."""
    failed = ""
    for how, vae in (("", job.pipe.vae), *vae_savings(job.pipe.vae)):
        try:
            return replace(job, pipe=replace(job.pipe, vae=vae)).images(state), how
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            failed = failed or str(error) or "out of memory"
        release()
    raise MemoryError(f"{failed}; decoding the latent in small tiles does not help")
