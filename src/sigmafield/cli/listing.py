"""What there is: samplers and schedules, as tables, JSON or a plot."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table

from sigmafield.cli.draw import fail, user_errors
from sigmafield.methods import METHODS, Method, lookup
from sigmafield.models import load
from sigmafield.schedules import SCHEDULES


def show_methods(name: str | None, as_json: bool) -> None:
    """All methods in a table, or one with its equation and parameters."""
    with user_errors():
        chosen = [lookup(name)] if name else list(METHODS.values())
    if as_json:
        typer.echo(json.dumps([row(method) for method in chosen], ensure_ascii=False))
    elif name:
        explain(chosen[0])
    else:
        table = Table("sampler", "order", "evaluations", "noise", "parameters", "paper", box=None, header_style="bold")
        for method in chosen:
            r = row(method)
            params = ", ".join(f"{key}={value}" for key, value in r["params"].items())
            table.add_row(method.name, str(r["order"]), str(r["evals"]), r["noise"], params, method.paper)
        Console().print(table)


def row(method: Method) -> dict:
    """A method's row as plain values."""
    keys = ("name", "order", "evals", "noise", "adaptive", "linear", "need_uncond", "paper")
    params = {k: v if v != float("inf") else "inf" for k, v in method.defaults.items()}
    return {key: getattr(method, key) for key in keys} | {"params": params}


def explain(method: Method) -> None:
    """Docstring, row and parameters of one method."""
    console = Console(highlight=False)
    console.print(f"[bold]{method.name}[/]   {method.paper}\n")
    console.print(inspect.getdoc(method.step), markup=False)
    noise = {"none": "draws no noise", "churn": "draws noise only with s_churn > 0"}.get(
        method.noise, f"draws {method.noise} noise"
    )
    adaptive = ", chooses its own steps" if method.adaptive else ""
    console.print(f"\norder {method.order}, up to {method.evals} evaluations a step, {noise}{adaptive}")
    for key, value in method.defaults.items():
        console.print(f"  {key} = {value}")


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
    except ImportError:
        fail('drawing schedules needs matplotlib: pip install "sigmafield[lab]"')
        return
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    for name, sigmas in rows.items():
        axes.semilogy(range(len(sigmas) - 1), sigmas[:-1], marker=".", label=name)
    axes.set(xlabel="step", ylabel="σ (the final 0 is not drawn)", title="Noise levels that each schedule visits")
    axes.legend()
    axes.grid(alpha=0.3)
    with user_errors():
        figure.savefig(path, dpi=150)
