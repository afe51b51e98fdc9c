"""CLIP text encoders of transformers: prompts to conditionings of Stable Diffusion 1, 2 and XL."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from sigmafield.models.diffusers.source import Source
from sigmafield.models.directory import needed
from sigmafield.models.pipeline import EncodeText
from sigmafield.types import Cond


def load_tokenizer(source: Source, part: str, encoder: Any) -> Callable[[Sequence[str]], Tensor]:
    """prompts → ids [B, tokens], cut and padded to what the encoder takes."""
    folder = source.where.folder(part, "CLIPTokenizer")
    if not (folder / "tokenizer.json").is_file():
        needed(folder / "vocab.json")
        needed(folder / "merges.txt")
    tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    length = min(tokenizer.model_max_length, encoder.config.max_position_embeddings)

    def ids(prompts: Sequence[str]) -> Tensor:
        batch = tokenizer(list(prompts), padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        return batch.input_ids.to(encoder.device)

    return ids


def clip_encoder(source: Source) -> tuple[EncodeText, dict[str, Any]]:
    """`Pipeline.encode_text` and `.modules` of Stable Diffusion 1 and 2: the last hidden states, normalised."""
    text = source.module(CLIPTextModel, "text_encoder")
    ids = load_tokenizer(source, "tokenizer", text)

    def encode_text(prompts: Sequence[str], size: tuple[int, int]) -> Cond:
        return Cond(text(ids(prompts)).last_hidden_state.float())

    return encode_text, {"text_encoder": text}


def xl_encoder(source: Source) -> tuple[EncodeText, dict[str, Any]]:
    """`Pipeline.encode_text` and `.modules` of Stable Diffusion XL. Podell et al., arXiv:2307.01952.

    embeds: the last hidden states but one of both encoders, side by side; extra: the second one's pooled vector
    (text_embeds) and original size, crop and target size (time_ids), with size for both and no crop.
    """
    first = source.module(CLIPTextModel, "text_encoder")
    second = source.module(CLIPTextModelWithProjection, "text_encoder_2")
    ids, ids_2 = load_tokenizer(source, "tokenizer", first), load_tokenizer(source, "tokenizer_2", second)

    def encode_text(prompts: Sequence[str], size: tuple[int, int]) -> Cond:
        a = first(ids(prompts), output_hidden_states=True)
        b = second(ids_2(prompts), output_hidden_states=True)
        height, width = size
        sizes = torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float32, device=source.device)
        extra = {"text_embeds": b.text_embeds.float(), "time_ids": sizes.repeat(len(prompts), 1)}
        return Cond(torch.cat([a.hidden_states[-2], b.hidden_states[-2]], dim=-1).float(), extra)

    return encode_text, {"text_encoder": first, "text_encoder_2": second}
