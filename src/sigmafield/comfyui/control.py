"""CONTROL_NET: a side network in a file, which is read once the model that it steers is known."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from torch import Tensor

from sigmafield.core.conditioning import Control, ControlNetwork
from sigmafield.core.recent import Recent
from sigmafield.core.time_windows import TimeWindow
from sigmafield.models.bundle import Pipeline
from sigmafield.models.diffusion_model import DiffusionModel
from sigmafield.models.load_parts import load_control
from sigmafield.models.missing import NO_TEXT
from sigmafield.models.vae.vae import Vae
from sigmafield.recipes.steering import Loading, each_time

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
        loading: How it is read, see `Context`.
    """

    path: Path
    device: str
    kind: str | None = None
    loading: Loading = each_time
    _read: Recent[ControlNetwork] = field(
        default_factory=partial(Recent[ControlNetwork], 2), init=False, repr=False, compare=False
    )

    def network(self, model: DiffusionModel, vae: Vae | None) -> ControlNetwork:
        """The side network, read at the first use for a model.

        Args:
            model: The network that it steers.
            vae: The VAE, whose latents control nets of transformers read.
        """
        return self._read((model, vae), "", partial(self._loaded, model, vae))

    def _loaded(self, model: DiffusionModel, vae: Vae | None) -> ControlNetwork:
        if vae is None:
            return self.loading(load_control, self.path, device=self.device, kind=self.kind)
        return self.loading(load_with_vae, self.path, self.device, self.kind, model, vae)


def load_with_vae(path: Path, device: str, kind: str | None, model: DiffusionModel, vae: Vae) -> ControlNetwork:
    """A side network that reads latents of a VAE; arguments as for `ControlNetFile`."""
    return load_control(path, device=device, kind=kind, pipe=Pipeline(model, NO_TEXT, vae))


@dataclass(frozen=True, eq=False)
class Steering:
    """A control net with its image: what a conditioning's "control" is made of.

    Args:
        net: The control net.
        hint: The image [B, 3, height, width] in 0 … 1.
        strength: Factor of what it adds.
        window: Shares of the way through sampling between which it acts.
        vae: The VAE, for control nets that read latents.
    """

    net: ControlNetFile
    hint: Tensor
    strength: float
    window: TimeWindow
    vae: Vae | None

    def control(self, model: DiffusionModel) -> Control:
        """The control of a network."""
        return Control(self.net.network(model, self.vae), self.hint, self.strength, self.window)
