"""CONTROL_NET: a side network that is read when it is applied, once its kind of hint is known."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from sigmafield.core.conditioning import ControlNetwork
from sigmafield.models.load import load_control

KINDS = {
    "openpose": "openpose",
    "depth": "depth",
    "hed/pidi/scribble/ted": "scribble",
    "canny/lineart/anime_lineart/mlsd": "canny",
    "normal": "normal",
    "segment": "segment",
    "tile": "tile",
    "repaint": "repaint",
}
"""Kinds of hint of a union by ComfyUI's words."""


@dataclass(frozen=True)
class ControlNetFile:
    """A control net in a file or directory.

    Args:
        path: The file or directory.
        device: Where it runs.
        kind: Kind of hint, for a net that reads several.
    """

    path: Path
    device: str
    kind: str | None = None

    @cached_property
    def network(self) -> ControlNetwork:
        """The side network; read at the first use."""
        return load_control(self.path, device=self.device, kind=self.kind)
