"""From words to pictures: a recipe is all that a run was asked for, as a value that JSON can carry."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

import torch
from PIL import Image

from sigmafield import images, schedules
from sigmafield.guidance.guider import Guider
from sigmafield.ksampler import ksampler_sigmas, open_run, window
from sigmafield.maths import near_miss
from sigmafield.methods import lookup
from sigmafield.models.pipeline import Pipeline
from sigmafield.noise import generator_of, initial_noise
from sigmafield.param import Sampling, shifted
from sigmafield.run import Run, finish
from sigmafield.types import Area, Cond, Latent, State


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
class Recipe:
    """What to draw and how; the same recipe on the same machine gives the same pixels.

    prompt, negative: text; model: 'tiny' or a path; sampler, scheduler: names, with `params` and `scheduler_params`;
    steps ≥ 1; cfg: guidance, 1 = none, None = the model's own: 5, or 1 where it was distilled; seed: 0 … 2⁶⁴ − 1, of
    the whole batch; width, height: in pixels, None = the model's own, or the image's; denoise: 0 < d ≤ 1, share of the
    schedule that an input image goes through; image: path of the input image, or of an animation for a video; mask: of
    a picture whose white parts are drawn anew and whose black ones are kept, grey in between; their _sha256: of the
    bytes, filled in so that a replay knows them again; regions: prompts for parts of the picture; start_step,
    last_step: run only these steps of the schedule.
    frames: of a video, None = the model's own, or the image's; guidance: what a network that was distilled with its
    guidance is told, None = 3.5; shift: time shift s of a flow network, None = the model's own as ComfyUI has it,
    'size' = the one that the model was trained with at this size; parts: path of a directory for the parts of the model
    that a single file has not.
    Raises ValueError for a value outside its range, FileNotFoundError for no image, at construction.
    """

    prompt: str
    negative: str = ""
    model: str = "tiny"
    sampler: str = "dpmpp_2m"
    scheduler: str = "karras"
    steps: int = 20
    cfg: float | None = None
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
    start_step: int | None = None
    last_step: int | None = None
    frames: int | None = None
    guidance: float | None = None
    shift: float | Literal["size"] | None = None
    parts: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    scheduler_params: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        lookup(self.sampler).check(self.params)
        schedules.lookup(self.scheduler).check(self.scheduler_params)
        _at_least("steps", self.steps, 1)
        _at_least("batch", self.batch, 1)
        _at_least("frames", 1 if self.frames is None else self.frames, 1)
        for name in ("cfg", "guidance"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise ValueError(f"{name} must be a finite number; got {value}")
        shift = 1.0 if self.shift in (None, "size") else self.shift
        if isinstance(shift, str) or not 0 < shift < math.inf:
            raise ValueError(f"shift must be a number above 0 or 'size'; got {self.shift!r}")
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
        """The pictures of a finished run; of videos, the frames of each in turn."""
        x = self.run.grid.process.finish(self.run.end, state.x)
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
    source = read_images(recipe) if recipe.image else []
    size = size_of(recipe, pipe, source)
    latent = initial_latent(recipe, pipe, source, size)
    pipe = replace(pipe, sampling=sampling_of(recipe, pipe, size))
    sigmas = ksampler_sigmas(
        pipe.sampling.levels, recipe.sampler, recipe.scheduler, recipe.steps, recipe.denoise, recipe.scheduler_params
    )
    sigmas = window(sigmas, recipe.start_step, recipe.last_step)
    stream = generator_of(recipe.seed)
    noise = initial_noise(stream, latent.shape).to(pipe.device)
    positive = [told(recipe, pipe.encode_text([recipe.prompt], size))]
    for region in recipe.regions:
        cond = told(recipe, pipe.encode_text([region.prompt], size))
        area = area_of(region, size, pipe.latent.factor, pipe.patch)
        positive.append(replace(cond, area=area, strength=region.strength))
    negative = told(recipe, (pipe.encode_negative or pipe.encode_text)([recipe.negative], size))
    guider = Guider(pipe.model, positive, negative, pipe.cfg if recipe.cfg is None else recipe.cfg)
    mask = images.to_mask(read_images(recipe, "mask")[0]).to(pipe.device) if recipe.mask else None
    run, start = open_run(
        guider, pipe.sampling, recipe.sampler, sigmas, latent, noise, stream,
        mask=mask, random_inpaint=recipe.sampler == "ddim", **recipe.params,
    )  # fmt: skip
    return Job(recipe, pipe, run, start)


def generate(pipe: Pipeline, prompt: str, **settings: Any) -> list[Image.Image]:
    """Pictures for a prompt, one for each of the batch (videos: all frames); `settings` are the fields of `Recipe`."""
    job = open_job(Recipe(prompt, **settings), pipe)
    return job.pictures(finish(job.run, job.start))


def read_images(recipe: Recipe, name: Literal["image", "mask"] = "image") -> list[Image.Image]:
    """The frames of the recipe's input image or mask; ValueError if it is not the one that it was made with."""
    path, known = str(getattr(recipe, name)), getattr(recipe, f"{name}_sha256")
    pictures = images.open_frames(path)
    if known and images.digest(path) != known:
        raise ValueError(f"{path} has changed since this recipe was made: its SHA-256 differs")
    return pictures


