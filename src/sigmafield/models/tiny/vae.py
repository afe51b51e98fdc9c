"""The autoencoder of latent diffusion: images to latents and back.

Rombach et al., arXiv:2112.10752. Names of weights and of settings are those of diffusers' AutoencoderKL.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from sigmafield.models.tiny.blocks import Downsample, MapAttention, Resnet, Upsample
from sigmafield.models.tiny.config import choose, settings

EPS = 1e-6


@dataclass(frozen=True)
class VAEConfig:
    """Settings of an autoencoder; scaling_factor, shift_factor and force_upcast are for whoever calls it."""

    block_out_channels: tuple[int, ...] = (64,)
    down_block_types: tuple[str, ...] = ("DownEncoderBlock2D",)
    up_block_types: tuple[str, ...] = ("UpDecoderBlock2D",)
    layers_per_block: int = 1
    in_channels: int = 3
    out_channels: int = 3
    latent_channels: int = 4
    norm_num_groups: int = 32
    mid_block_add_attention: bool = True
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    scaling_factor: float = 0.18215
    shift_factor: float | None = None
    force_upcast: bool = True
    sample_size: int | tuple[int, ...] = 32


ONLY: dict[str, Any] = {"act_fn": "silu", "latents_mean": None, "latents_std": None}


def resnets(c: VAEConfig, channels: int, out: int, n: int) -> nn.Sequential:
    """n residual blocks, the first of which changes the number of channels."""
    inputs = [channels] + [out] * (n - 1)
    return nn.Sequential(*[Resnet(i, out, c.norm_num_groups, EPS) for i in inputs])


class Down(nn.Module):
    """A level of the encoder: residual blocks, then half the size."""

    def __init__(self, c: VAEConfig, channels: int, out: int, last: bool) -> None:
        super().__init__()
        self.resnets = resnets(c, channels, out, c.layers_per_block)
        self.downsamplers = nn.Sequential(*[] if last else [Downsample(out, centred=False)])

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, H, W] → [B, out, H/2, W/2]; the last level keeps the size."""
        return self.downsamplers(self.resnets(x))


class Up(nn.Module):
    """A level of the decoder: residual blocks, then twice the size."""

    def __init__(self, c: VAEConfig, channels: int, out: int, last: bool) -> None:
        super().__init__()
        self.resnets = resnets(c, channels, out, c.layers_per_block + 1)
        self.upsamplers = nn.Sequential(*[] if last else [Upsample(out)])

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, h, w] → [B, out, 2 h, 2 w]; the last level keeps the size."""
        return self.upsamplers(self.resnets(x))


class Middle(nn.Module):
    """The lowest level: residual block, attention if there is any, residual block."""

    def __init__(self, c: VAEConfig, channels: int) -> None:
        super().__init__()
        self.resnets = resnets(c, channels, channels, 2)
        attention = [MapAttention(channels, c.norm_num_groups, EPS)] if c.mid_block_add_attention else []
        self.attentions = nn.Sequential(*attention)

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, H, W] → the same shape."""
        return self.resnets[1](self.attentions(self.resnets[0](x)))


class Encoder(nn.Module):
    """Image → mean and log-variance of the latent."""

    def __init__(self, c: VAEConfig) -> None:
        super().__init__()
        channels = c.block_out_channels
        widths = [channels[0], *channels]
        self.conv_in = nn.Conv2d(c.in_channels, channels[0], 3, padding=1)
        levels = [Down(c, widths[i], out, i == len(channels) - 1) for i, out in enumerate(channels)]
        self.down_blocks = nn.Sequential(*levels)
        self.mid_block = Middle(c, channels[-1])
        self.conv_norm_out = nn.GroupNorm(c.norm_num_groups, channels[-1], EPS)
        self.conv_out = nn.Conv2d(channels[-1], 2 * c.latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_channels, H, W] → [B, 2 · latent_channels, H/factor, W/factor]."""
        x = self.mid_block(self.down_blocks(self.conv_in(x)))
        return self.conv_out(F.silu(self.conv_norm_out(x)))


class Decoder(nn.Module):
    """Latent → image."""

    def __init__(self, c: VAEConfig) -> None:
        super().__init__()
        channels = c.block_out_channels[::-1]
        widths = [channels[0], *channels]
        self.conv_in = nn.Conv2d(c.latent_channels, channels[0], 3, padding=1)
        self.mid_block = Middle(c, channels[0])
        levels = [Up(c, widths[i], out, i == len(channels) - 1) for i, out in enumerate(channels)]
        self.up_blocks = nn.Sequential(*levels)
        self.conv_norm_out = nn.GroupNorm(c.norm_num_groups, channels[-1], EPS)
        self.conv_out = nn.Conv2d(channels[-1], c.out_channels, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        """[B, latent_channels, h, w] → [B, out_channels, h · factor, w · factor]."""
        x = self.up_blocks(self.mid_block(self.conv_in(z)))
        return self.conv_out(F.silu(self.conv_norm_out(x)))


class VAE(nn.Module):
    """Encoder and decoder. Raises ValueError for a config with other blocks."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        """config: the dictionary of an AutoencoderKL's config.json."""
        super().__init__()
        self.config = c = settings(VAEConfig, config, ONLY)
        for key, supported in (("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")):
            choose(key, getattr(c, key), (supported,) * len(c.block_out_channels))
        both = 2 * c.latent_channels
        self.encoder = Encoder(c)
        self.quant_conv = nn.Conv2d(both, both, 1) if c.use_quant_conv else nn.Identity()
        self.post_quant_conv = (
            nn.Conv2d(c.latent_channels, c.latent_channels, 1) if c.use_post_quant_conv else nn.Identity()
        )
        self.decoder = Decoder(c)

    @property
    def factor(self) -> int:
        """Pixels of the image per pixel of the latent, along one side."""
        return 2 ** (len(self.config.block_out_channels) - 1)

    def encode(self, x: Tensor) -> Tensor:
        """Image [B, 3, H, W] in [−1, 1] → mean of the latent [B, latent_channels, H/factor, W/factor]."""
        return self.quant_conv(self.encoder(x)).chunk(2, dim=1)[0]

    def decode(self, z: Tensor) -> Tensor:
        """Latent [B, latent_channels, h, w] → image [B, 3, h · factor, w · factor], about in [−1, 1]."""
        return self.decoder(self.post_quant_conv(z))
