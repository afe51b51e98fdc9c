"""Side networks of diffusers that read an image and steer a transformer: ControlNets of Flux, SD 3 and Z-Image."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sigmafield.core.conditioning import Cond, ControlNetwork, Residuals
from sigmafield.models.diffusers.chat import MASK
from sigmafield.models.diffusers.flux_tokens import patch_positions, text_positions, tokens_of


class HintLatents:
    """Latents of hints. A run shows a side network the same image at every step, which is encoded once.

    Args:
        encode: Images [B, 3, H, W] in [0, 1] → latents in the scale that the network was trained on.
        most: Images whose latents are kept.
    """

    def __init__(self, encode: Callable[[Tensor], Tensor], most: int = 8) -> None:
        self._encode, self._most = encode, most
        self._known: tuple[tuple[Tensor, Tensor], ...] = ()

    def __call__(self, hint: Tensor) -> Tensor:
        """Latents [B, C, h, w] of hints [B, 3, H, W]."""
        return torch.cat([self._of(image) for image in hint.split(1)])

    def _of(self, image: Tensor) -> Tensor:
        for known, latent in self._known:
            if known.shape == image.shape and torch.equal(known, image):
                return latent
        latent = self._encode(image)
        self._known = ((image.clone(), latent), *self._known[: self._most - 1])
        return latent


@dataclass(frozen=True, eq=False)
class FluxControl:
    """A FluxControlNetModel, InstantX's and Shakker's, which read a latent, or XLabs', which read the image.

    Args:
        module: The module.
        factor: Pixels of the hint per latent position.
        latents: Latents of hints.
        depths: Numbers of the network's joint and single blocks, over which the outputs are spread.
        mode: Index of a union's kind of hint; None: the module is not a union.
    """

    module: Any
    factor: int
    latents: HintLatents
    depths: tuple[int, int]
    mode: int | None = None

    def __call__(self, x: Tensor, t: Tensor, cond: Cond, hint: Tensor, strength: float) -> Residuals:
        dtype, image = self.module.dtype, self.module.input_hint_block is not None
        hint = hint.to(x.device)
        shown = hint * 2 - 1 if image else tokens_of(self.latents(hint).to(x.device))
        rows, columns = (side // 2 for side in x.shape[2:])
        guidance = cond.extra["guidance"].to(dtype) if self.module.config.guidance_embeds else None
        joint, single = self.module(
            tokens_of(x.to(dtype)),
            controlnet_cond=shown.to(dtype),
            controlnet_mode=None if self.mode is None else torch.full((len(x), 1), self.mode, device=x.device),
            conditioning_scale=strength,
            encoder_hidden_states=cond.embeds.to(dtype),
            pooled_projections=cond.extra["pooled_projections"].to(dtype),
            timestep=t,
            img_ids=patch_positions(rows, columns, x.device),
            txt_ids=text_positions(cond.embeds),
            guidance=guidance,
            return_dict=False,
        )
        spread = cycled if image else in_shares
        return Residuals(blocks=spread(joint or (), self.depths[0]), singles=in_shares(single or (), self.depths[1]))


@dataclass(frozen=True, eq=False)
class SD3Control:
    """An SD3ControlNetModel.

    Args:
        module: The module.
        factor: Pixels of the hint per latent position.
        latents: Latents of hints.
        transformer: The network, whose position table the ControlNets of 3.5 large use.
    """

    module: Any
    factor: int
    latents: HintLatents
    transformer: Any

    def __call__(self, x: Tensor, t: Tensor, cond: Cond, hint: Tensor, strength: float) -> Residuals:
        config, dtype = self.module.config, self.module.dtype
        pooled = cond.extra["pooled_projections"].to(dtype)
        if self.module.pos_embed is None:
            x = self.transformer.pos_embed(x.to(self.transformer.dtype))
        [blocks] = self.module(
            x.to(dtype),
            controlnet_cond=self.latents(hint.to(x.device)).to(x.device, dtype),
            conditioning_scale=strength,
            encoder_hidden_states=None if config.joint_attention_dim is None else cond.embeds.to(dtype),
            pooled_projections=pooled.new_zeros(pooled.shape) if config.force_zeros_for_pooled_projection else pooled,
            timestep=t,
            return_dict=False,
        )
        return Residuals(blocks=evenly(blocks, len(self.transformer.transformer_blocks)))


@dataclass(frozen=True, eq=False)
class ZImageControl:
    """A ZImageControlNetModel, which reads the image's latent and adds to some layers.

    Args:
        module: The module, with the parts of the network that it shares.
        factor: Pixels of the hint per latent position.
        latents: Latents of hints.
        depth: Layers of the network.
    """

    module: Any
    factor: int
    latents: HintLatents
    depth: int

    def __call__(self, x: Tensor, t: Tensor, cond: Cond, hint: Tensor, strength: float) -> Residuals:
        dtype = self.module.dtype
        shown = self.latents(hint.to(x.device)).to(x.device, dtype)[:, :, None]
        shown = F.pad(shown, (0, 0, 0, 0, 0, 0, 0, self.module.config.control_in_dim - shown.shape[1]))
        texts = [text.to(dtype) for text in without_padding(cond)]
        added = self.module(list(x.to(dtype)[:, :, None]), 1 - t, texts, list(shown), strength)
        nothing = x.new_zeros(())
        return Residuals(blocks=[added.get(i, nothing) for i in range(self.depth)])


def without_padding(cond: Cond) -> list[Tensor]:
    """The text of each row of a conditioning, without what its mask says is padding."""
    lengths = cond.extra[MASK].sum(1).tolist()
    return [text[:length] for text, length in zip(cond.embeds, lengths)]


def in_shares(outputs: Sequence[Tensor], depth: int) -> list[Tensor]:
    """What each of `depth` blocks is given of fewer outputs: block i output ⌊i/⌈depth/n⌉⌋, as in diffusers' Flux."""
    each = math.ceil(depth / len(outputs)) if outputs else 1
    return [outputs[i // each] for i in range(depth)] if outputs else []


def cycled(outputs: Sequence[Tensor], depth: int) -> list[Tensor]:
    """What each of `depth` blocks is given of fewer outputs: block i the output i mod n, as XLabs' networks do."""
    return [outputs[i % len(outputs)] for i in range(depth)] if outputs else []


def evenly(outputs: Sequence[Tensor], depth: int) -> list[Tensor]:
    """What each of `depth` blocks is given of fewer outputs: block i the output ⌊i n/depth⌋, as in diffusers' SD 3."""
    return [outputs[int(i / (depth / len(outputs)))] for i in range(depth)] if outputs else []


def fitting_transformer(transformer: Any) -> Callable[[ControlNetwork], None]:
    """Makes the check of a transformer's controls: ValueError for a side network of another kind of network."""
    kinds = {
        "FluxTransformer2DModel": FluxControl,
        "SD3Transformer2DModel": SD3Control,
        "ZImageTransformer2DModel": ZImageControl,
    }
    kind = kinds[type(transformer).__name__]
    widths = ("num_attention_heads", "attention_head_dim", "joint_attention_dim", "pooled_projection_dim")
    widths = ("dim", "n_heads") if kind is ZImageControl else widths

    def check(net: ControlNetwork) -> None:
        module: Any = getattr(net, "module", None)
        if not hasattr(module, "config"):
            return  # a side network of the caller
        name = type(module).__name__
        if not isinstance(net, kind):
            raise ValueError(f"this {name} is not for a {type(transformer).__name__}")
        theirs, ours = module.config, transformer.config
        for key in widths:
            if theirs[key] not in (ours[key], None):
                raise ValueError(f"this {name} is for networks with {key} = {theirs[key]}; the model has {ours[key]}")
        if theirs.get("guidance_embeds") and not ours.guidance_embeds:
            raise ValueError(f"this {name} takes the guidance of Flux dev, which this model does not have")

    return check
