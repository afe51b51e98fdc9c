"""The coefficients of a sampler, read off its steps by unit vectors: no model is needed.

A linear sampler maps what has entered a run (the first x, predictions, noises) to a weighted sum of it. Fed with
unit vectors, its x is the list of the weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sigmafield.core.arrays import Latent, Sigma
from sigmafield.core.process import Grid, Span
from sigmafield.core.protocols import Ctx, Pred
from sigmafield.runs.run import Run
from sigmafield.samplers import SAMPLERS, Sampler

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Row:
    """x' = a x + Σ d_j D_j + Σ u_j U_j + Σ c_k ξ_k after a step.

    D, U: weights of the predictions, guided and unconditional, one for each evaluation so far; xi: of the noises
    drawn so far; sigmas: the level of each evaluation. U is all 0 but for CFG++ samplers.
    """

    span: Span
    a: float
    D: list[float]
    U: list[float]
    xi: list[float]
    sigmas: list[float]


class Probe:
    """A denoiser and a noise source that answer every request with a fresh unit vector of length `size`.

    With size 0 it only counts: the vectors are empty.
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
        """Fresh unit vectors for the guided and the unconditional prediction."""
        self.sigmas.append(float(sigma))
        return Pred(self._fresh("D"), None, self._fresh("U"))

    def __call__(self, span: Span) -> Latent:
        """A fresh unit vector for the noise."""
        return self._fresh("xi")

    def get_state(self) -> None:
        """None: nothing is drawn."""
        return None

    def set_state(self, state: Tensor | None) -> None:
        """Nothing to set."""


def table(sampler: str, grid: Grid, /, **params: Any) -> list[Row]:
    """Coefficient rows of a sampler over a schedule, one a step, with x the run's first: x' in all that entered so far.

    grid: one σ a step; params: the sampler's. Levels and number of rows are the sampler's own where it changes the
    schedule. Raises ValueError for an unknown sampler or parameter, for a σ-field, and for a sampler that is not linear.
    """
    chosen = SAMPLERS.lookup(sampler)
    if not chosen.linear:
        raise ValueError(f"{sampler} is not linear in x and its predictions: it has no table of coefficients")
    if grid.is_field:
        raise ValueError(f"a table has one sigma per step; got a field {tuple(grid.sigmas.shape)}")
    counted = Probe(0)
    _rows(chosen, grid, counted, params)
    return _rows(chosen, grid, Probe(len(counted.kinds)), params)


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
    """Row i of a table in terms of the x that step i began with, instead of the run's first.

    What the step takes of that x is a, the ratio of the first x's weights; the rest is its predictions and noises,
    earlier ones where it is a multistep sampler. A sampler that forgets the first x (`lcm`) has a = 0.
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
    """(what, the σ of its evaluation, weight) for every term of step i that is not negligible, latest first.

    Weights under 1e-9 of the largest are left out.
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
    """D₁, D₂ … for the step's own, D₋₁, D₋₂ … for what came before."""
    return letter + str(j + 1 if j >= 0 else j).translate(str.maketrans("-0123456789", "₋₀₁₂₃₄₅₆₇₈₉"))


def render(rows: list[Row], i: int) -> Table:
    """The terms of step i as a table for rich's console; columns: term, σ of the evaluation, weight."""
    from rich.table import Column, Table

    out = Table("term", Column("at σ", justify="right"), Column("weight", justify="right"), box=None)
    for what, sigma, weight in terms(rows, i):
        out.add_row(what, "" if sigma is None else f"{sigma:.4g}", f"{weight:+.6f}")
    return out
