"""From words to pictures: a recipe is all that a run was asked for, as a value that JSON can carry."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from PIL import Image

from sigmafield import images, schedules
from sigmafield.grid import Grid
from sigmafield.guidance.guider import Guider
from sigmafield.maths import near_miss
from sigmafield.methods import lookup
from sigmafield.models.pipeline import Pipeline
from sigmafield.noise import Gaussian, generator_of, initial_noise
from sigmafield.run import Run, default_noise, finish
from sigmafield.types import Latent, State


@dataclass(frozen=True)
class Recipe:
    """What to draw and how; the same recipe on the same machine gives the same pixels.

    prompt, negative: text; model: 'tiny' or a path; sampler, scheduler: names, with `params` and `scheduler_params`;
    steps ≥ 1; cfg: guidance, 1 = none; seed: 0 … 2⁶⁴ − 1, of the whole batch; width, height: in pixels, None =
    the model's own, or the image's; denoise: 0 < d ≤ 1, share of the schedule that an input image goes through;
    image: path of the input image; image_sha256: of its bytes, filled in so that a replay knows it again.
    Raises ValueError for a value outside its range, FileNotFoundError for no image, at construction.
    """

    prompt: str
    negative: str = ""
    model: str = "tiny"
    sampler: str = "dpmpp_2m"
    scheduler: str = "karras"
    steps: int = 20
    cfg: float = 5.0
    seed: int = 0
    batch: int = 1
    width: int | None = None
    height: int | None = None
    denoise: float = 1.0
    image: str | None = None
    image_sha256: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    scheduler_params: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        lookup(self.sampler).check(self.params)
        schedules.lookup(self.scheduler).check(self.scheduler_params)
        _at_least("steps", self.steps, 1)
        _at_least("batch", self.batch, 1)
        if not math.isfinite(self.cfg):
            raise ValueError(f"cfg must be a finite number; got {self.cfg}")
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"seed must be 0 … 2**64 - 1; got {self.seed}")
        if not 0 < self.denoise <= 1:
            raise ValueError(f"denoise must be above 0 and at most 1; got {self.denoise}")
        if self.denoise < 1 and self.image is None:
            raise ValueError(f"denoise {self.denoise} needs an image to start from; without one it must be 1")
        if self.image is not None and self.image_sha256 is None:
            images.open_picture(self.image)
            object.__setattr__(self, "image_sha256", images.digest(self.image))
        if (self.width is None) != (self.height is None):
            raise ValueError(f"width and height go together; got {self.width} and {self.height}")

    def to_json(self) -> str:
        """The recipe as one line of JSON."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        """The recipe that `to_json` wrote; ValueError for anything else."""
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"the recipe is not JSON: {error}") from None
        known = {f.name for f in fields(cls)}
        if not isinstance(values, dict) or "prompt" not in values:
            raise ValueError("the recipe must be a JSON object with a prompt")
        for name in values:
            if name not in known:
                raise ValueError(f"the recipe has an unknown entry {name!r}{near_miss(name, known)}")
        return cls(**values)


@dataclass(frozen=True)
class Job:
    """A recipe on a loaded model, ready to iterate: `for state in iterate(job.run, job.start): …`."""

    recipe: Recipe
    pipe: Pipeline
    run: Run
    start: State

    @torch.no_grad()
    def pictures(self, state: State) -> list[Image.Image]:
        """The pictures of a finished run."""
        x = self.run.grid.process.finish(self.run.grid.sigmas[-1], state.x)
        return images.to_pictures(self.pipe.decode(x))

    @torch.no_grad()
    def preview(self, state: State) -> list[Image.Image]:
        """What the network takes the clean pictures to be after a step; none if the model has no cheap preview."""
        if state.pred is None or self.pipe.preview is None:
            return []
        return images.to_pictures(self.pipe.preview(state.pred.x0))


@torch.no_grad()
def open_job(recipe: Recipe, pipe: Pipeline) -> Job:
    """Encode the text and the image, build the schedule, draw the noise. ValueError for what the model refuses."""
    method, sampling = lookup(recipe.sampler), pipe.sampling
    source = read_image(recipe) if recipe.image else None
    size = size_of(recipe, pipe, source)
    latent = initial_latent(recipe, pipe, source, size)
    schedule = schedules.lookup(recipe.scheduler)
    sigmas = schedules.denoise_tail(schedule, recipe.steps, sampling.levels, recipe.denoise, **recipe.scheduler_params)
    stream = generator_of(recipe.seed)
    first = initial_noise(stream, latent.shape).to(pipe.device)
    x = sampling.process.start(sigmas[0], first, latent)
    grid = Grid(sigmas, sampling.process)
    # churn goes on in the stream that the initial noise began, as ComfyUI's does
    goes_on = method.noise == "churn" and pipe.device.type == "cpu"
    noise = Gaussian(stream, latent.shape) if goes_on else default_noise(method, recipe.seed, grid, x)
    positive = pipe.encode_text([recipe.prompt], size)
    negative = pipe.encode_text([recipe.negative], size)
    run = Run(Guider(pipe.model, positive, negative, recipe.cfg), method, grid, noise, recipe.params)
    return Job(recipe, pipe, run, run.start(x))


def generate(pipe: Pipeline, prompt: str, **settings: Any) -> list[Image.Image]:
    """Pictures for a prompt, one for each of the batch; `settings` are the fields of `Recipe`."""
    job = open_job(Recipe(prompt, **settings), pipe)
    return job.pictures(finish(job.run, job.start))


def read_image(recipe: Recipe) -> Image.Image:
    """The recipe's input image; ValueError if it is not the one that the recipe was made with."""
    picture = images.open_picture(str(recipe.image))
    if recipe.image_sha256 and images.digest(str(recipe.image)) != recipe.image_sha256:
        raise ValueError(f"{recipe.image} has changed since this recipe was made: its SHA-256 differs")
    return picture


def size_of(recipe: Recipe, pipe: Pipeline, source: Image.Image | None) -> tuple[int, int]:
    """(height, width) of the pictures: asked for, or the image's, or the model's own."""
    if recipe.width and recipe.height:
        height, width = recipe.height, recipe.width
    elif source:
        width, height = source.size
    else:
        height, width = pipe.size
    factor = pipe.latent.factor
    for name, value in (("width", width), ("height", height)):
        if value % factor or value < factor:
            low = max(value // factor, 1) * factor
            raise ValueError(
                f"{name} must be a multiple of {factor}, the VAE's factor; got {value}: try {low} or {low + factor}"
            )
    return height, width


def initial_latent(recipe: Recipe, pipe: Pipeline, source: Image.Image | None, size: tuple[int, int]) -> Latent:
    """The latent that noise is added to: zeros, or the image's, once for each of the batch."""
    height, width = size
    if source is None:
        shape = (recipe.batch, pipe.latent.channels, height // pipe.latent.factor, width // pipe.latent.factor)
        return torch.zeros(shape, device=pipe.device)
    if source.size != (width, height):
        source = source.resize((width, height), Image.Resampling.LANCZOS)
    latent = pipe.encode(images.to_tensor(source).to(pipe.device))
    return latent.expand(recipe.batch, *latent.shape[1:]).contiguous()


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"{name} must be ≥ {least}; got {value}")
