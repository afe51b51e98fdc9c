"""Side networks of diffusers that read an image and steer a UNet: ControlNets, their unions, T2I-Adapters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from diffusers.models.adapter import T2IAdapter
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.controlnets.controlnet_union import ControlNetUnionModel
from torch import Tensor

from sigmafield.core.conditioning import Cond, ControlNetwork, Residuals
from sigmafield.core.registry import named
from sigmafield.models.diffusers.source import pretrained
from sigmafield.models.directory import listing, read_json

KINDS = ("openpose", "depth", "scribble", "canny", "normal", "segment", "tile", "repaint")
"""Kinds of hint of a union, in the order of its types; some unions know only the first six."""

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
    """A ControlNetUnionModel; `kind` is the index of the hint's kind in `KINDS`."""

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


def read_control(path: Path, device: torch.device, dtype: torch.dtype, kind: str | None = None) -> ControlNetwork:
    """Loads a ControlNet, union or T2I-Adapter.

    Args:
        path: Folder with config.json and weights.
        device: Where it is put.
        dtype: Of its weights.
        kind: Kind of a union's hint.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If the network is not supported.
    """
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such directory; a ControlNet or T2I-Adapter is one in diffusers' layout")
    if not (path / "config.json").is_file():
        raise FileNotFoundError(f"{path}: no config.json, so this is not a network of diffusers; {listing(path)}")
    config = read_json(path / "config.json")
    build = READERS.get(config.get("_class_name", ""))
    if build is None:
        raise ValueError(f"{path} is a {config.get('_class_name')}; supported: {', '.join(READERS)}")
    return build(path, device, dtype, kind)


def _control_net(path: Path, device: torch.device, dtype: torch.dtype, kind: str | None) -> ControlNetwork:
    _no_kind(path, kind)
    module = pretrained(ControlNetModel, path, dtype).to(device)
    if module.config.conditioning_channels != 3:
        raise ValueError(f"{path}: conditioning_channels = {module.config.conditioning_channels}; supported: 3")
    return ControlNet(module, 2 ** (len(module.config.conditioning_embedding_out_channels) - 1))


def _union(path: Path, device: torch.device, dtype: torch.dtype, kind: str | None) -> ControlNetwork:
    module = pretrained(ControlNetUnionModel, path, dtype).to(device)
    known = KINDS[: module.config.num_control_type]
    if kind is None:
        raise ValueError(f"{path} reads hints of several kinds: say which, one of {', '.join(known)}")
    index = named({name: i for i, name in enumerate(known)}, kind, "kind of hint")
    return ControlUnion(module, 2 ** (len(module.config.conditioning_embedding_out_channels) - 1), index)


def _adapter(path: Path, device: torch.device, dtype: torch.dtype, kind: str | None) -> ControlNetwork:
    _no_kind(path, kind)
    module = pretrained(T2IAdapter, path, dtype).to(device)
    if module.config.in_channels not in (1, 3):
        raise ValueError(f"{path}: in_channels = {module.config.in_channels}; supported: 1, 3")
    halves = module.config.adapter_type == XL  # its first features are for the latent at half its size
    return Adapter(module, module.config.downscale_factor // (1 + halves))


def _no_kind(path: Path, kind: str | None) -> None:
    if kind is not None:
        raise ValueError(f"{path} reads hints of one kind only; got kind {kind!r}, which is for unions")


READERS: dict[str, Callable[[Path, torch.device, torch.dtype, str | None], ControlNetwork]] = {
    "ControlNetModel": _control_net,
    "ControlNetUnionModel": _union,
    "T2IAdapter": _adapter,
}
"""How to load a side network, by its class."""


def fitting(unet: Any) -> Callable[[ControlNetwork], None]:
    """Makes the check of a UNet's controls: it raises ValueError for a side network of another kind of UNet."""

    def check(net: ControlNetwork) -> None:
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
    )


def _sums(lists: list[Sequence[Tensor]], dtype: torch.dtype) -> list[Tensor]:
    """Adds lists of tensors element by element; a shorter list adds nothing after its end."""
    columns = [[v for v in column if v is not None] for column in zip_longest(*lists)]
    return [sum(column[1:], column[0]).to(dtype) for column in columns]
