"""The table of mods: what each one is called, where it acts, what it takes, and how they are written in a line.

rescale(multiplier=0.7)+cfg_norm          names with parameters, joined by +, in the order in which they act
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

from sigmafield.guidance.hooks import Mods, classifier_free
from sigmafield.maths import named
from sigmafield.ranges import Parameter, by_keyword, check, parameters

Stage = Literal["scale", "before", "combine", "after"]


@dataclass(frozen=True)
class Mod:
    """A named mod: its function, and its row in the table.

    stage: which hook of `Mods` it is; evals: network evaluations that it adds to a call.
    """

    name: str
    apply: Callable[..., Any]
    stage: Stage
    paper: str
    evals: int = 0

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


def mod(name: str, stage: Stage, paper: str, *, evals: int = 0) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register the decorated function under `name`; its keyword-only arguments are the mod's parameters."""

    def register(apply: Callable[..., Any]) -> Callable[..., Any]:
        MODS[name] = Mod(name, apply, stage, paper, evals)
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
    scale, before, instead, after = (
        {name: hook for name, hook in found.items() if MODS[name].stage == stage} for stage in get_args(Stage)
    )
    if len(instead) > 1:
        raise ValueError(f"{' and '.join(instead)} each take the place of U + cfg (C - U): leave all but one out")
    combine = next(iter(instead.values()), classifier_free)
    return Mods(tuple(scale.values()), tuple(before.values()), combine, tuple(after.values()))


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
    """A number, or a word with or without quotes."""
    return tree.id if isinstance(tree, ast.Name) else ast.literal_eval(tree)
