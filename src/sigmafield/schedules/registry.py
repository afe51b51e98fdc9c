"""The table of schedules: what each one is called, what it needs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from sigmafield.levels import Levels
from sigmafield.maths import named, near_miss


@dataclass(frozen=True)
class Schedule:
    """A named schedule, with the paper that it is from.

    make: f(steps, levels), f(steps, sigma_min, sigma_max) or f(steps), with keyword parameters after these;
    network: what its numbers are for: any, a flow (σ ≤ 1) or ve, variance exploding (σ up to 14.6 and more).
    """

    name: str
    make: Callable[..., Tensor]
    paper: str
    network: Literal["any", "flow", "ve"] = "any"

    @property
    def defaults(self) -> dict[str, Any]:
        """Parameters with their default values; the ends of those that take ends are the network's: None here."""
        parameters = inspect.signature(self.make).parameters.values()
        return {
            p.name: None if p.default is inspect.Parameter.empty else p.default
            for p in parameters
            if p.name not in ("steps", "levels")
        }

    def check(self, params: Mapping[str, Any]) -> None:
        """Raise ValueError for a parameter that this schedule does not have."""
        for name in params:
            if name not in self.defaults:
                raise ValueError(f"the schedule {self.name} has no parameter {name!r}{near_miss(name, self.defaults)}")

    def __call__(self, steps: int, levels: Levels, **params: Any) -> Tensor:
        """Noise levels for `steps` ≥ 1 steps of a network that knows `levels`: float64, descending.

        Raises ValueError for fewer steps, an unknown parameter, and a network that the numbers are not for.
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


SCHEDULES: dict[str, Schedule] = {}
"""Every named schedule."""


def schedule(
    name: str, paper: str, network: Literal["any", "flow", "ve"] = "any"
) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Register the decorated function under `name`."""

    def register(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
        SCHEDULES[name] = Schedule(name, make, paper, network)
        return make

    return register


def lookup(name: str) -> Schedule:
    """The schedule of that name; ValueError with the near miss if there is none."""
    return named(SCHEDULES, name, "scheduler")


def to_zero(sigmas: Tensor) -> Tensor:
    """The levels rounded to float32, as the reference has them, in float64 and with the final 0."""
    return torch.cat([sigmas.float().double(), torch.zeros_like(sigmas[:1], dtype=torch.float64)])
