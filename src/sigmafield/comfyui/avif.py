"""Images as AVIF files: plain ones through Pillow; of 10 bits, HDR or a number of repeats through PyAV."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
from torch import Tensor

from sigmafield.comfyui.avif_exif import with_exif
from sigmafield.comfyui.saving import to_pillow
from sigmafield.comfyui.video import pyav
from sigmafield.recipes.image_texts import exif_of

ColorSpace = Literal["sRGB", "HDR", "HDR PQ"]

LEVELS = 63
"""The largest CRF, which is the smallest quality."""

TAGS: Mapping[str, tuple[int, int, int]] = {"sRGB": (1, 13, 1), "HDR": (9, 18, 9), "HDR PQ": (9, 16, 9)}
"""Primaries, curve and matrix of each space, as numbers of ITU-T H.273."""

RED_BLUE = {1: (0.2126, 0.0722), 9: (0.2627, 0.0593)}
"""Shares of red and blue in the brightness, by the number of the matrix."""


def avif(frames: Tensor, crf: int, texts: Mapping[str, str], fps: float = 1.0) -> bytes:
    """Images [B, H, W, C] as an AVIF file of 8 bits per channel, which repeats without end if it has several frames.

    Args:
        frames: The frames; alpha is left out.
        crf: 1 … 63, the loss; Pillow's quality is 100 (1 − crf / 63).
        texts: What the file carries, by name.
        fps: Frames per second.
    """
    file = io.BytesIO()
    first, *others = (to_pillow(each[..., :3]).convert("RGB") for each in frames)
    first.save(
        file, "AVIF", save_all=bool(others), append_images=others, quality=round(100 * (1 - crf / LEVELS)),
        subsampling="4:2:0", exif=exif_of(texts).tobytes(), duration=round(1000 / fps),
    )  # fmt: skip
    return file.getvalue()


def deep_avif(
    frames: Tensor, crf: int, texts: Mapping[str, str], bits: int, space: ColorSpace, fps: float = 1.0, loops: int = 0
) -> bytes:
    """Images [B, H, W, C] as an AVIF file of 8 or 10 bits per channel, with the tags of their colours.

    Args:
        frames: The frames, with values in the space's own curve; alpha is left out.
        crf: 1 … 63, the loss.
        texts: What the file carries, by name.
        bits: 8 or 10.
        space: What the values are.
        fps: Frames per second.
        loops: How often the frames are shown; 0: without end.

    Raises:
        ValueError: A side is odd, because the colours of 2×2 pixels are one.
        ImportError: PyAV is not installed.
    """
    height, width = frames.shape[1:3]
    if height % 2 or width % 2:
        raise ValueError(f"AVIF files of 10 bits or HDR need sides of an even length; got {width}×{height}")
    os.environ.setdefault("SVT_LOG", "1")  # errors alone; SVT-AV1 describes itself on the error stream otherwise
    av = pyav()
    primaries, curve, matrix = TAGS[space]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "image.avif"
        with av.open(str(path), "w", options={"loop": str(loops)}) as file:
            stream = file.add_stream("libsvtav1", rate=Fraction(fps).limit_denominator(65535))
            stream.width, stream.height, stream.bit_rate = width, height, 0
            stream.pix_fmt = "yuv420p10le" if bits == 10 else "yuv420p"
            stream.options = {"crf": str(crf)}
            context = stream.codec_context
            context.color_primaries, context.color_trc, context.colorspace = primaries, curve, matrix
            context.color_range = 2  # the full one
            for image in frames:
                planes = yuv(image[..., :3].detach().cpu().double().numpy(), bits, matrix)
                file.mux(stream.encode(frame_of(av, planes, stream.pix_fmt)))
            file.mux(stream.encode())
        return with_exif(path.read_bytes(), exif_of(texts).tobytes()) if texts else path.read_bytes()


def frame_of(av: Any, planes: np.ndarray, form: str) -> Any:
    """A frame of what `yuv` gives; PyAV's own `from_ndarray` takes 10 bits from 18 on, which needs Python 3.11."""
    height, width = planes.shape[0] * 2 // 3, planes.shape[1]
    frame, values, begin = av.VideoFrame(width, height, form), planes.ravel(), 0
    for plane in frame.planes:
        size = plane.width * plane.height
        rows = np.zeros((plane.height, plane.line_size // values.itemsize), values.dtype)  # a row has room at its end
        rows[:, : plane.width] = values[begin : begin + size].reshape(plane.height, plane.width)
        plane.update(rows.tobytes())
        begin += size
    return frame


def yuv(image: np.ndarray, bits: int, matrix: int) -> np.ndarray:
    """Brightness and colours of an image [H, W, 1 or 3] with values in [0, 1], in full range, as [3 H / 2, W].

    Y = r R + (1 − r − b) G + b B, Cb = (B − Y) / (2 − 2 b), Cr = (R − Y) / (2 − 2 r); colours are means of 2×2 pixels.
    """
    most, (r, b) = 2**bits - 1, RED_BLUE[matrix]
    red, green, blue = np.moveaxis(np.broadcast_to(image.clip(0, 1), (*image.shape[:2], 3)), -1, 0)
    bright = r * red + (1 - r - b) * green + b * blue
    height, width = bright.shape
    colours = [(blue - bright) / (2 - 2 * b), (red - bright) / (2 - 2 * r)]
    means = [each.reshape(height // 2, 2, width // 2, 2).mean((1, 3)) + (most + 1) / 2 / most for each in colours]
    planes = [bright.ravel(), *(each.ravel() for each in means)]
    whole = np.concatenate(planes).reshape(3 * height // 2, width)
    return (whole * most).round().clip(0, most).astype(np.uint16 if bits > 8 else np.uint8)
