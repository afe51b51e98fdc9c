"""Language models as text encoders: a prompt is put into a chat's words, and the network reads hidden states."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sigmafield.core.conditioning import Cond
from sigmafield.models.diffusers.source import Source
from sigmafield.models.diffusers.text import load_tokenizer, of_prompts
from sigmafield.models.diffusers.tokenizers import in_turn
from sigmafield.models.text.bundled import Bundled
from sigmafield.models.text.encoder import Modules, TextEncoder

MASK = "encoder_attention_mask"
"""Name of the mask among a conditioning's further inputs: 1 for tokens, 0 for padding."""


@dataclass(frozen=True)
class Chat:
    """How prompts are put to a language model, and what is read of its states.

    Args:
        words: What the model is given, with {} for the prompt.
        skipped: Tokens at the beginning of `words` whose states are left out.
        length: Most tokens, without those that are left out.
        layers: Hidden states that are read, joined along the channels.
        padded: Whether every prompt is padded to `length`, and the network reads the padding as well. Otherwise prompts
            are as long as the longest of a call, and the conditioning has a mask.
        marked: Whether the tokenizer adds its own marks of beginning and end.
    """

    words: str
    length: int
    skipped: int = 0
    layers: tuple[int, ...] = (-1,)
    padded: bool = False
    marked: bool = False

    def __call__(self, prompt: str) -> str:
        """The words of a prompt."""
        return self.words.format(prompt)


QWEN = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
"""A question to Qwen."""


def load_language_model(source: Source, *kinds: Any) -> Any:
    """Loads the text encoder, of the class among these that the model names."""
    found = source.where.class_of("text_encoder")
    return source.module(next((kind for kind in kinds if kind.__name__ == found), kinds[0]), "text_encoder")


def chat_encoder(source: Source, module: Any, chat: Chat, more: Callable[[int], dict[str, Tensor]]) -> TextEncoder:
    """Makes the text encoder of a language model. Prompts are plain text without weights, cut after `chat.length`.

    Args:
        source: Where the tokenizer comes from.
        module: The language model.
        chat: How prompts are put.
        more: Number of prompts → further inputs of the network.
    """
    side = {} if chat.padded else {"padding_side": "right"}
    read = in_turn(load_tokenizer(source, "tokenizer", **side))
    padding = "max_length" if chat.padded else "longest"

    @of_prompts
    def encode_text(modules: Modules, prompts: Sequence[str], bundled: Bundled) -> Cond:
        batch = read(
            [chat(prompt) for prompt in prompts], padding=padding, max_length=chat.length + chat.skipped,
            truncation=True, add_special_tokens=chat.marked, return_tensors="pt",
        )  # fmt: skip
        ids, mask = batch.input_ids.to(source.device), batch.attention_mask.to(source.device)
        embeds = states_of(modules["text_encoder"], chat, {"input_ids": ids, "attention_mask": mask})
        further = {} if chat.padded else {MASK: mask[:, chat.skipped :]}
        return Cond(embeds, {**further, **more(len(prompts))})

    return TextEncoder(encode_text, modules={"text_encoder": module})


def states_of(module: Any, chat: Chat, inputs: dict[str, Any]) -> Tensor:
    """The hidden states that the network reads [B, tokens, channels], 0 for padding that has a mask."""
    states = module(**inputs, output_hidden_states=True, use_cache=False).hidden_states
    embeds = torch.cat([states[layer] for layer in chat.layers], dim=-1)[:, chat.skipped :].float()
    return embeds if chat.padded else embeds * inputs["attention_mask"][:, chat.skipped :, None]
