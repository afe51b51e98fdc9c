"""One method, schedule or mod of guidance in full, and what to cite."""

from __future__ import annotations

import inspect
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from sigmafield.cli.draw import user_errors
from sigmafield.grid import VE, Grid
from sigmafield.guidance import Mod
from sigmafield.lab.papers import bibliography, cite, sources
from sigmafield.lab.table import render, table
from sigmafield.methods import METHODS, Method
from sigmafield.schedules import Schedule, karras

NOISE = {
    "none": "none",
    "churn": "with s_churn > 0",
    "gaussian": "Gaussian",
    "gaussian_pair": "Gaussian, with eta > 0",
    "brownian": "Brownian",
    "brownian_device": "Brownian, on the device",
}

STAGE = {
    "around": "on when a guided prediction is made",
    "scale": "on the scale, as a function of σ",
    "model": "on how prompts are evaluated",
    "network": "within the network",
    "against": "within the network, for the negative prompt",
    "before": "on the predictions, before they are combined",
    "combine": "in place of D = U + cfg (C − U)",
    "after": "on the guided prediction",
}

NETWORK = {"any": "any", "flow": "flows", "ve": "variance exploding"}

EXAMPLE = Grid(karras(8, 0.03, 14.6), VE())
"""The schedule of which a middle step is shown."""


def row(method: Method) -> dict[str, Any]:
    """A method's row as plain values."""
    keys = ("name", "order", "evals", "noise", "adaptive", "linear", "need_uncond", "paper")
    return {key: getattr(method, key) for key in keys} | {
        "params": {k: plain(v) for k, v in method.defaults.items()},
        "values": {k: parameter.values for k, parameter in method.parameters.items()},
    }


def plain(value: Any) -> Any:
    """A parameter's default as JSON and people can read it."""
    if callable(value):
        return value.__name__
    return "inf" if value == float("inf") else value


def settings(owner: Method | Schedule | Mod) -> list[tuple[str, str, str]]:
    """(name, default, values) of each parameter; a default that depends on the network or the steps is automatic."""
    return [
        (name, "automatic" if p.default is None else str(plain(p.default)), p.values)
        for name, p in owner.parameters.items()
    ]


def relatives(method: Method) -> dict[str, str]:
    """The other names of the same step function, each with what differs from this one."""
    out = {}
    for other in METHODS.values():
        if other.step is method.step and other.name != method.name:
            differ = [f"{k} = {plain(v)}" for k, v in other.values.items() if v != method.values[k]]
            if other.noise != method.noise:
                differ.append(f"noise: {NOISE[other.noise]}")
            out[other.name] = ", ".join(differ)
    return out


def facts(method: Method) -> dict[str, str]:
    """A method's row in words."""
    return {
        "order": str(method.order),
        "evaluations a step": str(method.evals) if method.evals == 1 else f"up to {method.evals}",
        "noise": NOISE[method.noise],
        "steps": "chosen as it goes" if method.adaptive else "those of the schedule",
        "schedule": (inspect.getdoc(method.grid) or "").partition("\n")[0] if method.grid else "as it is",
        "predictions": "guided and unconditional" if method.need_uncond else "guided",
    }


def explain(method: Method) -> None:
    """Print a method's equation, row, parameters, coefficients and sources."""
    console = Console(highlight=False)
    console.print(f"[bold]{method.name}[/]\n")
    console.print(inspect.getdoc(method.step), markup=False)
    about = Table.grid(padding=(0, 2))
    for key, value in facts(method).items():
        about.add_row(key, value)
    for k, (name, differs) in enumerate(relatives(method).items()):
        about.add_row("" if k else "same step as", f"{name}; there {differs}" if differs else name)
    console.print("", about)
    show_settings(console, method)
    if method.linear:
        rows = table(method.name, EXAMPLE)
        i = len(rows) // 2
        now, then = (float(sigma) for sigma in (rows[i].span.sigma, rows[i].span.sigma_next))
        console.print(
            f"\n[bold]x' at σ' = {then:.4g} from x at σ = {now:.4g}[/], step {i + 1} of {len(rows)} (Karras, VE)"
        )
        console.print(render(rows, i))
    console.print(f"\nFrom {method.paper}:", *map(str, sources(method.paper)), sep="\n", markup=False)
    console.print(f"[bold]sigmafield cite {method.name}[/] prints BibTeX.")


def show_settings(console: Console, owner: Method | Schedule | Mod) -> None:
    """Print the parameters, if there are any."""
    if owner.parameters:
        parameters = Table("parameter", "default", "values", box=None, header_style="bold")
        for setting in settings(owner):
            parameters.add_row(*setting)
        console.print("", parameters)


def explain_schedule(schedule: Schedule) -> None:
    """Print a schedule's equation, parameters and sources."""
    console = Console(highlight=False)
    console.print(f"[bold]{schedule.name}[/]\n")
    console.print(inspect.getdoc(schedule.make), markup=False)
    console.print(f"\nnetworks: {NETWORK[schedule.network]}")
    show_settings(console, schedule)
    console.print(f"\nFrom {schedule.paper}:", *map(str, sources(schedule.paper)), sep="\n", markup=False)
    console.print(f"[bold]sigmafield cite {schedule.name}[/] prints BibTeX.")


def mod_row(mod: Mod) -> dict[str, Any]:
    """A mod's row as plain values."""
    params = {name: {"default": p.default, "values": p.values} for name, p in mod.parameters.items()}
    return {key: getattr(mod, key) for key in ("name", "stage", "evals", "paper")} | {"params": params}


def explain_mod(mod: Mod) -> None:
    """Print a mod's equation, row, parameters and sources."""
    console = Console(highlight=False)
    console.print(f"[bold]{mod.name}[/]\n")
    console.print(inspect.getdoc(mod.apply), markup=False)
    about = Table.grid(padding=(0, 2))
    about.add_row("acts", STAGE[mod.stage])
    about.add_row("evaluations", str(mod.evals) + " more" if mod.evals else "none more")
    console.print("", about)
    show_settings(console, mod)
    console.print(f"\nFrom {mod.paper}:", *map(str, sources(mod.paper)), sep="\n", markup=False)
    console.print(f"[bold]sigmafield cite {mod.name}[/] prints BibTeX.")


def show_citations(names: list[str], everything: bool) -> None:
    """Print BibTeX for methods, schedules and mods, or all there is; for nothing, sigmafield's own."""
    with user_errors():
        entries = bibliography().values() if everything else cite(*names)
    typer.echo("\n\n".join(entry.text for entry in entries))
