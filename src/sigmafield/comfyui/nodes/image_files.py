"""Nodes that load and save images."""

from __future__ import annotations

import random
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import uuid4

import numpy as np
import torch
from PIL import Image as Pillow
from torch import Tensor

from sigmafield.comfyui.context import Context, Folders, Progress, Shown, Stepped
from sigmafield.comfyui.declare import node
from sigmafield.comfyui.nodes.masks import mask_to_image
from sigmafield.comfyui.saving import located, png, saved_images, stays_below, texts_of, to_pillow
from sigmafield.comfyui.sockets import Choices, Input, Socket
from sigmafield.comfyui.values import ExtraValue, Image, Mask, PromptValue
from sigmafield.core.annotations import Range
from sigmafield.recipes.bit_depth import grey_levels, is_deep
from sigmafield.recipes.image_io import digest, open_unconverted, read_bytes, to_rgba


def _images(folders: Folders) -> list[str]:
    Pillow.init()
    here = folders.input.iterdir() if folders.input.is_dir() else ()
    return sorted(path.name for path in here if path.suffix.lower() in Pillow.EXTENSION)


File = Annotated[str, Choices(_images, files=True), Input(more=(("image_upload", True),))]
REMOTE = {"route": "/internal/files/output", "refresh_button": True, "control_after_refresh": "first"}
OutputFile = Annotated[
    str, Socket("COMBO"), Input(more=(("image_upload", True), ("image_folder", "output"), ("remote", REMOTE)))
]


def _must_exist(image: str, context: Context) -> None:
    if not located(image, context.folders).is_file():
        raise ValueError(f"Invalid image file: {image}")


def _digest(image: str, context: Context) -> str:
    return digest(read_bytes(located(image, context.folders)))


def _eight_bits(image: Pillow.Image) -> Pillow.Image:
    """An image of any mode with 8 bits per channel; whole numbers of more bits are divided by 255, as in ComfyUI."""
    if not is_deep(image):
        return image
    levels = grey_levels(image) * 255 if image.mode == "F" else np.asarray(image).astype(np.float64) / 255
    return Pillow.fromarray(levels.clip(0, 255).astype(np.uint8))


def loaded(path: Path) -> tuple[Tensor, Tensor]:
    """The frames of an image file [B, H, W, 3] and 1 − alpha [B, H, W], which is 0 and 64×64 if none has alpha.

    Frames of another size than the first are left out.
    """
    frames = open_unconverted(path)
    frames = [_eight_bits(each) for each in frames if each.size == frames[0].size]
    rgba = [np.array(to_rgba(each) if each.has_transparency_data else each.convert("RGB")) for each in frames]
    images = torch.from_numpy(np.stack([each[..., :3] for each in rgba])).float() / 255
    if not any(each.shape[-1] == 4 for each in rgba):
        return images, torch.zeros(len(frames), 64, 64)
    opaque = np.full(rgba[0].shape[:2], 255, np.uint8)
    alpha = np.stack([each[..., 3] if each.shape[-1] == 4 else opaque for each in rgba])
    return images, 1 - torch.from_numpy(alpha).float() / 255


@node("LoadImage", "image", title="Load Image", validate=_must_exist, fingerprint=_digest)
def load_image(image: File, context: Context) -> tuple[Image, Mask]:
    """Loads an image and its transparency.

    Args:
        image: A file in the input folder.
        context: Where the folder is.
    """
    return loaded(located(image, context.folders))


@node(
    "LoadImageOutput", "image", title="Load Image (from Outputs)", experimental=True,
    validate=_must_exist, fingerprint=_digest,
)  # fmt: skip
def load_image_output(image: OutputFile, context: Context) -> tuple[Image, Mask]:
    """Loads an image that was saved, and its transparency.

    Args:
        image: A file, with its folder: "name.png [output]".
        context: Where the folder is.
    """
    return loaded(located(image, context.folders))


@node("LoadImageMask", "mask", title="Load Image (as Mask)", validate=_must_exist, fingerprint=_digest)
def load_image_mask(image: File, channel: Literal["alpha", "red", "green", "blue"], context: Context) -> Mask:
    """Loads a channel of an image as a mask.

    Args:
        image: A file in the input folder.
        channel: The channel; of alpha it is 1 − alpha.
        context: Where the folder is.
    """
    first = to_rgba(_eight_bits(open_unconverted(located(image, context.folders))[0]))
    k = ("red", "green", "blue", "alpha").index(channel)
    values = torch.from_numpy(np.array(first)[..., k]).float()[None] / 255
    return 1 - values if channel == "alpha" else values


