"""Resizing as all of ComfyUI's scaling nodes do it."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sigmafield.core.resize import resize
from sigmafield.recipes.limits import SIDE, memory

SHARE = 0.25
"""Of the machine's memory, what one node's result may take."""


def scaled(x: Tensor, width: int, height: int, method: str, crop: str = "disabled") -> Tensor:
    """Resizes latents, images or masks with channels first; "center" first cuts to the new ratio of the sides.

    Args:
        x: [B, C, H, W] or [B, C, frames, H, W].
        width: New width.
        height: New height.
        method: "lanczos", for images of 1, 3 or 4 channels in 8 bits, or a mode of `core.resize`.
        crop: "center" or "disabled".

    Raises:
        ValueError: The result is larger than this machine can hold.
    """
    check_result(x, width, height)
    x = centred(x, width, height) if crop == "center" else x
    return _lanczos(x, width, height) if method == "lanczos" else resize(x, height, width, method)


def check_result(x: Tensor, width: int, height: int) -> None:
    """Check that a resized latent or image would fit into memory.

    Args:
        x: [B, C, H, W] or [B, C, frames, H, W].
        width: The new width, in positions of x.
        height: The new height, in positions of x.

    Raises:
        ValueError: It would not.
    """
    needed, there = x[..., 0, 0].numel() * width * height * x.element_size(), memory()
    if max(width, height) > SIDE or (there is not None and needed > SHARE * there * 2**30):
        what = f"{width}x{height} for {len(x)} {'image' if len(x) == 1 else 'images'}"
        most = "" if there is None else f", and a result takes at most {SHARE * there:.0f} GiB on this machine"
        raise ValueError(f"{what} is too large: sides are at most {SIDE}{most}")


def centred(x: Tensor, width: int, height: int) -> Tensor:
    """The middle of x [..., H, W] that has the ratio width / height of sides, to whole positions."""
    old_height, old_width = x.shape[-2:]
    old, new = old_width / old_height, width / height
    dx = round((old_width - old_width * (new / old)) / 2) if old > new else 0
    dy = round((old_height - old_height * (old / new)) / 2) if old < new else 0
    return x[..., dy : old_height - dy, dx : old_width - dx]


def matched(x: Tensor, like: Tensor, method: str = "bilinear") -> Tensor:
    """x [B, C, H, W] resized to the size of another and cut at the centre to its ratio of sides; the batch stays."""
    return x if x.shape[-2:] == like.shape[-2:] else scaled(x, like.shape[-1], like.shape[-2], method, "center")


def _lanczos(x: Tensor, width: int, height: int) -> Tensor:
    """Each image by Lanczos' filter in 8 bits, values truncated."""
    pixels = (x.detach().cpu().float() * 255).clamp(0, 255).byte().movedim(1, -1).numpy()
    made = [
        np.array(
            Image.fromarray(each.squeeze(-1) if each.shape[-1] == 1 else each).resize(
                (width, height), Image.Resampling.LANCZOS
            )
        )
        for each in pixels
    ]
    out = torch.from_numpy(np.stack(made)).float() / 255
    return (out[:, None] if out.ndim == 3 else out.movedim(-1, 1)).to(x)
