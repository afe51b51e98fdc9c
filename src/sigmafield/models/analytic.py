"""Exact denoisers of distributions with a closed form: what tests and the lab measure samplers against.

All take σ as a number or as a field, on any process, and answer without a network.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
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
