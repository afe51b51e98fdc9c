"""Images in memory: tensors ↔ Pillow images, image files read, contact sheets; `output` writes files."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageSequence, UnidentifiedImageError
from torch import Tensor


def to_images(images: Tensor) -> list[Image.Image]:
    """Pillow images from a tensor [B, 3, H, W] in [0, 1]; values outside are clipped.

    Of videos [B, 3, frames, H, W]: the frames of the first, then those of the second, …
    """
    images = images.movedim(2, 1).flatten(0, 1) if images.ndim == 5 else images
    pixels = images.detach().float().cpu().clamp(0, 1).mul(255).round().byte().permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(image) for image in pixels]


def to_tensor(image: Image.Image) -> Tensor:
    """Tensor [1, 3, H, W] in [0, 1] from a Pillow image; transparent parts become white."""
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    pixels = torch.from_numpy(np.array(image.convert("RGB")))
    return pixels.permute(2, 0, 1)[None].float() / 255


def to_mask(image: Image.Image) -> Tensor:
    """Tensor [1, H, W] in [0, 1] of an image's brightness: 1 where it is white."""
    return torch.from_numpy(np.array(image.convert("L")))[None].float() / 255


def open_image(path: str | Path) -> Image.Image:
    """An image from a file, read whole. FileNotFoundError or ValueError if it cannot be read."""
    try:
        image = Image.open(path)
        image.load()
        return image
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        if not Path(path).exists():
            raise FileNotFoundError(f"no image at {path}") from None
        raise ValueError(f"cannot read {path} as an image: {error}") from None


def open_frames(path: str | Path) -> list[Image.Image]:
    """The frames of an animation, or the one image of a file; errors as `open_image`."""
    image = open_image(path)
    if getattr(image, "n_frames", 1) == 1:
        return [image]
    return [frame.convert("RGB") for frame in ImageSequence.Iterator(image)]


def resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """An image at (height, width), by Lanczos' filter; itself where it has that size."""
    height, width = size
    return image if image.size == (width, height) else image.resize((width, height), Image.Resampling.LANCZOS)


def sheet(images: Sequence[Image.Image], columns: int | None = None, gap: int = 4) -> Image.Image:
    """One image with all of the same size in rows, on white; default as near to a square as it goes."""
    columns = columns or math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    width, height = images[0].size
    page = Image.new("RGB", (columns * (width + gap) - gap, rows * (height + gap) - gap), "white")
    for k, image in enumerate(images):
        page.paste(image, (k % columns * (width + gap), k // columns * (height + gap)))
    return page


def sheets(images: Sequence[Sequence[Image.Image]]) -> list[Image.Image]:
    """A sheet of all images for each frame."""
    return [sheet(frame) for frame in zip(*images)]


def digest(path: str | Path) -> str:
    """SHA-256 of a file's bytes."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
