"""From a recipe to images: its model loaded, its run opened, and executed by the one headless loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from sigmafield.core.conditioning import Control
from sigmafield.core.protocols import State
from sigmafield.models.bundle import Pipeline
from sigmafield.models.load import load
from sigmafield.recipes.build import Job, open_single
from sigmafield.recipes.framing import framed
from sigmafield.recipes.inputs import Inputs, controls_of, read_inputs
from sigmafield.recipes.phases import open_phases
from sigmafield.recipes.recipe import Recipe
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
    """

    images: list[list[Image.Image]]
    state: State
    rows: tuple[int, int] = (0, 0)


def open_pipe(recipe: Recipe, **options: Any) -> Pipeline:
    """The model of a recipe, with its LoRAs and textual inversions.

    Args:
        recipe: `model`, `parts`, `embeddings` and `loras`.
        options: Further arguments of `load`: device, dtype, offload, compile, max_rows, preview.

    Raises:
        ValueError: The model is not supported, or a LoRA does not fit it.
        FileNotFoundError: A file is missing.
    """
    pairs = [lora.pair for lora in recipe.loras]
    return load(recipe.model, parts=recipe.parts, embeddings=recipe.embeddings, loras=pairs, **options)


def open_job(
    recipe: Recipe, pipe: Pipeline, inputs: Inputs | None = None, controls: Sequence[Control] | None = None
) -> Job:
    """The run that a recipe asks for, at one size or in DemoFusion's phases.

    Args:
        recipe: What to draw.
        pipe: The model; a recipe's LoRAs are put into the weights of the job's own, where it has others.
        inputs: What the recipe's files hold, where they are in memory already; None reads them.
        controls: The recipe's controls, where they are loaded already, for many recipes with the same ones.

    Raises:
        ValueError: The model cannot do what the recipe asks for, or a file is not the recipe's.
        FileNotFoundError: A file is missing.
    """
    loras = [lora.pair for lora in recipe.loras]
    if loras and loras != list(pipe.loras):
        pipe = pipe.with_loras(loras)
    if inputs is None:
        recipe, inputs = read_inputs(recipe)
    inputs = framed(recipe, inputs)
    if controls is None:
        controls = controls_of(recipe.controls, inputs.hints, pipe)
    if recipe.demofusion is None:
        return open_single(recipe, pipe, inputs, controls)
    return open_phases(recipe, recipe.demofusion, pipe, inputs, controls)


def execute(job: Job, on_step: OnStep | None = None, state: State | None = None) -> Result:
    """Run a job to its end: the one loop of the command line, the server and the workers of a cluster.

    Args:
        job: What to run.
        on_step: Called with the first state and with each one after a step, for progress, previews and checkpoints;
            what it raises stops the run, with the last state in its hands.
        state: Where to go on from; None is the job's start.

    Raises:
        FloatingPointError: The latent or the decoded image has NaN or infinity, and the recipe does not allow it.
    """
    state = moved(state or job.start, job.pipe.device)
    if on_step is not None:
        on_step(state)
    seen = Finite()
    while not job.run.done(state):
        state = job.run.step(state)
        seen = seen if job.recipe.allow_nonfinite else seen.after(state)
        if on_step is not None:
            on_step(state)
    seen.check()
    images = job.images(state)
    frames = len(images) // job.recipe.batch
    return Result([images[k : k + frames] for k in range(0, len(images), frames)], state, job.rows(state))
