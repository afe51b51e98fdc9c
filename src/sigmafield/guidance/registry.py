"""The table of mods: what each one is called, where it acts, what it takes, and how they are written in a line.

rescale(multiplier=0.7)+cfg_norm          names with parameters, joined by +, in the order in which they act
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

from torch import nn

from sigmafield.guidance.hooks import Mods, classifier_free
from sigmafield.maths import named
from sigmafield.ranges import Parameter, by_keyword, check, parameters

Stage = Literal["around", "scale", "model", "network", "against", "before", "combine", "after"]


@dataclass(frozen=True)
class Mod:
    """A named mod: its function, and its row in the table.

    stage: which hook of `Mods` it is; evals: network evaluations that it adds to a call; need_uncond: whether the
    negative prompt has to be evaluated at any scale; fits: raises ValueError for a torch module in which it has nothing
    to act on, None for mods that leave the network alone; one_sigma: σ must not vary within a sample.
    """

    name: str
    apply: Callable[..., Any]
    stage: Stage
    paper: str
    evals: int = 0
    need_uncond: bool = False
    fits: Callable[[nn.Module], None] | None = None
    one_sigma: bool = False

    @property
    def parameters(self) -> dict[str, Parameter]:
        """All parameters by name: the keyword-only arguments of the function."""
        return {p.name: p for p in parameters(self.apply, by_keyword)}

    @property
    def defaults(self) -> dict[str, Any]:
        """All parameters with their default values."""
        return {name: parameter.default for name, parameter in self.parameters.items()}

    def __call__(self, **params: Any) -> Callable[..., Any]:
        """The hook with these parameters; ValueError for one that it does not have, or a value out of range."""
        check(self.name, self.parameters, params)
        numbers = {name: float(value) for name, value in params.items() if self.parameters[name].kind is float}
        return partial(self.apply, **{**params, **numbers})


MODS: dict[str, Mod] = {}
"""Every mod by name, in the order of registration."""


def mod(name: str, stage: Stage, paper: str, **row: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register the decorated function under `name`; its keyword-only arguments are the mod's parameters.

    row: the further fields of `Mod`.
    """

    def register(apply: Callable[..., Any]) -> Callable[..., Any]:
        MODS[name] = Mod(name, apply, stage, paper, **row)
        return apply

    return register


def lookup(name: str) -> Mod:
    """The mod of that name; ValueError with the near miss if there is none."""
    return named(MODS, name, "guidance")


def parse_mods(text: str) -> Mods:
    """Mods as they are written in a line, "apg(eta=0.5, norm_threshold=5)+rescale(multiplier=0.7)"; "": none.

    Those of a stage act in the order in which they are written. Raises ValueError for what is no such line, unknown
    names and parameters, values out of range, a mod given twice, and two that take the place of D = U + cfg (C − U).
    """
    found: dict[str, Callable[..., Any]] = {}
    for name, params in _terms(text) if text.strip() else []:
        hook = lookup(name)(**params)
        if name in found:
            raise ValueError(f"guidance has {name} twice; each acts once")
        found[name] = hook
    rows = [MODS[name] for name in found]
    hooks = {stage: tuple(found[row.name] for row in rows if row.stage == stage) for stage in get_args(Stage)}
    instead = hooks.pop("combine")
    if len(instead) > 1:
        names = [row.name for row in rows if row.stage == "combine"]
        raise ValueError(f"{' and '.join(names)} each take the place of U + cfg (C - U): leave all but one out")
    return Mods(
        combine=instead[0] if instead else classifier_free,
        need_uncond=any(row.need_uncond for row in rows),
        fits=tuple(row.fits for row in rows if row.fits),
        one_sigma=tuple(row.name for row in rows if row.one_sigma),
        **hooks,
    )


def _terms(text: str) -> list[tuple[str, dict[str, Any]]]:
    """(name, parameters) of every mod in a line."""
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        return _split(tree)
    except (SyntaxError, ValueError) as error:
        raise ValueError(
            f"guidance must be names with parameters, such as apg(eta=0.5)+rescale(multiplier=0.7); got {text!r}"
        ) from error


def _split(tree: ast.expr) -> list[tuple[str, dict[str, Any]]]:
    if isinstance(tree, ast.BinOp) and isinstance(tree.op, ast.Add):
        return [*_split(tree.left), *_split(tree.right)]
    if isinstance(tree, ast.Name):
        return [(tree.id, {})]
    if isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name) and not tree.args:
        return [(tree.func.id, {keyword.arg or "**": _value(keyword.value) for keyword in tree.keywords})]
    raise ValueError(ast.dump(tree))


def _value(tree: ast.expr) -> Any:
    """A number, true or false, or a word with or without quotes."""
    return (
        {"true": True, "false": False}.get(tree.id, tree.id) if isinstance(tree, ast.Name) else ast.literal_eval(tree)
    )
