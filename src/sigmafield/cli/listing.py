"""`sigmafield samplers`, `schedules` and `guidance`: what exists, as tables, JSON or a plot, or one in full."""

from __future__ import annotations

import json as json_
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.text import Text

from sigmafield.cli.console import show_table
from sigmafield.cli.errors import user_errors
from sigmafield.cli.explain import NOISE, explain_mod, explain_sampler, explain_schedule, mod_row, sampler_row
from sigmafield.cli.groups import Json
from sigmafield.models.load import load
from sigmafield.recipes.mods import MODS
from sigmafield.recipes.names import read_sampler, read_schedule
from sigmafield.samplers import SAMPLERS
from sigmafield.schedules import SCHEDULES

Name = Annotated[str | None, Parameter(help="One of them, in full.")]


def samplers(name: Name = None, /, *, json: Json = False) -> None:
    """List the samplers, or explain one: equation, parameters, coefficients, sources."""
    with user_errors():
        chosen = [SAMPLERS[read_sampler(name).sampler.name]] if name else list(SAMPLERS.values())
    if json:
        print(json_.dumps([sampler_row(sampler) for sampler in chosen], ensure_ascii=False))
    elif name:
        explain_sampler(chosen[0])
    else:
        rows = [
            (row.name, str(row.order), str(row.evals), NOISE[row.noise], row.paper)
            for row in sorted(chosen, key=lambda row: row.name)
        ]
        note = "sigmafield samplers NAME explains one, with its parameters."
        show_table(("sampler", "order", "evals", "noise", "paper"), rows, note)


def schedules(
    name: Name = None,
    /,
    *,
    steps: Annotated[int, Parameter(help="Steps to list or draw.")] = 10,
    plot: Annotated[Path | None, Parameter(help="PNG to draw them in.")] = None,
    model: Annotated[str, Parameter(help="Model whose noise levels they are for.")] = "tiny",
    json: Json = False,
) -> None:
    """List the schedules with the noise levels that they visit, draw them, or explain one."""
    with user_errors():
        if steps < 1:
            raise ValueError(f"steps must be ≥ 1; got {steps}")
        chosen = [SCHEDULES[read_schedule(name).name]] if name else list(SCHEDULES.values())
        levels = load(model).model.sampling.levels
    rows: dict[str, list[float]] = {}
    unfit: dict[str, str] = {}
    for schedule in chosen:
        try:
            rows[schedule.name] = schedule(steps, levels).tolist()
        except ValueError as error:
            unfit[schedule.name] = str(error)
    if plot:
        from sigmafield.lab.plot import noise_levels  # matplotlib is an extra

        with user_errors():
            noise_levels(rows).savefig(plot, dpi=150)
    if json:
        print(json_.dumps(rows))
    elif plot:
        print(plot)
    else:
        if name:
            explain_schedule(chosen[0])
        cells = []
        for each in chosen:
            sigmas = " ".join(f"{sigma:.4g}" for sigma in rows.get(each.name, []))
            cells.append((each.name, sigmas or Text(unfit[each.name], "dim"), each.paper))
        note = "" if name else "sigmafield schedules NAME explains one, with its parameters."
        show_table(("schedule", "sigmas", "paper"), cells, note)


def guidance(name: Name = None, /, *, json: Json = False) -> None:
    """List the mods of guidance with their parameters, or explain one."""
    with user_errors():
        chosen = [MODS.lookup(name)] if name else list(MODS.values())
    if json:
        print(json_.dumps([mod_row(mod) for mod in chosen], ensure_ascii=False))
    elif name:
        explain_mod(chosen[0])
    else:
        rows = []
        for mod in sorted(chosen, key=lambda mod: mod.name):
            params = [f"{name}={p.default} ({p.values})" for name, p in mod.parameters.items()]
            rows.append((mod.name, mod.stage, "\n".join(params), mod.paper))
        show_table(
            ("guidance", "acts", "parameters", "paper"), rows,
            "Join them with + in the order in which they act: --guidance 'apg(eta=0.5)+cfg_norm'.\n"
            "sigmafield guidance NAME explains one.",
        )  # fmt: skip
