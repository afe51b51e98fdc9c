"""From words to pictures: a recipe is all that a run was asked for, as a value that JSON can carry."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image

from sigmafield import images, schedules
from sigmafield.guidance.guider import Guider
from sigmafield.ksampler import ksampler_sigmas, open_run, window
from sigmafield.maths import near_miss
from sigmafield.methods import lookup
from sigmafield.models import load
from sigmafield.models.directory import needed
from sigmafield.models.pipeline import Pipeline
from sigmafield.noise import generator_of, initial_noise
from sigmafield.run import Run, finish
from sigmafield.types import Area, Latent, State


@dataclass(frozen=True)
class Region:
    """A prompt of its own for a box of the picture, in pixels; strength ≥ 0, its weight against other prompts there.

    Raises ValueError for a box without pixels and a strength below 0.
    """

    prompt: str
    x: int
    y: int
    width: int
    height: int
    strength: float = 1.0

    def __post_init__(self) -> None:
        if self.x < 0 or self.y < 0 or self.width < 1 or self.height < 1:
            box = f"{self.x},{self.y},{self.width},{self.height}"
            raise ValueError(f"a region's x and y must be ≥ 0, its width and height ≥ 1; got {box}")
        if not self.strength >= 0:
            raise ValueError(f"a region's strength must be ≥ 0; got {self.strength}")


@dataclass(frozen=True)
class Lora:
    """A LoRA file and its strength, a finite number; sha256: of its bytes, filled in so that a replay knows them again.

    Raises FileNotFoundError for no file, ValueError for a strength that is not finite.
    """

    path: str
    strength: float = 1.0
    sha256: str | None = None

    def __post_init__(self) -> None:
        if not math.isfinite(self.strength):
            raise ValueError(f"a LoRA's strength must be a finite number; got {self.strength}")
        if self.sha256 is None:
            object.__setattr__(self, "sha256", self.digest())

    def digest(self) -> str:
        """SHA-256 of the file as it is now."""
        return images.digest(needed(Path(self.path).expanduser()))


@dataclass(frozen=True)
class Recipe:
    """What to draw and how; the same recipe on the same machine gives the same pixels.

    prompt, negative: text; model: 'tiny' or a path; sampler, scheduler: names, with `params` and `scheduler_params`;
    steps ≥ 1; cfg: guidance, 1 = none; seed: 0 … 2⁶⁴ − 1, of the whole batch; width, height: in pixels, None =
    the model's own, or the image's; denoise: 0 < d ≤ 1, share of the schedule that an input image goes through;
    image: path of the input image; mask: of a picture whose white parts are drawn anew and whose black ones are kept,
    grey in between; their _sha256: of the bytes, filled in so that a replay knows them again; regions: prompts for
    parts of the picture; start_step, last_step: run only these steps of the schedule; clip_skip: layer of CLIP to stop
    at, -1 = the last, None = the model's own; loras, embeddings: LoRAs and the directory of textual inversions that
    `open_pipe` loads the model with.
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
    mask: str | None = None
    mask_sha256: str | None = None
    regions: Sequence[Region] = ()
    clip_skip: int | None = None
    loras: Sequence[Lora] = ()
    embeddings: str | None = None
    start_step: int | None = None
    last_step: int | None = None
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
        if self.mask is not None and self.image is None:
            raise ValueError(f"mask {self.mask} needs an image whose parts it keeps")
        for name in ("image", "mask"):
            path = getattr(self, name)
            if path is not None and getattr(self, f"{name}_sha256") is None:
                images.open_picture(path)
                object.__setattr__(self, f"{name}_sha256", images.digest(path))
        if self.clip_skip is not None and self.clip_skip > -1:
            raise ValueError(f"clip_skip must be -1 (the last layer), -2, … or None; got {self.clip_skip}")
        last = self.steps if self.last_step is None else self.last_step
        if not 0 <= (self.start_step or 0) < min(last, self.steps):
            raise ValueError(
                f"start_step must be at least 0 and below last_step and steps = {self.steps}; "
                f"got {self.start_step} and {self.last_step}"
            )
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
        values["regions"] = tuple(Region(**region) for region in values.get("regions", ()))
        values["loras"] = tuple(Lora(**lora) for lora in values.get("loras", ()))
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
        x = self.run.grid.process.finish(self.run.end, state.x)
        return images.to_pictures(self.pipe.decode(x))

    @torch.no_grad()
    def preview(self, state: State) -> list[Image.Image]:
        """What the network takes the clean pictures to be after a step; none if the model has no cheap preview."""
        if state.pred is None or self.pipe.preview is None:
            return []
        return images.to_pictures(self.pipe.preview(state.pred.x0))


