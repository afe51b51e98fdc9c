"""Latents and masks at another resolution."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sigmafield.core.arrays import Latent
from sigmafield.core.registry import near_miss
from sigmafield.core.typed import vector_norm

MODES = ("bislerp", "nearest-exact", "bilinear", "area", "bicubic")
"""Interpolation of `resize`: `bislerp`, or torch's interpolation of that name."""


def resize(x: Latent, height: int, width: int, mode: str = "bislerp") -> Tensor:
    """Resize latents, frame by frame.

    Args:
        x: Latents [B, C, H, W] or [B, C, frames, H, W].
        height: New height in latent positions, at least 1.
        width: New width in latent positions, at least 1.
        mode: One of `MODES`.

    Raises:
        ValueError: If the mode is unknown or a size is below 1.
    """
    if mode not in MODES:
        raise ValueError(f"unknown mode {mode!r}{near_miss(mode, MODES)}")
    if height < 1 or width < 1:
        raise ValueError(f"height and width must be ≥ 1; got {height} and {width}")
    flat = x.movedim(1, -3).flatten(0, -4) if x.ndim > 4 else x
    out = bislerp(flat, height, width) if mode == "bislerp" else F.interpolate(flat, (height, width), mode=mode)
    return out.reshape(x.shape[0], *x.shape[2:-2], x.shape[1], height, width).movedim(-3, 1) if x.ndim > 4 else out


def bislerp(x: Latent, height: int, width: int) -> Tensor:
    """Spherical interpolation of the channel vectors along the width, then the height; lengths are interpolated too.

        v = (sin((1 − ρ) ω)/sin ω e₁ + sin(ρ ω)/sin ω e₂) (‖b₁‖ (1 − ρ) + ‖b₂‖ ρ),   cos ω = e₁ · e₂

    b₁ and b₂ are the vectors at two neighbouring positions, e₁ and e₂ their directions. Unlike a mean, it keeps the
    variance of noise. It is computed in float32. Parallel vectors give b₁, opposite ones the mean. Shoemake, "Animating
    rotation with quaternion curves".
    """
    wide = _bislerp_last(x.float(), width)
    return _bislerp_last(wide.transpose(-1, -2), height).transpose(-1, -2).to(x.dtype)


def _bislerp_last(x: Tensor, size: int) -> Tensor:
    """Along the last axis of [B, C, H, W], at torch's half-pixel positions."""
    last = x.shape[-1] - 1
    ramp = torch.arange(last + 1, dtype=torch.float32, device=x.device)
    at = torch.stack([ramp, (ramp + 1).clamp(max=last)])[:, None, None]
    here, there = F.interpolate(at, (1, size), mode="bilinear")[:, 0, 0]
    rho = here.frac()
    b1, b2 = x[..., here.long()], x[..., there.long()]
    n1, n2 = (vector_norm(b, 1, keepdim=True) for b in (b1, b2))
    e1, e2 = (torch.where(n == 0, 0.0, b / torch.where(n == 0, 1.0, n)) for b, n in ((b1, n1), (b2, n2)))
    cos = (e1 * e2).sum(1, keepdim=True)
    omega = cos.clamp(-1, 1).acos()
    near = cos.abs() > 1 - 1e-5
    sine = torch.where(near, 1.0, omega.sin())
    out = (((1 - rho) * omega).sin() / sine * e1 + (rho * omega).sin() / sine * e2) * (n1 * (1 - rho) + n2 * rho)
    return torch.where(cos > 1 - 1e-5, b1, torch.where(cos < -1 + 1e-5, (1 - rho) * b1 + rho * b2, out))


def resize_mask(mask: Tensor, space: Sequence[int]) -> Tensor:
    """A mask whose last axes have another size, linear along each of them; as it is where the sizes agree.

    Args:
        mask: [..., *sides], with any leading axes.
        space: The new sides: 1, 2 or 3 of them.
    """
    n = len(space)
    if tuple(mask.shape[-n:]) == tuple(space):
        return mask
    flat = mask.reshape(-1, 1, *mask.shape[-n:])
    out = F.interpolate(flat, tuple(space), mode=("linear", "bilinear", "trilinear")[n - 1])
    return out.reshape(*mask.shape[:-n], *space)
