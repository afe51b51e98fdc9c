"""Reads vision encoders, CLIP's and SigLIP's, in the layout of transformers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPVisionModelWithProjection, SiglipVisionModel

from sigmafield.models.diffusers.assemble import assembled
from sigmafield.models.vision import VisionEncoder
from sigmafield.models.weights.files import open_weights

WRAP = "vision_model."
"""Prefix of an encoder's weights in files, which some versions of transformers leave out."""
HEADS = {768: 12}
"""Attention heads by width; 16 otherwise, in all encoders that are published."""
QUICK = 1024
"""Width of the encoder whose activation is x · sigmoid(1.702 x): CLIP's own ViT-L."""
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
SIGLIP = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
"""Mean and deviation of colours that images are normalised by."""


def read_vision(path: Path, device: torch.device) -> VisionEncoder:
    """The encoder in a file; arguments and errors as for `load_vision`."""
    weights = open_weights([path])
    names = [name for name in weights.shapes if name.startswith((WRAP, "visual_projection"))]
    patches = weights.shapes.get(f"{WRAP}embeddings.patch_embedding.weight")
    if patches is None:
        raise ValueError(f"{path} has no {WRAP}embeddings: a vision encoder in transformers' layout is supported")
    clip = f"{WRAP}embeddings.class_embedding" in weights.shapes
    values = dict(weights.read(name for name in names if not name.endswith("position_ids")))
    kind: Any = CLIPVisionModelWithProjection if clip else SiglipVisionModel
    config = _config(weights.shapes, patches, clip)
    module = assembled(kind, config, _named(kind, values), str(path), torch.float32)
    return VisionEncoder(module.to(device), config["image_size"], *(CLIP if clip else SIGLIP))


def _named(kind: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """The weights by the names that the class has: SigLIP's have no prefix in transformers 5."""
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    known = kind(kind.config_class.from_dict({**small, "image_size": 4, "patch_size": 4})).state_dict()
    wrapped = any(name.startswith(WRAP) for name in known)
    return dict(values) if wrapped else {name.removeprefix(WRAP): each for name, each in values.items()}


def _config(shapes: Mapping[str, tuple[int, ...]], patches: tuple[int, ...], clip: bool) -> dict[str, Any]:
    """The config that the shapes of the weights follow from."""
    width, patch = patches[0], patches[2]
    positions = shapes[f"{WRAP}embeddings.position_embedding.weight"][0] - clip
    layers = {int(found[1]) for name in shapes if (found := re.match(rf"{WRAP}encoder\.layers\.(\d+)\.", name))}
    config: dict[str, Any] = {
        "hidden_size": width,
        "intermediate_size": shapes[f"{WRAP}encoder.layers.0.mlp.fc1.weight"][0],
        "num_hidden_layers": len(layers),
        "num_attention_heads": HEADS.get(width, 16),
        "patch_size": patch,
        "image_size": round(positions**0.5) * patch,
        "hidden_act": ("quick_gelu" if width == QUICK else "gelu") if clip else "gelu_pytorch_tanh",
    }
    return config | ({"projection_dim": shapes["visual_projection.weight"][0]} if clip else {})
