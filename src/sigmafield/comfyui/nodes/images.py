"""Nodes that load, change and save images."""

from __future__ import annotations

import hashlib
import random
import string
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image as Pillow
from torch import Tensor

from sigmafield.comfyui.context import Context, Folders, Shown
from sigmafield.comfyui.declare import node
from sigmafield.comfyui.saving import located, place, png
from sigmafield.comfyui.scaling import scaled
from sigmafield.comfyui.sockets import Autogrow, Choices, Dynamic, Input, Match, Socket
from sigmafield.comfyui.values import ExtraValue, Image, Mask, PromptValue
from sigmafield.core.annotations import Range
from sigmafield.recipes.image_io import open_frames
from sigmafield.runs.files import write_whole


def _images(folders: Folders) -> list[str]:
    Pillow.init()
    here = folders.input.iterdir() if folders.input.is_dir() else ()
    return sorted(path.name for path in here if path.suffix.lower() in Pillow.EXTENSION)


def _must_exist(image: str, context: Context) -> None:
    if not located(image, context.folders).is_file():
        raise ValueError(f"Invalid image file: {image}")


def _digest(image: str, context: Context) -> str:
    return hashlib.sha256(located(image, context.folders).read_bytes()).hexdigest()


@node("LoadImage", "image", title="Load Image", validate=_must_exist, fingerprint=_digest)
def load_image(
    image: Annotated[str, Choices(_images, files=True), Input(more=(("image_upload", True),))], context: Context
) -> tuple[Image, Mask]:
    """Loads an image and its transparency.

    Args:
        image: A file in the input folder.
        context: Where the folder is.
    """
    frames = open_frames(located(image, context.folders))
    frames = [frame for frame in frames if frame.size == frames[0].size]
    clear = frames[0].has_transparency_data
    pixels = [np.array(frame.convert("RGBA" if clear else "RGB")) for frame in frames]
    values = torch.from_numpy(np.stack(pixels)).float() / 255
    mask = 1 - values[..., 3] if clear else torch.zeros(len(frames), 64, 64)
    return values[..., :3], mask


@node("ImageInvert", "image", title="Invert Image")
def image_invert(image: Image) -> Image:
    """Negates the colours.

    Args:
        image: The images.
    """
    return 1.0 - image


@node("BatchImagesNode", "image", title="Batch Images", version=3)
def batch_images(images: Annotated[Mapping[str, Tensor], Autogrow(Image, "image", "image", min=2, max=50)]) -> Image:
    """Joins batches of images into one; all get the size of the first, and alpha where any of them has it.

    Args:
        images: The batches.
    """
    batches = list(images.values())
    channels, (height, width) = max(each.shape[-1] for each in batches), batches[0].shape[1:3]
    full = [F.pad(each, (0, channels - each.shape[-1]), value=1.0) for each in batches]
    sized = [
        each
        if each.shape[1:3] == (height, width)
        else scaled(each.movedim(-1, 1), width, height, "bilinear", "center").movedim(1, -1)
        for each in full
    ]
    return torch.cat(sized)


Crop = Literal["disabled", "center"]
Pixels = Annotated[int, Range(0, 16384), Input(step=1)]


@dataclass(frozen=True, kw_only=True)
class ByFactor:
    """Both sides are multiplied."""

    multiplier: Annotated[float, Range(0.01, 8), Input(step=0.01)] = 1.0


@dataclass(frozen=True, kw_only=True)
class ToSize:
    """Both sides are given; 0 keeps the ratio of the sides."""

    width: Pixels = 512
    height: Pixels = 512
    crop: Crop = "center"


@dataclass(frozen=True, kw_only=True)
class LongerSide:
    """The longer side is given."""

    longer_size: Pixels = 512


@dataclass(frozen=True, kw_only=True)
class ShorterSide:
    """The shorter side is given."""

    shorter_size: Pixels = 512


@dataclass(frozen=True, kw_only=True)
class ToWidth:
    """The width is given."""

    width: Pixels = 512


@dataclass(frozen=True, kw_only=True)
class ToHeight:
    """The height is given."""

    height: Pixels = 512


@dataclass(frozen=True, kw_only=True)
class ToArea:
    """The number of pixels is given, in units of 1024²."""

    megapixels: Annotated[float, Range(0.01, 16), Input(step=0.01)] = 1.0


@dataclass(frozen=True, kw_only=True)
class ToMatch:
    """The sides of another image or mask."""

    match: Annotated[Tensor, Socket("IMAGE,MASK")]
    crop: Crop = "center"


