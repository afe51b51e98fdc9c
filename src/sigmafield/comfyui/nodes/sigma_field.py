"""Our own nodes: a denoise strength for every position, and runs that are stopped and go on elsewhere."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

from torch import Tensor

from sigmafield.comfyui.context import Context, Shown, Stepped, stepped
from sigmafield.comfyui.declare import node
from sigmafield.comfyui.names import SamplerName, SchedulerName, our_name
from sigmafield.comfyui.sampling import NamedSampler, Seeded, guided, opened, sampled
from sigmafield.comfyui.saving import located, place, stays_below
from sigmafield.comfyui.sockets import Input, Socket
from sigmafield.comfyui.tiles import Quadtree
from sigmafield.comfyui.values import Conditioning, Guider, Latent, Mask, Model, Noise, Sampler, Sigmas
from sigmafield.comfyui.widgets import Cfg, Drawn, Share, StepCount, StepIndex
from sigmafield.core.protocols import State
from sigmafield.core.registry import Spec
from sigmafield.recipes.ksampler import ksampler_sigmas
from sigmafield.runs.checkpoint import load_state, moved, state_bytes
from sigmafield.spatial.sigma_field import by_steps, by_timestep, delayed, field_from_mask

PACK = "custom_nodes.sigmafield"
CATEGORY = "sampling/sigmafield"
Quad = Annotated[Quadtree, Socket("QUADTREE")]
StateValue = Annotated[State, Socket("SAMPLING_STATE")]
"""A state of a run, between two steps."""


def field(sigmas: Tensor, strengths: Tensor, latent: Latent) -> Tensor:
    """The levels of each position of a latent, which joins the schedule later the smaller its strength is."""
    return field_from_mask(delayed(sigmas), strengths, latent["samples"].shape[2:])


@node("SigmaFieldFromMask", f"{CATEGORY}", title="Sigma Field From Mask", module=PACK)
def sigma_field_from_mask(
    model: Model, sigmas: Sigmas, mask: Mask, latent: Latent, join: Literal["steps", "timesteps"] = "steps"
) -> Sigmas:
    """Levels for every position of a latent: a mask says which share of the schedule each takes part in.

    Args:
        model: The model, whose clock the timesteps are.
        sigmas: The whole schedule.
        mask: Denoise strengths: 0 keeps the latent, 1 draws all of it new.
        latent: The latent that will be sampled.
        join: Whether the strength is a share of the steps, or of the way through the model's timesteps.
    """
    steps = by_steps(len(sigmas) - 1) if join == "steps" else by_timestep(model.network.sampling.levels, sigmas)
    return field_from_mask(delayed(sigmas, steps), mask, latent["samples"].shape[2:])


@node("SigmaFieldFromTiles", f"{CATEGORY}", title="Sigma Field From Tiles", module=PACK)
def sigma_field_from_tiles(sigmas: Sigmas, quadtree: Quad, latent: Latent) -> Sigmas:
    """Levels for every position of a latent from the strengths of a quadtree's tiles.

    Args:
        sigmas: The whole schedule.
        quadtree: The tiles, of an image of the size that is drawn.
        latent: The latent that will be sampled.
    """
    return field(sigmas, quadtree.mask(), latent)


@node("SigmaFieldKSampler", f"{CATEGORY}", title="KSampler (Sigma Field)", module=PACK)
def sigma_field_ksampler(
    model: Model,
    seed: Drawn = 0,
    steps: StepCount = 20,
    cfg: Cfg = 8.0,
    *,
    sampler_name: SamplerName,
    scheduler: SchedulerName,
    positive: Conditioning,
    negative: Conditioning,
    latent_image: Latent,
    strengths: Mask,
    denoise: Share = 1.0,
    context: Context = Context(),
) -> Stepped[Latent]:
    """Denoises every position, or every tile, of a latent with a strength of its own, exactly.

    Args:
        model: The model.
        seed: Seed of the noise.
        steps: Number of steps.
        cfg: Scale of classifier-free guidance.
        sampler_name: The sampler.
        scheduler: The schedule.
        positive: What to draw.
        negative: What to avoid.
        latent_image: The latent of an image.
        strengths: Share of the schedule that each position takes part in: 0 keeps it.
        denoise: Share of the schedule that a strength of 1 stands for.
        context: The step to go on from.
    """
    name = our_name(sampler_name)
    sigmas = ksampler_sigmas(model.network.sampling.levels, name, scheduler, steps, denoise)
    levels = field(sigmas, strengths, latent_image) if len(sigmas) else sigmas
    guider, sampler = guided(model, positive, negative, cfg), NamedSampler(Spec(name))
    out, _ = yield from sampled(guider, Seeded(seed), sampler, levels, latent_image, context)
    return out


@node("SampleToStep", f"{CATEGORY}", title="Sample To Step", outputs=("state", "denoised_output"), module=PACK)
def sample_to_step(
    noise: Noise,
    guider: Guider,
    sampler: Sampler,
    sigmas: Sigmas,
    latent_image: Latent,
    step: StepIndex = 10,
    context: Context = Context(),
) -> Stepped[tuple[StateValue, Latent]]:
    """Runs a sampler up to a step and gives its state, from which ResumeSampling goes on bit-exactly.

    Args:
        noise: The noise.
        guider: Model, prompts and guidance.
        sampler: The sampler.
        sigmas: The noise levels.
        latent_image: Where to begin.
        step: Number of steps to take.
        context: The step to go on from.
    """
    framed = opened(guider, noise, sampler, sigmas, latent_image)
    if framed is None:
        raise ValueError("sigmas must have levels, for a state between two steps")
    state = context.state or framed.start
    steps = stepped(framed.run, state, context, framed.latents)
    while state.i < step and not framed.run.done(state):
        progress = next(steps)
        assert progress.state is not None
        yield progress
        state = progress.state
    return state, {**latent_image, "samples": framed.sampled(state).denoised.cpu()}


@node("ResumeSampling", f"{CATEGORY}", title="Resume Sampling", outputs=("output", "denoised_output"), module=PACK)
def resume_sampling(
    noise: Noise,
    guider: Guider,
    sampler: Sampler,
    sigmas: Sigmas,
    latent_image: Latent,
    state: StateValue,
    context: Context = Context(),
) -> Stepped[tuple[Latent, Latent]]:
    """Takes the remaining steps of a run from a state; all else must be as it was.

    Args:
        noise: The noise.
        guider: Model, prompts and guidance.
        sampler: The sampler.
        sigmas: The noise levels.
        latent_image: Where the run began.
        state: The state.
        context: The step to go on from.
    """
    own = moved(state, guider.model.network.device)
    going_on = replace(context, state=context.state or own)
    return (yield from sampled(guider, noise, sampler, sigmas, latent_image, going_on))


@node("SaveSamplingState", f"{CATEGORY}", title="Save Sampling State", shows=True, module=PACK, validate=stays_below)
def save_sampling_state(
    state: StateValue, filename_prefix: str = "states/sigmafield", context: Context = Context()
) -> Shown[None]:
    """Saves a state into the output folder.

    Args:
        state: The state.
        filename_prefix: Path of the file below the folder, up to the counter.
        context: Where the folder is.
    """
    where = place(filename_prefix, context.folders.output)
    return Shown(None, {"states": [where.save(0, "_.safetensors", state_bytes(state))]})


@node("LoadSamplingState", f"{CATEGORY}", title="Load Sampling State", module=PACK)
def load_sampling_state(
    file: Annotated[str, Input(placeholder="states/sigmafield_00001_.safetensors [output]")],
    context: Context = Context(),
) -> StateValue:
    """Loads a state.

    Args:
        file: A file in the input folder, or "name [output]".
        context: Where the folders are.
    """
    return load_state(located(file, context.folders))[0]
