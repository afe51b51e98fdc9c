"""Text encoders of transformers beside CLIP: T5, UMT5 and Gemma, padded to a fixed number of tokens."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from transformers import AutoTokenizer, Gemma2Model, T5EncoderModel, UMT5EncoderModel

from sigmafield.core.conditioning import Cond
from sigmafield.models.bundle import TextEncoder
from sigmafield.models.diffusers.source import Source
from sigmafield.models.directory import needed
from sigmafield.models.text.prompt import Vocabulary, encode_chunks, one_chunk

Embed = Callable[[Sequence[str]], Tensor]
"""prompts → embeddings [B, tokens, channels], float32."""

TOKENIZERS = (
    "T5TokenizerFast", "T5Tokenizer", "LlamaTokenizerFast", "LlamaTokenizer", "GemmaTokenizerFast", "GemmaTokenizer",
    "PreTrainedTokenizerFast", "TokenizersBackend",
)  # fmt: skip

LUMINA_SYSTEM = (
    "You are an assistant designed to generate superior images with the superior degree of image-text alignment "
    "based on textual prompts or user prompts. <Prompt Start> "
)
"""What Lumina 2 was trained to be told before a prompt. Qin et al., arXiv:2503.21758."""


def load_tokenizer(source: Source, part: str, **settings: Any) -> Any:
    """A tokenizer of transformers; settings: others than those in its folder."""
    folder = source.where.folder(part, *TOKENIZERS)
    needed(folder / "tokenizer.json")
    return AutoTokenizer.from_pretrained(folder, local_files_only=True, **settings)


def weighted(source: Source, text: Any, tokenizer: str, length: int, masked: bool) -> Embed:
    """Prompts with weights through an encoder of T5's kind, of at least `length` tokens.

    masked: padding is hidden from the encoder, and its own states are 0.
    """
    words = load_tokenizer(source, tokenizer)
    around = words("").input_ids
    vocabulary = Vocabulary(
        lambda run: [words(run, add_special_tokens=False).input_ids],
        words.bos_token_id if words.bos_token_id in around else None,
        words.eos_token_id if words.eos_token_id in around else None,
        words.pad_token_id, length, left=words.padding_side == "left",
    )  # fmt: skip

    def run(ids: Tensor) -> tuple[Tensor, None]:
        if not masked:
            return text(ids).last_hidden_state.float(), None
        mask = (ids != words.pad_token_id).long()
        return text(ids, attention_mask=mask).last_hidden_state.float() * mask[..., None], None

    def embed(prompts: Sequence[str]) -> Tensor:
        rows = [one_chunk(prompt, vocabulary) for prompt in prompts]
        return encode_chunks(rows, vocabulary, text.get_input_embeddings(), run)[0]

    return embed


def no_layers(clip_skip: int | None) -> None:
    """Raises ValueError for a layer to stop at, where only the last one has a meaning."""
    if clip_skip is not None:
        raise ValueError(f"clip_skip is for models whose prompts are read by CLIP layer by layer; got {clip_skip}")


def t5(source: Source, part: str, tokenizer: str, length: int) -> tuple[Embed, Any]:
    """T5's hidden states of all tokens, padding as well: Stable Diffusion 3 and Flux hide none."""
    text = source.module(T5EncoderModel, part)
    return weighted(source, text, tokenizer, length, masked=False), text


def umt5(source: Source, length: int, clean: Callable[[str], str] = str) -> TextEncoder:
    """`Pipeline.encode_text` and `.modules` of AuraFlow and Wan: UMT5's hidden states, 0 for padding."""
    text = source.module(UMT5EncoderModel, "text_encoder")
    embed = weighted(source, text, "tokenizer", length, masked=True)

    def encode_text(prompts: Sequence[str], size: tuple[int, int], clip_skip: int | None = None) -> Cond:
        no_layers(clip_skip)
        return Cond(embed([clean(prompt) for prompt in prompts]))

    return TextEncoder(encode_text, modules={"text_encoder": text})


def unescaped(prompt: str) -> str:
    """A prompt without HTML's escapes and with single spaces, as Wan was trained."""
    return " ".join(html.unescape(html.unescape(prompt)).split())


def gemma(source: Source, length: int) -> TextEncoder:
    """`Pipeline.encode_text`, `.encode_negative` and `.modules` of Lumina 2: Gemma's last hidden states but one.

    extra: encoder_attention_mask. A prompt follows the system prompt, a negative one does not. Prompts are plain text,
    cut after `length` tokens: weights have no meaning to a language model.
    """
    tokenizer = load_tokenizer(source, "tokenizer", padding_side="right")
    text = source.module(Gemma2Model, "text_encoder")

    def encode_negative(prompts: Sequence[str], size: tuple[int, int], clip_skip: int | None = None) -> Cond:
        no_layers(clip_skip)
        batch = tokenizer(list(prompts), padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        ids, mask = batch.input_ids.to(source.device), batch.attention_mask.to(source.device)
        states = text(ids, attention_mask=mask, output_hidden_states=True).hidden_states
        return Cond(states[-2].float(), {"encoder_attention_mask": mask})

    def encode_text(prompts: Sequence[str], size: tuple[int, int], clip_skip: int | None = None) -> Cond:
        return encode_negative([LUMINA_SYSTEM + prompt for prompt in prompts], size, clip_skip)

    return TextEncoder(encode_text, encode_negative, {"text_encoder": text})