@node("SaveImage", "image", title="Save Image", outputs=("images",), shows=True, validate=stays_below)
def save_image(
    images: Image,
    filename_prefix: str = "ComfyUI",
    *,
    prompt: PromptValue = None,
    extra_pnginfo: ExtraValue = None,
    context: Context = Context(),
) -> Shown[Image]:
    """Saves images into the output folder.

    Args:
        images: The images.
        filename_prefix: Path of the files below the folder, up to the counter.
        prompt: The prompt, which is written into the files.
        extra_pnginfo: What else is written into them.
        context: Where the folder is.
    """
    texts = texts_of(prompt, extra_pnginfo)
    saved = saved_images(images, filename_prefix, context.folders.output, "output", lambda image: png(image, texts))
    return Shown(images, {"images": saved})


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
    return Shown(None, {"images": _previews(images, "ComfyUI", texts_of(prompt, extra_pnginfo), context)})


@node("SaveImageWebsocket", "api/image", shows=True, fingerprint=lambda: uuid4().hex)
def save_image_websocket(images: Image) -> Stepped[None]:
    """Sends images to the client that has posted the prompt, as PNG files through its socket; each time it runs.

    Args:
        images: The images.
    """
    for k, image in enumerate(images):
        yield Progress(k, len(images), image=to_pillow(image))


@node("MaskPreview", "mask", title="Preview Mask", outputs=("mask",), version=3, shows=True)
def mask_preview(
    mask: Mask, *, prompt: PromptValue = None, extra_pnginfo: ExtraValue = None, context: Context = Context()
) -> Shown[Mask]:
    """Shows masks.

    Args:
        mask: The masks.
        prompt: The prompt, which is written into the files.
        extra_pnginfo: What else is written into them.
        context: Where the folder is.
    """
    texts = texts_of(prompt, extra_pnginfo)
    return Shown(mask, {"images": _previews(mask_to_image(mask), "ComfyUI", texts, context)})


@node("ImageCompare", "image", title="Image Compare", version=3, shows=True)
def image_compare(
    image_a: Image | None = None,
    image_b: Image | None = None,
    compare_view: Annotated[Any, Socket("IMAGECOMPARE")] = None,
    *,
    prompt: PromptValue = None,
    extra_pnginfo: ExtraValue = None,
    context: Context = Context(),
) -> Shown[None]:
    """Shows two batches of images for comparison.

    Args:
        image_a: The first batch.
        image_b: The second batch.
        compare_view: Where the interface shows them.
        prompt: The prompt, which is written into the files.
        extra_pnginfo: What else is written into them.
        context: Where the folder is.
    """
    texts = texts_of(prompt, extra_pnginfo)
    ui = {
        f"{side}_images": [] if each is None else _previews(each, f"comfy.compare.{side}", texts, context)
        for side, each in (("a", image_a), ("b", image_b))
    }
    return Shown(None, ui)


@node("Painter", "image", title="Painter", version=3)
def painter(
    mask: Annotated[str, Input(more=(("widgetType", "PAINTER"), ("image_upload", True)))] = "",
    width: Annotated[int, Range(64, 4096), Input(step=64, more=(("hidden", True),))] = 512,
    height: Annotated[int, Range(64, 4096), Input(step=64, more=(("hidden", True),))] = 512,
    bg_color: Annotated[str, Socket("COLOR")] = "#000000",
    image: Image | None = None,
    context: Context = Context(),
) -> Shown[tuple[Image, Mask]]:
    """An image that was painted on in the interface, and where it was.

    Args:
        mask: The file of what was painted.
        width: Width of an image that is new.
        height: Height of an image that is new.
        bg_color: Colour of an image that is new.
        image: The image that was painted on.
        context: Where the folders are.
    """
    base = _plain(bg_color, width, height) if image is None else image[:1, ..., :3]
    height, width = base.shape[1:3]
    alpha = torch.zeros(1, height, width)
    if mask:
        painted = to_rgba(open_unconverted(located(mask, context.folders))[0])
        painted = painted.resize((width, height), Pillow.Resampling.LANCZOS)
        values = torch.from_numpy(np.array(painted)).float()[None] / 255
        alpha = values[..., 3]
        base = values[..., :3] * alpha[..., None] + base * (1 - alpha[..., None])
    return Shown((base, alpha), {"images": _previews(base, "ComfyUI", {}, context)})


def _plain(color: str, width: int, height: int) -> Tensor:
    image = Pillow.new("RGB", (width, height), color)
    return torch.from_numpy(np.array(image)).float()[None] / 255


def _previews(images: Tensor, name: str, texts: Mapping[str, Any], context: Context) -> list[dict[str, str]]:
    """Save images into the folder of temporary files under a name of their own."""
    prefix = f"{name}_temp_" + "".join(random.choices(string.ascii_lowercase, k=5))
    return saved_images(images, prefix, context.folders.temp, "temp", lambda image: png(image, texts, 1))
