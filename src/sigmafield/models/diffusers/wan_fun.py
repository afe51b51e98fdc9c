"""Wan of VideoX-Fun with a reference image: https://github.com/aigc-apps/VideoX-Fun."""

from __future__ import annotations

from functools import wraps
from typing import Any

import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from torch import Tensor, nn

from sigmafield.models.module_view import view_of


class WanFunTransformer3DModel(WanTransformer3DModel):
    """Wan's network with a convolution that makes tokens of a reference image's latent."""

    @wraps(WanTransformer3DModel.__init__)
    def __init__(self, *settings: Any, **named: Any) -> None:
        super().__init__(*settings, **named)
        config: Any = self.config
        _, high, wide = config.patch_size
        self.ref_conv = nn.Conv2d(
            config.out_channels, self.patch_embedding.out_channels, (high, wide), stride=(high, wide)
        )


class InFront(nn.Module):
    """Tokens of a video whose first frame is a reference image: that frame is read by a convolution of its own.

    Args:
        video: Makes tokens of the other frames.
        image: Makes tokens of the image, which is in the first channels of the first frame.
    """

    def __init__(self, video: nn.Module, image: nn.Conv2d) -> None:
        super().__init__()
        self.video, self.image = video, image

    def forward(self, x: Tensor) -> Tensor:
        """Tokens [B, C, frames, h, w] of x [B, C', frames, H, W]."""
        image = self.image(x[:, : self.image.in_channels, 0])
        return torch.cat([image[:, :, None], self.video(x[:, :, 1:])], dim=2)


def behind_image(transformer: Any) -> Any:
    """The network on the same weights, to which the first frame is a reference image."""
    own = view_of(transformer)
    own.patch_embedding = InFront(own.patch_embedding, own.ref_conv)
    return own


def with_image(x: Tensor, concat: Tensor | None, image: Tensor) -> tuple[Tensor, Tensor | None]:
    """A latent and its concat with one more frame in front, which is the latent [B or 1, C, 1, h, w] of an image."""
    longer = torch.cat([image.to(x).expand(len(x), -1, -1, -1, -1), x], dim=2)
    return longer, None if concat is None else torch.cat([torch.zeros_like(concat[:, :, :1]), concat], dim=2)
