"""The denoiser of latent diffusion: a UNet with cross-attention to the text.

Rombach et al., arXiv:2112.10752. Names of weights and of settings are those of diffusers' UNet2DConditionModel.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sigmafield.models.tiny.blocks import Attention, Downsample, Resnet, Upsample, from_tokens, to_tokens
from sigmafield.models.tiny.config import choose, per_level, settings


@dataclass(frozen=True)
class UNetConfig:
    """Settings of a UNet.

    attention_head_dim: number of heads per level, in spite of its name.
    sample_size: side of the latent that it was trained for.
    """

    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    down_block_types: tuple[str, ...] = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
    up_block_types: tuple[str, ...] = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3
    layers_per_block: int = 2
    transformer_layers_per_block: int | tuple[int, ...] = 1
    attention_head_dim: int | tuple[int, ...] = 8
    cross_attention_dim: int = 1280
    use_linear_projection: bool = False
    in_channels: int = 4
    out_channels: int = 4
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    flip_sin_to_cos: bool = True
    freq_shift: int = 0
    sample_size: int | tuple[int, ...] | None = None


ONLY: dict[str, Any] = {
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "act_fn": "silu",
    "addition_embed_type": None,
    "addition_embed_type_num_heads": 64,
    "addition_time_embed_dim": None,
    "attention_type": "default",
    "center_input_sample": False,
    "class_embed_type": None,
    "class_embeddings_concat": False,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "cross_attention_norm": None,
    "downsample_padding": 1,
    "dropout": 0.0,
    "dual_cross_attention": False,
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "mid_block_only_cross_attention": None,
    "mid_block_scale_factor": 1,
    "num_attention_heads": None,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "projection_class_embeddings_input_dim": None,
    "resnet_out_scale_factor": 1.0,
    "resnet_skip_time_act": False,
    "resnet_time_scale_shift": "default",
    "reverse_transformer_layers_per_block": None,
    "time_cond_proj_dim": None,
    "time_embedding_act_fn": None,
    "time_embedding_dim": None,
    "time_embedding_type": "positional",
    "timestep_post_act": None,
    "upcast_attention": False,
}


class TimeEmbedding(nn.Module):
    """Two linear layers over the sinusoids of the timestep."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(channels, 4 * channels)
        self.linear_2 = nn.Linear(4 * channels, 4 * channels)

    def forward(self, waves: Tensor) -> Tensor:
        """[B, channels] → [B, 4 · channels]."""
        return self.linear_2(F.silu(self.linear_1(waves)))


class Gate(nn.Module):
    """GEGLU: a linear layer whose one half gates the other. Shazeer, arXiv:2002.05202."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj = nn.Linear(channels, 8 * channels)

    def forward(self, x: Tensor) -> Tensor:
        """[B, tokens, channels] → [B, tokens, 4 · channels]."""
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    """GEGLU and a linear layer, four times as wide inside."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.net = nn.ModuleDict({"0": Gate(channels), "2": nn.Linear(4 * channels, channels)})

    def forward(self, x: Tensor) -> Tensor:
        """[B, tokens, channels] → the same shape."""
        return self.net["2"](self.net["0"](x))


class TransformerBlock(nn.Module):
    """Self-attention, attention to the text, feed-forward; each normalised before and added after."""

    def __init__(self, channels: int, heads: int, context: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn1 = Attention(channels, heads)
        self.norm2 = nn.LayerNorm(channels)
        self.attn2 = Attention(channels, heads, context)
        self.norm3 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels)

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        """[B, tokens, channels], text [B, words, context] → [B, tokens, channels]."""
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), text)
        return x + self.ff(self.norm3(x))


class Transformer(nn.Module):
    """Transformer blocks over the pixels of a feature map."""

    def __init__(self, c: UNetConfig, channels: int, heads: int, depth: int) -> None:
        super().__init__()
        self.linear = c.use_linear_projection
        self.norm = nn.GroupNorm(c.norm_num_groups, channels, 1e-6)
        self.proj_in = nn.Linear(channels, channels) if self.linear else nn.Conv2d(channels, channels, 1)
        blocks = [TransformerBlock(channels, heads, c.cross_attention_dim) for _ in range(depth)]
        self.transformer_blocks = nn.ModuleList(blocks)
        self.proj_out = nn.Linear(channels, channels) if self.linear else nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        """[B, channels, H, W], text [B, words, context] → [B, channels, H, W]."""
        h = self.norm(x)
        h = self.proj_in(to_tokens(h)) if self.linear else to_tokens(self.proj_in(h))
        for block in self.transformer_blocks:
            h = block(h, text)
        return x + (from_tokens(self.proj_out(h), x) if self.linear else self.proj_out(from_tokens(h, x)))


class Level(nn.Module):
    """Residual blocks of one resolution; those with attention are each followed by a transformer."""

    def __init__(self, c: UNetConfig, inputs: list[int], out: int, heads: int, depth: int) -> None:
        """inputs: channels that each residual block takes; depth: blocks of each transformer, 0 for none."""
        super().__init__()
        time = 4 * c.block_out_channels[0]
        resnets = [Resnet(n, out, c.norm_num_groups, c.norm_eps, time) for n in inputs]
        self.resnets = nn.ModuleList(resnets)
        self.attentions = nn.ModuleList([Transformer(c, out, heads, depth) for _ in inputs] if depth else [])

    def layer(self, i: int, x: Tensor, time: Tensor, text: Tensor) -> Tensor:
        """Residual block i and its transformer."""
        x = self.resnets[i](x, time)
        return self.attentions[i](x, text) if len(self.attentions) else x


