"""A loaded model as a value: how it reads text, what its network is, how its latents become pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sigmafield.latents import LatentFormat
from sigmafield.maths import filled, lincomb
from sigmafield.param import Sampling
from sigmafield.types import Cond, Ctx, Latent, Sigma

Network = Callable[[Tensor, Tensor, Cond], Tensor]
"""Raw network: (scaled input [B, C, *space] float32, timestep [B], conditioning of B rows) → F, of that shape."""

EncodeText = Callable[[Sequence[str], tuple[int, int]], Cond]
"""(prompts, (height, width) in pixels) → conditioning with one row a prompt."""


@dataclass(frozen=True)
class Pipeline:
    """What `load` gives: text encoder, network and VAE of one model, on one device.

    encode(images [B, 3, H, W] in [0, 1]) → latents in the network's scale; decode(latents) → images in [0, 1].
    A model of videos has images [B, 3, frames, H, W] and latents [B, C, frames, h, w].
    """

    name: str
    sampling: Sampling
    latent: LatentFormat
    encode_text: EncodeText
    network: Network
    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]
    size: tuple[int, int]
    """Height and width in pixels that the model was trained for."""
    device: torch.device = torch.device("cpu")
    preview: Callable[[Tensor], Tensor] | None = None
    """Latents → rough images in [0, 1], cheap enough for every step, if the model has such a thing."""
    modules: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """The torch modules behind it, by diffusers' names: unet or transformer, vae, text_encoder, …"""
    encode_negative: EncodeText | None = None
    """How it reads negative prompts, where that is not `encode_text`."""
    cfg: float = 5.0
    """Guidance that the model is made for; 1 for networks that were distilled with theirs."""
    frames: int = 1
    """Frames that the model was trained for."""
    patch: int = 1
    """Side in latent places of the network's patches: the latent's sides are multiples of it."""
    max_side: int | None = None
    """Largest height or width in pixels that the network has positions for."""
    shift_at: Callable[[tuple[int, int]], float] | None = None
    """(height, width) → the time shift that a flow network was trained with at that size, where it depends on it."""

    def model(self, x: Latent, sigma: Sigma, conds: Sequence[Cond], ctx: Ctx) -> list[Tensor]:
        """Clean latents for each conditioning, in one network call: a `Model`."""
        if sigma.ndim:
            raise ValueError(f"{self.name} takes one sigma per sample; got a field of shape {tuple(sigma.shape)}")
        pre, k = self.sampling.prediction(sigma), len(conds)
        xs = lincomb(pre.c_in, x).float()
        t = xs.new_full(xs.shape[:1], float(self.sampling.levels.timestep(sigma)))
        out = self.network(xs, t, stack(conds, len(xs) // k)).to(x.dtype)
        return list(lincomb(pre.c_skip, x, pre.c_out, out).chunk(k))


def stack(conds: Sequence[Cond], rows: int) -> Cond:
    """Several conditionings as one with `rows` rows for each, in order.

    Embeddings of different lengths are repeated up to their least common multiple, as ComfyUI does.
    """
    length = math.lcm(*(c.embeds.shape[1] for c in conds))

    def join(tensors: list[Tensor]) -> Tensor:
        return torch.cat([filled(t, rows, axis=0) for t in tensors])

    extra = {key: join([c.extra[key] for c in conds]) for key in conds[0].extra}
    return Cond(join([c.embeds.repeat(1, length // c.embeds.shape[1], 1) for c in conds]), extra)
