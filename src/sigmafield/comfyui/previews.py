"""Small images of what a sampler sees while it runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sigmafield.comfyui.context import Progress
from sigmafield.core.registry import shown
from sigmafield.parameterization.latent_format import LatentFormat

Decoder = Callable[[Tensor], Tensor]
"""Network latents → rough images [B, 3, H, W] in [0, 1]."""

Method = Literal["none", "auto", "latent2rgb", "taesd"]
"""ComfyUI's names of ways to make previews; auto is latent2rgb."""


def linear(latents: LatentFormat) -> Decoder | None:
    """The linear map of a latent format; None where nothing is known of its latents."""
    return latents.to_rgb if latents.rgb else None


@dataclass(frozen=True)
class SmallDecoders:
    """TAESD and its relatives: a function from formats to decoders, which are loaded when they are first used.

    A decoder runs where the latents are. Formats without a small decoder use their linear map.

    Args:
        folders: Where the files are, with ComfyUI's names, such as taesd_decoder.safetensors.
    """

    folders: Sequence[Path]
    _loaded: dict[tuple[str, torch.device], Decoder] = field(
        default_factory=dict[tuple[str, torch.device], Decoder], init=False, repr=False, compare=False
    )

    def __call__(self, latents: LatentFormat) -> Decoder | None:
        """The decoder of a format.

        Raises:
            ValueError: The file is missing; when it is used: it is not such a decoder.
            ImportError: When it is used: the packages that run it are not installed.
        """
        if not latents.taesd:
            return linear(latents)
        folder = self.folder(latents)
        if folder is None:
            looked = ", ".join(map(str, self.folders)) or "any folder: give one with --models"
            raise ValueError(f"a preview by taesd needs {latents.taesd}.safetensors in {looked}")

        def decode(x: Tensor) -> Tensor:
            key = latents.taesd, x.device
            if key not in self._loaded:
                from sigmafield.models.diffusers.preview import load_preview

                self._loaded[key] = load_preview(folder, latents, x.device)
            return self._loaded[key](x)

        return decode

    def folder(self, latents: LatentFormat) -> Path | None:
        """The folder with the file of a format; None without one."""
        name = f"{latents.taesd}*.safetensors"
        return next((each for each in self.folders if latents.taesd and any(each.glob(name))), None)


@dataclass(frozen=True)
class Previews:
    """Which steps have a preview, and how large it is.

    Args:
        every: Steps from one preview to the next; a run of fewer steps has none.
        size: Pixels of the square that a preview fits, as in ComfyUI.
        decoder: What makes images of a format's latents: `linear`, `SmallDecoders`, or a function that gives the
            `small_decoder` of a pipeline. None for a format has no preview.

    Raises:
        ValueError: A number is not positive.
    """

    every: int = 1
    size: int = 512
    decoder: Callable[[LatentFormat], Decoder | None] = linear

    def __post_init__(self) -> None:
        if self.every < 1 or self.size < 1:
            raise ValueError(f"previews need every ≥ 1 and size ≥ 1; got every={self.every} and size={self.size}")

    @torch.no_grad()
    def of(self, progress: Progress) -> Image.Image | None:
        """The clean image that the network predicted in a step, of the first sample: ⌊255 · decoder(D)⌋.

        None for other steps, and for latents of which it is not known what they look like.
        """
        state, latents = progress.state, progress.latents
        if progress.value % self.every or state is None or state.pred is None or latents is None:
            return None
        decode = self.decoder(latents)
        if decode is None:
            return None
        [rgb] = decode(state.pred.x0[:1].float())
        image = Image.fromarray((rgb * 255).byte().movedim(0, -1).cpu().numpy().astype(np.uint8))
        share = self.size / max(image.size)
        size = (max(1, round(image.width * share)), max(1, round(image.height * share)))
        return image.resize(size, Image.Resampling.BILINEAR)


def previews_by(method: Method | None, every: int | None, folders: Sequence[Path]) -> Previews | None:
    """Previews by ComfyUI's name of the method; None where none are asked for.

    Args:
        method: The method; None: auto where `every` is given, else none.
        every: Steps from one preview to the next; None: 1.
        folders: Where small decoders are, ComfyUI's `vae_approx`.

    Raises:
        ValueError: `every` is not positive, or is given although the method is none.
    """
    if method == "none" and every is not None:
        raise ValueError(f"preview-method none makes no previews: leave preview-every out; got {shown(every)}")
    if method in (None, "none") and every is None:
        return None
    return Previews(1 if every is None else every, decoder=SmallDecoders(folders) if method == "taesd" else linear)
