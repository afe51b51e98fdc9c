"""What there is: samplers and schedules, as tables, JSON or a plot."""

from __future__ import annotations

import json
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Column, Table

from sigmafield.cli.draw import user_errors
from sigmafield.cli.explain import NOISE, explain, row
from sigmafield.methods import METHODS, lookup
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
        table = Table(
            Column("sampler", no_wrap=True), "order", "evals", "noise", "paper", box=None, header_style="bold"
        )
        for method in sorted(chosen, key=lambda method: method.name):
            table.add_row(method.name, str(method.order), str(method.evals), NOISE[method.noise], method.paper)
        console = Console()
        console.print(table)
        console.print("\n[bold]sigmafield methods NAME[/] explains one, with its parameters.", highlight=False)


def show_schedules(steps: int, plot: Path | None, model: str, as_json: bool) -> None:
    """All schedules of a model's noise levels: table, JSON or plot."""
    with user_errors():
        if steps < 1:
            raise ValueError(f"steps must be ≥ 1; got {steps}")
        levels = load(model).sampling.levels
    rows = {name: schedule(steps, levels).tolist() for name, schedule in SCHEDULES.items()}
    if plot:
        from sigmafield.lab.plot import noise_levels

        with user_errors():
            noise_levels(rows).savefig(plot, dpi=150)
    if as_json:
        typer.echo(json.dumps(rows))
    elif plot:
        typer.echo(plot)
    else:
        table = Table("schedule", "sigmas", "paper", box=None, header_style="bold")
        for name, sigmas in rows.items():
            table.add_row(name, " ".join(f"{sigma:.4g}" for sigma in sigmas), SCHEDULES[name].paper)
        Console().print(table)
