"""One sampler, schedule or mod of guidance in full, and what to cite."""

from __future__ import annotations

import inspect
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from sigmafield.citations import bibliography, cite, sources
from sigmafield.cli.draw import user_errors
from sigmafield.core.process import VE, Grid
from sigmafield.guidance import Mod
from sigmafield.lab.coefficients import render, table
from sigmafield.parameterization.timesteps import betas, discrete
from sigmafield.samplers import SAMPLERS, Sampler
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

EXAMPLE = Grid(karras(8, 0.03, 14.6), VE(), clock=discrete(betas()).sigma_at)
"""The schedule of which a middle step is shown."""


def row(sampler: Sampler) -> dict[str, Any]:
    """A sampler's row as plain values."""
    keys = ("name", "order", "evals", "noise", "adaptive", "linear", "need_uncond", "paper")
    return {key: getattr(sampler, key) for key in keys} | {
        "params": {k: plain(v) for k, v in sampler.defaults.items()},
        "values": {k: parameter.values for k, parameter in sampler.parameters.items()},
    }


def plain(value: Any) -> Any:
    """A parameter's default as JSON and people can read it."""
    if callable(value):
        return value.__name__
    return "inf" if value == float("inf") else value


def settings(owner: Sampler | Schedule | Mod) -> list[tuple[str, str, str]]:
    """(name, default, values) of each parameter; a default that depends on the network or the steps is automatic."""
    return [
        (name, "automatic" if p.default is None else str(plain(p.default)), p.values)
        for name, p in owner.parameters.items()
    ]


def relatives(sampler: Sampler) -> dict[str, str]:
    """The other names of the same step function, each with what differs from this one."""
    out = {}
    for other in SAMPLERS.values():
        if other.step is sampler.step and other.name != sampler.name:
            differ = [f"{k} = {plain(v)}" for k, v in other.values.items() if v != sampler.values[k]]
            if other.noise != sampler.noise:
                differ.append(f"noise: {NOISE[other.noise]}")
            out[other.name] = ", ".join(differ)
    return out


def facts(sampler: Sampler) -> dict[str, str]:
    """A sampler's row in words."""
    return {
        "order": str(sampler.order),
        "evaluations a step": str(sampler.evals) if sampler.evals == 1 else f"up to {sampler.evals}",
        "noise": NOISE[sampler.noise],
        "steps": "chosen as it goes" if sampler.adaptive else "those of the schedule",
        "schedule": (inspect.getdoc(sampler.grid) or "").partition("\n")[0] if sampler.grid else "as it is",
        "predictions": "guided and unconditional" if sampler.need_uncond else "guided",
    }


def explain(sampler: Sampler) -> None:
    """Print a sampler's equation, row, parameters, coefficients and sources."""
    console = Console(highlight=False)
    console.print(f"[bold]{sampler.name}[/]\n")
    console.print(inspect.getdoc(sampler.step), markup=False)
    about = Table.grid(padding=(0, 2))
    for key, value in facts(sampler).items():
        about.add_row(key, value)
    for k, (name, differs) in enumerate(relatives(sampler).items()):
        about.add_row("" if k else "same step as", f"{name}; there {differs}" if differs else name)
    console.print("", about)
    show_settings(console, sampler)
    if sampler.linear:
        rows = table(sampler.name, EXAMPLE)
        i = len(rows) // 2
        now, then = (float(sigma) for sigma in (rows[i].span.sigma, rows[i].span.sigma_next))
        console.print(
            f"\n[bold]x' at σ' = {then:.4g} from x at σ = {now:.4g}[/], step {i + 1} of {len(rows)} (Karras, VE)"
        )
        console.print(render(rows, i))
    console.print(f"\nFrom {sampler.paper}:", *map(str, sources(sampler.paper)), sep="\n", markup=False)
    console.print(f"[bold]sigmafield cite {sampler.name}[/] prints BibTeX.")


def show_settings(console: Console, owner: Sampler | Schedule | Mod) -> None:
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
    """Print BibTeX for samplers, schedules and mods, or all there is; for nothing, sigmafield's own."""
    with user_errors():
        entries = bibliography().values() if everything else cite(*names)
    typer.echo("\n\n".join(entry.text for entry in entries))
