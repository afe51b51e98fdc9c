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
from sigmafield.core.resize import resize_mask
from sigmafield.parameterization.timesteps import Levels

MaskOf = Callable[[Sigma, Tensor], Tensor]
"""(σ, mask) → the mask to use at σ."""


def unchanged(sigma: Sigma, mask: Tensor) -> Tensor:
    """The same mask at every σ."""
    return mask


@dataclass(frozen=True)
class Inpaint:
    """A denoiser that is shown the source, noised to σ, where the mask keeps it, and answers the source there.

        x̃ = m x + (1 − m) (α L + σ ξ),   D = m D(x̃) + (1 − m) L

    Soft masks mix the two. The state's own x is not changed.

    Args:
        denoise: The denoiser of the whole latent.
        latent: The source L.
        noise: ξ, one draw for the whole run.
        mask: m [B, C, *space] in [0, 1], 1 = denoise, as `fit_mask` gives it.
        process: The noise process.
        mask_of: Another mask at each σ.
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
    """A mask of any resolution as [B, C, *space] of a latent; channels and samples are repeated and cut.

    It is resized linearly along each axis, without a threshold.

    Args:
        mask: [M, *space], [M, 1, *space] or [*space]; for a video a stack of masks is its frames.
        like: The latent.

    Raises:
        ValueError: A value lies outside [0, 1].
    """
    if not ((mask >= 0) & (mask <= 1)).all():
        raise ValueError(f"mask must lie in [0, 1]; got {float(mask.min()):g} … {float(mask.max()):g}")
    space = like.shape[2:]
    if len(space) == 3:
        mask = mask if mask.ndim == 5 else mask.reshape(1, 1, -1, *mask.shape[-2:])
    else:
        mask = mask.reshape(-1, 1, *mask.shape[-len(space) :])
    mask = resize_mask(mask.to(like), space)
    return filled(filled(mask, like.shape[1], axis=1), len(like), axis=0)


def hidden(images: Images, mask: Tensor) -> Tensor:
    """Images whose masked part is grey: ½ + (p − ½) (1 − m), m the mask (see `fit_mask`) rounded to 0 or 1."""
    return 0.5 + (images - 0.5) * (1 - fit_mask(mask, images).round())


def inpaint_concat(mask: Tensor, latent: Latent) -> Tensor:
    """A `Cond.concat` for inpainting networks, [B, 1 + C, *space]: the mask, rounded to 0 or 1, then the latent.

    Args:
        mask: See `fit_mask`; 1 = draw.
        latent: The latent of the image with the masked part `hidden`, in the network's scale.
    """
    return torch.cat([fit_mask(mask, latent)[:, :1].round(), latent], dim=1)


def fill_concat(mask: Tensor, latent: Latent, factor: int) -> Tensor:
    """A `Cond.concat` for Flux Fill, [B, C + factor², *space]: the latent, then a position's pixels of the mask.

    Args:
        mask: As for `inpaint_concat`, of any resolution.
        latent: As for `inpaint_concat`.
        factor: Pixels per latent position along a side.
    """
    height, width = (factor * side for side in latent.shape[2:])
    pixels = fit_mask(mask, latent.new_empty(len(latent), 1, height, width)).round()
    return torch.cat([latent, F.pixel_unshuffle(pixels, factor)], dim=1)


def differential(levels: Levels, sigmas: Tensor, strength: float = 1.0) -> MaskOf:
    """Differential diffusion: the mask says how much each position may change, and so when it joins the run.

        m' = 1 where m ≥ θ, else 0,   θ = (t(σ) − t(σ_end))/(t(σ₀) − t(σ_end)),   σ_end = max(σ_min, last σ)

    arXiv:2306.00950.

    Args:
        levels: The network's noise levels.
        sigmas: The schedule of the run.
        strength: Share of m' where it is mixed with m itself; 0 acts as 1, as in ComfyUI.

    Raises:
        ValueError: The run begins and ends at the same level.
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
