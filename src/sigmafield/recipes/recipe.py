"""A recipe is all that a run was asked for, from prompt to parameters, as a value that JSON can carry."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from sigmafield.core.registry import near_miss
from sigmafield.models.directory import needed
from sigmafield.models.overrides import parse_model_sampling
from sigmafield.recipes import image_io
from sigmafield.recipes.inputs import ControlImage, seal
from sigmafield.recipes.mods import parse_mods
from sigmafield.recipes.options import AUTO, DemoFusion, Detail, Tiling
from sigmafield.runs.mixing_spec import parse_mixing
from sigmafield.samplers import SAMPLERS
from sigmafield.schedules import SCHEDULES


@dataclass(frozen=True)
class Region:
    """A prompt of its own for a box of the image, in pixels; strength ≥ 0, its weight against other prompts there.

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
        return image_io.digest(needed(Path(self.path).expanduser()))


@dataclass(frozen=True)
class Recipe:
    """What to draw and how; the same recipe on the same machine gives the same pixels.

    prompt, negative: text; model: 'tiny' or a path; sampler, schedule: names, with `params` and `schedule_params`;
    steps ≥ 1; cfg: guidance, 1 = none, None = the model's own: 5, or 1 where it was distilled; seed: 0 … 2⁶⁴ − 1, of
    the whole batch; width, height: in pixels, None = the model's own, or the image's; denoise: 0 < d ≤ 1, share of the
    schedule that an input image goes through; image: path of the input image, or of an animation for a video; mask: of
    a image whose white parts are drawn anew and whose black ones are kept, grey in between; their _sha256: of the
    bytes, filled in so that a replay knows them again; regions: prompts for parts of the image; start_step,
    last_step: run only these steps of the schedule.
    frames: of a video, None = the model's own, or the image's; distilled_guidance: what a network that was distilled
    with guidance is told, None = 3.5; shift: time shift s of a flow network, None = the model's own as ComfyUI has it,
    'size' = the one that the model was trained with at this size;
    guidance: mods of it, such as "apg(eta=0.5)+cfg_norm", see `parse_mods`; controls: images that steer;
    clip_skip: layer of CLIP to stop at, -1 = the last, None = the model's own; loras, embeddings: LoRAs and the
    directory of textual inversions that `open_pipe` loads the model with; parts: directory for
    the parts of the model that a single file has not;
    denoise_map: of a image whose brightness is the denoise strength of each place, white = as much as `denoise`,
    black = `min_denoise`, 0 = kept; or 'auto', from the image: much `detail`, much change; map_schedule: what a
    strength is, a 'delayed' start on one schedule, or an 'own' schedule of as many but smaller steps;
    model_sampling: other noise levels or another prediction of the network, such as
    "discrete(prediction=v, zsnr=true)", see `models.model_sampling`; mixing: the noised image blended in between the
    steps, such as "cosine(alpha_1=0.3)", see `parse_mixing`;
    scale: the image is enlarged by this factor ≥ 1 first, to sides of whole places; tiling: the network is shown tiles;
    demofusion: drawn at this size, then at multiples of it, see `DemoFusion`; an image is redrawn at its size first.
    Raises ValueError for a value outside its range, FileNotFoundError for no image, at construction.
    """

    prompt: str
    negative: str = ""
    model: str = "tiny"
    sampler: str = "dpmpp_2m"
    schedule: str = "karras"
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
    clip_skip: int | None = None
    loras: Sequence[Lora] = ()
    embeddings: str | None = None
    start_step: int | None = None
    last_step: int | None = None
    frames: int | None = None
    distilled_guidance: float | None = None
    shift: float | Literal["size"] | None = None
    parts: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    schedule_params: Mapping[str, Any] = field(default_factory=dict)
    controls: Sequence[ControlImage] = ()
    guidance: str = ""
    denoise_map: str | None = None
    denoise_map_sha256: str | None = None
    map_schedule: str = "delayed"
    model_sampling: str = ""
    mixing: str = ""
    min_denoise: float = 0.0
    detail: Detail = Detail()
    scale: float = 1.0
    tiling: Tiling | None = None
    demofusion: DemoFusion | None = None

    def __post_init__(self) -> None:
        SAMPLERS.lookup(self.sampler).check(self.params)
        SCHEDULES.lookup(self.schedule).check(self.schedule_params)
        mods = parse_mods(self.guidance)
        parse_model_sampling(self.model_sampling)
        _at_least("steps", self.steps, 1)
        _at_least("batch", self.batch, 1)
        _at_least("frames", 1 if self.frames is None else self.frames, 1)
        for name in ("cfg", "distilled_guidance"):
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
        if self.denoise_map is not None and self.image is None:
            raise ValueError(f"denoise_map {self.denoise_map} needs an image to start from")
        if self.denoise_map is not None and mods.one_sigma:
            raise ValueError(f"{mods.one_sigma[0]} needs one sigma per sample: leave it out with a denoise_map")
        if self.map_schedule not in ("delayed", "own"):
            raise ValueError(f"map_schedule must be 'delayed' or 'own'; got {self.map_schedule!r}")
        if self.map_schedule == "own" and (self.start_step, self.last_step) != (None, None):
            raise ValueError("map_schedule 'own' runs whole schedules: leave start_step and last_step out")
        if parse_mixing(self.mixing) is not None:
            if self.image is None or self.denoise_map is not None:
                raise ValueError(f"mixing {self.mixing} needs an image to mix with, and no denoise_map")
            if SAMPLERS.lookup(self.sampler).adaptive:
                raise ValueError(f"{self.sampler} chooses its own steps: mixing needs those of the schedule")
        self._check_large()
        for name in ("image", "mask", *(["denoise_map"] if self.denoise_map != AUTO else [])):
            seal(self, name)
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

    def _check_large(self) -> None:
        if not 1 <= self.scale < math.inf:
            raise ValueError(f"scale must be a number ≥ 1; got {self.scale}")
        if self.scale > 1 and (self.image is None or self.width is not None):
            raise ValueError(f"scale {self.scale} needs an image to enlarge, and no width and height besides")
        if not 0 <= self.min_denoise <= self.denoise:
            raise ValueError(f"min_denoise must be 0 … denoise = {self.denoise}; got {self.min_denoise}")
        if self.min_denoise and self.denoise_map is None:
            raise ValueError(f"min_denoise {self.min_denoise} needs a denoise_map, whose black parts have it")
        shifting = self.tiling is not None and self.tiling.kind == "spot"
        if shifting and self.denoise_map is not None and self.map_schedule == "own":
            raise ValueError("tiling 'spot' shifts its tiles with the step: with a denoise map, map_schedule 'delayed'")

        if self.demofusion is not None:
            self._check_phases()

    def _check_phases(self) -> None:
        for name in ("mask", "denoise_map", "mixing", "start_step", "last_step", "tiling"):
            if getattr(self, name):
                raise ValueError(f"demofusion draws whole images in whole runs: leave {name} out")
        if SAMPLERS.lookup(self.sampler).adaptive:
            raise ValueError(f"{self.sampler} chooses its own steps: demofusion needs those of the schedule")

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
        values["controls"] = tuple(ControlImage(**control) for control in values.get("controls", ()))
        values["loras"] = tuple(Lora(**lora) for lora in values.get("loras", ()))
        values["detail"] = Detail(**values.get("detail", {}))
        values["tiling"] = Tiling(**values["tiling"]) if values.get("tiling") else None
        values["demofusion"] = DemoFusion(**values["demofusion"]) if values.get("demofusion") else None
        return cls(**values)


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"{name} must be ≥ {least}; got {value}")
