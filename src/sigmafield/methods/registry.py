"""The table of methods: what each one is called, what it needs and what it promises."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from sigmafield.grid import Grid
from sigmafield.maths import named, near_miss
from sigmafield.types import Step

NoiseKind = Literal["none", "churn", "gaussian", "gaussian_pair", "brownian", "brownian_device"]


@dataclass(frozen=True)
class Method:
    """A named method: its step function with preset parameters, and its row in the table.

    order: of convergence without noise; evals: network evaluations a step (most);
    noise: the source that ComfyUI gives it (none; churn: the stream of the initial noise, and only with
    s_churn > 0; gaussian: a stream of its own; gaussian_pair: one for steps and one for their stages, and only with
    eta > 0; brownian: a Brownian path drawn on the CPU or on the device);
    adaptive: chooses its own steps, each `step` is an attempt; linear: in x, predictions and noises;
    need_uncond: uses the unconditional prediction (CFG++); grid: what it does to the schedule first;
    stops_early: at the last level above 0, so that x keeps its noise.
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
    grid: Callable[[Grid], Grid] | None = None
    params: Mapping[str, Any] = field(default_factory=dict)

    @property
    def defaults(self) -> dict[str, Any]:
        """All parameters with their default values: the keyword-only arguments of the step function."""
        signature = inspect.signature(self.step).parameters.values()
        own = {p.name: p.default for p in signature if p.kind is inspect.Parameter.KEYWORD_ONLY}
        return own | dict(self.params)

    def check(self, params: Mapping[str, Any]) -> None:
        """Raise ValueError for a parameter that this method does not have."""
        for name in params:
            if name not in self.defaults:
                raise ValueError(f"{self.name} has no parameter {name!r}{near_miss(name, self.defaults)}")


METHODS: dict[str, Method] = {}
"""Every method by name, in the order of registration."""


def method(name: str, **row: Any) -> Callable[[Callable[..., Step]], Callable[..., Step]]:
    """Register the decorated step function under `name` with the given row."""

    def register(step: Callable[..., Step]) -> Callable[..., Step]:
        METHODS[name] = Method(name=name, step=step, **row)
        return step

    return register


def preset(name: str, *, of: str, row: Mapping[str, Any] | None = None, **params: Any) -> None:
    """Register `name` as method `of` with other defaults, and where needed another `row`."""
    base = METHODS[of]
    base.check(params)
    METHODS[name] = replace(base, name=name, params={**base.params, **params}, **(row or {}))


def lookup(name: str) -> Method:
    """The method of that name; ValueError with the near miss if there is none."""
    return named(METHODS, name, "sampler")
