"""Plots as images, for nodes that show numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH, HEIGHT, MARGIN = 640, 200, 40
"""Pixels of one plot, and of the margin around it."""
LINE, THRESHOLD, AXIS = (31, 119, 180), (214, 39, 40), (120, 120, 120)

Row = tuple[str, Sequence[float], float | None]
"""A title, the values, and a level that is marked by a line."""


def line_plots(rows: Sequence[Row]) -> Tensor:
    """Line plots below each other, as an image [1, H, W, 3]."""
    canvas = Image.new("RGB", (WIDTH, HEIGHT * len(rows)), "white")
    draw = ImageDraw.Draw(canvas)
    for k, (title, values, level) in enumerate(rows):
        shown = [value for value in values if np.isfinite(value)] + ([] if level is None else [level])
        low, high = (min(shown), max(shown)) if shown else (0.0, 1.0)
        top, room = HEIGHT * k + MARGIN, HEIGHT - 2 * MARGIN

        def y(value: float, low: float = low, high: float = high, top: int = top, room: int = room) -> float:
            return top + room * (1 - (value - low) / (high - low or 1.0))

        draw.rectangle((MARGIN, top, WIDTH - MARGIN, top + room), outline=AXIS)
        draw.text((MARGIN, top - 15), f"{title}: {low:.4g} to {high:.4g}", fill=AXIS)
        if level is not None:
            draw.line((MARGIN, y(level), WIDTH - MARGIN, y(level)), fill=THRESHOLD)
        step = (WIDTH - 2 * MARGIN) / max(len(values) - 1, 1)
        points = [(MARGIN + step * i, y(value)) for i, value in enumerate(values) if np.isfinite(value)]
        draw.line(points, fill=LINE, width=2)
    return as_image(canvas)


def matrix(values: Tensor) -> Tensor:
    """A matrix as squares, black at −1 and white at 1, as an image [1, H, W, 3]."""
    cell = max(1, WIDTH // max(values.shape))
    grey = ((values.clamp(-1, 1) + 1) / 2 * 255).byte().repeat_interleave(cell, 0).repeat_interleave(cell, 1)
    return as_image(Image.fromarray(grey.numpy()).convert("RGB"))


def drawn(figure: Figure) -> Tensor:
    """A figure of matplotlib as an image [1, H, W, 3]."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return torch.from_numpy(np.array(canvas.buffer_rgba())[..., :3]).float()[None] / 255


def as_image(canvas: Image.Image) -> Tensor:
    """A Pillow image as a batch of one."""
    return torch.from_numpy(np.array(canvas)).float()[None] / 255
