"""The nodes that run a sampler themselves, as they run inside ComfyUI: its guider opens and closes the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import uuid4

from torch import Tensor

from sigmafield.comfyui.context import Context, Outcome
from sigmafield.comfyui.names import our_name
from sigmafield.comfyui.pack.host import Callback, progress
from sigmafield.comfyui.pack.model import known_format, node_model
from sigmafield.comfyui.pack.sampler import HostSampler, begin, ours, starts_pure, walked
from sigmafield.comfyui.sampling import NamedSampler, SamplerValue
from sigmafield.comfyui.wrapped_samplers import FieldSampler
from sigmafield.core.protocols import State
from sigmafield.core.registry import Spec
from sigmafield.recipes.ksampler import ksampler_sigmas, repaired
from sigmafield.runs.checkpoint import moved


@dataclass(eq=False)
class Part:
    """A SAMPLER that goes on from a state, or stops at a step, and keeps the state that it has come to.

    Args:
        value: The sampler.
        resumed: The state to go on from; None: the start.
        until: The step at which it stops; None: at the end.
        reached: The state that it has come to.
    """

    value: SamplerValue
    resumed: State | None = None
    until: int | None = None
    reached: State | None = field(default=None, init=False)

    def max_denoise(self, model_wrap: Any, sigmas: Tensor) -> bool:
        """As for `HostSampler`."""
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
        """The clean latent of the state that it has come to; arguments as for `HostSampler.sample`."""
        if self.resumed is not None and self.resumed.x.shape != noise.shape:
            shapes = tuple(self.resumed.x.shape), tuple(noise.shape)
            raise ValueError(f"state is that of a latent {shapes[0]}, and latent_image is {shapes[1]} here")
        begun = begin(self.value, model_wrap, sigmas, extra_args, noise, latent_image, denoise_mask)
        last = begun.start if self.resumed is None else moved(self.resumed, noise.device)
        if self.until is None or last.i < self.until:
            for state in walked(begun, last, callback):
                last = state
                if last.i == self.until:
                    break
        self.reached = replace(moved(last, "cpu"), pred=None)
        if self.until is None:
            return begun.run.result(last)
        return last.x if last.pred is None else last.pred.x0


def sample_to_step(inputs: Mapping[str, Any], context: Context) -> Outcome:
    """SampleToStep: the state after a number of steps, and the clean latent that the network sees there."""
    part = Part(ours(inputs["sampler"], "SampleToStep"), until=inputs["step"])
    if not len(inputs["sigmas"]):
        raise ValueError("sigmas must have levels, for a state between two steps")
    latent, _ = sampled(part, inputs)
    return Outcome((part.reached, latent))


def resume_sampling(inputs: Mapping[str, Any], context: Context) -> Outcome:
    """ResumeSampling: the remaining steps from a state on."""
    part = Part(ours(inputs["sampler"], "ResumeSampling"), resumed=inputs["state"])
    return Outcome(sampled(part, inputs))


def sampled(part: Part, inputs: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a guider gives with a sampler: (the latent, the clean latent that the last step's network call saw).

    Args:
        part: The sampler.
        inputs: noise, guider, sigmas and latent_image, as SamplerCustomAdvanced has them.
    """
    noise, guider, sigmas, latent = (inputs[key] for key in ("noise", "guider", "sigmas", "latent_image"))
    form = known_format(guider.model_patcher.get_model_object("latent_format"))
    samples = latent["samples"] if form is None else repaired(latent["samples"], form)
    shown, seen = progress(max(len(sigmas) - 1, 1), form), list[Tensor]()

    def callback(i: int, x0: Tensor, x: Tensor, total: int) -> None:
        seen[:] = [x0]
        shown(i, x0, x, total)

    out = guider.sample(
        noise.generate_noise({**latent, "samples": samples}), samples, part, sigmas,
        denoise_mask=latent.get("noise_mask"), callback=callback, disable_pbar=True, seed=noise.seed,
    ).cpu()  # fmt: skip
    denoised = guider.model_patcher.model.process_latent_out(seen[0].float().cpu()) if seen else out
    return {**latent, "samples": out}, {**latent, "samples": denoised}


def sigma_field_ksampler(inputs: Mapping[str, Any], context: Context) -> Outcome:
    """SigmaFieldKSampler: a graph of SamplerCustom, with our sampler and levels."""
    name, model = our_name(inputs["sampler_name"]), node_model(inputs["model"]).network
    levels = ksampler_sigmas(model.sampling.levels, name, inputs["scheduler"], inputs["steps"], inputs["denoise"])
    given = {key: inputs[key] for key in ("model", "cfg", "positive", "negative", "latent_image")}
    sampler = HostSampler(FieldSampler(NamedSampler(Spec(name)), inputs["strengths"]))
    given |= {"add_noise": True, "noise_seed": inputs["seed"], "sampler": sampler, "sigmas": levels.float()}
    node = uuid4().hex
    return Outcome(([node, 0],), graph={node: {"class_type": "SamplerCustom", "inputs": given}})


CALLS = {
    "SampleToStep": sample_to_step,
    "ResumeSampling": resume_sampling,
    "SigmaFieldKSampler": sigma_field_ksampler,
}
"""What is run inside ComfyUI in place of a node's own function."""
