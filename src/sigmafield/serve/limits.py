"""What one request may ask of a server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from torch import Tensor

from sigmafield.core.annotations import Range
from sigmafield.core.parameters import settle
from sigmafield.recipes.recipe import Recipe

MIB = 2**20

FACTORS = ("scale_by", "resize_type.multiplier")
"""Inputs of nodes by which both sides of an image grow."""
ENTRIES = ("regions", "loras", "controls", "ip_adapters", "references")
"""Lists of a recipe, of which each entry costs time and memory."""
PIXELS = 8
"""Pixels of a latent position along a side, as most nodes count them."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one request may ask for; anything larger is refused before it costs anything.

    Args:
        max_body: MiB of one request's body.
        max_pixels: Pixels of an image that is drawn or uploaded; of an animation, of all its frames together.
        max_frames: Frames of a video or an animation.
        max_steps: Steps of a run.
        max_batch: Images of a job.
        max_text: Characters of all prompts of a recipe together.
        max_entries: Regions of a recipe; LoRAs, controls, IP-Adapters and references likewise.
        upload_space: MiB that the uploads of one token take on disk.
        keep_uploads: Hours that an upload is kept after its last use.

    Raises:
        ValueError: A value is out of range.
    """

    max_body: Annotated[int, Range(1, 4096)] = 32
    max_pixels: Annotated[int, Range(1)] = 2**24
    max_frames: Annotated[int, Range(1)] = 128
    max_steps: Annotated[int, Range(1)] = 500
    max_batch: Annotated[int, Range(1)] = 16
    max_text: Annotated[int, Range(1)] = 20000
    max_entries: Annotated[int, Range(1)] = 32
    upload_space: Annotated[int, Range(1)] = 1024
    keep_uploads: Annotated[float, Range(0, above=True)] = 168.0

    def __post_init__(self) -> None:
        settle(self, "the limits")

    def check(self, recipe: Recipe, image: tuple[int, int] | None) -> None:
        """Raise ValueError for a recipe that asks for more than it may; the message begins with the entry.

        Args:
            recipe: What is asked for.
            image: (width, height) of the image that it starts from; None without one.
        """
        for name, value, most in (
            ("steps", recipe.steps, self.max_steps),
            ("batch", recipe.batch, self.max_batch),
            ("frames", recipe.frames or 1, self.max_frames),
        ):
            if value > most:
                raise ValueError(f"{name} must be at most {most} on this server; got {value}")
        for name in ENTRIES:
            if (entries := len(getattr(recipe, name))) > self.max_entries:
                raise ValueError(f"{name} must be at most {self.max_entries} on this server; got {entries}")
        texts = [recipe.prompt, recipe.negative, *(region.prompt for region in recipe.regions)]
        if (length := sum(map(len, texts))) > self.max_text:
            raise ValueError(f"prompts must have at most {self.max_text} characters on this server; got {length}")
        width, height = drawn_size(recipe, image)
        if (pixels := width * height * (recipe.frames or 1)) > self.max_pixels:
            raise ValueError(
                f"width × height must be at most {self.max_pixels} pixels on this server; got {width}x{height}"
                + (f" and {recipe.frames} frames" if recipe.frames else "")
                + f", {pixels} pixels"
            )

    def check_node(self, name: str, inputs: Mapping[str, Any]) -> None:
        """Raise ValueError for a node of a workflow whose inputs ask for more than they may.

        Args:
            name: Its id.
            inputs: Its inputs: numbers, and at the call of a node images, masks and latents; others are not looked at.
        """
        most = {"steps": self.max_steps, "batch_size": self.max_batch, "length": self.max_frames}
        numbers = {key: value for key, value in inputs.items() if isinstance(value, (int, float))}
        for key, limit in most.items():
            if numbers.get(key, 0) > limit:
                raise ValueError(f"node {name}: {key} must be at most {limit} on this server; got {numbers[key]}")
        width, height = numbers.get("width", 0), numbers.get("height", 0)
        if width * height > self.max_pixels:
            raise ValueError(
                f"node {name}: width × height must be at most {self.max_pixels} pixels on this server; "
                f"got {width}x{height}"
            )
        factor = max([numbers[key] for key in FACTORS if key in numbers], default=1)
        for width, height in filter(None, map(size_in, inputs.values())):
            if width * height * max(factor, 1) ** 2 > self.max_pixels:
                raise ValueError(
                    f"node {name}: an image must have at most {self.max_pixels} pixels on this server; "
                    f"got {width}x{height}" + (f", enlarged {factor:g} times" if factor > 1 else "")
                )


def size_in(value: Any) -> tuple[int, int] | None:
    """(width, height) in pixels of images [B, H, W, C], masks [B, H, W] or a latent of nodes; None for others."""
    if isinstance(value, Tensor) and value.ndim in (3, 4):
        return value.shape[2], value.shape[1]
    if isinstance(value, Mapping) and isinstance(latent := value.get("samples"), Tensor) and latent.ndim > 3:
        return latent.shape[-1] * PIXELS, latent.shape[-2] * PIXELS
    return None


def drawn_size(recipe: Recipe, image: tuple[int, int] | None) -> tuple[int, int]:
    """(width, height) in pixels of what a recipe draws; (1, 1) where that is the model's own size.

    Args:
        recipe: What is drawn.
        image: (width, height) of the image that it starts from; None without one.
    """
    width, height = (recipe.width, recipe.height) if recipe.width and recipe.height else image or (1, 1)
    if isinstance(recipe.pad, tuple):
        left, top, right, bottom = recipe.pad
        width, height = width + left + right, height + top + bottom
    scale = recipe.scale * (recipe.demofusion.scale if recipe.demofusion else 1)
    return round(width * scale), round(height * scale)