class Down(Level):
    """A level on the way down."""

    def __init__(self, c: UNetConfig, i: int, heads: int, depth: int) -> None:
        """i: which level, counted from the top."""
        out = c.block_out_channels[i]
        super().__init__(c, [c.block_out_channels[max(i - 1, 0)]] + [out] * (c.layers_per_block - 1), out, heads, depth)
        last = i == len(c.block_out_channels) - 1
        self.downsamplers = nn.ModuleList([] if last else [Downsample(out)])

    def forward(self, x: Tensor, time: Tensor, text: Tensor) -> list[Tensor]:
        """All feature maps that the way up will want, the last being this level's result."""
        maps: list[Tensor] = []
        for i in range(len(self.resnets)):
            x = self.layer(i, x, time, text)
            maps.append(x)
        return maps + [down(x) for down in self.downsamplers]


class Middle(Level):
    """The lowest level: residual block, transformer, residual block."""

    def __init__(self, c: UNetConfig, heads: int, depth: int) -> None:
        channels = c.block_out_channels[-1]
        super().__init__(c, [channels] * 2, channels, heads, 0)
        self.attentions = nn.ModuleList([Transformer(c, channels, heads, depth)])

    def forward(self, x: Tensor, time: Tensor, text: Tensor) -> Tensor:
        """[B, C, H, W] → the same shape."""
        return self.resnets[1](self.attentions[0](self.resnets[0](x, time), text), time)


class Up(Level):
    """A level on the way up: every residual block also sees a map from the way down."""

    def __init__(self, c: UNetConfig, i: int, heads: int, depth: int) -> None:
        """i: which level, counted from the top."""
        channels = c.block_out_channels
        out, below, above = channels[i], channels[min(i + 1, len(channels) - 1)], channels[max(i - 1, 0)]
        skips = [out] * c.layers_per_block + [above]
        inputs = [x + skip for x, skip in zip([below] + [out] * c.layers_per_block, skips, strict=True)]
        super().__init__(c, inputs, out, heads, depth)
        self.upsamplers = nn.ModuleList([Upsample(out)] if i else [])

    def forward(self, x: Tensor, maps: list[Tensor], time: Tensor, text: Tensor) -> Tensor:
        """Takes its maps from the end of `maps`, and grows to the size of the one that is then last."""
        for i in range(len(self.resnets)):
            x = self.layer(i, torch.cat([x, maps.pop()], dim=1), time, text)
        for up in self.upsamplers:
            x = up(x, maps[-1].shape[2:])
        return x


class UNet(nn.Module):
    """The denoiser F(x, t, text). Raises ValueError for a config with other blocks."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        """config: the dictionary of a UNet2DConditionModel's config.json."""
        super().__init__()
        self.config = c = settings(UNetConfig, config, ONLY)
        channels, n = c.block_out_channels, len(c.block_out_channels)
        heads = per_level(c.attention_head_dim, n, "attention_head_dim")
        depths = per_level(c.transformer_layers_per_block, n, "transformer_layers_per_block")
        down = depths_of("down_block_types", c.down_block_types, "DownBlock2D", depths)
        up = depths_of("up_block_types", c.up_block_types, "UpBlock2D", depths[::-1])[::-1]
        self.conv_in = nn.Conv2d(c.in_channels, channels[0], 3, padding=1)
        self.time_embedding = TimeEmbedding(channels[0])
        self.down_blocks = nn.ModuleList([Down(c, i, heads[i], down[i]) for i in range(n)])
        self.mid_block = Middle(c, heads[-1], depths[-1])
        self.up_blocks = nn.ModuleList([Up(c, i, heads[i], up[i]) for i in reversed(range(n))])
        self.conv_norm_out = nn.GroupNorm(c.norm_num_groups, channels[0], c.norm_eps)
        self.conv_out = nn.Conv2d(channels[0], c.out_channels, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor, text: Tensor) -> Tensor:
        """x [B, in_channels, H, W], timestep t [B], text [B, words, cross_attention_dim] → [B, out_channels, H, W]."""
        c = self.config
        waves = sinusoids(t, c.block_out_channels[0], c.flip_sin_to_cos, c.freq_shift).to(x.dtype)
        time = self.time_embedding(waves)
        x = self.conv_in(x)
        maps = [x]
        for down in self.down_blocks:
            maps += down(maps[-1], time, text)
        x = self.mid_block(maps[-1], time, text)
        for up in self.up_blocks:
            x = up(x, maps, time, text)
        return self.conv_out(F.silu(self.conv_norm_out(x)))


def depths_of(key: str, types: tuple[str, ...], plain: str, depths: tuple[int, ...]) -> tuple[int, ...]:
    """Transformer blocks a level, 0 for levels of the plain type. Raises ValueError for a type not built here."""
    if len(types) != len(depths):
        raise ValueError(f"config: {key} = {types!r} must have {len(depths)} entries, one per level")
    kinds = [choose(key, kind, plain, f"CrossAttn{plain}") for kind in types]
    return tuple(0 if kind == plain else depth for kind, depth in zip(kinds, depths, strict=True))


def sinusoids(t: Tensor, channels: int, flip: bool, shift: int) -> Tensor:
    """Embedding of the timestep in float32, [B] → [B, channels]: sin and cos of t · 10000^(−i/(channels/2 − shift)).

    flip: cosines first. Vaswani et al., arXiv:1706.03762, section 3.5.
    """
    half = channels // 2
    i = torch.arange(half, dtype=torch.float32, device=t.device)
    angle = t.float()[:, None] * torch.exp(-math.log(10000) * i / (half - shift))
    waves = [angle.sin(), angle.cos()]
    return F.pad(torch.cat(waves[::-1] if flip else waves, dim=1), (0, channels % 2))
