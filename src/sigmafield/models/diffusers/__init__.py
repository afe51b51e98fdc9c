"""Models in a diffusers directory or on the Hugging Face hub, run by the modules of diffusers and transformers."""

from __future__ import annotations

import tempfile
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

from sigmafield.models.diffusers.single_file import open_single_file
from sigmafield.models.diffusers.source import Source, download
from sigmafield.models.diffusers.unet import build_unet

BUILDERS: dict[str, Callable[[Source], Pipeline]] = {"UNet2DConditionModel": build_unet}
"""How to load a model, by the class of its network."""


def load_diffusers(
    model: str | Path, device: torch.device, dtype: torch.dtype, home: torch.device | None = None
) -> Pipeline:
    """The model in a diffusers directory, or of a hub id such as "org/name", which is downloaded.

    dtype: of network and text encoders; the VAE runs in float32 where its config has force_upcast. home: where parts
    are put if not on the device. Nothing is
    downloaded for a directory that exists. Raises FileNotFoundError for what is missing, ValueError for what is
    not supported, ConnectionError where the hub cannot be reached.
    """
    path = Path(model)
    local = path.is_dir()
    where = open_directory(path if local else download(str(model)))
    name = path.resolve().name if local else str(model)
    return BUILDERS[where.network(*BUILDERS)](Source(where, name, device, dtype, home))


def load_single_file(
    path: Path, parts: Path | None, device: torch.device, dtype: torch.dtype, home: torch.device | None = None
) -> Pipeline:
    """The model in one .safetensors file of the layout it was published in, as Stable Diffusion and Flux are.

    parts: a directory in diffusers' layout, for parts that are not in the file. Nothing is downloaded. Raises
    ValueError for a file that is not such a model, for parts that are nowhere and for what is not supported.
    """
    with tempfile.TemporaryDirectory() as scratch:
        where = open_single_file(path, parts, Path(scratch))
        return BUILDERS[where.network(*BUILDERS)](Source(where, path.stem, device, dtype, home))
