"""Nodes that load and save latents."""

from __future__ import annotations

from typing import Annotated

import safetensors.torch
import torch
from safetensors import SafetensorError

from sigmafield.comfyui.context import Context, Folders, Shown
from sigmafield.comfyui.declare import node
from sigmafield.comfyui.saving import as_json, located, place, stays_below, texts_of
from sigmafield.comfyui.sockets import Choices
from sigmafield.comfyui.values import ExtraValue, Latent, PromptValue
from sigmafield.recipes.image_io import digest

TENSOR, VERSION = "latent_tensor", "latent_format_version_0"
"""Names in a file: of the latents, and of an empty tensor that says that they are in the VAE's scale."""

OLD_SCALE = 0.18215
"""Stable Diffusion's scale, in which files without the empty tensor are."""


def _latents(folders: Folders) -> list[str]:
    here = folders.input.iterdir() if folders.input.is_dir() else ()
    return sorted(path.name for path in here if path.suffix == ".latent")


def _must_exist(latent: str, context: Context) -> None:
    if not located(latent, context.folders).is_file():
        raise ValueError(f"Invalid latent file: {latent}")


def _digest(latent: str, context: Context) -> str:
    return digest(located(latent, context.folders).read_bytes())


@node("LoadLatent", "_for_testing", validate=_must_exist, fingerprint=_digest)
def load_latent(latent: Annotated[str, Choices(_latents, files=True)], context: Context) -> Latent:
    """Loads latents.

    Args:
        latent: A file in the input folder.
        context: Where the folder is.
    """
    path = located(latent, context.folders)
    try:
        found = safetensors.torch.load(path.read_bytes())
        samples = found[TENSOR].float()
    except (SafetensorError, KeyError) as error:
        raise ValueError(f"{path} is not a file of latents: {error}") from None
    return {"samples": samples if VERSION in found else samples / OLD_SCALE}


@node("SaveLatent", "_for_testing", outputs=("samples",), shows=True, validate=stays_below)
def save_latent(
    samples: Latent,
    filename_prefix: str = "latents/ComfyUI",
    *,
    prompt: PromptValue = None,
    extra_pnginfo: ExtraValue = None,
    context: Context = Context(),
) -> Shown[Latent]:
    """Saves latents into the output folder.

    Args:
        samples: The latents.
        filename_prefix: Path of the file below the folder, up to the counter.
        prompt: The prompt, which is written into the file.
        extra_pnginfo: What else is written into it.
        context: Where the folder is.
    """
    where = place(filename_prefix, context.folders.output)
    texts = {key: as_json(value) for key, value in texts_of(prompt, extra_pnginfo).items()}
    tensors = {TENSOR: samples["samples"].contiguous().cpu(), VERSION: torch.tensor([])}
    return Shown(samples, {"latents": [where.save(0, "_.latent", safetensors.torch.save(tensors, texts))]})
