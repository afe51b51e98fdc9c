"""Loads parts of a model, and networks that are added to it, each from its own file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from sigmafield.core.conditioning import ControlNetwork
from sigmafield.core.parameters import checked
from sigmafield.models.bundle import Pipeline
from sigmafield.models.devices import choose_device, choose_dtype
from sigmafield.models.diffusion_model import DiffusionModel
from sigmafield.models.ip_adapter import IPAdapter
from sigmafield.models.text.encoder import TextEncoder
from sigmafield.models.text.textual_inversion import Inversions
from sigmafield.models.vae.vae import Vae
from sigmafield.models.vision import VisionEncoder
from sigmafield.models.weights.files import check_ending


def load_network(path: str | Path, *, device: str | torch.device | None = None) -> DiffusionModel:
    """Loads a network alone from a file, in the dtype that `load` gives it.

    Args:
        path: A file as for `load`; text encoders and VAE need not be in it.
        device: As for `load`.

    Raises:
        ValueError: If the file has no network of a known family.
        FileNotFoundError: If it is missing.
        ImportError: If the packages that run it are not installed.
    """
    path, device = Path(path).expanduser(), choose_device(device)
    check_ending(path)
    from sigmafield.models.diffusers.parts import load_network_file

    return load_network_file(path, device)


def load_text(
    paths: Sequence[str | Path],
    kind: Literal[
        "stable_diffusion",
        "sdxl",
        "sd3",
        "flux",
        "chroma",
        "qwen_image",
        "lumina2",
        "flux2",
        "wan",
        "hidream",
        "ltxv",
    ],
    *,
    device: str | torch.device | None = None,
    embeddings: str | Path | None = None,
) -> TextEncoder:
    """Loads text encoders from a file each, in any order.

    Args:
        paths: The files.
        kind: Which model they are for; lumina2 is for Z-Image, as in ComfyUI, and flux2 for Flux 2, klein or dev.
        device: As for `load`.
        embeddings: As for `load`; unknown names are left out of prompts with a warning.

    Raises:
        ValueError: If a file is not a text encoder, or they are not those of this kind of model.
        FileNotFoundError: If one is missing.
        ImportError: If the packages that run them are not installed.
    """
    found, device = [Path(path).expanduser() for path in paths], choose_device(device)
    for path in found:
        check_ending(path)
    from sigmafield.models.diffusers.parts import load_text_files

    words = Inversions(None if embeddings is None else Path(embeddings).expanduser(), embeddings is not None)
    return load_text_files(found, kind, device, words)


def load_vae(path: str | Path, *, device: str | torch.device | None = None) -> Vae:
    """Loads a VAE in a file of its own, in float32.

    Args:
        path: A file with a VAE of Stable Diffusion, Flux, Wan or Qwen-Image, or with a model that has one.
        device: As for `load`.

    Raises:
        ValueError: If the file has no such VAE.
        FileNotFoundError: If it is missing.
        ImportError: If the packages that run it are not installed.
    """
    path, device = Path(path).expanduser(), choose_device(device)
    check_ending(path)
    from sigmafield.models.diffusers.parts import load_vae_file

    return load_vae_file(path, device)


def load_vision(path: str | Path, *, device: str | torch.device | None = None) -> VisionEncoder:
    """Loads a vision encoder, CLIP's or SigLIP's, in a file of transformers' layout, in float32.

    Raises ValueError for another layout, FileNotFoundError, and ImportError without the packages that run it.
    """
    from sigmafield.models.diffusers.vision import read_vision

    return read_vision(Path(path).expanduser(), choose_device(device))


def load_ip_adapter(path: str | Path, pipe: Pipeline) -> IPAdapter:
    """Loads an IP-Adapter for a model, in the dtype of its network, on its device.

    Args:
        path: A .safetensors file in h94's layout (image_proj.*, ip_adapter.*) or XLabs', of a plain, plus or full one.
        pipe: The model, of Stable Diffusion 1, 2 or XL, or Flux.

    Raises:
        ValueError: If the file is not an IP-Adapter, is one of FaceID, or is for another network.
        FileNotFoundError: If it is missing.
        ImportError: If the packages that run it are not installed.
    """
    if not pipe.model.image_prompts:
        raise pipe.model.no_adapters()
    path = Path(path).expanduser()
    check_ending(path)
    from sigmafield.models.diffusers.ip_adapter import read_ip_adapter

    return read_ip_adapter(path, pipe.model)


@checked
def load_control(
    path: str | Path,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    kind: str | None = None,
    pipe: Pipeline | None = None,
) -> ControlNetwork:
    """Loads a ControlNet or T2I-Adapter for a `Control`.

    Args:
        path: Directory in diffusers' layout, or .safetensors file in a published layout.
        device: As for `load`; None: that of `pipe`, where it is given.
        dtype: float32, float16 or bfloat16; None: that of `pipe`'s network, without one float32 on the CPU and float16
            elsewhere.
        kind: Kind of the hint, for a ControlNet that reads several: canny, depth, openpose, ….
        pipe: The model that it will steer. ControlNets of Flux and Stable Diffusion 3 need it, because they read
            latents of its VAE.

    Raises:
        ValueError: If an argument or the network is not supported.
        FileNotFoundError: If a file is missing.
        ImportError: If the packages that run it are not installed.
    """
    device = choose_device(pipe.device if pipe and device is None else device)
    usual = torch.float32 if device.type == "cpu" else torch.float16
    precision = choose_dtype(dtype, getattr(pipe.model.module, "dtype", usual) if pipe else usual)
    path = Path(path).expanduser()
    if path.is_file():
        check_ending(path)
    from sigmafield.models.diffusers.control_read import read_control

    return read_control(path, device, precision, kind, pipe)
