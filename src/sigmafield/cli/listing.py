"""What there is: samplers, schedules and guidance, as tables, JSON or a plot."""

from __future__ import annotations

import json
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Column, Table

from sigmafield.cli.draw import user_errors
from sigmafield.cli.explain import NOISE, explain, explain_mod, explain_schedule, mod_row, row
from sigmafield.models.load import load
from sigmafield.recipes.mods import MODS
from sigmafield.samplers import SAMPLERS
from sigmafield.schedules import SCHEDULES


def show_samplers(name: str | None, as_json: bool) -> None:
    """All samplers in a table, or one with its equation and parameters."""
    with user_errors():
        chosen = [SAMPLERS.lookup(name)] if name else list(SAMPLERS.values())
    if as_json:
        typer.echo(json.dumps([row(sampler) for sampler in chosen], ensure_ascii=False))
    elif name:
        explain(chosen[0])
    else:
        table = Table(
            Column("sampler", no_wrap=True), "order", "evals", "noise", "paper", box=None, header_style="bold"
        )
        for sampler in sorted(chosen, key=lambda sampler: sampler.name):
            table.add_row(sampler.name, str(sampler.order), str(sampler.evals), NOISE[sampler.noise], sampler.paper)
        console = Console()
        console.print(table)
        console.print("\n[bold]sigmafield samplers NAME[/] explains one, with its parameters.", highlight=False)


def show_schedules(name: str | None, steps: int, plot: Path | None, model: str, as_json: bool) -> None:
    """The schedules that fit a model's noise levels, as table, JSON or plot; or one, explained."""
    with user_errors():
        if steps < 1:
            raise ValueError(f"steps must be ≥ 1; got {steps}")
        chosen = [SCHEDULES.lookup(name)] if name else list(SCHEDULES.values())
        levels = load(model).sampling.levels
    rows, unfit = {}, {}
    for schedule in chosen:
        try:
            rows[schedule.name] = schedule(steps, levels).tolist()
        except ValueError as error:
            unfit[schedule.name] = str(error)
    if plot:
        from sigmafield.lab.plot import noise_levels

        with user_errors():
            noise_levels(rows).savefig(plot, dpi=150)
    if as_json:
        typer.echo(json.dumps(rows))
    elif plot:
        typer.echo(plot)
    else:
        if name:
            explain_schedule(chosen[0])
        table = Table("schedule", "sigmas", "paper", box=None, header_style="bold")
        for each in chosen:
            sigmas = " ".join(f"{sigma:.4g}" for sigma in rows.get(each.name, []))
            table.add_row(each.name, sigmas or f"[dim]{unfit[each.name]}[/]", each.paper)
        Console().print(table)
        if not name:
            Console(highlight=False).print("\n[bold]sigmafield schedules NAME[/] explains one, with its parameters.")


def show_guidance(name: str | None, as_json: bool) -> None:
    """All mods of guidance in a table, or one with its equation."""
    with user_errors():
        chosen = [MODS.lookup(name)] if name else list(MODS.values())
    if as_json:
        typer.echo(json.dumps([mod_row(mod) for mod in chosen], ensure_ascii=False))
    elif name:
        explain_mod(chosen[0])
    else:
        table = Table(Column("guidance", no_wrap=True), "acts", "parameters", "paper", box=None, header_style="bold")
        for mod in sorted(chosen, key=lambda mod: mod.name):
            params = [f"{name}={p.default} ({p.values})" for name, p in mod.parameters.items()]
            table.add_row(mod.name, mod.stage, "\n".join(params), mod.paper)
        console = Console(highlight=False)
        console.print(table)
        console.print(
            "\nWrite them with +, in the order in which they act: [bold]--guidance 'apg(eta=0.5)+cfg_norm'[/].\n"
            "[bold]sigmafield guidance NAME[/] explains one."
        )
