"""Images that an editing network is shown, as latents among its conditioning's further inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from sigmafield.core.conditioning import Cond

REFERENCE = "reference_"
"""The first of them is called reference_1."""
AT_ZERO = "references_at_zero"
"""Name of the input that says that images are shown at timestep 0, whatever that of the latent is."""


def with_references(cond: Cond, latents: Sequence[Tensor]) -> Cond:
    """The conditioning with images to be shown, in order: latents [B or 1, C, h, w] in the network's scale.

    For a network of videos each is a video of one frame.
    """
    first = 1 + len(references(cond))
    shown = {f"{REFERENCE}{first + k}": latent for k, latent in enumerate(latents)}
    return replace(cond, extra={**cond.extra, **shown})


def at_zero(cond: Cond) -> Cond:
    """The conditioning with its images shown at timestep 0, as Qwen-Image-Edit-2511 was trained."""
    return replace(cond, extra={**cond.extra, AT_ZERO: cond.embeds.new_ones(len(cond.embeds))})


def references(cond: Cond) -> list[Tensor]:
    """The images that a conditioning shows, in order."""
    return [value for name, value in cond.extra.items() if name.startswith(REFERENCE)]


def without_references(cond: Cond) -> Cond:
    """The conditioning without the images that it shows."""
    return replace(cond, extra={name: value for name, value in cond.extra.items() if not name.startswith(REFERENCE)})
