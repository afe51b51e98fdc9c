"""The result of a run in its input image: drawn where the mask is above 0, exactly the input elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

GAIN = (0.5, 2.0)
"""How much contrast may change where colours are matched."""

ENOUGH = 16
"""Pixels that the mask must keep for colours to be matched by them."""


@dataclass(frozen=True)
class PasteBack:
    """Pastes what was drawn into the input image.

        out = input + m (drawn − input), exactly the input where m = 0

    Args:
        frames: The input image, or the frames of an animation, 8-bit RGB.
        mask: m [height, width] of what is drawn, 0 … 1.
        corner: (top, left) of what is drawn in the input image.
        match_colours: Whether mean and contrast of each channel are brought to those of the input where m = 0.
    """

    frames: Sequence[Image.Image]
    mask: NDArray[np.float32]
    corner: tuple[int, int] = (0, 0)
    match_colours: bool = False

    def onto(self, images: Sequence[Image.Image], each: int) -> list[Image.Image]:
        """The images pasted.

        Args:
            images: What was drawn: for each sample its frames.
            each: Frames of a sample; those of the input are pasted onto in turn, its only image onto all.
        """
        frames = [self.frames[min(k % each, len(self.frames) - 1)] for k in range(len(images))]
        return [self._pasted(image, frame) for image, frame in zip(images, frames)]

    def _pasted(self, image: Image.Image, frame: Image.Image) -> Image.Image:
        (top, left), (height, width) = self.corner, self.mask.shape
        out = np.array(frame)
        there = out[top : top + height, left : left + width].astype(np.float64)
        drawn = np.asarray(image).astype(np.float64)
        if self.match_colours:
            drawn = matched(drawn, there, self.mask == 0)
        mixed = there + self.mask[..., None].astype(np.float64) * (drawn - there)
        out[top : top + height, left : left + width] = mixed.round().clip(0, 255).astype(np.uint8)
        return Image.fromarray(out)


def matched(drawn: NDArray[np.float64], source: NDArray[np.float64], kept: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Pixels [H, W, 3] with mean and deviation of each channel brought to the source's, measured where it was kept.

    Unchanged where too little was kept to measure.
    """
    if kept.sum() < ENOUGH:
        return drawn
    mean, deviation = drawn[kept].mean(0), drawn[kept].std(0)
    gain = np.clip(source[kept].std(0) / np.maximum(deviation, 1), *GAIN)
    gain = np.where(deviation < 1, 1.0, gain)
    return (drawn - mean) * gain + source[kept].mean(0)
