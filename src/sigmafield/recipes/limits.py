"""Sizes that no run could finish, refused before it starts."""

from __future__ import annotations

import os

from sigmafield.models.diffusion_model import DiffusionModel

SIDE = 65536
"""Pixels of a side at most."""

AREA = 256
"""What a network may be shown at once, as a multiple of the area that it was trained for; its attention grows with the
square of that."""


def check_canvas(model: DiffusionModel, size: tuple[int, int], batch: int, frames: int = 1) -> None:
    """Raise ValueError for images that do not fit into the machine's memory, even if nothing else does.

    Args:
        model: The network, for the size of its latents.
        size: (height, width) in pixels.
        batch: Number of images.
        frames: Frames of each.
    """
    height, width = size
    if max(size) > SIDE:
        raise ValueError(f"width and height must be at most {SIDE}; got {width}x{height}")
    numbers = batch * frames * 3 * height * width + 4 * batch * frames * model.latent.channels * (
        height // model.latent.factor
    ) * (width // model.latent.factor)
    needed, there = 4 * numbers / 2**30, memory()
    if there is not None and needed > there:
        drawn = f"{width}x{height} pixels" + (f", {batch * frames} images" if batch * frames > 1 else "")
        raise ValueError(
            f"{drawn} take {needed:.0f} GiB or more for the images alone, and this machine has {there:.0f} GiB: "
            "draw fewer or smaller ones"
        )


def check_shown(model: DiffusionModel, shown: tuple[int, int]) -> None:
    """Raise ValueError for more than a network can be shown at once: (height, width) in pixels."""
    (height, width), (own_height, own_width) = shown, model.size
    if height * width > AREA * own_height * own_width:
        raise ValueError(
            f"{width}x{height} is more than {AREA} times the {own_width}x{own_height} that {model.name} was trained "
            "for: use tiling, or a smaller size"
        )


def check_side(model: DiffusionModel, shown: tuple[int, int]) -> None:
    """Raise ValueError for sides beyond the network's position embeddings."""
    for name, value in zip(("height", "width"), shown):
        if model.max_side and value > model.max_side:
            raise ValueError(f"{name} must be at most {model.max_side}, where the network's positions end; got {value}")


def memory() -> float | None:
    """The machine's memory in GiB; None where the system does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    except (AttributeError, ValueError, OSError):
        return None
