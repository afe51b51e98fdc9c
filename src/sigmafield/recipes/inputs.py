"""Images that a recipe gives to the network: those that steer it, and the one that it paints into."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from sigmafield.core.conditioning import Control
from sigmafield.models.bundle import Pipeline
from sigmafield.models.diffusion_model import no_controls
from sigmafield.models.load import load_control
from sigmafield.recipes import image_io
from sigmafield.spatial.inpaint import hidden, inpaint_concat


@dataclass(frozen=True)
class ControlImage:
    """A image that steers the network, and the ControlNet or T2I-Adapter that reads it.

    net: its directory in diffusers' layout; image: path of the image, its _sha256 filled in so that a replay knows it
    again; strength: factor of its effect; start, end: shares of the way through sampling between which it acts; kind:
    what the image shows, for a ControlNet that reads several kinds (canny, depth, openpose, …).
    Raises ValueError for a value outside its range, FileNotFoundError for no image or directory, at construction.
    """

    net: str
    image: str
    strength: float = 1.0
    start: float = 0.0
    end: float = 1.0
    kind: str | None = None
    image_sha256: str | None = None

    def __post_init__(self) -> None:
        if not math.isfinite(self.strength):
            raise ValueError(f"a control's strength must be a finite number; got {self.strength}")
        if not 0 <= self.start <= self.end <= 1:
            raise ValueError(f"a control's start and end must be 0 ≤ start ≤ end ≤ 1; got {self.start} and {self.end}")
        if not Path(self.net).expanduser().is_dir():
            raise FileNotFoundError(f"{self.net}: no such directory; a control's net is one in diffusers' layout")
        seal(self, "image")


def controls_of(entries: Sequence[ControlImage], pipe: Pipeline) -> tuple[Control, ...]:
    """The images that steer, and the networks that read them, on the pipeline's device in its network's dtype."""
    if entries and pipe.model.controls is None:
        raise no_controls(pipe.model.name)
    dtype = getattr(pipe.modules.get("unet"), "dtype", None)
    return tuple(
        Control(
            load_control(entry.net, device=pipe.device, dtype=dtype, kind=entry.kind),
            image_io.to_tensor(read_frames(entry.image, entry.image_sha256)[0]).to(pipe.device),
            entry.strength,
            (entry.start, entry.end),
        )
        for entry in entries
    )


def concat_of(pipe: Pipeline, size: tuple[int, int], source: Image.Image | None, mask: Tensor | None) -> Tensor | None:
    """What an inpainting network is told of the image outside of the mask; None for networks that are told nothing.

    Without a image all is masked. Raises ValueError for networks with other concats, which recipes cannot make.
    """
    channels = pipe.model.concat
    if not channels:
        return None
    if channels != 1 + pipe.model.latent.channels:
        raise ValueError(f"{pipe.model.name} takes {channels} channels of concat: give them in Python, as Cond.concat")
    image = image_io.to_tensor(resized(source, size)) if source else torch.full((1, 3, *size), 0.5)
    mask = torch.ones(1, *size) if mask is None else mask
    return inpaint_concat(mask, pipe.encode(hidden(image, mask).to(pipe.device)))


def read_frames(path: str, known: str | None) -> list[Image.Image]:
    """The frames of an animation, or the one image of a file; ValueError if it is not the one of that SHA-256."""
    images = image_io.open_frames(path)
    if known and image_io.digest(path) != known:
        raise ValueError(f"{path} has changed since this recipe was made: its SHA-256 differs")
    return images


def resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """A image at (height, width)."""
    height, width = size
    return image if image.size == (width, height) else image.resize((width, height), Image.Resampling.LANCZOS)


def seal(owner: Any, name: str) -> None:
    """Fill in the SHA-256 of a new value's file, which must be a image, if there is one and it is not known yet."""
    path = getattr(owner, name)
    if path is not None and getattr(owner, f"{name}_sha256") is None:
        image_io.open_image(path)
        object.__setattr__(owner, f"{name}_sha256", image_io.digest(path))
