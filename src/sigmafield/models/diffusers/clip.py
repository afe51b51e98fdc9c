"""CLIP text encoders of transformers, for Stable Diffusion 1, 2 and XL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from sigmafield.core.conditioning import Cond
from sigmafield.models.diffusers.source import Source
from sigmafield.models.diffusers.tokenizers import in_turn, read_tokenizer
from sigmafield.models.directory import needed
from sigmafield.models.text.bundled import NONE, Bundled
from sigmafield.models.text.encoder import Modules, TextEncoder
from sigmafield.models.text.prompt import (
    Chunk,
    Vocabulary,
    by_space,
    check_layer,
    chunks,
    encode_chunks,
    level,
    text_for,
)


@dataclass(frozen=True)
class Clip:
    """A CLIP text encoder.

    Args:
        part: Its name among the model's text encoders.
        module: The module of transformers.
        vocabulary: How its input is made.
        projected: Whether pooled vectors are those that the module projects, if it does, or those before.
    """

    part: str
    module: Any
    vocabulary: Vocabulary
    projected: bool = True

    def of(self, modules: Modules, bundled: Bundled) -> Clip:
        """The encoder on its module among others, which may have a LoRA in its weights, and with LoRAs' words."""
        return replace(self, module=modules[self.part], vocabulary=replace(self.vocabulary, bundled=bundled))

    @property
    def layers(self) -> int:
        """Number of its layers."""
        return self.module.config.num_hidden_layers

    def rows(self, prompts: Sequence[str]) -> list[list[Chunk]]:
        """Splits each prompt into chunks."""
        name = "clip_l" if self.part == "text_encoder" else "clip_g"
        return [chunks(text_for(prompt, name), self.vocabulary) for prompt in prompts]

    def encode(self, rows: Sequence[Sequence[Chunk]], layer: int) -> tuple[Tensor, Tensor | None]:
        """Hidden states of a layer [B, tokens, C], not normalised, and pooled vectors if the module projects them."""
        text = self.module if self.projected else self.module.text_model

        def run(ids: Tensor) -> tuple[Tensor, Tensor | None]:
            out = text(ids, output_hidden_states=True)
            pooled = getattr(out, "text_embeds", None) if self.projected else out.pooler_output
            return out.hidden_states[layer].float(), None if pooled is None else pooled.float()

        return encode_chunks(rows, self.vocabulary, self.module.get_input_embeddings(), run)

    def pooled(self, prompts: Sequence[str]) -> Tensor:
        """The normalised state at the end of each prompt's first chunk [B, C], without weights."""

        def run(ids: Tensor) -> tuple[Tensor, Tensor]:
            out = self.module(ids)
            return out.last_hidden_state.float(), out.pooler_output.float()

        pooled = encode_chunks(self.rows(prompts), self.vocabulary, self.module.get_input_embeddings(), run)[1]
        assert pooled is not None
        return pooled


def load_clip(source: Source, kind: Any, number: int = 1) -> Clip:
    """Loads a CLIP text encoder and its tokenizer.

    Args:
        source: Where the model comes from.
        kind: Class of transformers.
        number: Which of the model's encoders; textual inversions call the first clip_l and the second clip_g.
    """
    end = "" if number == 1 else f"_{number}"
    part = f"text_encoder{end}"
    module = source.module(kind, part)
    folder = source.where.folder(f"tokenizer{end}", "CLIPTokenizer")
    if not (folder / "tokenizer.json").is_file():
        needed(folder / "vocab.json")
        needed(folder / "merges.txt")
    tokenizer = read_tokenizer(CLIPTokenizer, folder)
    read = in_turn(tokenizer)
    vocabulary = Vocabulary(
        by_space(lambda word: read(word, add_special_tokens=False).input_ids),
        tokenizer.bos_token_id,
        tokenizer.eos_token_id,
        tokenizer.pad_token_id,
        min(tokenizer.model_max_length, module.config.max_position_embeddings),
        source.embeddings.vectors_of("clip_l" if number == 1 else "clip_g", module.config.hidden_size),
    )
    return Clip(part, module, vocabulary)


def joined(first: Clip, second: Clip, prompts: Sequence[str], clip_skip: int | None) -> tuple[Tensor, list[Any]]:
    """Joins the hidden states of two encoders along the channels: of the penultimate layer, or of `clip_skip`.

    Returns:
        The states [B, tokens, C₁ + C₂] and the pooled vectors of both.
    """
    check_layer(clip_skip, min(first.layers, second.layers))
    layer = -2 if clip_skip is None else clip_skip
    rows, rows_2 = first.rows(prompts), second.rows(prompts)
    a, pooled = first.encode(level(rows, rows_2, first.vocabulary), layer)
    b, pooled_2 = second.encode(level(rows_2, rows, second.vocabulary), layer)
    return torch.cat([a, b], dim=-1), [pooled, pooled_2]


def clip_encoder(source: Source) -> TextEncoder:
    """Loads the text encoder of Stable Diffusion 1 and 2: normalised hidden states of a layer."""
    clip = load_clip(source, CLIPTextModel)

    def encode_text(
        modules: Modules,
        prompts: Sequence[str],
        size: tuple[int, int],
        clip_skip: int | None = None,
        bundled: Bundled = NONE,
    ) -> Cond:
        check_layer(clip_skip, clip.layers)
        own = clip.of(modules, bundled)
        text = own.module
        norm = getattr(text, "text_model", text).final_layer_norm  # transformers 4 has them one level deeper

        def run(ids: Tensor) -> tuple[Tensor, None]:
            if clip_skip is None:
                return text(ids).last_hidden_state.float(), None
            return norm(text(ids, output_hidden_states=True).hidden_states[clip_skip]).float(), None

        return Cond(encode_chunks(own.rows(prompts), own.vocabulary, text.get_input_embeddings(), run)[0])

    return TextEncoder(encode_text, modules={"text_encoder": clip.module})


def xl_encoder(source: Source) -> TextEncoder:
    """Loads the text encoders of Stable Diffusion XL. Podell et al., arXiv:2307.01952.

    Its conditionings hold the joined hidden states of both encoders (embeds), the second one's pooled vector
    (text_embeds), and original size, crop offset 0 and target size (time_ids); both sizes are the image's.
    """
    first, second = load_clip(source, CLIPTextModel), load_clip(source, CLIPTextModelWithProjection, 2)

    def encode_text(
        modules: Modules,
        prompts: Sequence[str],
        size: tuple[int, int],
        clip_skip: int | None = None,
        bundled: Bundled = NONE,
    ) -> Cond:
        embeds, (_, pooled) = joined(first.of(modules, bundled), second.of(modules, bundled), prompts, clip_skip)
        sizes = torch.tensor([[*size, 0, 0, *size]], dtype=torch.float32, device=source.device)
        return Cond(embeds, {"text_embeds": pooled, "time_ids": sizes.repeat(len(prompts), 1)})

    return TextEncoder(encode_text, modules={"text_encoder": first.module, "text_encoder_2": second.module})
