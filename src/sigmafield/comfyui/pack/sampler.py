"""Our samplers as ComfyUI's SAMPLER."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sigmafield.comfyui.pack.host import Callback
from sigmafield.comfyui.pack.model import Guided, keeps_clean, rows, sampling_of
from sigmafield.comfyui.sampling import Asked, Begun, SamplerValue
from sigmafield.core.arrays import Latent, Sigma
from sigmafield.core.process import VE
from sigmafield.core.protocols import Denoiser, State
from sigmafield.noise.sources import generator_of, randn
from sigmafield.runs.run import iterate
from sigmafield.spatial.field_denoiser import by_level
from sigmafield.spatial.inpaint import Inpaint, MaskOf, fit_mask, unchanged

CLOSE = 1e-5
"""Relative distance from the largest level at which a run starts from pure noise."""


@dataclass(frozen=True, eq=False)
class HostSampler:
    """A sampler that ComfyUI's guiders run: noise, mask and steps are those of our engine.

    Args:
        value: The sampler.
    """

    value: SamplerValue

    def max_denoise(self, model_wrap: Any, sigmas: Tensor) -> bool:
        """Whether a run over these levels starts from pure noise; arguments as for `sample`."""
        return starts_pure(model_wrap, sigmas)

    def sample(
        self,
        model_wrap: Any,
        sigmas: Tensor,
        extra_args: Mapping[str, Any],
        callback: Callback | None,
        noise: Tensor,
        latent_image: Tensor | None = None,
        denoise_mask: Tensor | None = None,
        disable_pbar: bool = False,
    ) -> Tensor:
        """The clean latent at the end of a run, in the network's scale.

        Args:
            model_wrap: The guider: called with a latent and a level per sample, it answers the clean latent.
            sigmas: The levels [steps + 1], or a σ-field [steps + 1, B or 1, 1, *space].
            extra_args: model_options and seed of the run.
            callback: What is called after each step; what it raises ends the run.
            noise: The initial noise [B, C, *space].
            latent_image: Where the run begins, in the network's scale.
            denoise_mask: 1 = denoise, 0 = keep the latent.
            disable_pbar: Not used: the callback shows the progress.
        """
        begun = begin(self.value, model_wrap, sigmas, extra_args, noise, latent_image, denoise_mask)
        last = begun.start
        for state in walked(begun, begun.start, callback):
            last = state
        return begun.run.result(last)


def starts_pure(model_wrap: Any, sigmas: Tensor) -> bool:
    """Whether the first level is the model's largest, or above it."""
    first, most = float(sigmas[0].max()), float(model_wrap.inner_model.model_sampling.sigmas[-1])
    return first > most or abs(first - most) <= CLOSE * max(first, most)


def begin(
    value: SamplerValue,
    model_wrap: Any,
    sigmas: Tensor,
    extra_args: Mapping[str, Any],
    noise: Tensor,
    latent_image: Tensor | None,
    denoise_mask: Tensor | None,
) -> Begun:
    """A run of a sampler in ComfyUI, and its start; arguments as for `HostSampler.sample`."""
    noise = noise if noise.dtype in (torch.float32, torch.float64) else noise.float()
    source = torch.zeros_like(noise) if latent_image is None else latent_image.to(noise)
    guider: Denoiser = Guided(model_wrap, {key: given for key, given in extra_args.items() if key != "denoise_mask"})
    changes = mask_of(extra_args, model_wrap, sigmas)
    if denoise_mask is not None and keeps_clean(model_wrap.inner_model.latent_format):
        nothing = torch.zeros_like(source)  # source + σ · 0 is what is shown
        guider = Inpaint(guider, source, nothing, fit_mask(denoise_mask, source), VE(), changes)
        denoise_mask = None
    return value.open(
        Asked(
            guider=guider,
            sampling=sampling_of(model_wrap.inner_model.model_sampling),
            sigmas=sigmas.detach().cpu(),
            source=source,
            noise=noise,
            stream=stream(int(extra_args.get("seed") or 0), noise),
            mask=denoise_mask,
            mask_of=changes,
            rule=by_level,
        )
    )


def walked(begun: Begun, start: State, callback: Callback | None) -> Iterator[State]:
    """The state after each step from a state on; the callback is called after each.

    Its number of steps is an estimate where a sampler chooses its own.

    Args:
        begun: The run.
        start: The state.
        callback: See `HostSampler.sample`.
    """
    before = start
    for state in iterate(begun.run, start):
        if callback is not None:
            x0 = state.x if state.pred is None else state.pred.x0
            share = begun.run.progress(state)
            total = round(state.i / share) if share > 0 else begun.run.n
            callback(state.i - 1, x0, before.x, max(total, state.i))
        before = state
        yield state


def stream(seed: int, noise: Tensor) -> torch.Generator:
    """The generator that drew the initial noise, after it; if the noise is zero, one that has drawn nothing.

    Args:
        seed: Seed of the run.
        noise: The noise.
    """
    generator = generator_of(seed)
    if noise.any():
        randn(generator, noise.shape, noise.dtype)
    return generator


def mask_of(extra_args: Mapping[str, Any], model_wrap: Any, sigmas: Tensor) -> MaskOf:
    """How the mask changes during the run: the model's `denoise_mask_function`, such as differential diffusion."""
    options = extra_args.get("model_options") or {}
    function: Callable[..., Tensor] | None = options.get("denoise_mask_function")
    if function is None:
        return unchanged

    def changed(sigma: Sigma, mask: Latent) -> Latent:
        return function(rows(sigma, mask), mask, extra_options={"model": model_wrap, "sigmas": sigmas})

    return changed


def ours(sampler: Any, by: str) -> SamplerValue:
    """The sampler in a SAMPLER of this pack; ValueError for any other.

    Args:
        sampler: ComfyUI's SAMPLER.
        by: The node that needs it, for the error.
    """
    if not isinstance(sampler, HostSampler):
        raise ValueError(f"{by} needs a sampler of sigmafield, such as Any Sampler gives; got {type(sampler).__name__}")
    return sampler.value
