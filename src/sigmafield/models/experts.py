"""Two networks of one model, for different noise levels."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

LOW = "transformer_2"
"""diffusers' name of the network for low noise levels."""
SIDE = re.compile(r"(?i:(high|low)[^a-z]?noise)|(?<![A-Za-z])(HIGH|LOW)(?![A-Za-z])|(?i:[^a-z](high|low)$)")
"""What the name of a LoRA's file says of the network that it is for: high_noise, HIGH, or high at the end."""


class Experts(nn.Module):
    """Wan 2.2 14B's two networks: one for noise levels above a boundary, one for those below.

    Args:
        high: For timesteps of at least the boundary.
        low: For the others.
        boundary: A timestep, 0 … 1000.
    """

    def __init__(self, high: Any, low: Any, boundary: float) -> None:
        super().__init__()
        self.high, self.low, self.boundary = high, low, boundary

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.high.dtype


def side_of(path: Path) -> str | None:
    """The network that the name of a LoRA's file says it is for, "high" or "low"; None: both."""
    found = SIDE.search(path.stem)
    return found[found.lastindex or 0].lower() if found else None
