"""GUIDER, SAMPLER and NOISE as values, and the one way in which nodes open a run of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from sigmafield.comfyui.conditioning import Entry, conds_of, with_controls
from sigmafield.comfyui.context import Context, Stepped, stepped
from sigmafield.comfyui.latent import LatentDict, samples_for
from sigmafield.comfyui.model import NodeModel
from sigmafield.core.arrays import Latent
from sigmafield.core.protocols import Denoiser, State, Steps
from sigmafield.core.registry import Spec
from sigmafield.guidance.guider import Guider
from sigmafield.noise.sources import generator_of, initial_noise
from sigmafield.parameterization.prediction import Sampling
from sigmafield.recipes.ksampler import Framed, open_run, source_of
from sigmafield.recipes.tiling import rule_of
from sigmafield.samplers import SAMPLERS
from sigmafield.spatial.field_denoiser import Rule, by_level, native
from sigmafield.spatial.inpaint import MaskOf, fit_mask


@dataclass(frozen=True, eq=False)
class GuiderValue:
    """A guider whose conditionings are made when the latent is known.

    Args:
        model: The model.
        prompts: Lists of pairs by the names that `make` has for them, the positive prompt first.
        make: (model, mods, conditionings by name) → the denoiser.
    """

    model: NodeModel
    prompts: Mapping[str, Sequence[Entry]]
    make: Callable[..., Denoiser]

    def denoiser(self, latent: Latent, mask: Tensor | None, seed: int) -> Denoiser:
        """The denoiser for a latent in the network's scale.

        Args:
            latent: The latent [B, C, *space].
            mask: The run's mask, for inpainting networks.
            seed: The run's seed, for tiles that are shifted at random.
        """
        (first, positive), *others = self.prompts.items()
        prompts = {first: positive} | {name: with_controls(given, positive) for name, given in others}
        network = self.model.network
        conds = {name: conds_of(given, network, latent, mask, name != first) for name, given in prompts.items()}
        return self.make(model=network, mods=self.model.mods(seed), **conds)


def guided(model: NodeModel, positive: Sequence[Entry], negative: Sequence[Entry] | None, cfg: float) -> GuiderValue:
    """Classifier-free guidance with the model's mods, as KSampler and CFGGuider have it; negative: None for none."""
    prompts = {"positive": positive}
    if negative is not None:
        prompts["negative"] = negative
    if model.empty is not None:
        prompts["empty"] = model.empty
    return GuiderValue(model, prompts, lambda **parts: Guider(cfg=cfg, **parts))


@runtime_checkable
class NoiseValue(Protocol):
    """Where a run's initial noise comes from; `seed` is that of the sampler's own noise."""

    @property
    def seed(self) -> int: ...

    def generate_noise(self, latent: LatentDict) -> Tensor:
        """The noise of a latent, on the CPU."""
        ...


@dataclass(frozen=True)
class Seeded:
    """Noise from a seed; samples with a batch_index have the draw of that number."""

    seed: int

    def generate_noise(self, latent: LatentDict) -> Tensor:
        return self.drawn(latent)[0]

    def drawn(self, latent: LatentDict) -> tuple[Tensor, torch.Generator]:
        """The noise, and the generator that goes on after it."""
        x, generator = latent["samples"], generator_of(self.seed)
        return initial_noise(generator, x.shape, latent.get("batch_index"), x.dtype), generator


@dataclass(frozen=True)
class NoNoise:
    """Zeros."""

    seed: int = 0

    def generate_noise(self, latent: LatentDict) -> Tensor:
        return torch.zeros_like(latent["samples"], device="cpu")


class Asked(NamedTuple):
    """What a sampler is asked to run.

    guider: the guided model. sampling, sigmas: the model's, and the levels. source: the latent in the network's scale.
    noise: the initial noise. stream: the generator that drew it, with the seed of the sampler's own noise.
    mask, mask_of, rule: as for `open_run`.
    """

    guider: Denoiser
    sampling: Sampling
    sigmas: Tensor
    source: Latent
    noise: Latent
    stream: torch.Generator
    mask: Tensor | None
    mask_of: MaskOf
    rule: Rule = by_level


