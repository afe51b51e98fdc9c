"""A loaded model as a value: how it reads text, what its network is, how its latents become pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sigmafield.maths import lincomb
from sigmafield.param import Sampling
from sigmafield.types import Cond, Ctx, Latent, Sigma

Network = Callable[[Tensor, Tensor, Cond], Tensor]
"""Raw network: (scaled input [B, C, *space] float32, timestep [B], conditioning of B rows) → F, of that shape."""


@dataclass(frozen=True)
class LatentFormat:
    """How the network's latents relate to the VAE's: z_network = (z_vae − shift) · scale.

    channels: of the latent; factor: image pixels per latent pixel along one side.
    """

    channels: int = 4
    factor: int = 8
    scale: float = 1.0
    shift: float = 0.0


@dataclass(frozen=True)
class Pipeline:
    """What `load` gives: text encoder, network and VAE of one model, on one device.

    encode_text(prompts, (height, width)): conditioning with one row a prompt; size in pixels.
    encode(images [B, 3, H, W] in [0, 1]) → latents in the network's scale; decode(latents) → images in [0, 1].
    """

    name: str
    sampling: Sampling
    latent: LatentFormat
    encode_text: Callable[[Sequence[str], tuple[int, int]], Cond]
    network: Network
    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]
    size: tuple[int, int]
    """Height and width in pixels that the model was trained for."""
    device: torch.device = torch.device("cpu")
    preview: Callable[[Tensor], Tensor] | None = None
    """Latents → rough images in [0, 1], cheap enough for every step, if the model has such a thing."""

    def model(self, x: Latent, sigma: Sigma, conds: Sequence[Cond], ctx: Ctx) -> list[Latent]:
        """Clean latents for each conditioning, in one network call: a `Model`."""
        if sigma.ndim:
            raise ValueError(f"{self.name} takes one sigma per sample; got a field of shape {tuple(sigma.shape)}")
        pre = self.sampling.prediction(sigma)
        rows, k = x.shape[0], len(conds)
        xs = lincomb(pre.c_in, x).float().repeat(k, *[1] * (x.ndim - 1))
        t = xs.new_full((rows * k,), float(self.sampling.levels.timestep(sigma)))
        out = self.network(xs, t, stack(conds, rows)).to(x.dtype)
        return [lincomb(pre.c_skip, x, pre.c_out, F) for F in out.chunk(k)]


def stack(conds: Sequence[Cond], rows: int) -> Cond:
    """Several conditionings as one with `rows` rows for each, in order."""

    def join(tensors: list[Tensor]) -> Tensor:
        return torch.cat([t.expand(rows, *t.shape[1:]) for t in tensors])

    extra = {key: join([c.extra[key] for c in conds]) for key in conds[0].extra}
    return Cond(join([c.embeds for c in conds]), extra)
