"""Published models at their true size, without memory for their weights."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import original_names as names
import torch
from torch import Tensor

from sigmafield.models.weights.undrawn import Undrawn

CONFIGS = Path(str(files("sigmafield"))) / "data" / "configs"


def config(family: str, part: str) -> dict[str, Any]:
    """The shipped config of a part."""
    return json.loads((CONFIGS / family / part / "config.json").read_text())


def empty(family: str, part: str, kind: Any, **changes: Any) -> Any:
    """A part with the shipped config, on the meta device."""
    settings = config(family, part) | changes
    with torch.device("meta"), Undrawn():
        if kind.__module__.startswith("diffusers"):
            return kind.from_config(settings)
        return kind(kind.config_class.from_dict(settings))


@cache
def shipped(family: str, part: str, kind: Any) -> Any:
    """As `empty`, with the shipped config alone, made once."""
    return empty(family, part, kind)


def kinds(family: str) -> dict[str, Any]:
    """The class of each part with weights."""
    import diffusers
    import transformers

    index = json.loads((CONFIGS / family / "model_index.json").read_text())
    parts = {name: entry for name, entry in index.items() if isinstance(entry, list)}
    return {
        name: getattr({"diffusers": diffusers, "transformers": transformers}[library], kind)
        for name, (library, kind) in parts.items()
        if not name.startswith(("tokenizer", "scheduler"))
    }


@cache
def weights(family: str) -> dict[str, Tensor]:
    """All weights of a published file, by the names in it."""
    parts = {part: shipped(family, part, kind) for part, kind in kinds(family).items()}
    out = names.autoencoder(parts["vae"])
    levels = {
        "sd1": ((1, 1, 1, 0), 1),
        "sd2": ((1, 1, 1, 0), 1),
        "sdxl": ((0, 2, 10), 10),
        "sdxl_refiner": ((0, 4, 4, 0), 4),
    }
    if family in levels:
        out |= names.renamed(parts["unet"], names.unet(*levels[family]), names.LDM)
    else:
        out |= {"sd3": names.sd3, "flux": names.flux}[family](parts["transformer"], names.LDM)
    if family == "sd1":
        return out | names.clip(parts["text_encoder"], "cond_stage_model.transformer.")
    if family == "sd2":  # with the layer that diffusers leaves out
        whole = empty(family, "text_encoder", kinds(family)["text_encoder"], num_hidden_layers=24)
        return out | names.open_clip(whole, "cond_stage_model.model.")
    if family == "sdxl":
        out |= names.clip(parts["text_encoder"], "conditioner.embedders.0.transformer.")
        return out | names.open_clip(parts["text_encoder_2"], "conditioner.embedders.1.model.")
    if family == "sdxl_refiner":
        return out | names.open_clip(parts["text_encoder_2"], "conditioner.embedders.0.model.")
    encoders = {part: module for part, module in parts.items() if part.startswith("text_encoder")}
    for name, module in zip(
        ("clip_l", "clip_g", "t5xxl") if family == "sd3" else ("clip_l", "t5xxl"), encoders.values()
    ):
        prefix = f"text_encoders.{name}.transformer."
        out |= (names.t5 if name == "t5xxl" else names.clip)(module, prefix)
    return out
