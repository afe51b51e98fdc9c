"""The texts in quotes that Hunyuan's models write into images, which ByT5 reads byte by byte."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import T5EncoderModel

from sigmafield.core.conditioning import Cond
from sigmafield.models.diffusers.source import Source
from sigmafield.models.text.bundled import NONE, Bundled
from sigmafield.models.text.encoder import Modules, TextEncoder

GLYPHS, GLYPHS_MASK = "encoder_hidden_states_2", "encoder_attention_mask_2"
"""Names of ByT5's states, and of their mask, among a conditioning's further inputs."""
END, FIRST = 1, 3
"""ByT5's ids of the end of a text, and of the byte 0; 0 is padding."""
PART = "text_encoder_2"


def with_glyphs(source: Source, text: TextEncoder, quoted: Callable[[str], list[str]], length: int) -> TextEncoder:
    """The text encoder with ByT5's states of the texts that a prompt has in quotes, and their mask: 0 without any.

    Args:
        source: Where ByT5 comes from.
        text: The encoder of the whole prompts.
        quoted: The texts in quotes of a prompt.
        length: Number of tokens.
    """
    module = source.module(T5EncoderModel, PART)

    def encode_text(
        modules: Modules,
        prompts: Sequence[str],
        size: tuple[int, int],
        clip_skip: int | None = None,
        bundled: Bundled = NONE,
    ) -> Cond:
        cond = text.positive(modules, prompts, size, clip_skip, bundled)
        ids = torch.tensor([tokens(quoted(prompt), length) for prompt in prompts], device=source.device)
        states, mask = read(modules[PART], ids)
        return replace(cond, extra={**cond.extra, GLYPHS: states, GLYPHS_MASK: mask})

    return replace(text, positive=encode_text, modules={**text.modules, PART: module})


def tokens(texts: Sequence[str], length: int) -> list[int]:
    """ByT5's ids of texts, cut or padded to a length; an empty list gives only padding."""
    line = "".join(f'Text "{text}". ' for text in texts)
    ids = [*(FIRST + byte for byte in line.encode()[: length - 1]), END] if texts else []
    return ids + [0] * (length - len(ids))


def read(module: Any, ids: Tensor) -> tuple[Tensor, Tensor]:
    """ByT5's states [B, tokens, C] and a mask [B, tokens]; 0 for rows without text."""
    mask = (ids != 0).long()
    states = ids.new_zeros(*ids.shape, module.config.d_model, dtype=torch.float32)
    some = mask.any(1)
    if some.any():
        states[some] = module(ids[some], attention_mask=mask[some]).last_hidden_state.float()
    return states, mask
