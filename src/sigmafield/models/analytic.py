"""Exact denoisers of distributions with a closed form: what tests and the lab measure samplers against.

All take σ as a number or as a field, on any process, and answer without a network.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from sigmafield.core.arrays import Latent, Sigma
from sigmafield.core.process import VE, Process
from sigmafield.core.protocols import Ctx, Pred


@dataclass(frozen=True)
class Mixture:
    """E[x0 | x] for x0 drawn, element by element, from Σ_k w_k N(m_k, τ²); x = α x0 + σ ξ.

        D = Σ_k r_k (m_k + α τ²/v (x − α m_k)),   v = α² τ² + σ²,   r = softmax(ln w − (x − α m)²/(2 v))

    One component is a Gaussian, for which the ODE has the solution `exact`.
    """

    means: Sequence[float] = (-1.0, 0.2, 1.1)
    weights: Sequence[float] = (0.30, 0.45, 0.25)
    tau: float = 0.35
    process: Process = VE()

    def __call__(self, x: Latent, sigma: Sigma, ctx: Ctx | None = None) -> Pred:
        s = sigma.to(x.device, x.dtype)
        alpha = self.process.alpha(sigma).to(x.device, x.dtype)
        var = alpha.square() * self.tau**2 + s.square()
        m, log_w = _components(tuple(self.means), tuple(self.weights), x.dtype, x.device, x.ndim)
        away = x - alpha * m  # [components, *x.shape]
        r = (log_w - away.square() / (2 * var)).softmax(0)
        return Pred((r * (m + alpha * self.tau**2 / var * away)).sum(0))

    def exact(self, x: Latent, sigma: Sigma, sigma_next: Sigma) -> Tensor:
        """The ODE's solution at σ' from x at σ, for a single component: x' = α' m + (v'/v)^½ (x − α m)."""
        if len(self.means) != 1:
            raise ValueError(f"only one Gaussian has an exact solution; got {len(self.means)} components")
        (m,), alpha, alpha_next = self.means, self.process.alpha(sigma), self.process.alpha(sigma_next)
        v, v_next = alpha**2 * self.tau**2 + sigma**2, alpha_next**2 * self.tau**2 + sigma_next**2
        return alpha_next * m + (v_next / v).sqrt() * (x - alpha * m)


@lru_cache(64)
def _components(
    means: tuple[float, ...], weights: tuple[float, ...], dtype: torch.dtype, device: torch.device, axes: int
) -> tuple[Tensor, Tensor]:
    """m_k and ln w_k in front of the axes of x."""
    with torch.inference_mode(False):  # or the tensors that are kept could not be used for gradients later
        numbers = torch.tensor([means, [math.log(w) for w in weights]], dtype=dtype, device=device)
        m, log_w = numbers.reshape(2, -1, *[1] * axes)
    return m, log_w


@dataclass(frozen=True, eq=False)
class GaussianMixture:
    """E[x0 | x] for x0 drawn, as a whole sample, from Σ_k w_k N(Q m_k, Q diag(τ_k²) Qᵀ); x = α x0 + σ ξ.

        z = Qᵀ x,   v_k = α² τ_k² + σ²
        D = Q Σ_k r_k (m_k + α τ_k²/v_k (z − α m_k)),   r = softmax(ln w_k − ½ Σ ln v_k − ½ Σ (z − α m_k)²/v_k)

    The marginals at every σ are Gaussian mixtures as well, so that they can be drawn from exactly.

    Args:
        means: m_k, [components, d], float64.
        deviations: τ_k, [components, d], above 0.
        weights: w_k, [components], above 0; their sum is 1.
        shape: Shape (C, *space) of a sample, with d numbers.
        process: Process that adds noise.
        basis: Q, orthonormal, [d, d]; None is the identity.

    Raises:
        ValueError: Shapes do not fit, or a number is out of range.
    """

    means: Tensor
    deviations: Tensor
    weights: Tensor
    shape: tuple[int, ...]
    process: Process = VE()
    basis: Tensor | None = None

    def __post_init__(self) -> None:
        k, d = self.means.shape
        if self.deviations.shape != (k, d) or self.weights.shape != (k,) or math.prod(self.shape) != d:
            raise ValueError(
                f"means [{k}, {d}] need deviations of the same shape, {k} weights and a shape of {d} numbers; got "
                f"{tuple(self.deviations.shape)}, {tuple(self.weights.shape)} and {self.shape}"
            )
        if not (self.deviations > 0).all() or not (self.weights > 0).all():
            raise ValueError("deviations and weights must be above 0")
        if not math.isclose(float(self.weights.sum()), 1.0, rel_tol=1e-9):
            raise ValueError(f"weights must add up to 1; got {float(self.weights.sum()):g}")

    def __call__(self, x: Latent, sigma: Sigma, ctx: Ctx | None = None) -> Pred:
        return Pred(self.denoised(x, sigma))

    def denoised(self, x: Latent, sigma: Sigma, weights: Tensor | None = None) -> Latent:
        """D at x.

        Args:
            x: Noisy samples [B, C, *space].
            sigma: Their level, a number or one per sample [B, 1, …]; of VE also a field [B, 1, *space] that is the
                same for all samples, 0 where x is known: then D is the mean given what is known.
            weights: Other weights of the components, [components] or [B, components]; 0 leaves a component out.
        """
        if sigma.ndim and sigma[0].numel() > 1:
            return self._under_field(x, sigma)
        alpha, var = self._scales(sigma, x)
        m, tau2 = self.means.to(x), self.deviations.to(x).square()
        away = self._rotated(x)[:, None] - alpha * m  # [B, components, d]
        log_w = (self.weights if weights is None else weights).to(x).log()
        r = (log_w - 0.5 * (var.log() + away.square() / var).sum(-1)).softmax(-1)
        return self._back((r[..., None] * (m + alpha * tau2 / var * away)).sum(1))

    def _under_field(self, x: Latent, sigma: Sigma) -> Latent:
        """D where each position has a level of its own: Σ_k r_k (μ_k + C_k (C_k + diag σ²)⁻¹ (x − μ_k))."""
        if not isinstance(self.process, VE) or not (sigma == sigma[:1]).all():
            raise ValueError("an exact prediction under a field needs VE, and one field for all samples")
        var = sigma[0].to(x).expand(self.shape).flatten().square()
        mu, covariance = self.components()
        factor = torch.linalg.cholesky(covariance + torch.diag(var))
        away = x.flatten(1)[:, None] - mu  # [B, components, d]
        solved = torch.cholesky_solve(away.permute(1, 2, 0), factor).permute(2, 0, 1)
        log_det = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        r = (self.weights.to(x).log() - 0.5 * (log_det + (away * solved).sum(-1))).softmax(-1)
        parts = mu + torch.einsum("kij,bkj->bki", covariance, solved)
        return (r[..., None] * parts).sum(1).reshape(x.shape)

    def components(self) -> tuple[Tensor, Tensor]:
        """(means [components, d], covariances [components, d, d]) in the coordinates of x."""
        Q = torch.eye(self.means.shape[1], dtype=self.means.dtype) if self.basis is None else self.basis
        return self.means @ Q.T, torch.einsum("ij,kj,lj->kil", Q, self.deviations.square(), Q)

    def given(
        self, known: Float[Tensor, "channels *space"], hidden: Tensor, n: int, generator: torch.Generator
    ) -> Float[Tensor, "n channels *space"]:
        """n exact samples of the data given a part of one of them, [n, C, *space].

        Args:
            known: The sample [C, *space] whose part outside of `hidden` is known.
            hidden: Where it is not, true or false, [C, *space].
            n: Number of samples.
            generator: Source of the random numbers.
        """
        mu, covariance = self.components()
        inside, outside = hidden.flatten(), ~hidden.flatten()
        value = known.flatten()[outside]
        away = value - mu[:, outside]
        own = covariance[:, outside][:, :, outside]
        across = covariance[:, inside][:, :, outside]
        factor = torch.linalg.cholesky(own)
        gain = torch.cholesky_solve(across.transpose(1, 2), factor).transpose(1, 2)
        log_det = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        distance = (away * torch.cholesky_solve(away[..., None], factor)[..., 0]).sum(-1)
        r = (self.weights.log() - 0.5 * (log_det + distance)).softmax(0)
        mean = mu[:, inside] + (gain @ away[..., None])[..., 0]
        left = torch.linalg.cholesky(covariance[:, inside][:, :, inside] - gain @ across.transpose(1, 2))
        picks = torch.multinomial(r, n, replacement=True, generator=generator)
        unit = torch.randn(n, int(inside.sum()), generator=generator, dtype=torch.float64)
        out = known.flatten().repeat(n, 1)
        out[:, inside] = mean[picks] + (left[picks] @ unit[..., None])[..., 0]
        return out.reshape(n, *self.shape)

    def drawn(self, n: int, sigma: float, generator: torch.Generator) -> Latent:
        """n exact samples of the marginal at σ, [n, C, *space], float64; those of the data at σ = 0."""
        picks = torch.multinomial(self.weights.double(), n, replacement=True, generator=generator)
        level = torch.tensor(sigma, dtype=torch.float64)
        (alpha,), (var,) = self._scales(level, self.means)
        unit = torch.randn(n, self.means.shape[1], generator=generator, dtype=torch.float64)
        return self._back(alpha * self.means[picks] + var[picks].sqrt() * unit)

    def moments(self, sigma: float) -> tuple[Tensor, Tensor]:
        """(mean [d], covariance [d, d]) of the marginal at σ, in the coordinates of x."""
        (alpha,), (var,) = self._scales(torch.tensor(sigma, dtype=torch.float64), self.means)
        m, w = alpha * self.means, self.weights
        mean = w @ m
        around = m - mean
        covariance = torch.einsum("k,ki,kj->ij", w, around, around) + torch.diag(w @ var)
        if self.basis is None:
            return mean, covariance
        return self.basis @ mean, self.basis @ covariance @ self.basis.T

    def exact(self, x: Latent, sigma: Sigma, sigma_next: Sigma) -> Latent:
        """The ODE's solution at σ' from x at σ, for a single component: z' = α' m + (v'/v)^½ (z − α m).

        Raises:
            ValueError: There are several components.
        """
        if len(self.means) != 1:
            raise ValueError(f"only one Gaussian has an exact solution; got {len(self.means)} components")
        (alpha, var), (then, v_next) = self._scales(sigma, x), self._scales(sigma_next, x)
        z = then * self.means + (v_next / var).sqrt() * (self._rotated(x)[:, None] - alpha * self.means)
        return self._back(z[:, 0])

    def _scales(self, sigma: Sigma, x: Tensor) -> tuple[Tensor, Tensor]:
        """(α, v_k) for x, as [B or 1, 1, 1] and [B or 1, components, d]."""
        s, alpha = (level.to(x).reshape(-1, 1, 1) for level in (sigma, self.process.alpha(sigma)))
        return alpha, alpha.square() * self.deviations.to(x).square() + s.square()

    def _rotated(self, x: Latent) -> Tensor:
        flat = x.flatten(1)
        return flat if self.basis is None else flat @ self.basis.to(x)

    def _back(self, z: Tensor) -> Latent:
        return (z if self.basis is None else z @ self.basis.to(z).T).reshape(-1, *self.shape)
