"""Reads the textual inversions that OneTrainer puts into a LoRA's file: bundle_emb.NAME.clip_l."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from sigmafield.models.lora.keys import bundled_key
from sigmafield.models.lora.names import Shape
from sigmafield.models.text.bundled import Bundled, Inversion, equal, prompt_name

CLIPS = {"clip_l": "text_encoder", "clip_g": "text_encoder_2"}
"""The parts of a model that are the encoders which read textual inversions."""

TABLE = "token_embedding.weight"
"""How the name of CLIP's vectors of words ends, which no other encoder has."""

OTHER = "vectors of textual inversions for other encoders than clip_l and clip_g"
MISSING = "vectors of textual inversions for an encoder that this model does not have"
WIDTH = "vectors of textual inversions of another width than the text encoder's"
TWICE = "textual inversions whose names are the same in a prompt"


def widths_of(parameters: Mapping[str, Mapping[str, Shape]]) -> dict[str, int]:
    """The width of each CLIP encoder's vectors of words, by the encoders' names.

    Args:
        parameters: Shapes of the parameters of each part of a model.
    """
    out: dict[str, int] = {}
    for encoder, part in CLIPS.items():
        for name, shape in parameters.get(part, {}).items():
            if name.endswith(TABLE):
                out[encoder] = shape[1]
    return out


def bundled_in(path: Path, tensors: Mapping[str, Tensor], widths: Mapping[str, int]) -> tuple[Bundled, dict[str, str]]:
    """Reads textual inversions from the tensors of a LoRA's file.

    Args:
        path: The file.
        tensors: Those of its tensors that belong to textual inversions.
        widths: The width of each encoder's vectors.

    Returns:
        The textual inversions by the names that prompts give them, and why tensors cannot be used, by their names.
    """
    found: dict[str, dict[str, Tensor]] = {}
    refused: dict[str, str] = {}
    for key, value in tensors.items():
        known = bundled_key(key)
        vectors = value[None] if value.ndim == 1 else value
        if known is None or not value.is_floating_point():
            refused[key] = OTHER
        elif known.encoder not in widths:
            refused[key] = MISSING
        elif vectors.ndim != 2 or vectors.shape[1] != widths[known.encoder]:
            refused[f"{key} ({'×'.join(map(str, value.shape))} for width {widths[known.encoder]})"] = WIDTH
        elif not equal(found.setdefault(prompt_name(known.name), {}).setdefault(known.encoder, vectors), vectors):
            refused[key] = TWICE
    return {name: Inversion(path, vectors) for name, vectors in found.items()}, refused
