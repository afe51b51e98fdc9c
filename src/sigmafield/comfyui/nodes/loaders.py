"""Nodes that load models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from torch import Tensor

from sigmafield.comfyui.context import Context, Folders
from sigmafield.comfyui.control import ControlNetFile, no_text
from sigmafield.comfyui.declare import node
from sigmafield.comfyui.model import NodeModel
from sigmafield.comfyui.sockets import Choices, Input, files
from sigmafield.comfyui.values import Clip, ControlNet, Model, Vae
from sigmafield.core.annotations import Range
from sigmafield.models.bundle import Pipeline, TextEncoder
from sigmafield.models.bundle import Vae as VaeValue
from sigmafield.models.directory import INDEX, TINY
from sigmafield.models.load import load, load_vae


def _checkpoints(folders: Folders) -> list[str]:
    """The checkpoints, and the shipped model where no file has its name."""
    found = folders.names("checkpoints")
    return found if TINY in found else [*found, TINY]


Checkpoint = Annotated[str, Choices(_checkpoints, files=True)]


def loaded(path: str | Path, context: Context) -> Pipeline:
    """A model, with the textual inversions of the first folder of embeddings; unknown ones are left out of prompts."""
    roots = [Path(root) for root in context.folders.models.get("embeddings", ()) if Path(root).is_dir()]
    return load(
        path, device=context.device, embeddings=roots[0] if roots else None, skip_unknown_embeddings=bool(roots)
    )


def parts(pipe: Pipeline) -> tuple[NodeModel, Clip, Vae]:
    """The three values of a loaded model."""
    return NodeModel(pipe.model, text=pipe.text), pipe.text, pipe.vae


@node("CheckpointLoaderSimple", "loaders", title="Load Checkpoint")
def checkpoint_loader_simple(ckpt_name: Checkpoint, context: Context = Context()) -> tuple[Model, Clip, Vae]:
    """Loads a checkpoint: network, text encoder and VAE.

    Args:
        ckpt_name: A file in the folder of checkpoints, or "tiny", the shipped model.
        context: Where the folders are.
    """
    shipped = ckpt_name == TINY and TINY not in context.folders.names("checkpoints")
    return parts(loaded(TINY if shipped else context.folders.path("checkpoints", ckpt_name), context))


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
    pipe = Pipeline(model.network, clip, NO_VAE)
    made = pipe.with_loras([(context.folders.path("loras", lora_name), (strength_model, strength_clip))])
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
    text = model.text or TextEncoder(no_text)
    return lora_loader(model, text, lora_name, strength_model, 0.0, context)[0]


def _no_images(images: Tensor) -> Tensor:
    raise ValueError("there is no VAE")


NO_VAE = VaeValue(_no_images, _no_images)
"""In place of a VAE where LoRAs are added, which do not change it."""


@node("VAELoader", "loaders", title="Load VAE")
def vae_loader(vae_name: Annotated[str, files("vae")], context: Context = Context()) -> Vae:
    """Loads a VAE from a file of its own.

    Args:
        vae_name: A file in the folder of VAEs.
        context: Where the folders are.
    """
    return load_vae(context.folders.path("vae", vae_name), device=context.device)


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
    return ControlNetFile(path.parent if (path.parent / "config.json").is_file() else path, context.device)