Sizing = ByFactor | ToSize | LongerSide | ShorterSide | ToWidth | ToHeight | ToArea | ToMatch
SIZINGS: dict[str, type] = {
    "scale by multiplier": ByFactor,
    "scale dimensions": ToSize,
    "scale longer dimension": LongerSide,
    "scale shorter dimension": ShorterSide,
    "scale width": ToWidth,
    "scale height": ToHeight,
    "scale total pixels": ToArea,
    "match size": ToMatch,
}
Method = Literal["nearest-exact", "bilinear", "area", "bicubic", "lanczos"]


@node("ResizeImageMaskNode", "transform", title="Resize Image/Mask", outputs=("resized",), version=3)
def resize_image_mask(
    input: Annotated[Tensor, Match("input_type", "IMAGE,MASK")],
    resize_type: Annotated[Sizing, Dynamic(SIZINGS)],
    scale_method: Method = "area",
) -> Annotated[Tensor, Match("input_type")]:
    """Resizes images or masks.

    Args:
        input: Images [B, H, W, C] or masks [B, H, W].
        resize_type: What the new size follows from.
        scale_method: The interpolation.
    """
    width, height = new_size(resize_type, input.shape[2], input.shape[1])
    crop = resize_type.crop if isinstance(resize_type, (ToSize, ToMatch)) else "disabled"
    if input.ndim == 3:
        return scaled(input[:, None], width, height, scale_method, crop)[:, 0]
    return scaled(input.movedim(-1, 1), width, height, scale_method, crop).movedim(1, -1)


def new_size(sizing: Sizing, width: int, height: int) -> tuple[int, int]:
    """(width, height) that a sizing gives an image of another size."""
    match sizing:
        case ByFactor(multiplier=k):
            return round(width * k), round(height * k)
        case ToMatch(match=other):
            return other.shape[2], other.shape[1]
        case ToSize(width=w, height=h):
            if not w and not h:
                return width, height
            return w or max(1, round(width * h / height)), h or max(1, round(height * w / width))
        case ToArea(megapixels=area):
            k = (area * 1024 * 1024 / (width * height)) ** 0.5
            return round(width * k), round(height * k)
        case LongerSide(longer_size=side):
            k = side / max(width, height)
        case ShorterSide(shorter_size=side):
            k = side / min(width, height)
        case ToWidth(width=side):
            k = side / width
        case ToHeight(height=side):
            k = side / height
    return max(1, round(width * k)), max(1, round(height * k))


@node("SaveImage", "image", title="Save Image", shows=True)
def save_image(
    images: Image,
    filename_prefix: str = "ComfyUI",
    *,
    prompt: PromptValue = None,
    extra_pnginfo: ExtraValue = None,
    context: Context = Context(),
) -> Shown[None]:
    """Saves images into the output folder.

    Args:
        images: The images.
        filename_prefix: Path of the files below the folder, up to the counter.
        prompt: The prompt, which is written into the files.
        extra_pnginfo: What else is written into them.
        context: Where the folder is.
    """
    saved = saved_images(images, filename_prefix, context.folders.output, "output", prompt, extra_pnginfo)
    return Shown(None, {"images": saved})


@node("PreviewImage", "image", title="Preview Image", shows=True)
def preview_image(
    images: Image, *, prompt: PromptValue = None, extra_pnginfo: ExtraValue = None, context: Context = Context()
) -> Shown[None]:
    """Shows images: saves them into the folder of temporary files.

    Args:
        images: The images.
        prompt: The prompt, which is written into the files.
        extra_pnginfo: What else is written into them.
        context: Where the folder is.
    """
    prefix = "ComfyUI_temp_" + "".join(random.choices(string.ascii_lowercase, k=5))
    return Shown(None, {"images": saved_images(images, prefix, context.folders.temp, "temp", prompt, extra_pnginfo)})


def saved_images(
    images: Tensor, prefix: str, root: Path, kind: str, prompt: Any, extra: Mapping[str, Any] | None
) -> list[dict[str, str]]:
    """Write images [B, H, W, C] as PNG files and describe them as an interface shows them."""
    where = place(prefix, root, images.shape[2], images.shape[1])
    where.folder.mkdir(parents=True, exist_ok=True)
    found: list[dict[str, str]] = []
    for k, image in enumerate(images):
        name = where.file(k, "_.png")
        texts = ({} if prompt is None else {"prompt": prompt}) | dict(extra or {})
        write_whole(where.folder / name, png(image, texts, 4 if kind == "output" else 1))
        found.append({"filename": name, "subfolder": where.subfolder, "type": kind})
    return found