def sampling_of(recipe: Recipe, pipe: Pipeline, size: tuple[int, int]) -> Sampling:
    """The model's sampling, under the recipe's time shift if it has one; ValueError for a model without such."""
    if recipe.shift is None:
        return pipe.sampling
    if recipe.shift != "size":
        return shifted(pipe.sampling, recipe.shift)
    if pipe.shift_at is None:
        raise ValueError(f"shift 'size' needs a model whose time shift depends on the size; {pipe.name}'s does not")
    return shifted(pipe.sampling, pipe.shift_at(size))


def told(recipe: Recipe, cond: Cond) -> Cond:
    """A conditioning with the recipe's guidance if it has one; ValueError for a network that is not told any."""
    if recipe.guidance is None:
        return cond
    if "guidance" not in cond.extra:
        raise ValueError("guidance is for networks that were distilled with it, such as Flux dev; this one takes cfg")
    guidance = torch.full_like(cond.extra["guidance"], recipe.guidance)
    return replace(cond, extra={**cond.extra, "guidance": guidance})


def area_of(region: Region, size: tuple[int, int], factor: int, patch: int = 1) -> Area:
    """A region in latent places; ValueError if it is not within the picture of (height, width), or cuts a patch."""
    box = {"x": region.x, "y": region.y, "width": region.width, "height": region.height}
    for name, value in box.items():
        if value % (factor * patch):
            raise ValueError(f"a region's {name} must be a multiple of {whose(factor, patch)}; got {value}")
    if region.x + region.width > size[1] or region.y + region.height > size[0]:
        raise ValueError(f"the region {','.join(map(str, box.values()))} is not within {size[1]}x{size[0]} pixels")
    return Area((region.height // factor, region.width // factor), (region.y // factor, region.x // factor))


def whose(factor: int, patch: int) -> str:
    """The number that sides in pixels are multiples of, and why."""
    return f"{factor * patch}, the VAE's factor" + (f" of {factor} times patches of {patch}" if patch > 1 else "")


def size_of(recipe: Recipe, pipe: Pipeline, source: Sequence[Image.Image]) -> tuple[int, int]:
    """(height, width) of the pictures: asked for, or the image's, or the model's own."""
    if recipe.width and recipe.height:
        height, width = recipe.height, recipe.width
    elif source:
        width, height = source[0].size
    else:
        height, width = pipe.size
    factor = pipe.latent.factor * pipe.patch
    for name, value in (("width", width), ("height", height)):
        if value % factor or value < factor:
            low, rule = max(value // factor, 1) * factor, whose(pipe.latent.factor, pipe.patch)
            raise ValueError(f"{name} must be a multiple of {rule}; got {value}: try {low} or {low + factor}")
        if pipe.max_side and value > pipe.max_side:
            raise ValueError(f"{name} must be at most {pipe.max_side}, where the network's positions end; got {value}")
    return height, width


def frames_of(recipe: Recipe, pipe: Pipeline, source: Sequence[Image.Image]) -> int:
    """Number of frames: asked for, or the image's, or the model's own; ValueError for what the model cannot have."""
    frames = recipe.frames or (len(source) if pipe.latent.axes == 3 else 1) or pipe.frames
    step = pipe.latent.frame_factor
    if pipe.latent.axes != 3 and frames != 1:
        raise ValueError(f"frames must be 1, for {pipe.name} draws no videos; got {frames}")
    if (frames - 1) % step:
        low = (frames - 1) // step * step + 1
        raise ValueError(f"frames must be 1 and a multiple of {step}; got {frames}: try {low} or {low + step}")
    if 1 < len(source) < frames:
        raise ValueError(f"frames must be at most those of {recipe.image}, which has {len(source)}; got {frames}")
    return frames


def initial_latent(recipe: Recipe, pipe: Pipeline, source: Sequence[Image.Image], size: tuple[int, int]) -> Latent:
    """The latent that noise is added to: zeros, or the image's, once for each of the batch.

    A video begins from the frames of the image, or from the same picture for each.
    """
    frames = frames_of(recipe, pipe, source)
    if not source:
        return torch.zeros(pipe.latent.shape(recipe.batch, size, frames), device=pipe.device)
    height, width = size
    fitted = [p if p.size == (width, height) else p.resize((width, height), Image.Resampling.LANCZOS) for p in source]
    tensors = [images.to_tensor(picture) for picture in fitted[:frames]]
    tensors = tensors * frames if len(tensors) == 1 else tensors
    pictures = torch.stack(tensors, dim=2) if pipe.latent.axes == 3 else tensors[0]
    latent = pipe.encode(pictures.to(pipe.device))
    return latent.expand(recipe.batch, *latent.shape[1:]).contiguous()


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"{name} must be ≥ {least}; got {value}")
