"""Images as EXR files: values of light, in half or single precision, through OpenEXR."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
from torch import Tensor

ColorSpace = Literal["sRGB", "HDR", "linear", "linear ACEScg"]

BT709 = (0.64, 0.33, 0.30, 0.60, 0.15, 0.06, 0.3127, 0.3290)
BT2020 = (0.708, 0.292, 0.170, 0.797, 0.131, 0.046, 0.3127, 0.3290)
AP1 = (0.713, 0.293, 0.165, 0.830, 0.128, 0.044, 0.32168, 0.33767)
GAMUT: Mapping[str, tuple[float, ...]] = {"sRGB": BT709, "linear": BT709, "HDR": BT2020, "linear ACEScg": AP1}
"""x and y of red, green, blue and white (ITU-R BT.709 and BT.2020; SMPTE ST 2065-4's AP1)."""

CHANNELS = {1: "Y", 3: "RGB", 4: "RGBA"}


def openexr() -> Any:
    """The module OpenEXR; ImportError with the line that installs it."""
    try:
        import OpenEXR
    except ImportError:
        raise ImportError('EXR files need OpenEXR: pip install "sigmafield[exr]"') from None
    return OpenEXR


def exr(image: Tensor, deep: bool, space: ColorSpace, texts: Mapping[str, str]) -> bytes:
    """An image [H, W, C] as an EXR file with values proportional to light, which are not cut to [0, 1].

    Args:
        image: The image, of 1, 3 or 4 channels; the fourth is stored as it is.
        deep: Whether values have 32 bits and not 16.
        space: What the values are; `linear` ones are stored as they are.
        texts: Attributes of the file, by name.

    Raises:
        ValueError: The image has another number of channels.
        ImportError: OpenEXR is not installed.
    """
    module, channels = openexr(), image.shape[-1]
    if channels not in CHANNELS:
        raise ValueError(f"an EXR file has 1, 3 or 4 channels; got {channels}")
    values = image.detach().cpu().double().numpy()
    values = np.concatenate([to_linear(values[..., :3], space), values[..., 3:]], -1)
    pixels = np.ascontiguousarray(values.astype(np.float32 if deep else np.float16))
    header = {
        "compression": module.ZIP_COMPRESSION, "type": module.scanlineimage, "chromaticities": GAMUT[space], **texts,
    }  # fmt: skip
    with TemporaryDirectory() as folder:
        path = Path(folder) / "image.exr"
        with module.File(header, {CHANNELS[channels]: pixels[..., 0] if channels == 1 else pixels}) as file:
            file.write(str(path))
        return path.read_bytes()


def to_linear(values: np.ndarray, space: ColorSpace) -> np.ndarray:
    """Values proportional to light: the inverse of sRGB's curve (IEC 61966-2-1) or of HLG's (ITU-R BT.2100)."""
    if space == "sRGB":
        return np.where(values <= 0.04045, values / 12.92, ((values.clip(0) + 0.055) / 1.055) ** 2.4)
    if space == "HDR":
        a = 0.17883277
        b, c = 1 - 4 * a, 0.5 - a * math.log(4 * a)
        return np.where(values <= 0.5, values * np.abs(values) / 3, (np.exp((values - c) / a) + b) / 12)
    return values


def texts_in_exr(path: Path) -> dict[str, str]:
    """The texts that an EXR file carries, by name.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: It cannot be read.
        ImportError: OpenEXR is not installed.
    """
    module = openexr()
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        with module.File(str(path), header_only=True) as file:
            return {name: value for name, value in file.header().items() if isinstance(value, str)}
    except RuntimeError as error:
        raise ValueError(f"{path} is not an EXR file: {error}") from None
