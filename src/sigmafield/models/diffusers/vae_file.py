"""A VAE of images in a file of its own, in the layout that it was published in."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import torch

from sigmafield.models.bundle import Vae
from sigmafield.models.diffusers.source import Source
from sigmafield.models.diffusers.vae import load_vae
from sigmafield.models.directory import open_directory
from sigmafield.models.single_file.checkpoint import SingleFile
from sigmafield.models.single_file.layouts import VAE_PREFIXES, Layout, seems
from sigmafield.models.single_file.shapes import derived
from sigmafield.models.weights.files import open_weights
from sigmafield.parameterization.families import family

FAMILIES = {4: ("sd1", "SD15"), 16: ("flux", "Flux")}
"""Layout and family whose VAE has latents of this many channels; the scale of latents does not matter to a `Vae`."""


def load_vae_file(path: Path, device: torch.device) -> Vae:
    """Loads a VAE, in float32; its latents are in its own scale.

    Args:
        path: A .safetensors file with a VAE, or with a model that has one.
        device: Where it runs.

    Raises:
        ValueError: The file has no VAE of images in its published layout.
    """
    stored = open_weights([path])
    shapes = stored.shapes
    prefix = next((start for start in (*VAE_PREFIXES, "") if f"{start}decoder.conv_in.weight" in shapes), None)
    if prefix is None:
        raise ValueError(f"{path}: no VAE found; {seems(shapes)}")
    channels = shapes[f"{prefix}decoder.conv_in.weight"][1]
    if channels not in FAMILIES or f"{prefix}decoder.up.0.block.0.conv1.weight" not in shapes:
        raise ValueError(
            f"{path}: this is not a VAE of Stable Diffusion or Flux in its published layout: its latents have "
            f"{channels} channels, and its weights begin with {', '.join(sorted(shapes)[:3])}"
        )
    name, own = FAMILIES[channels]
    layout = Layout(name, {"vae": prefix})
    shipped = open_directory(Path(str(files("sigmafield"))) / "data" / "configs" / name)
    try:
        configs = derived(layout, shapes)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    where = SingleFile(path, stored, layout, shipped, configs, None, path.parent)
    return load_vae(Source(where, path.stem, device, torch.float32), family(own))[0]
