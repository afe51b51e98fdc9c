"""A job that is a recipe: from its request, or its last saved state, to the files of its images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from PIL import Image

from sigmafield.comfyui.workflow.carried import workflow_texts
from sigmafield.core.protocols import State
from sigmafield.recipes.build import Job
from sigmafield.recipes.execute import execute, open_job
from sigmafield.recipes.inputs import Inputs, read_inputs
from sigmafield.recipes.label import label
from sigmafield.recipes.output import encoded
from sigmafield.recipes.recipe import Recipe
from sigmafield.runs.checkpoint import load_state, state_bytes
from sigmafield.serve.device import Device, Stepping
from sigmafield.serve.live import Live, Point, Stopped

META = "recipe"
"""Name of the string in a state's file that holds the recipe, with the digests of its files."""


class Watch:
    """What happens between the steps of a recipe's run.

    Args:
        job: What runs.
        live: Its job.
        stepping: Is left while nothing is asked of the network, so that other runs do not wait for this one.
    """

    def __init__(self, job: Job, live: Live, stepping: Stepping):
        self.job, self.live, self.stepping, self.begun = job, live, stepping, False

    def __call__(self, state: State) -> None:
        """Note a state; called with the first one and after each step."""
        point = point_of(self.job, state)
        if self.begun:
            self.live.step(point, lambda: self.preview(state))
        else:
            self.begun = True
            self.live.begin(point)
        if self.live.stop == "cancelled":
            raise Stopped
        if self.live.stop is not None:
            if self.save(state) or self.live.stop != "displaced":
                raise Stopped
            self.live.stop = None  # the disk is full: this job is not displaced
        done = self.job.run.done(state)
        if done:
            self.stepping.leave()
            return
        if self.live.should_save:
            self.save(state)
        self.stepping.enter()

    def preview(self, state: State) -> Sequence[Image.Image]:
        """The images of a preview."""
        self.stepping.leave()
        return self.job.preview(state)

    def save(self, state: State) -> bool:
        """Save a state; False where the disk does not take it."""
        self.stepping.leave()
        return self.live.save(state_bytes(state, {META: self.job.recipe.to_json()}))


def run_recipe(live: Live, device: Device, shown: Callable[[Recipe], Recipe]) -> list[str]:
    """Run a recipe to its end, from its last saved state if there is one.

    Args:
        live: The job.
        device: What it runs on.
        shown: The recipe as it is written into the images.

    Returns:
        The names of its outputs, PNG files with the recipe and ComfyUI's workflow in them, animated for videos.

    Raises:
        Stopped: It was asked to stop; its state is saved, unless it is cancelled.
    """
    recipe, state = start_of(live)
    sealed, inputs = read_inputs(recipe)
    return draw(live, device, sealed, inputs, shown(sealed), state)


def draw(live: Live, device: Device, recipe: Recipe, inputs: Inputs, said: Recipe, state: State | None) -> list[str]:
    """Run a recipe to its end: the names of its outputs.

    Args:
        live: The job.
        device: What it runs on.
        recipe: What to draw, with the digests of its files.
        inputs: What its files hold.
        said: The recipe as it is written into the images.
        state: Where it goes on; None is the start.

    Raises:
        Stopped: It was asked to stop; its state is saved, unless it is cancelled.
    """
    pipe = device.pipe(recipe)
    job = open_job(recipe, pipe, inputs, device.steering(recipe, inputs, pipe))
    with Stepping(device.batcher, live.record.priority) as stepping:
        result = execute(job, Watch(job, live, stepping), state)
    texts = workflow_texts(replace(job, recipe=said))
    files = {f"{k}.png": encoded(each, ".png", label(said, k), texts) for k, each in enumerate(result.images)}
    live.files.save_outputs(files)
    return list(files)


def start_of(live: Live) -> tuple[Recipe, State | None]:
    """The recipe and the last state that can be read; None where the run begins."""
    for path in reversed(live.files.states().values()):
        try:
            state, meta = load_state(path)
            return Recipe.from_json(meta[META]), state
        except (ValueError, KeyError):  # of another version: from an older state or the start the result is the same
            continue
    return Recipe.from_plain(live.record.request), None


def point_of(job: Job, state: State) -> Point:
    """How far a run is."""
    return Point(state.i, job.run.n, job.run.progress(state), job.run.label(state))
