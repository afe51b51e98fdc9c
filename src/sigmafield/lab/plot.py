"""Figures of the lab's results by matplotlib, which is imported when the first figure is made."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sigmafield.core.process import Process
from sigmafield.lab.convergence import Convergence
from sigmafield.lab.latent_batch import Statistics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GRID_ALPHA = 0.3


def figure(columns: int = 1, size: tuple[float, float] = (5.0, 4.0)) -> tuple[Figure, list[Axes]]:
    """An empty figure and its axes, side by side.

    Args:
        columns: Number of axes.
        size: Width and height of each in inches.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('drawing needs matplotlib: pip install "sigmafield[lab]"') from error
    out = Figure(figsize=(size[0] * columns, size[1]), layout="constrained")
    return out, list(out.subplots(1, columns, squeeze=False)[0])


def errors(results: Sequence[Convergence]) -> Figure:
    """Error against steps, one line per result, with the observed order and a dotted line of that slope."""
    out, (axes,) = figure()
    for k, seen in enumerate(results):
        name = f"{seen.sampler}, {type(seen.process).__name__}: order {seen.slope:.2f}"
        axes.loglog(seen.steps, seen.errors, marker=".", color=f"C{k}", label=name)
        line = [seen.errors[-1] * (n / seen.steps[-1]) ** -seen.slope for n in seen.steps]
        axes.loglog(seen.steps, line, color=f"C{k}", linewidth=0.8, linestyle=":")
    ticks = sorted({n for seen in results for n in seen.steps})
    axes.set_xticks(ticks, labels=[str(n) for n in ticks])
    axes.minorticks_off()
    axes.set(xlabel="steps", ylabel="rms error at the end")
    axes.legend()
    axes.grid(alpha=GRID_ALPHA)
    return out


def region(radius: Tensor, box: tuple[float, float, float, float], title: str = "") -> Figure:
    """The region where |ρ| ≤ 1.

    Args:
        radius: Spectral radii [height, width] over the box.
        box: Range of z: (Re low, Re high, Im low, Im high).
        title: Title of the figure.
    """
    out, (axes,) = figure(size=(4.4, 4.0))
    re, im = torch.linspace(*box[:2], radius.shape[1]), torch.linspace(*box[2:], radius.shape[0])
    axes.contourf(re, im, radius, levels=[0.0, 1.0], colors=["C0"], alpha=0.35)
    axes.contour(re, im, radius, levels=[1.0], colors=["C0"])
    axes.axhline(0, color="0.5", linewidth=0.6)
    axes.axvline(0, color="0.5", linewidth=0.6)
    axes.set(xlabel="Re z", ylabel="Im z", aspect="equal", title=title)
    axes.grid(alpha=GRID_ALPHA)
    return out


def noise_levels(rows: Mapping[str, Sequence[float]]) -> Figure:
    """σ against the step on a logarithmic axis, one line per schedule; a final 0 is not drawn."""
    out, (axes,) = figure(size=(9.0, 5.0))
    colours = ["blue", "orange", "green", "red", "purple", "brown", "pink", "gray", "olive", "cyan"]
    axes.set_prop_cycle(linestyle=["-"] * 10 + ["--"] * 10, color=[f"tab:{name}" for name in colours] * 2)
    for name, sigmas in rows.items():
        _line(axes, sigmas, name, hide=0.0)
    axes.set_yscale("log")
    axes.set(ylabel="σ (the final 0 is not drawn)", title="Noise levels that each schedule visits")
    out.legend(loc="outside right upper")
    return out


def schedule(sigmas: Mapping[str, Sequence[float]], processes: Mapping[str, Process]) -> Figure:
    """σ > 0 and finite λ against the step, one line per network.

    Args:
        sigmas: Levels by the name of the network.
        processes: Process by the name of the network.
    """
    out, (left, right) = figure(2, size=(4.4, 3.4))
    for name, levels in sigmas.items():
        _line(left, levels, name, hide=0.0)
        _line(right, processes[name].lam(torch.as_tensor(levels, dtype=torch.float64)).tolist(), name)
    left.set(ylabel="σ", yscale="log")
    right.set(ylabel="λ = ln(α/σ)")
    left.legend()
    return out


def latent_statistics(seen: Statistics) -> Figure:
    """p-value of normality with its usual threshold, mean and deviation of every latent of a batch, side by side."""
    out, (left, middle, right) = figure(3, size=(3.6, 3.2))
    for axes, values, name in ((left, seen.p, "Shapiro–Wilk p"), (middle, seen.mean, "mean"), (right, seen.std, "std")):
        _line(axes, values, name)
        axes.set(xlabel="latent", ylabel=name)
    left.axhline(0.05, color="0.5", linestyle="--")
    return out


def latent_similarity(cosines: Tensor) -> Figure:
    """A matrix of cosines [B, B], −1 … 1, of one batch (rows) with another (columns)."""
    out, (axes,) = figure(size=(4.4, 4.0))
    out.colorbar(axes.imshow(cosines.numpy(), vmin=-1, vmax=1, cmap="RdBu_r"), label="cosine")
    axes.set(xlabel="latent of the second batch", ylabel="latent of the first batch")
    return out


def _line(axes: Axes, values: Sequence[float], name: str, hide: float = math.inf) -> None:
    """Values against the step, except infinite ones and those equal to `hide`."""
    from matplotlib.ticker import MaxNLocator

    steps = [k for k, value in enumerate(values) if math.isfinite(value) and value != hide]
    axes.plot(steps, [values[k] for k in steps], marker=".", label=name)
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=GRID_ALPHA)
