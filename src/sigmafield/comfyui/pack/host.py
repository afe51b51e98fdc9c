"""What is asked of ComfyUI's own modules: its folders, and its progress bar with previews."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor

from sigmafield.comfyui.context import Folders, Progress
from sigmafield.comfyui.previews import Previews
from sigmafield.core.protocols import Pred, State
from sigmafield.parameterization.latent_format import LatentFormat

Callback = Callable[[int, Tensor, Tensor, int], None]
"""(step from 0, clean latent, latent before the step, number of steps): called once per step; raises to interrupt."""


def module(name: str) -> Any:
    """A module of ComfyUI. Where it cannot be imported, an ImportError says where these nodes run."""
    try:
        return import_module(name)
    except ImportError as error:
        raise ImportError(
            f"sigmafield's nodes are loaded by ComfyUI, from its folder custom_nodes; here is no module {name} "
            f"({error}). To run workflows without ComfyUI: sigmafield run WORKFLOW.json"
        ) from error


def folders() -> Folders:
    """ComfyUI's folders of files that are read and written."""
    paths = module("folder_paths")
    return Folders(
        input=Path(paths.get_input_directory()),
        output=Path(paths.get_output_directory()),
        temp=Path(paths.get_temp_directory()),
    )


def progress(steps: int, latents: LatentFormat | None) -> Callback:
    """A callback that moves the progress bar of the node that runs, with previews.

    Args:
        steps: Number of steps.
        latents: What latents of the model look like; None where it is not known.
    """
    bar = module("comfy.utils").ProgressBar(steps)
    previews = Previews()

    def shown(i: int, x0: Tensor, x: Tensor, total: int) -> None:
        image = previews.of(Progress(i + 1, total, State(i + 1, x, pred=Pred(x0)), latents))
        bar.update_absolute(i + 1, total, None if image is None else ("JPEG", image, previews.size))

    return shown
