"""The rows of guidance mods: the name of each mod, the stage at which it acts, and how a text becomes hooks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, get_args

from torch import nn

from sigmafield.core.parameters import Parameter, check, keywords
from sigmafield.core.registry import Registry, Spec
from sigmafield.guidance.hooks import Mods, classifier_free

Stage = Literal["around", "scale", "model", "network", "against", "before", "combine", "after"]


@dataclass(frozen=True)
class Mod:
    """A named mod: its function, and its row in the table.

    Args:
        name: Name in the table.
        apply: The hook; its keyword-only arguments are the mod's parameters.
        stage: The field of `Mods` that the hook belongs to.
        paper: The source: an arXiv number, or the software that it is from.
        evals: Evaluations of the prompt that the mod adds to each guided prediction.
        need_uncond: Whether the negative prompt has to be evaluated at every scale.
        fits: Raises ValueError for a torch module in which the mod has nothing to act on; None for mods that leave
            the network alone. Its keyword arguments are those of the mod's parameters that it needs.
        companions: Hooks of other stages, without parameters, that belong to the mod.
        one_sigma: Whether σ must not vary within a sample.
    """

    name: str
    apply: Callable[..., Any]
    stage: Stage
    paper: str
    evals: int = 0
    need_uncond: bool = False
    fits: Callable[..., Any] | None = None
    companions: Mapping[Stage, Callable[..., Any]] = field(default_factory=dict)
    one_sigma: bool = False

    @property
    def parameters(self) -> dict[str, Parameter]:
        """All parameters by name: the keyword-only arguments of the function."""
        return keywords(self.apply)

    @property
    def defaults(self) -> dict[str, Any]:
        """The default value of each parameter."""
        return {name: parameter.default for name, parameter in self.parameters.items()}

    def __call__(self, **params: Any) -> Callable[..., Any]:
        """The hook with these parameters; ValueError for an unknown parameter or a value out of range."""
        return partial(self.apply, **check(self.name, self.parameters, params))

    def fitting(self, params: Mapping[str, Any]) -> Callable[[nn.Module], Any] | None:
        """`fits` with these parameters, and the defaults of the others."""
        if self.fits is None:
            return None
        values = {**self.defaults, **params}
        return partial(self.fits, **{name: values[name] for name in keywords(self.fits)})


GUIDANCE_MODS: Registry[Mod] = Registry("guidance mod")
"""The mods of this package by name; the table of all mods is `recipes.mods.MODS`."""


def mod(name: str, stage: Stage, paper: str, **row: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register the decorated function under a name; its keyword-only arguments are the mod's parameters.

    Args:
        name: Name in the table.
        stage: The field of `Mods` that the function belongs to.
        paper: Its source.
        row: Further fields of `Mod`.
    """

    def register(apply: Callable[..., Any]) -> Callable[..., Any]:
        GUIDANCE_MODS.add(Mod(name, apply, stage, paper, **row))
        return apply

    return register


def mods_of(specs: Iterable[Spec], rows: Registry[Mod]) -> Mods:
    """The hooks of some mods; those of one stage act in the order of the specs, companions before them.

    Args:
        specs: Names with parameters.
        rows: The table in which the names are looked up.

    Raises:
        ValueError: A name or parameter is unknown, a value is out of range, a mod is given twice, or two mods
            replace D = U + cfg (C − U).
    """
    found: dict[str, dict[str, Callable[..., Any]]] = {}
    fits: list[Callable[[nn.Module], Any]] = []
    for spec in specs:
        row = rows.lookup(spec.name)
        hook = row(**spec.params)
        if spec.name in found:
            raise ValueError(f"guidance has {spec.name} twice; each acts once")
        found[spec.name] = {row.stage: hook, **row.companions}
        fits += filter(None, [row.fitting(spec.params)])
    chosen = [rows[name] for name in found]
    hooks: dict[str, tuple[Callable[..., Any], ...]] = {}
    for stage in get_args(Stage):  # companions first: they look at what no other mod has changed
        names = sorted((name for name in found if stage in found[name]), key=lambda name: rows[name].stage == stage)
        hooks[stage] = tuple(found[name][stage] for name in names)
    instead = hooks.pop("combine")
    if len(instead) > 1:
        names = [row.name for row in chosen if row.stage == "combine"]
        raise ValueError(f"{' and '.join(names)} each replace U + cfg (C - U): leave all but one out")
    return Mods(
        combine=instead[0] if instead else classifier_free,
        need_uncond=any(row.need_uncond for row in chosen),
        fits=tuple(fits),
        evals=sum(row.evals for row in chosen),
        one_sigma=tuple(row.name for row in chosen if row.one_sigma),
        **hooks,
    )
