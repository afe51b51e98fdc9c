"""Parts of a model in files of their own: a network, text encoders, a VAE."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path

import torch

from sigmafield.models.diffusers import BUILDERS, usual_dtype
from sigmafield.models.diffusers.chroma import chroma_encoder
from sigmafield.models.diffusers.clip import clip_encoder, xl_encoder
from sigmafield.models.diffusers.flux import flux_encoder
from sigmafield.models.diffusers.flux2 import flux2_encoder
from sigmafield.models.diffusers.hidream import hidream_encoder
from sigmafield.models.diffusers.ltx import ltx_encoder
from sigmafield.models.diffusers.qwen import qwen_encoder
from sigmafield.models.diffusers.qwen21_text import qwen21_encoder
from sigmafield.models.diffusers.sd3 import sd3_encoder
from sigmafield.models.diffusers.source import Source
from sigmafield.models.diffusers.vae import load_flux2_vae, load_qwen21_vae, load_vae, load_video_vae
from sigmafield.models.diffusers.wan import wan_encoder
from sigmafield.models.diffusers.z_image import z_image_encoder
from sigmafield.models.diffusion_model import DiffusionModel
from sigmafield.models.directory import Directory, open_directory
from sigmafield.models.single_file.checkpoint import SingleFile, open_single_file
from sigmafield.models.single_file.layouts import VAE_PREFIXES, Layout, seems
from sigmafield.models.single_file.shapes import derived
from sigmafield.models.text.encoder import TextEncoder
from sigmafield.models.text.textual_inversion import Inversions
from sigmafield.models.vae.vae import Vae
from sigmafield.models.weights.files import Weights, open_weights
from sigmafield.models.weights.gguf_file import t5_names
from sigmafield.parameterization.families import Family, family
from sigmafield.parameterization.latent_format import LatentFormat

VAES: Mapping[int, tuple[str, str, Callable[[Source, Family], tuple[Vae, LatentFormat]]]] = {
    4: ("sd1", "SD15", load_vae), 16: ("flux", "Flux", load_vae), 32: ("flux2", "Flux2", load_flux2_vae),
}  # fmt: skip
"""Layout, family and loader of a VAE by the channels that its decoder reads; the scale of latents does not matter."""
WAN_VAE = "decoder.middle.0.residual.0.gamma"
"""A weight of the VAEs of Wan and Qwen-Image, in which an image is a video of one frame."""

QWEN21_CHANNELS = 64
"""Channels of the latents of Qwen-Image 2.1, by which its VAE is known."""

FOUR = ("text_encoder", "text_encoder_2", "text_encoder_3", "text_encoder_4")
READERS: Mapping[str, tuple[str, tuple[str, ...], Callable[[Source], TextEncoder]]] = {
    "stable_diffusion": ("sd1", ("text_encoder",), clip_encoder),
    "sdxl": ("sdxl", ("text_encoder", "text_encoder_2"), xl_encoder),
    "sd3": (
        "sd3",
        ("text_encoder", "text_encoder_2", "text_encoder_3"),
        lambda source: sd3_encoder(source, source.where.config("text_encoder_3", "T5EncoderModel")["d_model"]),
    ),
    "flux": ("flux", ("text_encoder", "text_encoder_2"), lambda source: flux_encoder(source, guided=False)),
    "chroma": ("chroma", ("text_encoder",), chroma_encoder),
    "qwen_image": ("qwen_image", ("text_encoder",), qwen_encoder),
    "qwen_image21": ("qwen_image21", ("text_encoder",), qwen21_encoder),
    "lumina2": ("z_image", ("text_encoder",), z_image_encoder),
    "wan": ("wan", ("text_encoder",), wan_encoder),
    "hidream": ("hidream", FOUR, hidream_encoder),
    "ltxv": ("ltxv", ("text_encoder",), ltx_encoder),
    "flux2": ("flux2", ("text_encoder",), lambda source: flux2_encoder(source, guided=False)),
    "flux2_dev": ("flux2_dev", ("text_encoder",), lambda source: flux2_encoder(source, guided=True)),
}
"""By the type of a loader: the layout whose names files of encoders have, the encoders, and what reads prompts."""


def load_network_file(path: Path, device: torch.device) -> DiffusionModel:
    """Loads the network of a file, which may have other parts as well.

    Args:
        path: The file.
        device: Where it runs.

    Raises:
        ValueError: The file has no network of a known family.
    """
    with tempfile.TemporaryDirectory() as scratch:
        where = open_single_file(path, None, Path(scratch), alone=True)
        kind = where.network(*BUILDERS)
        return BUILDERS[kind](Source(where, path.stem, device, usual_dtype(kind, device), alone=True)).model


def load_text_files(paths: Sequence[Path], kind: str, device: torch.device, embeddings: Inversions) -> TextEncoder:
    """Loads text encoders from a file each, in any order.

    Args:
        paths: The files.
        kind: A key of `READERS`.
        device: Where they run.
        embeddings: What prompts may name as `embedding:name`.

    Raises:
        ValueError: A file is not a text encoder, or the files are not the encoders of this kind of model.
    """
    files = {path: open_weights([path]) for path in paths}
    if kind == "qwen_image" and any(DEEP in weight for stored in files.values() for weight in stored.header):
        kind = "qwen_image21"
    if kind == "flux2" and not any(QWEN3 in weight for stored in files.values() for weight in stored.header):
        kind = "flux2_dev"
    name, parts, read = READERS[kind]
    found = assigned(files, parts)
    optional = ("text_encoder_3",) if kind == "sd3" else ()
    if len(found) != len(paths) or any(part not in found for part in parts if part not in optional):
        known = ", ".join(f"{path.name} ({part})" for part, (path, _) in found.items())
        raise ValueError(f"{kind} needs {len(parts)} text encoders: {', '.join(parts)}; got {known}")
    prefixes = {part: f"{part}." for part in found}
    opened = [file for _, stored in found.values() for file in stored.files]
    at = {
        f"{part}.{weight}": (there, number)
        for number, (part, (_, stored)) in enumerate(found.items())
        for weight, (there, _) in stored.stored.items()
    }
    weights, layout = Weights(opened, at), Layout(name, prefixes)
    with tempfile.TemporaryDirectory() as scratch:
        configs = derived(layout, weights.shapes)
        files_of = {part: path for part, (path, _) in found.items()}
        where = SingleFile(paths[0], weights, layout, configs_of(name), configs, None, Path(scratch), files_of)
        dtype = torch.float32 if device.type == "cpu" else torch.float16
        return read(Source(where, paths[0].stem, device, dtype, embeddings=embeddings))


def assigned(files: Mapping[Path, Weights], parts: Sequence[str]) -> dict[str, tuple[Path, Weights]]:
    """The text encoder that each file is: T5 or a language model is the last of a model's, T5 of four the
    third, and of two CLIPs the second is wider.

    Raises:
        ValueError: A file has no text encoder.
    """
    clips: list[tuple[int, Path, Weights]] = []
    found: dict[str, tuple[Path, Weights]] = {}
    for path, stored in files.items():
        stored = stored.renamed(t5_names(stored.header))
        if T5 in stored.shapes or any(name.endswith(LANGUAGE) for name in stored.shapes):
            found["text_encoder_3" if T5 in stored.shapes and len(parts) > 3 else parts[-1]] = path, stored
            continue
        width = next((shape[1] for key, shape in stored.shapes.items() if key.endswith(WORDS)), None)
        if width is None:
            raise ValueError(f"{path}: no text encoder found; {seems(stored.shapes)}")
        clips.append((width, path, stored))
    for part, (_, path, stored) in zip(parts, sorted(clips, key=lambda each: each[0])):
        found[part] = path, stored
    return found


T5, WORDS = "encoder.block.0.layer.0.SelfAttention.q.weight", "token_embedding.weight"
LANGUAGE = "layers.0.mlp.gate_proj.weight"
"""Weights by which text encoders are distinguished."""
QWEN3 = "layers.0.self_attn.q_norm.weight"
"""End of a weight of Qwen 3, in which Flux 2 klein differs from dev."""
DEEP = "visual.deepstack_merger_list."
"""Beginning of weights of Qwen 3 VL, in which Qwen-Image 2.1 differs from Qwen-Image."""


def configs_of(name: str) -> Directory:
    """The shipped configs of a layout."""
    return open_directory(Path(str(files("sigmafield"))) / "data" / "configs" / name)


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
    if any(shapes.get(name, (0,))[0] == QWEN21_CHANNELS for name in ("post_quant_conv.weight", "conv2.weight")):
        name, own, read, prefix = "qwen_image21", "QwenImage21", load_qwen21_vae, ""
    elif WAN_VAE in shapes:
        name, own, read, prefix = "wan", "WAN21_T2V", load_video_vae, ""
    else:
        prefix = next((start for start in (*VAE_PREFIXES, "") if f"{start}decoder.conv_in.weight" in shapes), None)
        if prefix is None:
            raise ValueError(f"{path}: no VAE found; {seems(shapes)}")
        channels = shapes[f"{prefix}decoder.conv_in.weight"][1]
        if channels not in VAES or f"{prefix}decoder.up.0.block.0.conv1.weight" not in shapes:
            raise ValueError(
                f"{path}: this is not a VAE of Stable Diffusion, Flux, Wan or Qwen-Image in its published layout: "
                f"its latents have {channels} channels, and its weights begin with {', '.join(sorted(shapes)[:3])}"
            )
        name, own, read = VAES[channels]
    layout = Layout(name, {"vae": prefix})
    shipped = configs_of(name)
    try:
        configs = derived(layout, shapes)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    where = SingleFile(path, stored, layout, shipped, configs, None, path.parent)
    return read(Source(where, path.stem, device, torch.float32), family(own))[0]
