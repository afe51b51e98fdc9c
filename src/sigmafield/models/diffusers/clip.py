"""CLIP text encoders of transformers: prompts to conditionings of Stable Diffusion 1, 2 and XL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from sigmafield.models.diffusers.source import Source
from sigmafield.models.directory import needed
from sigmafield.models.inversion import vectors_of
from sigmafield.models.pipeline import EncodeText
from sigmafield.models.prompt import Vocabulary, by_space, check_layer, chunks, encode_chunks, level
from sigmafield.types import Cond


def load_vocabulary(source: Source, part: str, encoder: Any, name: str) -> Vocabulary:
    """Words to ids, in chunks as long as the encoder takes; name: what files of textual inversions call the encoder."""
    folder = source.where.folder(part, "CLIPTokenizer")
    if not (folder / "tokenizer.json").is_file():
        needed(folder / "vocab.json")
        needed(folder / "merges.txt")
    tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    return Vocabulary(
        by_space(lambda word: tokenizer(word, add_special_tokens=False).input_ids),
        tokenizer.bos_token_id,
        tokenizer.eos_token_id,
        tokenizer.pad_token_id,
        min(tokenizer.model_max_length, encoder.config.max_position_embeddings),
        vectors_of(source.embeddings, name, encoder.config.hidden_size),
    )


def clip_encoder(source: Source) -> tuple[EncodeText, dict[str, Any]]:
    """`Pipeline.encode_text` and `.modules` of Stable Diffusion 1 and 2: hidden states of a layer, normalised."""
    text = source.module(CLIPTextModel, "text_encoder")
    vocabulary = load_vocabulary(source, "tokenizer", text, "clip_l")
    norm = getattr(text, "text_model", text).final_layer_norm  # transformers 4 has them one level deeper

    def encode_text(prompts: Sequence[str], size: tuple[int, int], clip_skip: int | None = None) -> Cond:
        check_layer(clip_skip, text.config.num_hidden_layers)

        def run(ids: Tensor) -> tuple[Tensor, None]:
            if clip_skip is None:
                return text(ids).last_hidden_state.float(), None
            return norm(text(ids, output_hidden_states=True).hidden_states[clip_skip]).float(), None

        rows = [chunks(prompt, vocabulary) for prompt in prompts]
        return Cond(encode_chunks(rows, vocabulary, text.get_input_embeddings(), run)[0])

    return encode_text, {"text_encoder": text}


def xl_encoder(source: Source) -> tuple[EncodeText, dict[str, Any]]:
    """`Pipeline.encode_text` and `.modules` of Stable Diffusion XL. Podell et al., arXiv:2307.01952.

    embeds: hidden states of both encoders side by side, as they come out of a layer, the last but one unless another
    is asked for; extra: the second one's pooled vector (text_embeds) and original size, crop and target size
    (time_ids), with size for both and no crop.
    """
    first = source.module(CLIPTextModel, "text_encoder")
    second = source.module(CLIPTextModelWithProjection, "text_encoder_2")
    words = load_vocabulary(source, "tokenizer", first, "clip_l")
    words_2 = load_vocabulary(source, "tokenizer_2", second, "clip_g")

    def encode_text(prompts: Sequence[str], size: tuple[int, int], clip_skip: int | None = None) -> Cond:
        check_layer(clip_skip, min(first.config.num_hidden_layers, second.config.num_hidden_layers))
        layer = -2 if clip_skip is None else clip_skip

        def run(ids: Tensor) -> tuple[Tensor, None]:
            return first(ids, output_hidden_states=True).hidden_states[layer].float(), None

        def run_2(ids: Tensor) -> tuple[Tensor, Tensor]:
            out = second(ids, output_hidden_states=True)
            return out.hidden_states[layer].float(), out.text_embeds.float()

        rows, rows_2 = ([chunks(prompt, v) for prompt in prompts] for v in (words, words_2))
        a, _ = encode_chunks(level(rows, rows_2, words), words, first.get_input_embeddings(), run)
        b, pooled = encode_chunks(level(rows_2, rows, words_2), words_2, second.get_input_embeddings(), run_2)
        assert pooled is not None
        height, width = size
        sizes = torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float32, device=source.device)
        extra = {"text_embeds": pooled, "time_ids": sizes.repeat(len(prompts), 1)}
        return Cond(torch.cat([a, b], dim=-1), extra)

    return encode_text, {"text_encoder": first, "text_encoder_2": second}
