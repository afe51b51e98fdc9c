"""Inpainting: a mask keeps a part of the latent at the source while the rest is denoised."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sigmafield.core.arrays import Images, Latent, Sigma
from sigmafield.core.linear import filled, lincomb
from sigmafield.core.process import Process, Span
from sigmafield.core.protocols import Ctx, Denoiser, Pred
from sigmafield.parameterization.timesteps import Levels

MaskOf = Callable[[Sigma, Tensor], Tensor]
"""(σ, mask) → the mask to use at σ."""


def unchanged(sigma: Sigma, mask: Tensor) -> Tensor:
    """The same mask at every σ."""
    return mask


@dataclass(frozen=True)
class Inpaint:
    """A denoiser that sees the source, noised to σ, where the mask keeps it, and answers the source there.

        x̃ = m x + (1 − m) (α L + σ ξ),   D = m D(x̃) + (1 − m) L

    latent: L; noise: ξ, one draw for the whole run; mask: m in [0, 1], 1 = denoise, [B, C, *space] (see `fit_mask`);
    soft masks mix. mask_of: another mask at each σ. The state's own x is not touched.
    """

    denoise: Denoiser
    latent: Latent
    noise: Latent
    mask: Tensor
    process: Process
    mask_of: MaskOf = unchanged

    def kept(self, x: Latent, sigma: Sigma, span: Span) -> Latent:
        """x with what the mask of a step keeps replaced by the source, noised to σ."""
        m = self.mask_of(span.sigma, self.mask)
        return x * m + lincomb(self.process.alpha(sigma), self.latent, sigma, self.noise) * (1 - m)

    def __call__(self, x: Latent, sigma: Sigma, ctx: Ctx) -> Pred:
        m = self.mask_of(sigma, self.mask)
        noised = lincomb(self.process.alpha(sigma), self.latent, sigma, self.noise)
        p = self.denoise(x * m + noised * (1 - m), sigma, ctx)
        return Pred(p.x0 * m + self.latent * (1 - m), p.cond, p.uncond)


def fit_mask(mask: Tensor, like: Latent) -> Tensor:
    """A mask of any resolution, [M, *space] or [M, 1, *space] or [*space], as [B, C, *space] of a latent.

    Bilinear (for video trilinear, a stack of masks being its frames), without a threshold; channels and samples are
    repeated and cut. Raises ValueError for values outside of [0, 1].
    """
    if not ((mask >= 0) & (mask <= 1)).all():
        raise ValueError(f"mask must lie in [0, 1]; got {float(mask.min()):g} … {float(mask.max()):g}")
    space = like.shape[2:]
    mask = mask.to(like)
    if len(space) == 2:
        mask = F.interpolate(mask.reshape(-1, 1, *mask.shape[-2:]), space, mode="bilinear")
    elif len(space) == 3:
        mask = mask if mask.ndim == 5 else mask.reshape(1, 1, -1, *mask.shape[-2:])
        mask = F.interpolate(mask, space, mode="trilinear")
    else:
        mask = F.interpolate(mask.reshape(-1, 1, mask.shape[-1]), space, mode="linear")
    return filled(filled(mask, like.shape[1], axis=1), len(like), axis=0)


def hidden(images: Images, mask: Tensor) -> Tensor:
    """Images whose masked part is grey: ½ + (p − ½) (1 − m), m the mask (see `fit_mask`) rounded to 0 or 1."""
    return 0.5 + (images - 0.5) * (1 - fit_mask(mask, images).round())


def inpaint_concat(mask: Tensor, latent: Latent) -> Tensor:
    """A `Cond.concat` for inpainting networks, [B, 1 + C, *space]: the mask, rounded to 0 or 1, before the latent.

    mask: see `fit_mask`, 1 = draw anew; latent: of the image `hidden` behind it, in the network's scale.
    """
    return torch.cat([fit_mask(mask, latent)[:, :1].round(), latent], dim=1)


def differential(levels: Levels, sigmas: Tensor, strength: float = 1.0) -> MaskOf:
    """Differential diffusion: the mask says how much each place may change, and it joins the run when that is due.

        m' = 1 where m ≥ θ, else 0,   θ = (t(σ) − t(σ_end))/(t(σ₀) − t(σ_end)),   σ_end = max(σ_min, last σ)

    0 < strength < 1 mixes it with m itself; 0 is as 1, as in ComfyUI. sigmas: of the run. arXiv:2306.00950.
    Raises ValueError for a run of one noise level.
    """
    ends = torch.stack([sigmas[0].double(), sigmas[-1].double().clamp(min=levels.sigma_min)])
    first, last = levels.timestep(ends).tolist()
    if first == last:
        raise ValueError("differential diffusion needs a run between two noise levels; this one begins where it ends")

    def mask_of(sigma: Sigma, mask: Tensor) -> Tensor:
        theta = (levels.timestep(sigma) - last) / (first - last)
        hard = (mask >= float(theta)).to(mask)
        return strength * hard + (1 - strength) * mask if 0 < strength < 1 else hard

    return mask_of
