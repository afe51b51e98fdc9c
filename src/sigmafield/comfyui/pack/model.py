"""ComfyUI's MODEL as ours: noise levels, clock and noise process of its `model_sampling`; a guider as a denoiser."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from torch import Tensor

from sigmafield.comfyui.model import NodeModel
from sigmafield.core.arrays import Latent, Sigma
from sigmafield.core.process import VE, Flow, Process, per_sample
from sigmafield.core.protocols import Ctx, Pred
from sigmafield.models.diffusion_model import DiffusionModel
from sigmafield.parameterization.families import families
from sigmafield.parameterization.latent_format import LatentFormat, formats
from sigmafield.parameterization.prediction import Preconditioning, Sampling
from sigmafield.parameterization.timesteps import Levels

PROBE = 0.5
"""The noise level at which a model is asked how it mixes a latent with noise."""


def node_model(model: Any) -> NodeModel:
    """A MODEL as nodes that make levels take it; only in a run is its network called, by the guider.

    Args:
        model: ComfyUI's MODEL, which has `get_model_object`.
    """
    sampling = sampling_of(model.get_model_object("model_sampling"))
    latent = known_format(model.get_model_object("latent_format")) or LatentFormat()
    return NodeModel(DiffusionModel("ComfyUI's model", _outside_of_a_run, sampling, latent, size=(0, 0)))


def known_format(latent_format: Any) -> LatentFormat | None:
    """The latent format of the class's name; None for one that we do not know."""
    return formats().get(type(latent_format).__name__)


def keeps_clean(latent_format: Any) -> bool:
    """Whether networks of this format are shown what a mask keeps without noise: LTX-Video, Hunyuan Video, Wan 2.2 5B.

    Args:
        latent_format: ComfyUI's latent format.
    """
    name = type(latent_format).__name__
    return name in {each.latent_format for each in families().values() if each.inpaint_source == "latent"}


def sampling_of(model_sampling: Any) -> Sampling:
    """The noise levels and the process of a `model_sampling`; its prediction is hidden in the guider.

    Args:
        model_sampling: It has sigmas, timestep, sigma, percent_to_sigma and noise_scaling.

    Raises:
        ValueError: It adds noise by another rule than x = L + σ n or x = (1 − σ) L + σ n.
    """
    table: Tensor = model_sampling.sigmas.detach().cpu().float()

    def asked(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def answer(values: Tensor) -> Tensor:
            flat = values.detach().flatten().float().to(model_sampling.sigmas.device)
            return function(flat).detach().cpu().double().reshape(values.shape)

        return answer

    levels = Levels(
        table, asked(model_sampling.timestep), asked(model_sampling.sigma),
        lambda percent: float(model_sampling.percent_to_sigma(percent)),
    )  # fmt: skip
    return Sampling(_hidden, levels, process_of(model_sampling))


def process_of(model_sampling: Any) -> Process:
    """The noise process, from what `noise_scaling` makes of a latent of 1 and of noise of 1; errors as above."""
    one = torch.ones(1, 1, 1, 1)

    def mixed(sigma: float, noise: Tensor, latent: Tensor, most: bool) -> float:
        level = torch.tensor(sigma)
        return float(model_sampling.noise_scaling(level, noise.clone(), latent.clone(), most))

    signal, noise = mixed(PROBE, 0 * one, one, False), mixed(PROBE, one, 0 * one, False)
    if noise == PROBE and signal == 1 - PROBE:
        middle = float(model_sampling.percent_to_sigma(0.5))  # s/(1 + s) under a time shift of s
        return Flow(middle / (1 - middle))
    if noise == PROBE and signal == 1:
        most = float(model_sampling.sigmas[-1])
        pure = mixed(most, one, 0 * one, True)
        return VE(most) if abs(pure - most) > 1e-7 * most else VE()
    raise ValueError(
        f"the model adds noise by an unknown rule: at σ = {PROBE} its latent counts {signal:g} and its noise "
        f"{noise:g}; samplers know 1 and {PROBE} (variance exploding), and {1 - PROBE} and {PROBE} (rectified flow)"
    )


def _outside_of_a_run(module: Any, x: Tensor, t: Tensor, cond: Any) -> NoReturn:
    raise RuntimeError("ComfyUI's guider calls the network: give the sampler to SamplerCustom or SamplerCustomAdvanced")


def _hidden(sigma: Sigma) -> Preconditioning:
    raise RuntimeError("ComfyUI's guider knows the prediction: it answers the clean latent")


@dataclass(frozen=True)
class Guided:
    """ComfyUI's guider as a denoiser: it is called with one level per sample and answers the guided clean latent.

    Args:
        model: The guider, `model_wrap`.
        options: Keyword arguments of its calls: model_options and seed.
    """

    model: Callable[..., Tensor]
    options: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False)

    def __call__(self, x: Latent, sigma: Sigma, ctx: Ctx) -> Pred:
        seen: list[Latent] = []

        def watch(args: Mapping[str, Any]) -> Latent:
            if args.get("uncond") is not None:  # else the guider has no negative prompt, and gives zeros
                seen.append(args["uncond_denoised"])
            return args["denoised"]

        options = dict(self.options.get("model_options") or {})
        options["sampler_post_cfg_function"] = [*options.get("sampler_post_cfg_function", ()), watch]
        if ctx.need_uncond:
            options["disable_cfg1_optimization"] = True
        x0 = self.model(x, rows(sigma, x), **{**self.options, "model_options": options})
        if ctx.need_uncond and not seen:
            raise ValueError("this sampler needs a negative prompt: use CFGGuider or SamplerCustom, not BasicGuider")
        return Pred(x0, uncond=seen[-1] if seen else None)


def rows(sigma: Sigma, x: Latent) -> Tensor:
    """One level per sample [B], as networks are given it: float32 on the latent's device.

    Raises:
        ValueError: Levels vary within a sample.
    """
    if not sigma.ndim:
        return sigma.float().to(x.device).expand(len(x)).clone()
    levels = per_sample(sigma)
    if levels is None:
        raise ValueError(f"ComfyUI's models take one noise level per sample; got a field {tuple(sigma.shape)}")
    return levels.float().to(x.device).expand(len(x)).clone()
