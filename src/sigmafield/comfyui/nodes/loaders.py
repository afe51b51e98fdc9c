"""Nodes that load models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from sigmafield.comfyui.context import Context, Folders
from sigmafield.comfyui.declare import node
from sigmafield.comfyui.model import NodeModel
from sigmafield.comfyui.sockets import Choices
from sigmafield.comfyui.values import Clip, Model, Vae
from sigmafield.models.bundle import Pipeline
from sigmafield.models.directory import INDEX, TINY
from sigmafield.models.load import load


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
    return NodeModel(pipe.model), pipe.text, pipe.vae


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
