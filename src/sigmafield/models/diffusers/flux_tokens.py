"""Latents as Flux sees them: each patch of 2×2 positions is a token that comes with its row and column."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

PATCH = 2


def tokens_of(latents: Tensor) -> Tensor:
    """Latents [B, C, h, w] as tokens [B, h/2 · w/2, 4 C], row by row."""
    return F.pixel_unshuffle(latents, PATCH).flatten(2).transpose(1, 2)


def latents_of(tokens: Tensor, rows: int, columns: int) -> Tensor:
    """Tokens as latents again: what `tokens_of` was given."""
    return F.pixel_shuffle(tokens.transpose(1, 2).unflatten(2, (rows, columns)), PATCH)


def patch_positions(rows: int, columns: int, device: torch.device, number: int = 0) -> Tensor:
    """Gives (number, row, column) of each patch of an image, row by row: [rows · columns, 3]."""
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return torch.stack([torch.full_like(y, number), y, x], dim=-1).reshape(-1, 3).float().to(device)


def text_positions(text: Tensor) -> Tensor:
    """Gives (0, 0, 0) of each token of a text [B, tokens, C]: [tokens, 3]."""
    return torch.zeros(text.shape[1], 3, device=text.device)
