"""Parts of a pipeline that is loaded in part."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from sigmafield.core.conditioning import Cond
from sigmafield.models.text.bundled import NONE, Bundled
from sigmafield.models.text.encoder import Modules, TextEncoder
from sigmafield.models.vae.vae import Vae


def _no_text(
    modules: Modules,
    prompts: Sequence[str],
    size: tuple[int, int],
    clip_skip: int | None = None,
    bundled: Bundled = NONE,
) -> Cond:
    raise ValueError("there is no text encoder")


def _no_images(images: Tensor) -> Tensor:
    raise ValueError("there is no VAE")


NO_TEXT = TextEncoder(_no_text)
"""In place of a text encoder."""
NO_VAE = Vae(_no_images, _no_images)
"""In place of a VAE."""
