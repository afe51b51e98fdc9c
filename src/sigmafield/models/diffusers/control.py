"""Side networks of diffusers that read an image and steer a UNet: ControlNets, their unions, T2I-Adapters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

from sigmafield.core.conditioning import Cond, ControlNetwork, Residuals
from sigmafield.models.diffusers.control_transformer import FluxControl, SD3Control, ZImageControl

XL = "full_adapter_xl"


@dataclass(frozen=True, eq=False)
class ControlNet:
    """A ControlNetModel. Zhang et al., arXiv:2302.05543."""

    module: Any
    factor: int

    def __call__(self, x: Tensor, t: Tensor, cond: Cond, hint: Tensor, strength: float) -> Residuals:
        skips, middle = self.module(
            x.to(self.module.dtype), t, cond.embeds.to(self.module.dtype), hint.to(x.device, self.module.dtype),
            strength, added_cond_kwargs=cond.extra, return_dict=False,
        )  # fmt: skip
        return Residuals(skips, middle)


@dataclass(frozen=True, eq=False)
class ControlUnion:
    """A ControlNetUnionModel; `kind` is the index of the hint's kind among its types."""

    module: Any
    factor: int
    kind: int

    def __call__(self, x: Tensor, t: Tensor, cond: Cond, hint: Tensor, strength: float) -> Residuals:
        which = torch.zeros(len(x), self.module.config.num_control_type, device=x.device, dtype=self.module.dtype)
        which[:, self.kind] = 1
        skips, middle = self.module(
            x.to(self.module.dtype), t, cond.embeds.to(self.module.dtype), [hint.to(x.device, self.module.dtype)],
            which, [self.kind], strength, added_cond_kwargs=cond.extra, return_dict=False,
        )  # fmt: skip
        return Residuals(skips, middle)


@dataclass(frozen=True, eq=False)
class Adapter:
    """A T2IAdapter: features of the hint alone, added within the down blocks. Mou et al., arXiv:2302.08453."""

    module: Any
    factor: int

    def __call__(self, x: Tensor, t: Tensor, cond: Cond, hint: Tensor, strength: float) -> Residuals:
        config = self.module.config
        hint = hint.to(x.device, self.module.dtype)
        if config.in_channels == 1:
            hint = hint.mean(1, keepdim=True)
        lack = [-side % config.downscale_factor for side in hint.shape[2:]]
        if any(lack):
            rule = f"needs images with sides that are multiples of {config.downscale_factor}"
            raise ValueError(f"this T2I-Adapter {rule}; got {hint.shape[3]}x{hint.shape[2]}")
        return Residuals(blocks=[feature * strength for feature in self.module(hint)])


def fitting(unet: Any) -> Callable[[ControlNetwork], None]:
    """Makes the check of a UNet's controls: it raises ValueError for a side network of another kind of UNet."""

    def check(net: ControlNetwork) -> None:
        if isinstance(net, FluxControl | SD3Control | ZImageControl):
            raise ValueError(f"this {type(net.module).__name__} is for a transformer; the model is a UNet")
        if not isinstance(net, ControlNet | ControlUnion | Adapter):
            return  # a side network of the caller
        config = net.module.config
        widths = list(unet.config.block_out_channels)
        channels = list(config.get("block_out_channels") or config["channels"])
        pairs: dict[str, tuple[Any, Any]] = {"block_out_channels": (channels[: len(widths)], widths)}
        if isinstance(net, Adapter):  # its first features are added after a block that halves the size, or within one
            block = "DownBlock2D" if config["adapter_type"] == XL else "CrossAttnDownBlock2D"
            pairs["down_block_types[0]"] = (block, unet.config.down_block_types[0])
        else:
            pairs |= {key: (config[key], unet.config[key]) for key in ("cross_attention_dim", "addition_embed_type")}
        for key, (theirs, ours) in pairs.items():
            if theirs != ours:
                kind = type(net.module).__name__
                raise ValueError(f"this {kind} is for networks with {key} = {theirs}; the model has {ours}")

    return check


def residuals(x: Tensor, t: Tensor, cond: Cond) -> Residuals:
    """Sums what all controls of a conditioning add, in x's dtype."""
    parts = [c.net(x, t, cond, c.hint, c.strength) for c in cond.controls]
    middle = [part.middle for part in parts if part.middle is not None]
    return Residuals(
        _sums([part.skips for part in parts], x.dtype),
        sum(middle[1:], middle[0]).to(x.dtype) if middle else None,
        _sums([part.blocks for part in parts], x.dtype),
        _sums([part.singles for part in parts], x.dtype),
    )


def _sums(lists: list[Sequence[Tensor]], dtype: torch.dtype) -> list[Tensor]:
    """Adds lists of tensors element by element; a shorter list adds nothing after its end."""
    columns = [[v for v in column if v is not None] for column in zip_longest(*lists)]
    return [sum(column[1:], column[0]).to(dtype) for column in columns]