def open_pipe(
    recipe: Recipe, *, device: str | torch.device | None = None, dtype: str | torch.dtype | None = None
) -> Pipeline:
    """The model of a recipe with its LoRAs and textual inversions, as `load` gives it.

    Raises ValueError also for a LoRA that is not the one that the recipe was made with.
    """
    for lora in recipe.loras:
        if lora.digest() != lora.sha256:
            raise ValueError(f"{lora.path} has changed since this recipe was made: its SHA-256 differs")
    pairs = [(lora.path, lora.strength) for lora in recipe.loras]
    return load(recipe.model, device=device, dtype=dtype, embeddings=recipe.embeddings, loras=pairs)


@torch.no_grad()
def open_job(recipe: Recipe, pipe: Pipeline) -> Job:
    """Encode the text and the image, build the schedule, draw the noise. ValueError for what the model refuses."""
    sampling = pipe.sampling
    if recipe.loras and [(lora.path, lora.strength) for lora in recipe.loras] != list(pipe.loras):
        raise ValueError(
            "the recipe's loras are not those that the model was loaded with; load it with open_pipe(recipe)"
        )
    source = read_image(recipe) if recipe.image else None
    size = size_of(recipe, pipe, source)
    latent = initial_latent(recipe, pipe, source, size)
    sigmas = ksampler_sigmas(
        sampling.levels, recipe.sampler, recipe.scheduler, recipe.steps, recipe.denoise, recipe.scheduler_params
    )
    sigmas = window(sigmas, recipe.start_step, recipe.last_step)
    stream = generator_of(recipe.seed)
    noise = initial_noise(stream, latent.shape).to(pipe.device)
    positive = [pipe.encode_text([recipe.prompt], size, recipe.clip_skip)]
    for region in recipe.regions:
        cond = pipe.encode_text([region.prompt], size, recipe.clip_skip)
        positive.append(replace(cond, area=area_of(region, size, pipe.latent.factor), strength=region.strength))
    negative = pipe.encode_text([recipe.negative], size, recipe.clip_skip)
    guider = Guider(pipe.model, positive, negative, recipe.cfg)
    mask = images.to_mask(read_image(recipe, "mask")).to(pipe.device) if recipe.mask else None
    run, start = open_run(
        guider, sampling, recipe.sampler, sigmas, latent, noise, stream,
        mask=mask, random_inpaint=recipe.sampler == "ddim", **recipe.params,
    )  # fmt: skip
    return Job(recipe, pipe, run, start)


def generate(pipe: Pipeline, prompt: str, **settings: Any) -> list[Image.Image]:
    """Pictures for a prompt, one for each of the batch; `settings` are the fields of `Recipe`."""
    job = open_job(Recipe(prompt, **settings), pipe)
    return job.pictures(finish(job.run, job.start))


def read_image(recipe: Recipe, name: Literal["image", "mask"] = "image") -> Image.Image:
    """The recipe's input image or mask; ValueError if it is not the one that the recipe was made with."""
    path, known = str(getattr(recipe, name)), getattr(recipe, f"{name}_sha256")
    picture = images.open_picture(path)
    if known and images.digest(path) != known:
        raise ValueError(f"{path} has changed since this recipe was made: its SHA-256 differs")
    return picture


def area_of(region: Region, size: tuple[int, int], factor: int) -> Area:
    """A region in latent places; ValueError if it does not lie in the picture of (height, width), or between places."""
    box = {"x": region.x, "y": region.y, "width": region.width, "height": region.height}
    for name, value in box.items():
        if value % factor:
            raise ValueError(f"a region's {name} must be a multiple of {factor}, the VAE's factor; got {value}")
    if region.x + region.width > size[1] or region.y + region.height > size[0]:
        raise ValueError(f"the region {','.join(map(str, box.values()))} is not within {size[1]}x{size[0]} pixels")
    return Area((region.height // factor, region.width // factor), (region.y // factor, region.x // factor))


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
