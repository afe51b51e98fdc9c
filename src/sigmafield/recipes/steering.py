"""What steers a run, loaded: the networks that read images, and the images that the network attends to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ParamSpec, Protocol, TypeVar, runtime_checkable

from torch import Tensor

from sigmafield.core.conditioning import Control, ImagePrompt
from sigmafield.models.bundle import Pipeline
from sigmafield.models.diffusion_model import no_controls
from sigmafield.models.load_parts import load_control, load_ip_adapter, load_vision
from sigmafield.recipes.inputs import Inputs
from sigmafield.recipes.options import AdapterImage
from sigmafield.recipes.recipe import Recipe

P = ParamSpec("P")
T = TypeVar("T")


@runtime_checkable
class Loading(Protocol):
    """Calls a function that loads something, or gives what an equal call has loaded."""

    def __call__(self, load: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...


def each_time(load: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Loads at each call."""
    return load(*args, **kwargs)


@dataclass(frozen=True)
class Steering:
    """What steers a run.

    Args:
        controls: Images that side networks read, for all conditionings.
        shown: Images that prompts attend to.
        nothing: What negative prompts attend to in their place.
    """

    controls: Sequence[Control] = ()
    shown: Sequence[ImagePrompt] = ()
    nothing: Sequence[ImagePrompt] = ()


def steering_of(recipe: Recipe, inputs: Inputs, pipe: Pipeline, loading: Loading = each_time) -> Steering:
    """What steers a recipe, on the pipeline's device in its network's dtype.

    Args:
        recipe: `controls` and `ip_adapters`.
        inputs: Their images.
        pipe: The model that they steer.
        loading: How networks are loaded: at each call, or once for all.

    Raises:
        ValueError: The model takes no controls or no IP-Adapter, or a network is not supported.
    """
    if recipe.controls and pipe.model.controls is None:
        raise no_controls(pipe.model.name)
    dtype = getattr(pipe.model.module, "dtype", None)

    controls = [
        Control(
            loading(load_control, entry.net, device=pipe.device, dtype=dtype, kind=entry.kind, pipe=pipe),
            hint.to(pipe.device),
            entry.strength,
            (entry.start, entry.end),
        )
        for entry, hint in zip(recipe.controls, inputs.hints)
    ]
    prompts = [attended(entry, image, pipe, loading) for entry, image in zip(recipe.ip_adapters, inputs.attended)]
    return Steering(controls, [shown for shown, _ in prompts], [nothing for _, nothing in prompts])


def attended(entry: AdapterImage, image: Tensor, pipe: Pipeline, loading: Loading) -> tuple[ImagePrompt, ImagePrompt]:
    """Gives what prompts and what negative prompts attend to, for one of a recipe's IP-Adapters.

    Args:
        entry: The IP-Adapter.
        image: Its image [B, 3, H, W] in [0, 1].
        pipe: The model that it is for.
        loading: How networks are loaded.

    Raises:
        ValueError: The model takes no IP-Adapter, or the adapter or its encoder does not fit.
    """
    adapter = loading(load_ip_adapter, entry.net, pipe)
    encoder = loading(load_vision, entry.encoder, device=pipe.device)
    weight = dict.fromkeys(entry.layers, entry.strength) if entry.layers else entry.strength
    return adapter.prompts(encoder, image.movedim(1, -1), weight, window=(entry.start, entry.end))
