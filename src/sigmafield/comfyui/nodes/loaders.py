"""Nodes that load models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal, get_args

from sigmafield.comfyui.context import Context, Folders
from sigmafield.comfyui.control import ControlNetFile
from sigmafield.comfyui.declare import node
from sigmafield.comfyui.model import NodeModel
from sigmafield.comfyui.sockets import Choices, Input, files
from sigmafield.comfyui.values import Clip, ControlNet, Model, Vae
from sigmafield.core.annotations import Range
from sigmafield.models.bundle import Pipeline
from sigmafield.models.diffusion_model import DiffusionModel
from sigmafield.models.directory import INDEX, SHIPPED
from sigmafield.models.load import load
from sigmafield.models.load_parts import load_network, load_text, load_vae
from sigmafield.models.missing import NO_TEXT, NO_VAE
from sigmafield.models.text.encoder import TextEncoder


def _checkpoints(folders: Folders) -> list[str]:
    """The checkpoints, and the shipped models where no file has their name."""
    found = folders.names("checkpoints")
    return [*found, *(name for name in SHIPPED if name not in found)]


Checkpoint = Annotated[str, Choices(_checkpoints, files=True)]


def loaded(path: str | Path, context: Context) -> Pipeline:
    """A model, with the textual inversions of the first folder of embeddings; unknown ones are left out of prompts."""
    words = words_of(context)
    return context.loading(
        load, path, device=context.device, embeddings=words, skip_unknown_embeddings=words is not None
    )


def words_of(context: Context) -> Path | None:
    """The first folder of textual inversions."""
    return next((Path(root) for root in context.folders.models.get("embeddings", ()) if Path(root).is_dir()), None)


def parts(pipe: Pipeline) -> tuple[NodeModel, Clip, Vae]:
    """The three values of a loaded model."""
    return NodeModel(pipe.model, text=pipe.text), pipe.text, pipe.vae


@node("CheckpointLoaderSimple", "loaders", title="Load Checkpoint")
def checkpoint_loader_simple(ckpt_name: Checkpoint, context: Context = Context()) -> tuple[Model, Clip, Vae]:
    """Loads a checkpoint: network, text encoder and VAE.

    Args:
        ckpt_name: A file in the folder of checkpoints, or "tiny" or "tiny-flow", the shipped models.
        context: Where the folders are.
    """
    shipped = ckpt_name in SHIPPED and ckpt_name not in context.folders.names("checkpoints")
    return parts(loaded(ckpt_name if shipped else context.folders.path("checkpoints", ckpt_name), context))


def _directories(folders: Folders) -> Sequence[str]:
    roots = [Path(root) for root in folders.models.get("diffusers", ()) if Path(root).is_dir()]
    return sorted(path.name for root in roots for path in root.iterdir() if (path / INDEX).is_file())


@node("DiffusersLoader", "advanced/loaders/deprecated")
def diffusers_loader(
    model_path: Annotated[str, Choices(_directories)], context: Context = Context()
) -> tuple[Model, Clip, Vae]:
    """Loads a model in a directory of diffusers' layout.

    Args:
        model_path: A directory in the folder of diffusers' models.
        context: Where the folders are.
    """
    roots = [Path(root) / model_path for root in context.folders.models.get("diffusers", ())]
    found = next((path for path in roots if (path / INDEX).is_file()), None)
    if found is None:
        raise ValueError(f"unknown model_path {model_path!r}; known: {', '.join(_directories(context.folders))}")
    return parts(loaded(found, context))


LoraStrength = Annotated[float, Range(-100, 100), Input(step=0.01)]


def with_lora(
    network: DiffusionModel, text: TextEncoder, path: Path, strength: float, text_strength: float
) -> Pipeline:
    """A network and a text encoder with a LoRA in their weights."""
    return Pipeline(network, text, NO_VAE).with_loras([(path, (strength, text_strength))])


@node("LoraLoader", "loaders", title="Load LoRA")
def lora_loader(
    model: Model,
    clip: Clip,
    lora_name: Annotated[str, files("loras")],
    strength_model: LoraStrength = 1.0,
    strength_clip: LoraStrength = 1.0,
    context: Context = Context(),
) -> tuple[Model, Clip]:
    """Adds a LoRA to the weights of a model and a text encoder.

    Args:
        model: The model.
        clip: The text encoder.
        lora_name: A file in the folder of LoRAs.
        strength_model: Factor of what is added to the network.
        strength_clip: Factor of what is added to the text encoder.
        context: Where the folders are.
    """
    path = context.folders.path("loras", lora_name)
    made = context.loading(with_lora, model.network, clip, path, strength_model, strength_clip)
    return replace(model, network=made.model), made.text


@node("LoraLoaderModelOnly", "loaders")
def lora_loader_model_only(
    model: Model,
    lora_name: Annotated[str, files("loras")],
    strength_model: LoraStrength = 1.0,
    context: Context = Context(),
) -> Model:
    """Adds a LoRA to the weights of a model; what it has for the text encoder is left out.

    Args:
        model: The model.
        lora_name: A file in the folder of LoRAs.
        strength_model: Factor of what is added.
        context: Where the folders are.
    """
    text = model.text or NO_TEXT
    return lora_loader(model, text, lora_name, strength_model, 0.0, context)[0]


TextFile = Annotated[str, files("text_encoders")]
Kind = Literal[
    "stable_diffusion", "sdxl", "sd3", "flux", "chroma", "qwen_image", "lumina2", "flux2", "wan", "hidream", "ltxv"
]
KINDS: dict[str, Kind] = {kind: kind for kind in get_args(Kind)}
"""Types of text encoders that are read."""


def text_encoder(names: Sequence[str], kind: str, device: str | None, context: Context) -> Clip:
    """Text encoders in files of their own."""
    if kind not in KINDS:
        raise ValueError(f"type {kind} is not supported; supported: {', '.join(KINDS)}")
    paths = [context.folders.path("text_encoders", name) for name in names]
    where = "cpu" if device == "cpu" else context.device
    return context.loading(load_text, tuple(paths), KINDS[kind], device=where, embeddings=words_of(context))


@node("UNETLoader", "advanced/loaders", title="Load Diffusion Model")
def unet_loader(
    unet_name: Annotated[str, files("diffusion_models")],
    weight_dtype: Literal["default", "fp8_e4m3fn", "fp8_e4m3fn_fast", "fp8_e5m2"],
    context: Context = Context(),
) -> Model:
    """Loads a network from a file of its own.

    Args:
        unet_name: A file in the folder of diffusion models.
        weight_dtype: Ignored: weights are kept as the file has them, or in the dtype that the network runs in.
        context: Where the folders are.
    """
    path = context.folders.path("diffusion_models", unet_name)
    return NodeModel(context.loading(load_network, path, device=context.device))


@node("CLIPLoader", "advanced/loaders", title="Load CLIP")
def clip_loader(
    clip_name: TextFile,
    type: Literal[
        "stable_diffusion",
        "stable_cascade",
        "sd3",
        "stable_audio",
        "mochi",
        "ltxv",
        "pixart",
        "cosmos",
        "lumina2",
        "wan",
        "hidream",
        "chroma",
        "ace",
        "omnigen2",
        "qwen_image",
        "hunyuan_image",
        "flux2",
        "ovis",
    ],
    device: Annotated[Literal["default", "cpu"] | None, Input(more=(("advanced", True),))] = None,
    context: Context = Context(),
) -> Clip:
    """Loads a text encoder from a file of its own.

    Args:
        clip_name: A file in the folder of text encoders.
        type: The model that it is for: stable_diffusion, chroma, qwen_image, wan, ltxv, lumina2 for Z-Image, flux2.
        device: Where it runs: the model's device, or the CPU.
        context: Where the folders are.
    """
    return text_encoder([clip_name], type, device, context)


@node("DualCLIPLoader", "advanced/loaders")
def dual_clip_loader(
    clip_name1: TextFile,
    clip_name2: TextFile,
    type: Literal[
        "sdxl",
        "sd3",
        "flux",
        "hunyuan_video",
        "hidream",
        "hunyuan_image",
        "hunyuan_video_15",
        "kandinsky5",
        "kandinsky5_image",
        "ltxv",
        "newbie",
    ],
    device: Annotated[Literal["default", "cpu"] | None, Input(more=(("advanced", True),))] = None,
    context: Context = Context(),
) -> Clip:
    """Loads two text encoders from files of their own.

    Args:
        clip_name1: A file in the folder of text encoders.
        clip_name2: Another one; their order does not matter.
        type: The model that they are for; sdxl, sd3 and flux are supported.
        device: Where they run: the model's device, or the CPU.
        context: Where the folders are.
    """
    return text_encoder([clip_name1, clip_name2], type, device, context)


@node("TripleCLIPLoader", "advanced/loaders", version=3)
def triple_clip_loader(
    clip_name1: TextFile, clip_name2: TextFile, clip_name3: TextFile, context: Context = Context()
) -> Clip:
    """Loads the three text encoders of Stable Diffusion 3 from files of their own.

    Args:
        clip_name1: A file in the folder of text encoders.
        clip_name2: Another one.
        clip_name3: The third; their order does not matter.
        context: Where the folders are.
    """
    return text_encoder([clip_name1, clip_name2, clip_name3], "sd3", None, context)


@node("QuadrupleCLIPLoader", "advanced/loaders", version=3)
def quadruple_clip_loader(
    clip_name1: TextFile, clip_name2: TextFile, clip_name3: TextFile, clip_name4: TextFile, context: Context = Context()
) -> Clip:
    """Loads the four text encoders of HiDream from files of their own.

    Args:
        clip_name1: A file in the folder of text encoders.
        clip_name2: Another one.
        clip_name3: The third.
        clip_name4: The fourth; their order does not matter.
        context: Where the folders are.
    """
    return text_encoder([clip_name1, clip_name2, clip_name3, clip_name4], "hidream", None, context)


@node("VAELoader", "loaders", title="Load VAE")
def vae_loader(vae_name: Annotated[str, files("vae")], context: Context = Context()) -> Vae:
    """Loads a VAE from a file of its own.

    Args:
        vae_name: A file in the folder of VAEs.
        context: Where the folders are.
    """
    return context.loading(load_vae, context.folders.path("vae", vae_name), device=context.device)


@node("ControlNetLoader", "loaders", title="Load ControlNet Model")
def controlnet_loader(
    control_net_name: Annotated[str, files("controlnet")], context: Context = Context()
) -> ControlNet:
    """Finds a control net, which is read when it is applied.

    Args:
        control_net_name: A file in the folder of control nets, or the weights in a directory of diffusers' layout.
        context: Where the folders are.
    """
    path = context.folders.path("controlnet", control_net_name)
    return ControlNetFile(
        path.parent if (path.parent / "config.json").is_file() else path, context.device, loading=context.loading
    )
