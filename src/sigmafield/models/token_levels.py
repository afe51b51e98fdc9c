"""Networks that take a noise level for each token, so that a σ-field needs one evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sigmafield.core.arrays import Latent, Sigma
from sigmafield.core.conditioning import Cond
from sigmafield.core.linear import filled, lincomb
from sigmafield.core.protocols import Ctx
from sigmafield.models.network_call import stack
from sigmafield.parameterization.prediction import Sampling

TokenNetwork = Callable[[Tensor, Tensor, Cond], Tensor]
"""(scaled input [B, C, *space], timesteps [B, tokens], conditioning of B rows) → F, of the input's shape."""


@dataclass(frozen=True)
class TokenModel:
    """A `Model` for σ-fields; use it in a guider, and the guider in `Served(…, rule=native)`.

        D = c_skip x + c_out F(c_in x, t),   c from each position's σ, t from each token's

    A token's σ is the mean over its positions; tokens are numbered with the last axis fastest. No loader makes one:
    wrap a network that was trained with a level per token. Chen et al., Diffusion Forcing, arXiv:2407.01392.

    Args:
        network: The raw network F.
        sampling: Prediction, noise levels and process.
        patch: Size of a token in latent positions along each axis of space; (1, 2, 2) for Wan 2.2.
    """

    network: TokenNetwork
    sampling: Sampling
    patch: tuple[int, ...]

    def __call__(self, x: Latent, sigma: Sigma, conds: Sequence[Cond], ctx: Ctx) -> list[Tensor]:
        """Predicts the clean latent for each conditioning in one network call; see `DiffusionModel`."""
        space, k = x.shape[2:], len(conds)
        if len(space) != len(self.patch) or any(n % p for n, p in zip(space, self.patch)):
            raise ValueError(f"tokens of {self.patch} positions do not fill a latent of {tuple(space)}")
        rows = sigma.expand(1, 1, *space) if not sigma.ndim else sigma.expand(-1, 1, *space)
        rows = filled(rows, len(x) // k, axis=0).repeat(k, *[1] * (x.ndim - 1))
        t = self.sampling.levels.timestep(tokens(rows, self.patch)).to(x.device, torch.float32)
        pre = self.sampling.prediction(sigma if not sigma.ndim else rows)
        out = self.network(lincomb(pre.c_in, x).float(), t, stack(conds, len(x) // k)).to(x.dtype)
        return list(lincomb(pre.c_skip, x, pre.c_out, out).chunk(k))


def tokens(sigma: Sigma, patch: Sequence[int]) -> Tensor:
    """Averages a field [B, 1, *space] over each token's positions: [B, tokens]."""
    for axis, p in enumerate(patch, start=2):
        sigma = sigma.unflatten(axis, (-1, p)).mean(axis + 1)
    return sigma.flatten(1)
