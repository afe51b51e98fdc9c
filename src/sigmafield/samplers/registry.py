"""The table of samplers: what each one is called, what it needs and what it promises."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sigmafield.core.grid import Grid
from sigmafield.core.memory import Memory
from sigmafield.core.parameters import Parameter, check, keywords
from sigmafield.core.process import Span
from sigmafield.core.protocols import Step
from sigmafield.core.registry import Registry
from sigmafield.noise.policy import NoiseKind

Params = Mapping[str, Any]
"""Values of a step function's keyword parameters, by name."""


@dataclass(frozen=True)
class Pace:
    """How far a sampler that chooses its own steps has come. Its interval is always the first one, the whole run.

    Args:
        done: (memory, interval) → whether the run has ended.
        progress: (memory, interval) → share of the run that is done, 0 … 1, while it has not ended.
    """

    done: Callable[[Memory, Span], bool]
    progress: Callable[[Memory, Span], float]


def adds_noise(params: Params) -> bool:
    """Whether a sampler draws noise whose share is `eta` and whose factor is `s_noise`, both 1 where not given."""
    return params.get("eta", 1.0) > 0 and params.get("s_noise", 1.0) > 0


@dataclass(frozen=True)
class Sampler:
    """A named sampler: its step function with preset parameters, and its row in the table.

    Args:
        name: Its name, as in ComfyUI where it has one.
        step: The step function.
        order: Order of convergence without noise.
        evals: Network evaluations of a step, at most.
        paper: Where it was published.
        noise: Kind of the noise source that ComfyUI gives it, see `sigmafield.noise.policy`.
        pace: Set for a sampler that chooses its own steps: each step is an attempt.
        linear: Whether x' is linear in x, the predictions and the noises.
        need_uncond: Whether it uses the unconditional prediction, as CFG++ does.
        stops_early: Whether it stops at the last level above 0, so that x keeps its noise.
        grid: Changes the schedule before the run, given the values of all parameters.
        params: Parameters that differ from the step function's defaults.
        fixed: Names of parameters that keep their values.
        noisy: Whether noise is drawn with these parameters; only asked where `noise` is not "none".
    """

    name: str
    step: Callable[..., Step]
    order: int
    evals: int
    paper: str
    noise: NoiseKind = "none"
    pace: Pace | None = None
    linear: bool = True
    need_uncond: bool = False
    stops_early: bool = False
    grid: Callable[[Grid, Params], Grid] | None = None
    params: Params = field(default_factory=dict[str, Any])
    fixed: tuple[str, ...] = ()
    noisy: Callable[[Params], bool] = adds_noise

    @property
    def adaptive(self) -> bool:
        """Whether it chooses its own steps."""
        return self.pace is not None

    @property
    def parameters(self) -> dict[str, Parameter]:
        """The parameters that may be set, by name, with this sampler's defaults."""
        own = {name: p for name, p in keywords(self.step).items() if name not in self.fixed}
        return own | {name: replace(own[name], default=v) for name, v in self.params.items() if name in own}

    @property
    def defaults(self) -> dict[str, Any]:
        """The defaults of the parameters that may be set."""
        return {name: parameter.default for name, parameter in self.parameters.items()}

    @property
    def values(self) -> dict[str, Any]:
        """The values of all parameters: defaults, and those that are fixed."""
        return self.defaults | dict(self.params)

    def check(self, params: Params) -> dict[str, Any]:
        """The given parameters as Python's own numbers; those that are fixed may be given with their fixed values.

        Raises:
            ValueError: The sampler has no such parameter, or a value has another type or is out of range.
        """
        kept = {name: value for name, value in params.items() if name in self.fixed and value == self.params[name]}
        return kept | check(self.name, self.parameters, {k: v for k, v in params.items() if k not in kept})

    def draws(self, params: Params) -> bool:
        """Whether a run with these parameters asks for noise."""
        return self.noise != "none" and self.noisy({**self.values, **params})


SAMPLERS: Registry[Sampler] = Registry("sampler")
"""Every sampler by name, in the order of registration."""


def sampler(name: str, **row: Any) -> Callable[[Callable[..., Step]], Callable[..., Step]]:
    """Register the decorated step function under `name`; `row` holds the other fields of its `Sampler`."""

    def register(step: Callable[..., Step]) -> Callable[..., Step]:
        SAMPLERS.add(Sampler(name=name, step=step, **row))
        return step

    return register


def preset(name: str, *, of: str, row: Mapping[str, Any] | None = None, **params: Any) -> None:
    """Register `name` as the sampler `of` with other parameters, and with other fields of its row where needed."""
    base = SAMPLERS[of]
    SAMPLERS.add(replace(base, name=name, params={**base.params, **base.check(params)}, **(row or {})))
