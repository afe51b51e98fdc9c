"""The panels of the help, in their order."""

from __future__ import annotations

from cyclopts import Group

PANELS = ("Sampling", "Images", "Image to image", "Denoise", "Tiles", "Denoise map auto", "DemoFusion")
PANELS += (
    "Regions, control and references",
    "Experiment",
    "Model",
    "Machine",
    "Moved files",
    "Files",
    "Server",
    "Engine",
    "Limits",
    "ComfyUI",
)
"""The panels of the help, in their order."""


def panel(title: str) -> Group:
    """The panel with a title."""
    return Group(title, sort_key=PANELS.index(title))
