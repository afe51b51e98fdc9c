"""Annotated array types: latents, images and noise levels."""

from __future__ import annotations

from jaxtyping import Float, Float64
from torch import Tensor

Latent = Float[Tensor, "batch channels *space"]
"""A batch of latents, clean or noisy; *space is (width), (height, width) or (frames, height, width)."""

Images = Float[Tensor, "batch 3 height width"]
"""Images in RGB, values 0 … 1."""

Sigma = Float64[Tensor, "*field"]
"""A noise level, or a coefficient computed from one: float64 on the CPU, 0-d or a field [B, 1, *space]."""
