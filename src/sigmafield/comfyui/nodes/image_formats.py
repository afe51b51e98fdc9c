"""The node that saves images in several formats."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from torch import Tensor

from sigmafield.comfyui.avif import LEVELS, avif, deep_avif
from sigmafield.comfyui.avif import ColorSpace as AvifSpace
from sigmafield.comfyui.context import Context, Shown
from sigmafield.comfyui.declare import node
from sigmafield.comfyui.exr import ColorSpace as ExrSpace
from sigmafield.comfyui.exr import exr, openexr
from sigmafield.comfyui.saving import as_json, place, png, png_16, saved_images, stays_below, texts_of
from sigmafield.comfyui.sockets import Dynamic, Input
from sigmafield.comfyui.values import ExtraValue, Image, PromptValue
from sigmafield.comfyui.video import pyav
from sigmafield.core.annotations import Range


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
class Exr:
    """An EXR file."""

    bit_depth: Literal["16-bit float", "32-bit float"] = "16-bit float"
    input_color_space: ExrSpace = "sRGB"


@dataclass(frozen=True, kw_only=True)
class Avif:
    """An AVIF file."""

    bit_depth: Literal["auto", "8-bit YUV420", "10-bit YUV420"] = "auto"
    input_color_space: AvifSpace = "sRGB"
    crf: Annotated[int, Range(1, LEVELS)] = 18
    save_mode: Annotated[Still | Animated, Dynamic({"still images": Still, "animated": Animated})]


def _can_save(filename_prefix: Any, format: Any, context: Context) -> bool:
    """Checks the path, and that what writes the format is installed, before any node runs."""
    chosen = format.get("format") if isinstance(format, Mapping) else None
    if chosen == "exr":
        openexr()
    if chosen == "avif" and _deep(format):
        pyav()
    return stays_below(filename_prefix, context)


def _deep(values: Mapping[str, Any]) -> bool:
    """Whether an AVIF file of these values is one that Pillow does not write."""
    mode = values.get("save_mode")
    loops = mode.get("loop_count") if isinstance(mode, Mapping) else None
    plain = values.get("bit_depth") != "10-bit YUV420" and values.get("input_color_space", "sRGB") == "sRGB"
    return not plain or bool(loops)


@node(
    "SaveImageAdvanced",
    "image",
    title="Save Image (Advanced)",
    outputs=("images",),
    version=3,
    shows=True,
    validate=_can_save,
)
def save_image_advanced(
    images: Image,
    filename_prefix: str = "ComfyUI",
    *,
    format: Annotated[Png | Exr | Avif, Dynamic({"png": Png, "exr": Exr, "avif": Avif})],
    prompt: PromptValue = None,
    extra_pnginfo: ExtraValue = None,
    context: Context = Context(),
) -> Shown[Image]:
    """Saves images into the output folder: PNG of 8 or 16 bits, EXR of 16 or 32, or AVIF of 8 or 10 bits per channel.

    Args:
        images: The images, of 1, 3 or 4 channels; AVIF leaves alpha out.
        filename_prefix: Path of the files below the folder, up to the counter.
        format: The format of the files and what belongs to it.
        prompt: The prompt, which is written into the files.
        extra_pnginfo: What else is written into them.
        context: Where the folder is.
    """
    texts = texts_of(prompt, extra_pnginfo)
    said = {name: as_json(value) for name, value in texts.items()}

    def each(encode: Callable[[Tensor], bytes], ending: str) -> Shown[Image]:
        return Shown(
            images, {"images": saved_images(images, filename_prefix, context.folders.output, "output", encode, ending)}
        )

    if isinstance(format, Png):
        write = png_16 if format.bit_depth == "16-bit" else png
        return each(lambda image: write(image, texts), ".png")
    if isinstance(format, Exr):
        deep = format.bit_depth == "32-bit float"
        return each(lambda image: exr(image, deep, format.input_color_space, said), ".exr")
    if isinstance(format.save_mode, Still):
        return each(lambda image: _avif(image[None], format, said), ".avif")
    where = place(filename_prefix, context.folders.output, images.shape[2], images.shape[1])
    file = where.save(0, ".avif", _avif(images, format, said))
    shown = {"images": [file]} | ({"animated": [True]} if len(images) > 1 else {})
    return Shown(images, shown)


def _avif(frames: Tensor, format: Avif, texts: Mapping[str, str]) -> bytes:
    """The bytes of an AVIF file; `auto` is 10 bits for HDR, else 8."""
    mode, space = format.save_mode, format.input_color_space
    fps, loops = (1.0, 0) if isinstance(mode, Still) else (mode.fps, mode.loop_count)
    bits = 10 if format.bit_depth == "10-bit YUV420" or (format.bit_depth == "auto" and space != "sRGB") else 8
    if bits == 8 and space == "sRGB" and not loops:
        return avif(frames, format.crf, texts, fps)
    return deep_avif(frames, format.crf, texts, bits, space, fps, loops)