class Begun(NamedTuple):
    """A run and the state before its first step."""

    run: Steps
    start: State


@runtime_checkable
class SamplerValue(Protocol):
    """A sampler with its parameters: what a sampling node opens a run with."""

    def open(self, asked: Asked) -> Begun: ...


@dataclass(frozen=True)
class NamedSampler:
    """A sampler of the table.

    Args:
        spec: Its name and its parameters.

    Raises:
        ValueError: The name is unknown, or a parameter is out of range.
    """

    spec: Spec
    random_inpaint: bool = field(init=False)

    def __post_init__(self) -> None:
        SAMPLERS.lookup(self.spec.name).check(self.spec.params)
        object.__setattr__(self, "random_inpaint", self.spec.name == "ddim")

    def open(self, asked: Asked) -> Begun:
        opened = open_run(
            asked.guider, asked.sampling, self.spec.name, asked.sigmas, asked.source, asked.noise, asked.stream,
            mask=asked.mask, mask_of=asked.mask_of, random_inpaint=self.random_inpaint, rule=asked.rule,
            **self.spec.params,
        )  # fmt: skip
        return Begun(opened.run, opened.start)


def opened(
    guider: GuiderValue, noise: NoiseValue, sampler: SamplerValue, sigmas: Tensor, latent: LatentDict
) -> Framed[Steps] | None:
    """The run of a sampling node; None without levels.

    Args:
        guider: Model, prompts and guidance.
        noise: The initial noise.
        sampler: The sampler.
        sigmas: The levels [steps + 1], or a σ-field [steps + 1, B or 1, 1, *space].
        latent: Where it begins; noise_mask, 1 = denoise, and batch_index are those of the dict.
    """
    if not len(sigmas):
        return None
    model, device = guider.model.network, guider.model.network.device
    given: LatentDict = {**latent, "samples": samples_for(latent, model.latent)}
    drawn, stream = (
        noise.drawn(given) if isinstance(noise, Seeded) else (noise.generate_noise(given), generator_of(noise.seed))
    )
    source = source_of(given["samples"].to(device), model.latent)
    mask = latent.get("noise_mask")
    mask = None if mask is None else mask.to(device)
    rule = by_level if guider.model.tiles is not None else rule_of(None, model, source.shape[2:])
    mask_of = guider.model.mask_of(sigmas)
    if rule is native and model.latent.axes == 3 and mask is not None and sigmas.ndim == 1:
        sigmas, mask = levels_within(mask, sigmas, source), None
    asked = Asked(
        guider.denoiser(source, mask, noise.seed), model.sampling, sigmas, source, drawn.to(device), stream, mask,
        mask_of, rule,
    )  # fmt: skip
    begun = sampler.open(asked)
    return Framed(model.latent, begun.run, begun.start)


def levels_within(mask: Tensor, sigmas: Tensor, latent: Tensor) -> Tensor:
    """A mask of a video as levels, for networks that take one for each token: σ where it is 1, 0 for what is kept.

    Returns:
        A σ-field [steps + 1, B, 1, *space], on the CPU.
    """
    inside = fit_mask(mask, latent)[:, :1].double().cpu()
    return sigmas.double().cpu().reshape(-1, *[1] * inside.ndim) * inside


def sampled(
    guider: GuiderValue,
    noise: NoiseValue,
    sampler: SamplerValue,
    sigmas: Tensor,
    latent: LatentDict,
    context: Context,
) -> Stepped[tuple[LatentDict, LatentDict]]:
    """Runs a sampling node, with progress after each step: (the result, the clean latent of its last evaluation).

    Arguments as for `opened`.
    """
    framed = opened(guider, noise, sampler, sigmas, latent)
    if framed is None:
        same: LatentDict = {**latent, "samples": samples_for(latent, guider.model.network.latent)}
        return same, same
    end = yield from stepped(framed.run, framed.start, context, framed.latents)
    result = framed.sampled(end)
    out: LatentDict = {**latent, "samples": result.samples.cpu()}
    out.pop("downscale_ratio_spacial", None)
    return out, {**latent, "samples": result.denoised.cpu()}
