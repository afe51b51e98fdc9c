"""A small transformer for flows, with a timestep for each token or for the whole sample.

Peebles & Xie, arXiv:2212.09748; Wan, arXiv:2503.20314, whose layers and names of weights it has: diffusers'
WanTransformer3DModel reads the same file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sigmafield.models.tiny.config import settings
from sigmafield.models.tiny.unet import sinusoids

THETA = 10000.0
"""Base of the rotary positions."""


@dataclass(frozen=True)
class TransformerConfig:
    """Settings of a WanTransformer3DModel, as far as they may differ here."""

    num_attention_heads: int = 6
    attention_head_dim: int = 32
    in_channels: int = 4
    out_channels: int = 4
    text_dim: int = 160
    freq_dim: int = 256
    ffn_dim: int = 576
    num_layers: int = 8
    eps: float = 1e-6
    rope_max_seq_len: int = 1024
    patch_size: tuple[int, int, int] = (1, 2, 2)


ONLY: dict[str, Any] = {
    "added_kv_proj_dim": None,
    "cross_attn_norm": True,
    "image_dim": None,
    "pos_embed_seq_len": None,
    "qk_norm": "rms_norm_across_heads",
}


class Attention(nn.Module):
    """Attention with normalised queries and keys."""

    def __init__(self, dim: int, heads: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.to_q, self.to_k, self.to_v = (nn.Linear(dim, dim) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(dim, dim)])
        self.norm_q, self.norm_k = nn.RMSNorm(dim, eps), nn.RMSNorm(dim, eps)

    def forward(self, x: Tensor, text: Tensor | None = None, turns: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """x [B, tokens, dim] attends to itself, or to text [B, words, dim] → [B, tokens, dim].

        turns: cosines and sines of the positions, [tokens, head_dim / 2] each.
        """
        source = x if text is None else text
        q, k, v = self.norm_q(self.to_q(x)), self.norm_k(self.to_k(source)), self.to_v(source)
        q, k, v = (each.unflatten(2, (self.heads, -1)).transpose(1, 2) for each in (q, k, v))
        if turns is not None:
            q, k = turned(q, *turns), turned(k, *turns)
        out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.to_out[0](out)


class Projected(nn.Module):
    """A linear layer with GELU, named as in diffusers' FeedForward."""

    def __init__(self, dim: int, out: int) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, out)

    def forward(self, x: Tensor) -> Tensor:
        """[…, dim] → […, out]."""
        return F.gelu(self.proj(x), approximate="tanh")


class FeedForward(nn.Module):
    """Two linear layers."""

    def __init__(self, dim: int, inner: int) -> None:
        super().__init__()
        self.net = nn.ModuleList([Projected(dim, inner), nn.Identity(), nn.Linear(inner, dim)])

    def forward(self, x: Tensor) -> Tensor:
        """[B, tokens, dim] → the same shape."""
        return self.net[2](self.net[0](x))


