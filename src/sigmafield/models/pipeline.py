"""A loaded model as a value: how it reads text, what its network is, how its latents become pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from sigmafield.latents import LatentFormat
from sigmafield.maths import filled, lincomb
from sigmafield.param import Sampling
from sigmafield.types import Cond, Ctx, Latent, Sigma

Network = Callable[[Tensor, Tensor, Cond], Tensor]
"""Raw network: (scaled input [B, C, *space] float32, timestep [B], conditioning of B rows) → F, of that shape."""


@runtime_checkable
class EncodeText(Protocol):
    """(prompts, (height, width) in pixels, layer to stop at) → conditioning with one row a prompt.

    clip_skip: -1 = the last layer of CLIP, -2 the one before it, …; None = the one that the model was trained with.
    """

    def __call__(self, prompts: Sequence[str], size: tuple[int, int], clip_skip: int | None = None) -> Cond: ...


@dataclass(frozen=True)
class Pipeline:
    """What `load` gives: text encoder, network and VAE of one model, on one device.

    encode(images [B, 3, H, W] in [0, 1]) → latents in the network's scale; decode(latents) → images in [0, 1].
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
    loras: Sequence[tuple[str, float]] = ()
    """Paths and strengths of the LoRAs that are merged into them."""

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
    """Several conditionings as one with `rows` rows for each, in order."""

    def join(tensors: list[Tensor]) -> Tensor:
        return torch.cat([filled(t, rows, axis=0) for t in tensors])

    extra = {key: join([c.extra[key] for c in conds]) for key in conds[0].extra}
    return Cond(join(repeated([c.embeds for c in conds])), extra)


def repeated(embeds: Sequence[Tensor]) -> list[Tensor]:
    """Embeddings [B, tokens, C], repeated along the tokens up to their least common multiple, as ComfyUI does."""
    length = math.lcm(*(e.shape[1] for e in embeds))
    return [e.repeat(1, length // e.shape[1], 1) for e in embeds]
