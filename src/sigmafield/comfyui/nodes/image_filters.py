"""Nodes that filter images, and change their colours."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image as Pillow
from torch import Tensor

from sigmafield.comfyui.declare import node
from sigmafield.comfyui.sockets import Input, Seed
from sigmafield.comfyui.values import Image
from sigmafield.core.annotations import Range
from sigmafield.guidance.frequency import smoothed

Radius = Annotated[int, Range(1, 31), Input(step=1)]
Threshold = Annotated[float, Range(0.01, 0.99), Input(step=0.01)]


def _blurred(image: Tensor, radius: int, sigma: float) -> Tensor:
    """Images [B, H, W, C] blurred by a Gaussian of 2 radius + 1 pixels with the deviation sigma · radius."""
    return smoothed(image.movedim(-1, 1), torch.linspace(-1, 1, 2 * radius + 1), sigma).movedim(1, -1)


@node("ImageBlur", "image/postprocessing", version=3)
def image_blur(
    image: Image, blur_radius: Radius = 1, sigma: Annotated[float, Range(0.1, 10), Input(step=0.1)] = 1.0
) -> Image:
    """Blurs images by a Gaussian; they are mirrored at their borders.

    Args:
        image: The images.
        blur_radius: Radius of the filter in pixels.
        sigma: Its standard deviation, in terms of the radius.
    """
    return _blurred(image, blur_radius, sigma)


@node("ImageSharpen", "image/postprocessing", version=3)
def image_sharpen(
    image: Image,
    sharpen_radius: Radius = 1,
    sigma: Annotated[float, Range(0.1, 10), Input(step=0.01)] = 1.0,
    alpha: Annotated[float, Range(0, 5), Input(step=0.01)] = 1.0,
) -> Image:
    """Sharpens images.

        (1 + 10 α) v − 10 α G ∗ v, in 0 … 1

    Args:
        image: The images, v.
        sharpen_radius: Radius of the Gaussian G in pixels.
        sigma: Its standard deviation, in terms of the radius.
        alpha: α, a tenth of the strength.
    """
    return ((1 + 10 * alpha) * image - 10 * alpha * _blurred(image, sharpen_radius, sigma)).clamp(0, 1)


@node("ImageAddNoise", "image", version=3)
def image_add_noise(
    image: Image,
    seed: Annotated[Seed, Range(0, 2**64 - 1)] = 0,
    strength: Annotated[float, Range(0, 1), Input(step=0.01)] = 0.5,
) -> Image:
    """Adds Gaussian noise to images.

    Args:
        image: The images.
        seed: The seed of the noise.
        strength: Its standard deviation.
    """
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(seed))
    return (image + strength * noise.to(image)).clamp(0, 1)


Dither = Literal["none", "floyd-steinberg", "bayer-2", "bayer-4", "bayer-8", "bayer-16"]


def bayer(order: int) -> NDArray[np.float32]:
    """Bayer's matrix of ordered dithering, [order, order] in −½ … ½, for powers of 2."""
    if order == 1:
        return np.zeros((1, 1), np.float32)
    before, n = bayer(order // 2), order * order
    rows = [[before - 1.5 / n, before + 0.5 / n], [before + 1.5 / n, before - 0.5 / n]]
    return np.block(rows).astype(np.float32)


def _quantized(image: Pillow.Image, colors: int, dither: Dither) -> Pillow.Image:
    """An RGB image in the colours of its own palette."""
    palette = image.quantize(colors)
    if dither.startswith("bayer"):
        order, (width, height) = int(dither.removeprefix("bayer-")), image.size
        tiled = np.tile(bayer(order), (-(-height // order), -(-width // order)))[:height, :width, None]
        pixels = np.asarray(image).astype(np.float32) + 512 / colors * tiled + 0.5
        image = Pillow.fromarray(pixels.clip(0, 255).astype(np.uint8))
    mode = Pillow.Dither.FLOYDSTEINBERG if dither == "floyd-steinberg" else Pillow.Dither.NONE
    return image.quantize(colors, palette=palette, dither=mode).convert("RGB")


@node("ImageQuantize", "image/postprocessing", version=3)
def image_quantize(
    image: Image, colors: Annotated[int, Range(1, 256), Input(step=1)] = 256, *, dither: Dither
) -> Image:
    """Reduces images to a number of colours, each to a palette of its own.

    Args:
        image: The images.
        colors: The number of colours.
        dither: How colours between those of the palette are made up.
    """
    pixels = (image[..., :3].cpu() * 255).clamp(0, 255).byte().numpy()
    made = [np.asarray(_quantized(Pillow.fromarray(each), colors, dither)) for each in pixels]
    return torch.from_numpy(np.stack(made)).float() / 255


Operation = Literal["erode", "dilate", "open", "close", "gradient", "bottom_hat", "top_hat"]


def _dilated(x: Tensor, size: int) -> Tensor:
    """The largest value in size × size around each position of [B, C, H, W]; what is outside does not count."""
    before, after = size // 2, size - 1 - size // 2
    x = F.max_pool2d(F.pad(x, (before, after, 0, 0), value=-torch.inf), (1, size), 1)
    return F.max_pool2d(F.pad(x, (0, 0, before, after), value=-torch.inf), (size, 1), 1)


@node("Morphology", "image/postprocessing", title="ImageMorphology", version=3)
def morphology(
    image: Image, operation: Operation, kernel_size: Annotated[int, Range(3, 999), Input(step=1)] = 3
) -> Image:
    """Applies an operation of mathematical morphology with a square to each channel of images.

    Args:
        image: The images.
        operation: Erosion and dilation are the smallest and the largest value in the square; opening and closing are
            one after the other; the gradient is the difference of the two; the hats are the differences of closing and
            opening to the image.
        kernel_size: Side of the square in pixels.
    """

    def dilate(x: Tensor) -> Tensor:
        return _dilated(x, kernel_size)

    def erode(x: Tensor) -> Tensor:
        return -_dilated(-x, kernel_size)

    x = image.movedim(-1, 1)
    made = {
        "erode": lambda: erode(x),
        "dilate": lambda: dilate(x),
        "open": lambda: dilate(erode(x)),
        "close": lambda: erode(dilate(x)),
        "gradient": lambda: dilate(x) - erode(x),
        "bottom_hat": lambda: erode(dilate(x)) - x,
        "top_hat": lambda: x - dilate(erode(x)),
    }
    return made[operation]().movedim(1, -1)


LUMA = torch.tensor([0.299, 0.587, 0.114])
"""Brightness of red, green and blue by ITU-R BT.601."""


@node("ImageRGBToYUV", "image/batch", outputs=("Y", "U", "V"), version=3)
def image_rgb_to_yuv(image: Image) -> tuple[Image, Image, Image]:
    """Takes images apart into brightness and two differences of colours, as JPEG files have them.

        Y = 0.299 R + 0.587 G + 0.114 B,   U = (B − Y)/1.772 + ½,   V = (R − Y)/1.402 + ½

    Args:
        image: The images.
    """
    y = (image[..., :3] * LUMA).sum(-1, keepdim=True)
    parts = y, (image[..., 2:3] - y) / 1.772 + 0.5, (image[..., 0:1] - y) / 1.402 + 0.5
    y, u, v = (each.repeat(1, 1, 1, 3) for each in parts)
    return y, u, v


@node("ImageYUVToRGB", "image/batch", version=3)
def image_yuv_to_rgb(Y: Image, U: Image, V: Image) -> Image:
    """Makes images from what `ImageRGBToYUV` takes them apart into.

    Args:
        Y: The brightness.
        U: The difference of blue.
        V: The difference of red.
    """
    y, u, v = (each.mean(-1) for each in (Y, U, V))
    red, blue = y + 1.402 * (v - 0.5), y + 1.772 * (u - 0.5)
    green = (y - LUMA[0] * red - LUMA[2] * blue) / LUMA[1]
    return torch.stack([red, green, blue], -1).clamp(0, 1)


SOBEL = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
NEIGHBOURS = ((0, 1), (1, 1), (1, 0), (1, -1))
"""Steps (down, right) to the next pixel in the directions of 0°, 45°, 90° and 135°."""


@node("Canny", "image/preprocessors", version=3)
def canny(image: Image, low_threshold: Threshold = 0.4, high_threshold: Threshold = 0.8) -> Image:
    """Finds the edges in images.

    The image is blurred with a deviation of 1 pixel; its gradient is that of Sobel's filters, in which a step from
    black to white has about 2.6. Of the lines where the gradient is largest across the edge, those above the low
    threshold are kept that touch a point above the high one. J. Canny, "A computational approach to edge detection",
    1986.

    Args:
        image: The images.
        low_threshold: Gradient of an edge.
        high_threshold: Gradient that an edge must have somewhere.
    """
    grey = (image[..., :3] * LUMA).sum(-1)[:, None].float()
    soft = F.pad(smoothed(grey, torch.arange(-2.0, 3.0), 1.0), (1, 1, 1, 1), mode="replicate")
    gx, gy = (F.conv2d(soft, kernel[None, None])[:, 0] for kernel in (SOBEL, SOBEL.T))
    size, towards = torch.hypot(gx, gy), (torch.atan2(gy, gx) / (torch.pi / 4)).round().long() % 4
    padded, (height, width) = F.pad(size, (1, 1, 1, 1)), size.shape[-2:]
    thin = torch.zeros_like(size, dtype=torch.bool)
    for k, (down, right) in enumerate(NEIGHBOURS):
        after = padded[:, 1 + down : 1 + down + height, 1 + right : 1 + right + width]
        before = padded[:, 1 - down : 1 - down + height, 1 - right : 1 - right + width]
        thin |= (towards == k) & (size >= after) & (size > before)
    weak, strong = (thin & (size > threshold) for threshold in (low_threshold, high_threshold))
    found = np.stack([_touching(a, b) for a, b in zip(weak.numpy(), strong.numpy())])
    return torch.from_numpy(found).float()[..., None].repeat(1, 1, 1, 3)


def _touching(weak: NDArray[np.bool_], strong: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Those connected parts of one mask in which the other is somewhere true."""
    from scipy import ndimage  # slow to import

    parts, _ = ndimage.label(weak, np.ones((3, 3)))  # pyright: ignore[reportGeneralTypeIssues, reportAssignmentType]
    return weak & np.isin(parts, np.unique(parts[strong]))
