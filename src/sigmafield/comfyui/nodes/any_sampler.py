"""Our own nodes for every sampler and schedule of the library, with all of their parameters, and for mixed runs."""

from __future__ import annotations

from typing import Annotated, Any

from sigmafield.comfyui.declare import node
from sigmafield.comfyui.sampling import NamedSampler
from sigmafield.comfyui.sockets import Choices, Input
from sigmafield.comfyui.values import Mask, Model, Sampler, Sigmas
from sigmafield.comfyui.widgets import StepCount
from sigmafield.comfyui.wrapped_samplers import FieldSampler, Joined, MixedSampler, named_sampler
from sigmafield.core.registry import Spec
from sigmafield.runs.mixing_spec import EXAMPLE, parse_mixing
from sigmafield.samplers import SAMPLERS
from sigmafield.schedules import SCHEDULES

PACK = "custom_nodes.sigmafield"
CATEGORY = "sampling/sigmafield"
AnySamplerName = Annotated[str, Choices(lambda folders: tuple(SAMPLERS))]
AnyScheduleName = Annotated[str, Choices(lambda folders: tuple(SCHEDULES))]
Parameters = Annotated[str, Input(placeholder="eta=0.5, s_noise=1.0")]


def written(name: str, parameters: str, kind: str) -> Spec:
    """A name with the parameters of a text: "eta=0.5, solver=heun"."""
    return Spec.parse(f"{name}({parameters})" if parameters.strip() else name, kind, f"{name}(eta=0.5, s_noise=1.0)")


def sampler_fits(sampler_name: Any, parameters: Any) -> None:
    """Raises ValueError for parameters that the sampler does not take; not asked where another node gives them."""
    if isinstance(sampler_name, str) and isinstance(parameters, str):
        NamedSampler(written(sampler_name, parameters, "sampler"))


def schedule_fits(scheduler: Any, parameters: Any) -> None:
    """Raises ValueError for parameters that the schedule does not take; not asked where another node gives them."""
    if isinstance(scheduler, str) and isinstance(parameters, str):
        SCHEDULES.lookup(scheduler).check(written(scheduler, parameters, "schedule").params)


def mixing_fits(mixing: Any) -> None:
    """Raises ValueError for a text that is not a mixing; not asked where another node gives it."""
    if isinstance(mixing, str) and parse_mixing(mixing) is None:
        raise ValueError(f"mixing must begin with a curve, such as {EXAMPLE}; got an empty text")


@node("AnySampler", CATEGORY, title="Any Sampler", module=PACK, validate=sampler_fits)
def any_sampler(sampler_name: AnySamplerName = "dpmpp_2m", parameters: Parameters = "") -> Sampler:
    """A sampler of the library with its parameters, corrections of ComfyUI's quirks among them.

    Args:
        sampler_name: The sampler.
        parameters: Its parameters as name=value, with commas between them; those left out keep their defaults.
    """
    return NamedSampler(written(sampler_name, parameters, "sampler"))


@node("AnySchedule", CATEGORY, title="Any Schedule", module=PACK, validate=schedule_fits)
def any_schedule(
    model: Model, scheduler: AnyScheduleName = "karras", steps: StepCount = 20, parameters: Parameters = ""
) -> Sigmas:
    """A schedule of the library with its parameters, over the levels of a model.

    Args:
        model: The model.
        scheduler: The schedule.
        steps: Number of steps.
        parameters: Its parameters as name=value, with commas between them; those left out keep their defaults.
    """
    spec = written(scheduler, parameters, "schedule")
    return SCHEDULES.lookup(scheduler)(steps, model.network.sampling.levels, **spec.params)


@node("SigmaFieldSampler", CATEGORY, title="Sigma Field Sampler", module=PACK)
def sigma_field_sampler(sampler: Sampler, strengths: Mask, join: Joined = "steps") -> Sampler:
    """Makes a sampler denoise every position, or every tile, with a strength of its own, exactly.

    Args:
        sampler: A sampler that follows its schedule.
        strengths: Denoise strengths, resized to the latent: 0 keeps it, 1 draws all of it new.
        join: Whether the strength is a share of the steps, or of the way through the model's timesteps.
    """
    return FieldSampler(named_sampler(sampler, "SigmaFieldSampler"), strengths, join)


@node("MixedSampler", CATEGORY, title="Mixed Sampler", module=PACK, validate=mixing_fits)
def mixed_sampler(sampler: Sampler, mixing: Annotated[str, Input(placeholder=EXAMPLE)] = EXAMPLE) -> Sampler:
    """Makes a sampler blend its latent with the noised source between its steps: iterative mixing.

    Args:
        sampler: A sampler that follows its schedule.
        mixing: A curve, cosine, linear or logistic, with what is added to it: rewind, perlin.
    """
    return MixedSampler(named_sampler(sampler, "MixedSampler"), mixing)
