"""Nodes that save batches of images as moving images."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from sigmafield.comfyui.context import Context, Shown
from sigmafield.comfyui.declare import node
from sigmafield.comfyui.saving import as_json, place, stays_below, texts_of, to_pillow
from sigmafield.comfyui.sockets import Input
from sigmafield.comfyui.values import ExtraValue, Image, PromptValue
from sigmafield.core.annotations import Range
from sigmafield.recipes.image_texts import exif_of

Fps = Annotated[float, Range(0.01, 1000), Input(step=0.01)]


@node("SaveAnimatedPNG", "image/animation", outputs=("images",), version=3, shows=True, validate=stays_below)
def save_animated_png(
    images: Image,
    filename_prefix: str = "ComfyUI",
    fps: Fps = 6.0,
    compress_level: Annotated[int, Range(0, 9)] = 4,
    *,
    prompt: PromptValue = None,
    extra_pnginfo: ExtraValue = None,
    context: Context = Context(),
) -> Shown[Image]:
    """Saves images as the frames of an animated PNG file.

    Args:
        images: The frames.
        filename_prefix: Path of the file below the output folder, up to the counter.
        fps: Frames per second.
        compress_level: How much work is done to make the file small.
        prompt: The prompt, which is written into the file.
        extra_pnginfo: What else is written into it.
        context: Where the folder is.
    """
    info = PngInfo()
    for key, value in texts_of(prompt, extra_pnginfo).items():
        info.add(b"comf", f"{key}\0{as_json(value)}".encode("latin-1"), after_idat=True)
    ways = {"pnginfo": info, "compress_level": compress_level}
    return _saved(images, filename_prefix, "PNG", fps, ways, context)


@node("SaveAnimatedWEBP", "image/animation", outputs=("images",), version=3, shows=True, validate=stays_below)
def save_animated_webp(
    images: Image,
    filename_prefix: str = "ComfyUI",
    fps: Fps = 6.0,
    lossless: bool = True,
    quality: Annotated[int, Range(0, 100)] = 80,
    *,
    method: Literal["default", "fastest", "slowest"],
    prompt: PromptValue = None,
    extra_pnginfo: ExtraValue = None,
    context: Context = Context(),
) -> Shown[Image]:
    """Saves images as the frames of an animated WebP file.

    Args:
        images: The frames.
        filename_prefix: Path of the file below the output folder, up to the counter.
        fps: Frames per second.
        lossless: Whether the file holds all that is in the images.
        quality: The quality, if not; otherwise how much work is done to make the file small.
        method: How much work is done to make the file small.
        prompt: The prompt, which is written into the file.
        extra_pnginfo: What else is written into it.
        context: Where the folder is.
    """
    exif = exif_of({key: as_json(value) for key, value in texts_of(prompt, extra_pnginfo).items()})
    effort = {"default": 4, "fastest": 0, "slowest": 6}[method]
    ways = {"exif": exif, "lossless": lossless, "quality": quality, "method": effort}
    return _saved(images, filename_prefix, "WEBP", fps, ways, context)


def _saved(
    images: Tensor, prefix: str, kind: str, fps: float, ways: Mapping[str, Any], context: Context
) -> Shown[Tensor]:
    """Write images [B, H, W, C] as the frames of a file; `ways` are Pillow's options of its format."""
    where = place(prefix, context.folders.output, images.shape[2], images.shape[1])
    file = io.BytesIO()
    first, *others = map(to_pillow, images)
    first.save(file, kind, save_all=True, append_images=others, duration=int(1000 / fps), **ways)
    made = where.save(0, f"_.{kind.lower()}", file.getvalue())
    return Shown(images, {"images": [made], "animated": [True]})
