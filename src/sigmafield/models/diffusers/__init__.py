"""Loads models that run on the modules of diffusers and transformers."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from sigmafield.models.bundle import Pipeline
from sigmafield.models.directory import Directory, open_directory

try:
    import accelerate  # noqa: F401
    import diffusers  # noqa: F401
    import transformers  # noqa: F401
except ImportError as error:
    raise ImportError(
        f'this model needs diffusers and transformers ({error}):\npip install "sigmafield[diffusers]"'
    ) from error

from sigmafield.models.diffusers.auraflow import build_auraflow
from sigmafield.models.diffusers.chroma import build_chroma
from sigmafield.models.diffusers.flux import build_flux
from sigmafield.models.diffusers.flux2 import build_flux2
from sigmafield.models.diffusers.hidream import build_hidream
from sigmafield.models.diffusers.hunyuan15 import build_hunyuan15
from sigmafield.models.diffusers.hunyuan_image import build_hunyuan_image
from sigmafield.models.diffusers.hunyuan_video import build_hunyuan_video
from sigmafield.models.diffusers.ltx import build_ltx
from sigmafield.models.diffusers.ltx2 import build_ltx2
from sigmafield.models.diffusers.lumina import build_lumina
from sigmafield.models.diffusers.qwen import build_qwen
from sigmafield.models.diffusers.qwen21 import build_qwen21
from sigmafield.models.diffusers.sd3 import build_sd3
from sigmafield.models.diffusers.source import Source, download
from sigmafield.models.diffusers.unet import build_unet
from sigmafield.models.diffusers.wan import build_wan
from sigmafield.models.diffusers.wan_vace import build_vace
from sigmafield.models.diffusers.z_image import build_z_image
from sigmafield.models.single_file.checkpoint import SingleFile, open_single_file
from sigmafield.models.text.textual_inversion import Inversions

BUILDERS: dict[str, Callable[[Source], Pipeline]] = {
    "UNet2DConditionModel": build_unet,
    "SD3Transformer2DModel": build_sd3,
    "FluxTransformer2DModel": build_flux,
    "AuraFlowTransformer2DModel": build_auraflow,
    "Lumina2Transformer2DModel": build_lumina,
    "WanTransformer3DModel": build_wan,
    "WanFunTransformer3DModel": build_wan,
    "WanVACETransformer3DModel": build_vace,
    "QwenImageTransformer2DModel": build_qwen,
    "QwenImage21Transformer2DModel": build_qwen21,
    "ZImageTransformer2DModel": build_z_image,
    "Flux2Transformer2DModel": build_flux2,
    "ChromaTransformer2DModel": build_chroma,
    "HiDreamImageTransformer2DModel": build_hidream,
    "LTXVideoTransformer3DModel": build_ltx,
    "LTX2VideoTransformer3DModel": build_ltx2,
    "HunyuanVideoTransformer3DModel": build_hunyuan_video,
    "HunyuanVideo15Transformer3DModel": build_hunyuan15,
    "HunyuanImageTransformer2DModel": build_hunyuan_image,
}
"""Builders by the class of the network."""


def load_diffusers(
    model: str | Path,
    device: torch.device,
    dtype: torch.dtype | None = None,
    home: torch.device | None = None,
    embeddings: Inversions = Inversions(),
) -> Pipeline:
    """Loads the model in a diffusers directory, or downloads that of a hub id.

    Args:
        model: The directory, or a hub id such as "org/name"; nothing is downloaded for a directory that exists.
        device: Where the model runs.
        dtype: Of network and text encoders; None: `usual_dtype`. The VAE runs in float32 if it has force_upcast.
        home: Where parts wait until they are needed; None: on the device.
        embeddings: What prompts may name as `embedding:name`.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If the model is not supported.
        ConnectionError: If the hub cannot be reached.
    """
    path = Path(model)
    local = path.is_dir()
    where = open_directory(path if local else download(str(model)))
    return build(where, path.resolve().name if local else str(model), device, dtype, home, embeddings)


def load_single_file(
    path: Path,
    parts: Path | None,
    device: torch.device,
    dtype: torch.dtype | None = None,
    home: torch.device | None = None,
    embeddings: Inversions = Inversions(),
) -> Pipeline:
    """Loads the model in one .safetensors file of the layout that it was published in; nothing is downloaded.

    Args:
        path: The file.
        parts: Directory in diffusers' layout with the parts that the file lacks.
        device: Where the model runs.
        dtype: As for `load_diffusers`.
        home: As for `load_diffusers`.
        embeddings: What prompts may name as `embedding:name`.

    Raises:
        ValueError: If the file is not such a model, or a part is missing or not supported.
    """
    with tempfile.TemporaryDirectory() as scratch:
        return build(open_single_file(path, parts, Path(scratch)), path.stem, device, dtype, home, embeddings)


def build(
    where: Directory | SingleFile,
    name: str,
    device: torch.device,
    dtype: torch.dtype | None,
    home: torch.device | None,
    embeddings: Inversions,
) -> Pipeline:
    """Builds the pipeline of a model with the builder of its network's class."""
    kind = where.network(*BUILDERS)
    return BUILDERS[kind](Source(where, name, device, dtype or usual_dtype(kind, device), home, embeddings))


def usual_dtype(network: str, device: torch.device) -> torch.dtype:
    """float32 on the CPU; elsewhere float16 for UNets and bfloat16 for transformers, which overflow float16."""
    if device.type == "cpu":
        return torch.float32
    return torch.float16 if network.startswith("UNet") else torch.bfloat16
