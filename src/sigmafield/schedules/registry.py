"""The table of schedules: the name of each one and what it needs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Any, Literal, ParamSpec

import torch
from torch import Tensor

from sigmafield.core.parameters import Parameter, check, parameters
from sigmafield.core.registry import Registry
from sigmafield.parameterization.timesteps import Levels

P = ParamSpec("P")


@dataclass(frozen=True)
class Schedule:
    """A named schedule and its source.

    Args:
        name: Name in the registry.
        make: f(steps, levels), f(steps, sigma_min, sigma_max) or f(steps), followed by keyword parameters.
        paper: Source of the schedule.
        network: Networks its numbers are for: "any", "flow" (σ ≤ 1) or "ve", variance exploding (σ up to 14.6 and
            more).
    """

    name: str
    make: Callable[..., Tensor]
    paper: str
    network: Literal["any", "flow", "ve"] = "any"

    @property
    def parameters(self) -> dict[str, Parameter]:
        """All parameters by name; the default of sigma_min and sigma_max is None here and stands for the network's."""
        return {p.name: p for p in parameters(self.make, _of_its_own)}

    @property
    def defaults(self) -> dict[str, Any]:
        """All parameters with their default values."""
        return {name: parameter.default for name, parameter in self.parameters.items()}

    def check(self, params: Mapping[str, Any]) -> None:
        """Check values of parameters.

        Args:
            params: Values by name.

        Raises:
            ValueError: If the schedule does not have a parameter, or a value is out of its range.
        """
        check(f"the schedule {self.name}", self.parameters, params)

    def __call__(self, steps: int, levels: Levels, **params: Any) -> Tensor:
        """Noise levels for a network, float64, descending.

        Args:
            steps: Number of steps, at least 1.
            levels: Levels that the network knows.
            **params: Parameters of the schedule.

        Raises:
            ValueError: If steps is below 1, a parameter is unknown or out of range, or the numbers are not for this
                network.
        """
        if steps < 1:
            raise ValueError(f"steps must be ≥ 1; got {steps}")
        self.check(params)
        if self.network != "any" and self.network != ("flow" if levels.sigma_max <= 1 else "ve"):
            kind = "flows, whose noise levels end at 1" if self.network == "flow" else "variance exploding networks"
            raise ValueError(f"the schedule {self.name} is for {kind}; this network's go up to {levels.sigma_max:g}")
        given: dict[str, Any] = {}
        if "sigma_min" in self.defaults:
            given = {"sigma_min": levels.sigma_min, "sigma_max": levels.sigma_max}
        elif "levels" in inspect.signature(self.make).parameters:
            given = {"levels": levels}
        return self.make(steps, **{**given, **params})


def _of_its_own(argument: inspect.Parameter) -> bool:
    return argument.name not in ("steps", "levels")


SCHEDULES: Registry[Schedule] = Registry("schedule")
"""Every named schedule."""


def schedule(
    name: str, paper: str, network: Literal["any", "flow", "ve"] = "any"
) -> Callable[[Callable[P, Tensor]], Callable[P, Tensor]]:
    """Register the decorated function as a schedule; the registered function checks its parameters.

    Args:
        name: Name in the registry.
        paper: Source of the schedule.
        network: Networks its numbers are for, see `Schedule`.
    """

    def register(make: Callable[P, Tensor]) -> Callable[P, Tensor]:
        @wraps(make)
        def checked(*args: P.args, **kwargs: P.kwargs) -> Tensor:
            given = inspect.signature(make).bind(*args, **kwargs).arguments
            SCHEDULES[name].check({key: value for key, value in given.items() if key not in ("steps", "levels")})
            return make(*args, **kwargs)

        SCHEDULES.add(Schedule(name, checked, paper, network))
        return checked

    return register


def to_zero(sigmas: Tensor) -> Tensor:
    """The levels rounded to float32 as in the reference, as float64, with a final 0 appended."""
    return torch.cat([sigmas.float().double(), torch.zeros_like(sigmas[:1], dtype=torch.float64)])
