"""Text encoders of transformers beside CLIP: T5, UMT5 and Gemma, all padded to a fixed number of tokens."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from transformers import AutoTokenizer, Gemma2Model, T5EncoderModel, UMT5EncoderModel

from sigmafield.models.diffusers.source import Source
from sigmafield.models.directory import needed
from sigmafield.models.pipeline import EncodeText
from sigmafield.types import Cond

Tokens = Callable[[Sequence[str]], tuple[Tensor, Tensor]]
"""prompts → ids and mask, both [B, length]; the mask is 1 for the prompt's tokens and 0 for padding."""

Embed = Callable[[Sequence[str]], Tensor]
"""prompts → embeddings [B, length, channels], float32."""

TOKENIZERS = (
    "T5TokenizerFast", "T5Tokenizer", "LlamaTokenizerFast", "LlamaTokenizer", "GemmaTokenizerFast", "GemmaTokenizer",
    "PreTrainedTokenizerFast", "TokenizersBackend",
)  # fmt: skip

LUMINA_SYSTEM = (
    "You are an assistant designed to generate superior images with the superior degree of image-text alignment "
    "based on textual prompts or user prompts. <Prompt Start> "
)
"""What Lumina 2 was trained to be told before a prompt. Qin et al., arXiv:2503.21758."""


def load_tokens(source: Source, part: str, length: int, **settings: Any) -> Tokens:
    """A tokenizer that cuts and pads prompts to `length` tokens; settings: others than those in its folder."""
    folder = source.where.folder(part, *TOKENIZERS)
    needed(folder / "tokenizer.json")
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, **settings)

    def tokens(prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        batch = tokenizer(list(prompts), padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        return batch.input_ids.to(source.device), batch.attention_mask.to(source.device)

    return tokens


def t5(source: Source, part: str, tokenizer: str, length: int) -> tuple[Embed, Any]:
    """T5's hidden states of all tokens, padding as well: Stable Diffusion 3 and Flux hide none."""
    tokens = load_tokens(source, tokenizer, length)
    text = source.module(T5EncoderModel, part)
    return lambda prompts: text(tokens(prompts)[0]).last_hidden_state.float(), text


def umt5(source: Source, length: int, clean: Callable[[str], str] = str) -> tuple[EncodeText, dict[str, Any]]:
    """`Pipeline.encode_text` and `.modules` of AuraFlow and Wan: UMT5's hidden states, 0 for padding."""
    tokens = load_tokens(source, "tokenizer", length)
    text = source.module(UMT5EncoderModel, "text_encoder")

    def encode_text(prompts: Sequence[str], size: tuple[int, int]) -> Cond:
        ids, mask = tokens([clean(prompt) for prompt in prompts])
        return Cond(text(ids, attention_mask=mask).last_hidden_state.float() * mask[..., None])

    return encode_text, {"text_encoder": text}


def unescaped(prompt: str) -> str:
    """A prompt without HTML's escapes and with single spaces, as Wan was trained."""
    return " ".join(html.unescape(html.unescape(prompt)).split())


def gemma(source: Source, length: int) -> tuple[EncodeText, EncodeText, dict[str, Any]]:
    """`Pipeline.encode_text`, `.encode_negative` and `.modules` of Lumina 2: Gemma's last hidden states but one.

    extra: encoder_attention_mask. A prompt follows the system prompt, a negative one does not.
    """
    tokens = load_tokens(source, "tokenizer", length, padding_side="right")
    text = source.module(Gemma2Model, "text_encoder")

    def encode_negative(prompts: Sequence[str], size: tuple[int, int]) -> Cond:
        ids, mask = tokens(prompts)
        states = text(ids, attention_mask=mask, output_hidden_states=True).hidden_states
        return Cond(states[-2].float(), {"encoder_attention_mask": mask})

    def encode_text(prompts: Sequence[str], size: tuple[int, int]) -> Cond:
        return encode_negative([LUMINA_SYSTEM + prompt for prompt in prompts], size)

    return encode_text, encode_negative, {"text_encoder": text}
