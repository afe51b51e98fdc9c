"""A loaded model as a value: how it reads text, what its network is, how its latents become images."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from sigmafield.core.arrays import Latent, Sigma
from sigmafield.core.conditioning import Cond, ControlNetwork, same_controls
from sigmafield.core.linear import filled, lincomb
from sigmafield.core.predict import active
from sigmafield.core.process import per_sample
from sigmafield.core.protocols import Call, Ctx, Network
from sigmafield.core.recent import Recent
from sigmafield.models.directory import NETWORKS
from sigmafield.parameterization.latent_format import LatentFormat
from sigmafield.parameterization.prediction import Sampling


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
    loras: Sequence[tuple[str, float]] = ()
    """Paths and strengths of the LoRAs that are merged into them."""
    concat: int = 0
    """Channels that a conditioning's `concat` must have, such as 5 for an inpainting network's mask and image."""
    controls: Callable[[ControlNetwork], None] | None = None
    """Raises ValueError for a control that was made for another network; None if the network takes no controls."""
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
    max_rows: int | None = None
    """Rows that one network call may have, for little memory; None: as many as there are."""
    bring: Callable[[Sequence[str]], None] | None = None
    """Brings some of `modules` to the device and sends the others away, where parts wait on the CPU."""
    stacks: Recent[Cond] = field(default_factory=lambda: Recent(2), init=False, repr=False, compare=False)
    """Conditionings of the last network calls, stacked, so that a run stacks them once."""

    def model(self, x: Latent, sigma: Sigma, conds: Sequence[Cond], ctx: Ctx) -> list[Tensor]:
        """Clean latents for each conditioning, in one network call or as few as `max_rows` allows: a `Model`.

        The conditionings must have the same controls; those outside of their windows are left out. σ may differ between
        samples, but not within one.
        """
        for cond in conds:
            self.check(cond)
        k = len(conds)
        cond = self.stacked([self.at(sigma, cond) for cond in conds], len(x) // k)
        sigma = self.by_row(sigma, len(x) // k).repeat(k, *[1] * (x.ndim - 1)) if sigma.ndim else sigma
        pre, t = self.sampling.prediction(sigma), self.sampling.levels.timestep(sigma)
        xs = lincomb(pre.c_in, x).float()
        t = t.flatten().to(xs) if sigma.ndim else xs.new_full(xs.shape[:1], float(t))
        roles = tuple(c.role for c in conds for _ in range(len(x) // k))
        out = []
        for some in self.shares(len(xs)):
            network = self.patched(sigma[some] if sigma.ndim else sigma, roles[some], ctx)
            out.append(network(xs[some], t[some], rows(cond, some)))
        out = out[0] if len(out) == 1 else torch.cat(out)
        return list(lincomb(pre.c_skip, x, pre.c_out, out.to(x.dtype)).chunk(k))

    def stacked(self, conds: Sequence[Cond], each: int) -> Cond:
        """Several conditionings as one, see `stack`; those without spatial inputs are kept for the next call."""
        if any(cond.controls or cond.concat is not None for cond in conds):
            return stack(conds, each)
        return self.stacks(tuple(conds), each, lambda: stack(conds, each))

    @property
    def module(self) -> nn.Module:
        """The torch module of the network; ValueError where there is none that patches could change."""
        module = next((self.modules[name] for name in NETWORKS if name in self.modules), None)
        if module is None:
            raise ValueError(f"{self.name} has no torch module behind its network, so nothing in it can be patched")
        if module._compiled_call_impl is not None:
            raise ValueError(f"{self.name} is compiled, and a compiled network cannot be patched: leave compile out")
        return module

    def patched(self, sigma: Sigma, roles: tuple[str, ...], ctx: Ctx) -> Network:
        """The network with the patches of `ctx`, for one call; the last patch is outermost."""
        network = self.network
        if ctx.patches:
            call = Call(self.module, sigma, roles, ctx)
            for patch in ctx.patches:
                network = patch(network, call)
        return network

    def by_row(self, sigma: Sigma, n: int) -> Tensor:
        """The level of each of n samples, [n, 1, …]; ValueError for a field that varies within a sample."""
        levels = per_sample(sigma)
        if levels is None:
            raise ValueError(
                f"{self.name} takes one sigma per sample; got a field of shape {tuple(sigma.shape)}: "
                "put spatial.served.Served around the guider"
            )
        return filled(levels, n, axis=0).reshape(-1, *[1] * (sigma.ndim - 1))

    def at(self, sigma: Sigma, cond: Cond) -> Cond:
        """The conditioning with the controls that act at σ alone; ValueError where they do for some samples only."""
        if not cond.controls:
            return cond
        now = [(c, active(c, sigma, self.sampling.clock)) for c in cond.controls if c.strength]
        if any(inside.any() and not inside.all() for _, inside in now):
            raise ValueError("a control's window ends between the noise levels of the samples: leave the window out")
        return replace(cond, controls=tuple(c for c, inside in now if inside.all()))

    def shares(self, n: int) -> list[slice]:
        """n rows in as few parts of nearly equal length as `max_rows` allows."""
        calls = max(1, -(-n // (self.max_rows or n or 1)))
        ends = [n * i // calls for i in range(calls + 1)]
        return [slice(first, last) for first, last in pairwise(ends)]

    def check(self, cond: Cond) -> None:
        """Raises ValueError for a conditioning whose `concat` or controls the network cannot take."""
        channels = 0 if cond.concat is None else cond.concat.shape[1]
        if channels != self.concat:
            raise ValueError(
                f"{self.name} takes {self.concat} channels of concat besides the latent's {self.latent.channels}; "
                f"got {channels}"
            )
        for control in cond.controls:
            if self.controls is None:
                raise no_controls(self.name)
            self.controls(control.net)


def no_controls(name: str) -> ValueError:
    """The error for a control where the network takes none."""
    return ValueError(f"{name} takes no controls: these are for Stable Diffusion 1, 2 and XL in diffusers' layout")


def stack(conds: Sequence[Cond], each: int) -> Cond:
    """Several conditionings as one with `each` rows for each, in order.

    Raises ValueError for conditionings with other controls than the first's.
    """
    first = conds[0]
    if not all(same_controls(first, c) for c in conds):
        raise ValueError("conditionings of one network call must have the same controls, as strong and as long")

    def join(tensors: list[Tensor]) -> Tensor:
        return torch.cat([filled(t, each, axis=0) for t in tensors])

    extra = {key: join([c.extra[key] for c in conds]) for key in first.extra}
    concat = [c.concat for c in conds if c.concat is not None]
    return Cond(
        join(repeated([c.embeds for c in conds])),
        extra,
        concat=join(concat) if concat else None,
        controls=[
            replace(control, hint=join([c.controls[i].hint for c in conds])) for i, control in enumerate(first.controls)
        ],
    )


def rows(cond: Cond, some: slice) -> Cond:
    """Some rows of a stacked conditioning."""
    return Cond(
        cond.embeds[some],
        {key: value[some] for key, value in cond.extra.items()},
        concat=None if cond.concat is None else cond.concat[some],
        controls=[replace(control, hint=control.hint[some]) for control in cond.controls],
    )


def repeated(embeds: Sequence[Tensor]) -> list[Tensor]:
    """Embeddings [B, tokens, C], repeated along the tokens up to their least common multiple, as ComfyUI does."""
    length = math.lcm(*(e.shape[1] for e in embeds))
    return [e if e.shape[1] == length else e.repeat(1, length // e.shape[1], 1) for e in embeds]
