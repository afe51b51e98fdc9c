"""The text encoders T5, UMT5 and Gemma of transformers, padded to a fixed number of tokens."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, Gemma2Model, T5EncoderModel, UMT5EncoderModel

from sigmafield.core.conditioning import Cond
from sigmafield.models.diffusers.source import Source
from sigmafield.models.diffusers.tokenizers import in_turn, read_tokenizer
from sigmafield.models.directory import needed
from sigmafield.models.text.bundled import NONE, Bundled
from sigmafield.models.text.encoder import EncodeText, Modules, TextEncoder
from sigmafield.models.text.prompt import Vocabulary, encode_chunks, one_chunk, text_for

Embed = Callable[[Any, Sequence[str]], tuple[Tensor, Tensor | None]]
"""(the encoder's module, prompts) → embeddings [B, tokens, channels], float32, and what `Run` gives with them."""

TOKENIZERS = (
    "T5TokenizerFast", "T5Tokenizer", "LlamaTokenizerFast", "LlamaTokenizer", "GemmaTokenizerFast", "GemmaTokenizer",
    "PreTrainedTokenizerFast", "TokenizersBackend", "Qwen2TokenizerFast", "Qwen2Tokenizer",
    "PixtralProcessor", "Qwen3VLProcessor",
)  # fmt: skip

LUMINA_SYSTEM = (
    "You are an assistant designed to generate superior images with the superior degree of image-text alignment "
    "based on textual prompts or user prompts. <Prompt Start> "
)
"""The system prompt that Lumina 2 was trained with. Qin et al., arXiv:2503.21758."""


def load_tokenizer(source: Source, part: str, **settings: str) -> Any:
    """Loads a tokenizer of transformers, which models share; `settings` replace those in its folder."""
    return read_tokenizer(AutoTokenizer, tokenizer_folder(source, part), **settings)


def tokenizer_folder(source: Source, part: str) -> Path:
    """The folder of a tokenizer; raises FileNotFoundError where its files are missing."""
    folder = source.where.folder(part, *TOKENIZERS)
    if not (str(source.where.class_of(part)).startswith("Qwen2") and (folder / "vocab.json").is_file()):
        needed(folder / "tokenizer.json")
    return folder


Run = Callable[[Any, Tensor, int], tuple[Tensor, Tensor | None]]
"""(the encoder's module, ids [rows, tokens], the id of padding) → states [rows, tokens, C], and what goes with them."""


def plain(text: Any, ids: Tensor, pad: int) -> tuple[Tensor, None]:
    """The states of all tokens, padding included."""
    return text(ids).last_hidden_state.float(), None


def attended(text: Any, ids: Tensor, pad: int) -> tuple[Tensor, None]:
    """The states of all tokens, to which padding is hidden."""
    return text(ids, attention_mask=(ids != pad).long()).last_hidden_state.float(), None


def zeroed(text: Any, ids: Tensor, pad: int) -> tuple[Tensor, None]:
    """The states of a prompt's tokens, to which padding is hidden; those of padding are set to 0."""
    mask = (ids != pad).long()
    return text(ids, attention_mask=mask).last_hidden_state.float() * mask[..., None], None


def unmasked(text: Any, ids: Tensor, pad: int) -> tuple[Tensor, Tensor]:
    """The states of all tokens, padding included, and a mask of the prompt."""
    return text(ids).last_hidden_state.float(), (ids != pad).long()


def masked(text: Any, ids: Tensor, pad: int) -> tuple[Tensor, Tensor]:
    """The states of all tokens, to which padding is hidden, and a mask of the prompt."""
    mask = (ids != pad).long()
    return text(ids, attention_mask=mask).last_hidden_state.float(), mask


def with_mask(text: Any, ids: Tensor, pad: int) -> tuple[Tensor, Tensor]:
    """The states of all tokens, to which padding is hidden, and a mask of the prompt and the first token of padding."""
    mask = (ids != pad).long()
    states, ends = text(ids, attention_mask=mask).last_hidden_state.float(), mask.sum(1, keepdim=True)
    return states, (torch.arange(ids.shape[1], device=ids.device) <= ends).long()


def weighted(source: Source, tokenizer: str, length: int, run: Run) -> Embed:
    """Makes the function that encodes weighted prompts with an encoder such as T5.

    Args:
        source: Where the model comes from.
        tokenizer: Name of the tokenizer's part.
        length: Least number of tokens.
        run: Asks the encoder.
    """
    words = load_tokenizer(source, tokenizer)
    read = in_turn(words)
    around = read("").input_ids
    vocabulary = Vocabulary(
        lambda run: [read(run, add_special_tokens=False).input_ids],
        words.bos_token_id if words.bos_token_id in around else None,
        words.eos_token_id if words.eos_token_id in around else None,
        words.pad_token_id, length,
        replace(source.embeddings, folder=None).vectors_of(tokenizer, 0),
        left=words.padding_side == "left",
    )  # fmt: skip

    def embed(text: Any, prompts: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        rows = [one_chunk(text_for(prompt, "t5"), vocabulary) for prompt in prompts]
        return encode_chunks(
            rows, vocabulary, text.get_input_embeddings(), lambda ids: run(text, ids, words.pad_token_id)
        )

    return embed


def of_prompts(encode: Callable[[Modules, Sequence[str], Bundled], Cond]) -> EncodeText:
    """A text encoder that is not CLIP: it needs neither the size of the image nor a layer, and refuses a clip_skip."""

    def encode_text(
        modules: Modules,
        prompts: Sequence[str],
        size: tuple[int, int],
        clip_skip: int | None = None,
        bundled: Bundled = NONE,
    ) -> Cond:
        if clip_skip is not None:
            raise ValueError(f"clip_skip is for models whose prompts are read by CLIP layer by layer; got {clip_skip}")
        return encode(modules, prompts, bundled)

    return encode_text


def t5(source: Source, part: str, tokenizer: str, length: int, run: Run = plain) -> tuple[Embed, Any]:
    """Loads T5. Stable Diffusion 3 and Flux use the states of padding as well."""
    text = source.module(T5EncoderModel, part)
    return weighted(source, tokenizer, length, run), text


def umt5(source: Source, length: int, clean: Callable[[str], str] = str) -> TextEncoder:
    """Loads the text encoder of AuraFlow and Wan: UMT5's hidden states, 0 for padding; `clean` edits prompts first."""
    text = source.module(UMT5EncoderModel, "text_encoder")
    embed = weighted(source, "tokenizer", length, zeroed)

    @of_prompts
    def encode_text(modules: Modules, prompts: Sequence[str], bundled: Bundled) -> Cond:
        return Cond(embed(modules["text_encoder"], [clean(prompt) for prompt in prompts])[0])

    return TextEncoder(encode_text, modules={"text_encoder": text})


def unescaped(prompt: str) -> str:
    """Resolves HTML escapes and joins spaces, as in Wan's training."""
    return " ".join(html.unescape(html.unescape(prompt)).split())


def gemma(source: Source, length: int) -> TextEncoder:
    """Loads the text encoder of Lumina 2: Gemma's penultimate hidden states, and encoder_attention_mask.

    Prompts follow the system prompt, negative prompts do not. They are plain text without weights, cut after `length`
    tokens.
    """
    tokenizer = in_turn(load_tokenizer(source, "tokenizer", padding_side="right"))
    text = source.module(Gemma2Model, "text_encoder")

    def encoded(modules: Modules, prompts: Sequence[str]) -> Cond:
        batch = tokenizer(list(prompts), padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        ids, mask = batch.input_ids.to(source.device), batch.attention_mask.to(source.device)
        states = modules["text_encoder"](ids, attention_mask=mask, output_hidden_states=True).hidden_states
        return Cond(states[-2].float(), {"encoder_attention_mask": mask})

    @of_prompts
    def encode_text(modules: Modules, prompts: Sequence[str], bundled: Bundled) -> Cond:
        return encoded(modules, [LUMINA_SYSTEM + prompt for prompt in prompts])

    @of_prompts
    def encode_negative(modules: Modules, prompts: Sequence[str], bundled: Bundled) -> Cond:
        return encoded(modules, prompts)

    return TextEncoder(encode_text, encode_negative, {"text_encoder": text})
