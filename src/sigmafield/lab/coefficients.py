"""The coefficients of a sampler, measured by feeding its steps with unit vectors; no model is needed.

A linear sampler maps everything that has entered a run (the first x, predictions, noises) to a weighted sum. If each of
these is a unit vector, its x is the list of the weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sigmafield.core.arrays import Latent, Sigma
from sigmafield.core.grid import Grid
from sigmafield.core.process import Span
from sigmafield.core.protocols import Ctx, Pred
from sigmafield.runs.run import Run
from sigmafield.samplers import SAMPLERS, Sampler

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Row:
    """x' = a x + Σ d_j D_j + Σ u_j U_j + Σ c_k ξ_k after a step.

    Args:
        span: Interval of the step.
        a: Weight of x.
        D: Weights of the guided predictions, one per evaluation so far.
        U: Weights of the unconditional predictions, one per evaluation so far; all 0 except for CFG++ samplers.
        xi: Weights of the noises drawn so far.
        sigmas: Level of each evaluation.
    """

    span: Span
    a: float
    D: list[float]
    U: list[float]
    xi: list[float]
    sigmas: list[float]


class Probe:
    """A denoiser and noise source that answers every request with a new unit vector of length `size`.

    From the request numbered `size` on, vectors are 0: it only counts.
    """

    def __init__(self, size: int):
        self.size, self.kinds, self.sigmas = size, ["x"], []
        self.x = self._unit()

    def _unit(self) -> Tensor:
        unit = torch.zeros(self.size, dtype=torch.float64)
        unit[len(self.kinds) - 1 : len(self.kinds)] = 1.0
        return unit.reshape(1, 1, 1, -1)

    def _fresh(self, kind: str) -> Tensor:
        self.kinds.append(kind)
        return self._unit()

    def denoise(self, x: Latent, sigma: Sigma, ctx: Ctx) -> Pred:
        """New unit vectors for the guided and the unconditional prediction."""
        self.sigmas.append(float(sigma))
        return Pred(self._fresh("D"), None, self._fresh("U"))

    def __call__(self, span: Span) -> Latent:
        """A new unit vector for the noise."""
        return self._fresh("xi")

    def get_state(self) -> None:
        """None: there is no state."""
        return None

    def set_state(self, state: Tensor | None) -> None:
        """Does nothing."""


def table(sampler: str, grid: Grid, /, **params: Any) -> list[Row]:
    """Coefficients of a sampler over a schedule: x' after each step in terms of all that has entered the run so far.

    x in a row is the first x of the run, not that of the step (see `one_step`). Where the sampler changes the schedule,
    levels and number of rows are those of the changed schedule.

    Args:
        sampler: Name of the sampler.
        grid: Schedule with one σ per step.
        **params: Parameters of the sampler.

    Returns:
        One row per step.

    Raises:
        ValueError: If the sampler or a parameter is unknown, the sampler is not linear, or the grid is a σ-field.
    """
    chosen = SAMPLERS.lookup(sampler)
    if not chosen.linear:
        raise ValueError(f"{sampler} is not linear in x and its predictions: it has no table of coefficients")
    if grid.is_field:
        raise ValueError(f"a table has one sigma per step; got a field {tuple(grid.sigmas.shape)}")
    probe = Probe(1 + 4 * chosen.evals * grid.n)  # x; D, U and two noises for each evaluation are enough for most
    rows = _rows(chosen, grid, probe, params)
    if len(probe.kinds) > probe.size:
        rows = _rows(chosen, grid, Probe(len(probe.kinds)), params)
    return rows


def _rows(sampler: Sampler, grid: Grid, probe: Probe, params: dict[str, Any]) -> list[Row]:
    run = Run(probe.denoise, sampler, grid, probe, params)
    state, rows = run.start(probe.x), []
    while not run.done(state):
        span = run.span(state.i)
        state = run.step(state)
        weights = state.x.flatten().tolist()
        pick = {kind: [w for w, k in zip(weights, probe.kinds) if k == kind] for kind in ("x", "D", "U", "xi")}
        rows.append(Row(span, math.fsum(pick["x"]), pick["D"], pick["U"], pick["xi"], list(probe.sigmas)))
    return rows


def one_step(rows: list[Row], i: int) -> Row:
    """Row i of a table in terms of the x that step i began with instead of the run's first x.

    The step's weight a of its x is the ratio of the weights of the first x in rows i and i − 1. The rest are its
    predictions and noises, including earlier ones if it is a multistep sampler. A sampler that forgets the first x
    (`lcm`) has a = 0.

    Args:
        rows: Rows of `table`.
        i: Index of the step.
    """
    row = rows[i]
    if not i:
        return row
    before = rows[i - 1]
    a = row.a / before.a if before.a else 0.0

    def own(now: list[float], then: list[float]) -> list[float]:
        return [w - a * v for w, v in zip(now, then + [0.0] * (len(now) - len(then)))]

    return Row(row.span, a, own(row.D, before.D), own(row.U, before.U), own(row.xi, before.xi), row.sigmas)


def terms(rows: list[Row], i: int) -> list[tuple[str, float | None, float]]:
    """All terms of step i that are not negligible: (name, σ of its evaluation, weight), latest first.

    Weights under 1e-9 of the largest are left out.

    Args:
        rows: Rows of `table`.
        i: Index of the step.
    """
    row, first = one_step(rows, i), rows[i - 1] if i else None
    known, drawn = (len(first.D), len(first.xi)) if first else (0, 0)
    found: list[tuple[str, float | None, float]] = [("x", None, row.a)]
    for j in reversed(range(len(row.D))):
        for letter, weights in (("D", row.D), ("U", row.U)):
            found.append((_ordinal(letter, j - known), row.sigmas[j], weights[j]))
    found += [(_ordinal("ξ", k - drawn), None, row.xi[k]) for k in reversed(range(len(row.xi)))]
    least = 1e-9 * max(abs(weight) for _, _, weight in found)
    return [term for term in found if abs(term[2]) > least]


def _ordinal(letter: str, j: int) -> str:
    """D₁, D₂ … for the step's own, D₋₁, D₋₂ … for earlier ones."""
    return letter + str(j + 1 if j >= 0 else j).translate(str.maketrans("-0123456789", "₋₀₁₂₃₄₅₆₇₈₉"))


def render(rows: list[Row], i: int) -> Table:
    """The terms of step i as a table for rich's console; columns: term, σ of the evaluation, weight.

    Args:
        rows: Rows of `table`.
        i: Index of the step.
    """
    from rich.table import Column, Table

    out = Table("term", Column("at σ", justify="right"), Column("weight", justify="right"), box=None)
    for what, sigma, weight in terms(rows, i):
        out.add_row(what, "" if sigma is None else f"{sigma:.4g}", f"{weight:+.6f}")
    return out
