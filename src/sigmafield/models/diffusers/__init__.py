"""Models in a diffusers directory or on the Hugging Face hub, run by the modules of diffusers and transformers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from sigmafield.models.directory import open_directory
from sigmafield.models.pipeline import Pipeline

try:
    import diffusers  # noqa: F401
    import transformers  # noqa: F401
except ImportError as error:
    raise ImportError(
        f'this model needs diffusers and transformers ({error}):\npip install "sigmafield[diffusers]"'
    ) from error

from sigmafield.models.diffusers.source import Source, download
from sigmafield.models.diffusers.unet import build_unet

BUILDERS: dict[str, Callable[[Source], Pipeline]] = {"UNet2DConditionModel": build_unet}
"""How to load a model, by the class of its network."""


def load_diffusers(
    model: str | Path, device: torch.device, dtype: torch.dtype, embeddings: Path | None = None
) -> Pipeline:
    """The model in a diffusers directory, or of a hub id such as "org/name", which is downloaded.

    dtype: of network and text encoders; the VAE runs in float32 where its config has force_upcast; embeddings: folder
    of textual inversions. Nothing is downloaded for a directory that exists. Raises FileNotFoundError for what is
    missing, ValueError for what is not supported, ConnectionError where the hub cannot be reached.
    """
    path = Path(model)
    local = path.is_dir()
    where = open_directory(path if local else download(str(model)))
    name = path.resolve().name if local else str(model)
    return BUILDERS[where.network(*BUILDERS)](Source(where, name, device, dtype, embeddings))
