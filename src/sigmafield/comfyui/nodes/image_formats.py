"""The node that saves images in several formats."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from torch import Tensor

from sigmafield.comfyui.context import Context, Shown
from sigmafield.comfyui.declare import node
from sigmafield.comfyui.saving import (
    as_json,
    place,
    png,
    png_16,
    saved_images,
    stays_below,
    texts_of,
    to_pillow,
)
from sigmafield.comfyui.sockets import Dynamic, Input
from sigmafield.comfyui.values import ExtraValue, Image, PromptValue
from sigmafield.core.annotations import Range
from sigmafield.recipes.image_texts import exif_of

LEVELS = 63
"""The largest CRF, which is the smallest quality."""


@dataclass(frozen=True, kw_only=True)
class Png:
    """A PNG file."""

    bit_depth: Literal["8-bit", "16-bit"] = "8-bit"
    input_color_space: Literal["sRGB"] = "sRGB"


@dataclass(frozen=True, kw_only=True)
class Still:
    """A file for each image."""


@dataclass(frozen=True, kw_only=True)
class Animated:
    """One file, of which the images are the frames."""

    fps: Annotated[float, Range(0.01, 1000), Input(step=0.01)] = 6.0
    loop_count: Annotated[int, Range(0, 1000)] = 0


@dataclass(frozen=True, kw_only=True)
class Avif:
    """An AVIF file."""

    bit_depth: Literal["auto", "8-bit YUV420"] = "auto"
    input_color_space: Literal["sRGB"] = "sRGB"
    crf: Annotated[int, Range(1, LEVELS)] = 18
    save_mode: Annotated[Still | Animated, Dynamic({"still images": Still, "animated": Animated})]


@node(
    "SaveImageAdvanced",
    "image",
    title="Save Image (Advanced)",
    outputs=("images",),
    version=3,
    shows=True,
    validate=stays_below,
)
def save_image_advanced(
    images: Image,
    filename_prefix: str = "ComfyUI",
    *,
    format: Annotated[Png | Avif, Dynamic({"png": Png, "avif": Avif})],
    prompt: PromptValue = None,
    extra_pnginfo: ExtraValue = None,
    context: Context = Context(),
) -> Shown[Image]:
    """Saves images into the output folder, as PNG of 8 or 16 bits per channel or as AVIF.

    Args:
        images: The images, of 1, 3 or 4 channels; AVIF leaves alpha out.
        filename_prefix: Path of the files below the folder, up to the counter.
        format: The format of the files and what belongs to it.
        prompt: The prompt, which is written into the files.
        extra_pnginfo: What else is written into them.
        context: Where the folder is.
    """
    texts, root = texts_of(prompt, extra_pnginfo), context.folders.output
    if isinstance(format, Avif):
        return _avif(images, filename_prefix, format, texts, context)
    write = png_16 if format.bit_depth == "16-bit" else png
    saved = saved_images(images, filename_prefix, root, "output", lambda image: write(image, texts), ".png")
    return Shown(images, {"images": saved})


def _avif(images: Tensor, prefix: str, format: Avif, texts: Mapping[str, Any], context: Context) -> Shown[Tensor]:
    """Save AVIF files; quality is what libavif makes of the CRF: 100 (1 − crf/63)."""
    exif = exif_of({key: as_json(value) for key, value in texts.items()})
    ways = {"quality": round(100 * (1 - format.crf / LEVELS)), "subsampling": "4:2:0", "exif": exif.tobytes()}

    def encoded(frames: Tensor, **more: Any) -> bytes:
        file = io.BytesIO()
        first, *others = (to_pillow(each[..., :3]).convert("RGB") for each in frames)
        first.save(file, "AVIF", save_all=bool(others), append_images=others, **ways, **more)
        return file.getvalue()

    root, mode = context.folders.output, format.save_mode
    if isinstance(mode, Still):
        return Shown(
            images,
            {"images": saved_images(images, prefix, root, "output", lambda image: encoded(image[None]), ".avif")},
        )
    if mode.loop_count:
        raise ValueError(f"AVIF files are written that repeat without end, loop_count 0; got {mode.loop_count}")
    where = place(prefix, root, images.shape[2], images.shape[1])
    file = where.save(0, ".avif", encoded(images, duration=round(1000 / mode.fps)))
    shown = {"images": [file]} | ({"animated": [True]} if len(images) > 1 else {})
    return Shown(images, shown)
