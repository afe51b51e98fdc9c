"""The table of samplers: what each one is called, what it needs and what it promises."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sigmafield.core.parameters import Parameter, check, keywords
from sigmafield.core.process import Grid
from sigmafield.core.protocols import Step
from sigmafield.core.registry import Registry
from sigmafield.noise.policy import NoiseKind


@dataclass(frozen=True)
class Sampler:
    """A named sampler: its step function with preset parameters, and its row in the table.

    order: of convergence without noise; evals: network evaluations a step (most);
    noise: the source that ComfyUI gives it (none; churn: the stream of the initial noise, and only with
    s_churn > 0; gaussian: a stream of its own; gaussian_pair: one for steps and one for their stages, and only with
    eta > 0; brownian: a Brownian path drawn on the CPU or on the device);
    adaptive: chooses its own steps, each `step` is an attempt; linear: in x, predictions and noises;
    need_uncond: uses the unconditional prediction (CFG++); grid: what it does to the schedule first, given the values
    of its parameters;
    stops_early: at the last level above 0, so that x keeps its noise; fixed: parameters that keep their values.
    """

    name: str
    step: Callable[..., Step]
    order: int
    evals: int
    paper: str
    noise: NoiseKind = "none"
    adaptive: bool = False
    linear: bool = True
    need_uncond: bool = False
    stops_early: bool = False
    grid: Callable[[Grid, Mapping[str, Any]], Grid] | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    fixed: tuple[str, ...] = ()

    @property
    def parameters(self) -> dict[str, Parameter]:
        """All parameters by name: the keyword-only arguments of the step function, with this sampler's defaults."""
        own = {name: p for name, p in keywords(self.step).items() if name not in self.fixed}
        return own | {name: replace(own[name], default=v) for name, v in self.params.items() if name in own}

    @property
    def values(self) -> dict[str, Any]:
        """Values of all arguments of the step function: defaults, and what is fixed."""
        return self.defaults | dict(self.params)

    @property
    def defaults(self) -> dict[str, Any]:
        """All parameters with their default values."""
        return {name: parameter.default for name, parameter in self.parameters.items()}

    def check(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The given parameters as Python's own numbers; those that are fixed may be given with their fixed values.

        Raises:
            ValueError: The sampler has no such parameter, or a value has another type or is out of range.
        """
        return check(self.name, self.parameters, {k: v for k, v in params.items() if not self._keeps(k, v)})

    def _keeps(self, name: str, value: Any) -> bool:
        return name in self.fixed and value == self.params[name]


SAMPLERS: Registry[Sampler] = Registry("sampler")
"""Every sampler by name, in the order of registration."""


def sampler(name: str, **row: Any) -> Callable[[Callable[..., Step]], Callable[..., Step]]:
    """Register the decorated step function under `name` with the given row."""

    def register(step: Callable[..., Step]) -> Callable[..., Step]:
        SAMPLERS.add(Sampler(name=name, step=step, **row))
        return step

    return register


def preset(name: str, *, of: str, row: Mapping[str, Any] | None = None, **params: Any) -> None:
    """Register `name` as sampler `of` with other defaults, and where needed another `row`."""
    base = SAMPLERS[of]
    base.check(params)
    SAMPLERS.add(replace(base, name=name, params={**base.params, **params}, **(row or {})))
