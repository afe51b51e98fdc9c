"""What there is: samplers and schedules, as tables, JSON or a plot."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Column, Table

from sigmafield.cli.draw import fail, user_errors
from sigmafield.methods import METHODS, Method, lookup
from sigmafield.models import load
from sigmafield.schedules import SCHEDULES

NOISE = {
    "none": "none",
    "churn": "with s_churn > 0",
    "gaussian": "Gaussian",
    "brownian": "Brownian",
    "brownian_device": "Brownian, on the device",
}


def show_methods(name: str | None, as_json: bool) -> None:
    """All methods in a table, or one with its equation and parameters."""
    with user_errors():
        chosen = [lookup(name)] if name else list(METHODS.values())
    if as_json:
        typer.echo(json.dumps([row(method) for method in chosen], ensure_ascii=False))
    elif name:
        explain(chosen[0])
    else:
        table = Table(
            Column("sampler", no_wrap=True), "order", "evals", "noise", "paper", box=None, header_style="bold"
        )
        for method in sorted(chosen, key=lambda method: method.name):
            table.add_row(method.name, str(method.order), str(method.evals), NOISE[method.noise], method.paper)
        console = Console()
        console.print(table)
        console.print("\n[bold]sigmafield methods NAME[/] explains one, with its parameters.", highlight=False)


def row(method: Method) -> dict:
    """A method's row as plain values."""
    keys = ("name", "order", "evals", "noise", "adaptive", "linear", "need_uncond", "paper")
    return {key: getattr(method, key) for key in keys} | {"params": {k: plain(v) for k, v in method.defaults.items()}}


def plain(value: Any) -> Any:
    """A parameter's default as JSON and people can read it."""
    if callable(value):
        return value.__name__
    return "inf" if value == float("inf") else value


def explain(method: Method) -> None:
    """Docstring, row and parameters of one method."""
    console = Console(highlight=False)
    console.print(f"[bold]{method.name}[/]   {method.paper}\n")
    console.print(inspect.getdoc(method.step), markup=False)
    adaptive = ", chooses its own steps" if method.adaptive else ""
    console.print(
        f"\norder {method.order}; evaluations a step: up to {method.evals}; noise: {NOISE[method.noise]}{adaptive}"
    )
    for key, value in method.defaults.items():
        console.print(f"  {key} = {plain(value)}")


def show_schedules(steps: int, plot: Path | None, model: str, as_json: bool) -> None:
    """All schedules of a model's noise levels: table, JSON or plot."""
    with user_errors():
        if steps < 1:
            raise ValueError(f"steps must be ≥ 1; got {steps}")
        levels = load(model).sampling.levels
    rows = {name: schedule(steps, levels).tolist() for name, schedule in SCHEDULES.items()}
    if plot:
        draw_schedules(rows, plot)
    if as_json:
        typer.echo(json.dumps(rows))
    elif plot:
        typer.echo(plot)
    else:
        table = Table("schedule", "sigmas", "paper", box=None, header_style="bold")
        for name, sigmas in rows.items():
            table.add_row(name, " ".join(f"{sigma:.4g}" for sigma in sigmas), SCHEDULES[name].paper)
        Console().print(table)


def draw_schedules(rows: dict[str, list[float]], path: Path) -> None:
    """σ against the step on a logarithmic axis, one line a schedule."""
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError:
        fail('drawing schedules needs matplotlib: pip install "sigmafield[lab]"')
        return
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    for name, sigmas in rows.items():
        axes.semilogy(range(len(sigmas) - 1), sigmas[:-1], marker=".", label=name)
    axes.set(xlabel="step", ylabel="σ (the final 0 is not drawn)", title="Noise levels that each schedule visits")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()
    axes.grid(alpha=0.3)
    with user_errors():
        figure.savefig(path, dpi=150)
