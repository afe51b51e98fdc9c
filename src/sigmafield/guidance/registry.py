"""The table of mods: what each one is called, where it acts, what it takes, and how they are written in a line.

rescale(multiplier=0.7)+cfg_norm          names with parameters, joined by +, in the order in which they act
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, get_args

from torch import nn

from sigmafield.core.parameters import Parameter, check, keywords
from sigmafield.core.registry import Registry, parse_specs
from sigmafield.guidance.hooks import Mods, classifier_free

Stage = Literal["around", "scale", "model", "network", "against", "before", "combine", "after"]


@dataclass(frozen=True)
class Mod:
    """A named mod: its function, and its row in the table.

    stage: which hook of `Mods` it is; evals: network evaluations that it adds to a call; need_uncond: whether the
    negative prompt has to be evaluated at any scale; fits: raises ValueError for a torch module in which it has nothing
    to act on, None for mods that leave the network alone. What `fits` takes by keyword are the mod's own parameters.
    beside: hooks of other stages that go with it, without parameters. one_sigma: σ must not vary within a sample.
    """

    name: str
    apply: Callable[..., Any]
    stage: Stage
    paper: str
    evals: int = 0
    need_uncond: bool = False
    fits: Callable[..., Any] | None = None
    beside: Mapping[Stage, Callable[..., Any]] = field(default_factory=dict)
    one_sigma: bool = False

    @property
    def parameters(self) -> dict[str, Parameter]:
        """All parameters by name: the keyword-only arguments of the function."""
        return keywords(self.apply)

    @property
    def defaults(self) -> dict[str, Any]:
        """All parameters with their default values."""
        return {name: parameter.default for name, parameter in self.parameters.items()}

    def __call__(self, **params: Any) -> Callable[..., Any]:
        """The hook with these parameters; ValueError for one that it does not have, or a value out of range."""
        return partial(self.apply, **check(self.name, self.parameters, params))

    def fitting(self, params: Mapping[str, Any]) -> Callable[[nn.Module], Any] | None:
        """`fits` for these parameters and the defaults of the others."""
        if self.fits is None:
            return None
        values = {**self.defaults, **params}
        return partial(self.fits, **{name: values[name] for name in keywords(self.fits)})


MODS: Registry[Mod] = Registry("guidance mod")
"""Every mod by name, in the order of registration."""


def mod(name: str, stage: Stage, paper: str, **row: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register the decorated function under `name`; its keyword-only arguments are the mod's parameters.

    row: the further fields of `Mod`.
    """

    def register(apply: Callable[..., Any]) -> Callable[..., Any]:
        MODS.add(Mod(name, apply, stage, paper, **row))
        return apply

    return register


def parse_mods(text: str) -> Mods:
    """Mods as they are written in a line, "apg(eta=0.5, norm_threshold=5)+rescale(multiplier=0.7)"; "": none.

    Those of a stage act in the order in which they are written. Raises ValueError for what is no such line, unknown
    names and parameters, values out of range, a mod given twice, and two that take the place of D = U + cfg (C − U).
    """
    found: dict[str, dict[str, Callable[..., Any]]] = {}
    fits: list[Callable[[nn.Module], Any]] = []
    for spec in parse_specs(text, "guidance", "apg(eta=0.5)+rescale(multiplier=0.7)"):
        name, params = spec.name, spec.params
        row = MODS.lookup(name)
        hook = row(**params)
        if name in found:
            raise ValueError(f"guidance has {name} twice; each acts once")
        found[name] = {row.stage: hook, **row.beside}
        fits += filter(None, [row.fitting(params)])
    rows = [MODS[name] for name in found]
    hooks = {stage: tuple(by[stage] for by in found.values() if stage in by) for stage in get_args(Stage)}
    instead = hooks.pop("combine")
    if len(instead) > 1:
        names = [row.name for row in rows if row.stage == "combine"]
        raise ValueError(f"{' and '.join(names)} each take the place of U + cfg (C - U): leave all but one out")
    return Mods(
        combine=instead[0] if instead else classifier_free,
        need_uncond=any(row.need_uncond for row in rows),
        fits=tuple(fits),
        evals=sum(row.evals for row in rows),
        one_sigma=tuple(row.name for row in rows if row.one_sigma),
        **hooks,
    )