class Block(nn.Module):
    """Self-attention, attention to the text, feed-forward; t shifts, scales and gates the first and the last."""

    def __init__(self, c: TransformerConfig, dim: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, c.eps, elementwise_affine=False)
        self.attn1 = Attention(dim, c.num_attention_heads, c.eps)
        self.norm2 = nn.LayerNorm(dim, c.eps)
        self.attn2 = Attention(dim, c.num_attention_heads, c.eps)
        self.norm3 = nn.LayerNorm(dim, c.eps, elementwise_affine=False)
        self.ffn = FeedForward(dim, c.ffn_dim)
        self.scale_shift_table = nn.Parameter(torch.zeros(1, 6, dim))

    def forward(self, x: Tensor, text: Tensor, time: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
        """x [B, tokens, dim], text [B, words, dim], time [B, tokens or 1, 6, dim] → x's shape."""
        shift, scale, gate, shift_2, scale_2, gate_2 = (self.scale_shift_table + time).unbind(2)
        x = x + gate * self.attn1(self.norm1(x) * (1 + scale) + shift, None, turns)
        x = x + self.attn2(self.norm2(x), text)
        return x + gate_2 * self.ffn(self.norm3(x) * (1 + scale_2) + shift_2)


class TwoLayers(nn.Module):
    """Two linear layers with an activation between them, named as in diffusers' embeddings."""

    def __init__(self, dim: int, out: int, activation: nn.Module) -> None:
        super().__init__()
        self.linear_1, self.linear_2 = nn.Linear(dim, out), nn.Linear(out, out)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """[…, dim] → […, out]."""
        return self.linear_2(self.activation(self.linear_1(x)))


class Conditions(nn.Module):
    """Embeddings of the timestep and the text."""

    def __init__(self, c: TransformerConfig, dim: int) -> None:
        super().__init__()
        self.freq_dim = c.freq_dim
        self.time_embedder = TwoLayers(c.freq_dim, dim, nn.SiLU())
        self.time_proj = nn.Linear(dim, 6 * dim)
        self.text_embedder = TwoLayers(c.text_dim, dim, nn.GELU(approximate="tanh"))

    def forward(self, t: Tensor, text: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """t [B, tokens or 1] → [B, tokens or 1, dim] and [B, tokens or 1, 6, dim]; text → [B, words, dim]."""
        waves = sinusoids(t.flatten(), self.freq_dim, True, 0).to(text.dtype).unflatten(0, t.shape)
        time = self.time_embedder(waves)
        return time, self.time_proj(F.silu(time)).unflatten(2, (6, -1)), self.text_embedder(text)


class WanTransformer3DModel(nn.Module):
    """The velocity F(x, t, text) of a flow. Raises ValueError for a config with other layers."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        """config: the dictionary of a WanTransformer3DModel's config.json."""
        super().__init__()
        self.config = c = settings(TransformerConfig, config, ONLY)
        dim = c.num_attention_heads * c.attention_head_dim
        self.patch_embedding = nn.Conv3d(c.in_channels, dim, c.patch_size, c.patch_size)
        self.condition_embedder = Conditions(c, dim)
        self.blocks = nn.ModuleList([Block(c, dim) for _ in range(c.num_layers)])
        self.norm_out = nn.LayerNorm(dim, c.eps, elementwise_affine=False)
        self.proj_out = nn.Linear(dim, c.out_channels * c.patch_size[1] * c.patch_size[2])
        self.scale_shift_table = nn.Parameter(torch.zeros(1, 2, dim))

    def forward(self, x: Tensor, t: Tensor, text: Tensor) -> Tensor:
        """Gives the velocity [B, out_channels, H, W].

        Args:
            x: Noisy latents [B, in_channels, H, W].
            t: Timesteps, 1000 t, [B] or [B, tokens]; tokens are counted along the rows of patches.
            text: States of the text encoder [B, words, text_dim].
        """
        _, high, wide = self.config.patch_size
        rows, columns = x.shape[2] // high, x.shape[3] // wide
        h = self.patch_embedding(x[:, :, None]).flatten(2).transpose(1, 2)
        time, steps, text = self.condition_embedder(t if t.ndim == 2 else t[:, None], text)
        turns = positions(rows, columns, self.config.attention_head_dim, x.device)
        for block in self.blocks:
            h = block(h, text, steps, turns)
        shift, scale = (self.scale_shift_table[:, None] + time[:, :, None]).unbind(2)
        out = self.proj_out(self.norm_out(h) * (1 + scale) + shift)
        return out.reshape(len(x), rows, columns, high, wide, -1).permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)


def positions(rows: int, columns: int, dim: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotary angles of each token of one frame, [tokens, dim / 2] each, float32.

    Su et al., arXiv:2104.09864; the angles are those of frame, row and column in this order.
    """
    side = 2 * (dim // 6)
    angles: list[Tensor] = []
    for n, at in (
        (dim - 2 * side, torch.zeros(rows, columns)),
        (side, _counted(rows, columns)),
        (side, _counted(columns, rows).T),
    ):
        speeds = THETA ** (-torch.arange(0, n, 2, dtype=torch.float64) / n)
        angles.append(at.double()[..., None] * speeds)
    whole = torch.cat(angles, -1).flatten(0, 1).to(device)
    return whole.cos().float(), whole.sin().float()


def _counted(n: int, times: int) -> Tensor:
    """0 … n − 1 along the first axis, [n, times]."""
    return torch.arange(n)[:, None].expand(n, times)


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns each pair of channels of x [B, heads, tokens, dim] by its token's angle."""
    a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)
