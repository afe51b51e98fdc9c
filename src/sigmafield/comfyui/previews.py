"""Small images of what a sampler sees while it runs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from sigmafield.comfyui.context import Progress


@dataclass(frozen=True)
class Previews:
    """Which steps have a preview, and how large it is.

    Args:
        every: Steps from one preview to the next; a run of fewer steps has none.
        size: Pixels of the square that a preview fits, as in ComfyUI.

    Raises:
        ValueError: A number is not positive.
    """

    every: int = 1
    size: int = 512

    def __post_init__(self) -> None:
        if self.every < 1 or self.size < 1:
            raise ValueError(f"previews need every ≥ 1 and size ≥ 1; got every={self.every} and size={self.size}")

    @torch.no_grad()
    def of(self, progress: Progress) -> Image.Image | None:
        """The clean image that the network predicted in a step, of the first sample: ⌊255 · to_rgb(D)⌋.

        None for other steps, and for latents of which it is not known what they look like.
        """
        state, latents = progress.state, progress.latents
        if progress.value % self.every or state is None or state.pred is None or latents is None or not latents.rgb:
            return None
        [rgb] = latents.to_rgb(state.pred.x0[:1].float())
        image = Image.fromarray((rgb * 255).byte().movedim(0, -1).cpu().numpy().astype(np.uint8))
        share = self.size / max(image.size)
        size = (max(1, round(image.width * share)), max(1, round(image.height * share)))
        return image.resize(size, Image.Resampling.BILINEAR)
