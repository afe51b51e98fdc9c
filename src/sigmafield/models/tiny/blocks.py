"""Blocks that the denoiser and the autoencoder share. Names of weights are diffusers'.

Residual block: He et al., arXiv:1512.03385, with group normalisation; attention: Vaswani et al., arXiv:1706.03762.
All feature maps are [B, C, H, W], all sequences [B, tokens, channels].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Resnet(nn.Module):
    """x + conv(silu(norm(conv(silu(norm x)) + time))); a 1x1 convolution on the shortcut where channels change."""

    def __init__(self, channels: int, out: int, groups: int, eps: float, time: int | None = None) -> None:
        """time: width of the time embedding; None for a block that has none."""
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, channels, eps)
        self.conv1 = nn.Conv2d(channels, out, 3, padding=1)
        self.time_emb_proj = nn.Linear(time, out) if time else None
        self.norm2 = nn.GroupNorm(groups, out, eps)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(channels, out, 1) if channels != out else None

    def forward(self, x: Tensor, time: Tensor | None = None) -> Tensor:
        """[B, channels, H, W], embedding [B, time] → [B, out, H, W]."""
        h = self.conv1(F.silu(self.norm1(x)))
        if self.time_emb_proj is not None and time is not None:
            h = h + self.time_emb_proj(F.silu(time))[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class Attention(nn.Module):
    """Multi-head attention from a sequence to itself or to a context."""

    def __init__(self, channels: int, heads: int, context: int | None = None, bias: bool = False) -> None:
        """context: channels of the sequence that is attended to; None for self-attention. bias: of q, k and v."""
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(channels, channels, bias)
        self.to_k = nn.Linear(context or channels, channels, bias)
        self.to_v = nn.Linear(context or channels, channels, bias)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """[B, tokens, channels] (and [B, others, context]) → [B, tokens, channels]."""
        context = x if context is None else context
        return self.to_out[0](attend(self.to_q(x), self.to_k(context), self.to_v(context), self.heads))


class MapAttention(Attention):
    """Self-attention with one head over the pixels of a feature map, normalised and added to it."""

    def __init__(self, channels: int, groups: int, eps: float) -> None:
        super().__init__(channels, heads=1, bias=True)
        self.group_norm = nn.GroupNorm(groups, channels, eps)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """[B, channels, H, W] → the same shape."""
        return x + from_tokens(super().forward(to_tokens(self.group_norm(x))), x)


class Downsample(nn.Module):
    """Half the size by a strided 3x3 convolution."""

    def __init__(self, channels: int, centred: bool = True) -> None:
        """centred: padding all around (UNet); otherwise at the right and at the bottom alone (autoencoder)."""
        super().__init__()
        self.centred = centred
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1 if centred else 0)

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, H, W] → [B, channels, H/2, W/2]."""
        return self.conv(x if self.centred else F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """A larger map by nearest neighbours and a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: torch.Size | None = None) -> Tensor:
        """[B, channels, H, W] → [B, channels, *size]; twice the size without one."""
        return self.conv(F.interpolate(x, size=size or (x.shape[2] * 2, x.shape[3] * 2), mode="nearest"))


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, causal: bool = False) -> Tensor:
    """Scaled dot-product attention with several heads: q [B, tokens, C], k and v [B, others, C] → [B, tokens, C].

    causal: a token sees itself and those before it.
    """
    q, k, v = (s.unflatten(2, (heads, -1)).transpose(1, 2) for s in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2).flatten(2)


def to_tokens(x: Tensor) -> Tensor:
    """[B, C, H, W] → [B, H W, C]."""
    return x.flatten(2).transpose(1, 2)


def from_tokens(tokens: Tensor, like: Tensor) -> Tensor:
    """[B, H W, C] → [B, C, H, W], with the H and W of `like`."""
    return tokens.transpose(1, 2).unflatten(2, like.shape[2:])
