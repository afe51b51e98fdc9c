"""One sampler, schedule or mod of guidance in full."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from sigmafield.citations import sources
from sigmafield.cli.console import console, show_table
from sigmafield.cli.prose import description
from sigmafield.core.grid import Grid
from sigmafield.core.process import VE
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


def sampler_row(sampler: Sampler) -> dict[str, Any]:
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


def settings(owner: Sampler | Schedule | Mod) -> list[tuple[str, str, str, str]]:
    """(name, default, values, meaning) of each parameter; a default that depends on the run is "automatic"."""
    return [
        (name, "automatic" if p.default is None else str(plain(p.default)), p.values, p.doc)
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


def explain_sampler(sampler: Sampler) -> None:
    """Print a sampler's equation, row, parameters, coefficients and sources."""
    heading(sampler.name, sampler.step)
    about = facts(sampler)
    for k, (name, differs) in enumerate(relatives(sampler).items()):
        about[" " * k or "same step as"] = f"{name}; there {differs}" if differs else name
    console().print("", grid(about))
    show_settings(sampler)
    if sampler.linear:
        rows = table(sampler.name, EXAMPLE)
        i = len(rows) // 2
        now, then = (float(sigma) for sigma in (rows[i].span.sigma, rows[i].span.sigma_next))
        step = f"x' at σ' = {then:.4g} from x at σ = {now:.4g}"
        console().print(Text.assemble("\n", (step, "bold"), f", step {i + 1} of {len(rows)} (Karras, VE)"))
        console().print(render(rows, i))
    footer(sampler)


def explain_schedule(schedule: Schedule) -> None:
    """Print a schedule's equation, parameters and sources."""
    heading(schedule.name, schedule.make)
    console().print("", grid({"networks": NETWORK[schedule.network]}))
    show_settings(schedule)
    footer(schedule)


def mod_row(mod: Mod) -> dict[str, Any]:
    """A mod's row as plain values."""
    params = {name: {"default": p.default, "values": p.values, "doc": p.doc} for name, p in mod.parameters.items()}
    return {key: getattr(mod, key) for key in ("name", "stage", "evals", "paper")} | {"params": params}


def explain_mod(mod: Mod) -> None:
    """Print a mod's equation, row, parameters and sources."""
    heading(mod.name, mod.apply)
    more = f"{mod.evals} more per prediction" if mod.evals else "no further ones"
    console().print("", grid({"acts": STAGE[mod.stage], "evaluations": more}))
    show_settings(mod)
    footer(mod)


def heading(name: str, function: Callable[..., Any]) -> None:
    """Print a name and what its docstring says before the lists of arguments and errors, which tables show."""
    console().print(Text(name, "bold"), Text(description(function.__doc__)), sep="\n\n")


def grid(entries: Mapping[str, str]) -> Table:
    """Entries in two columns."""
    table = Table.grid(padding=(0, 2))
    for key, value in entries.items():
        table.add_row(key, Text(value))
    return table


def show_settings(owner: Sampler | Schedule | Mod) -> None:
    """Print the parameters, if there are any."""
    if owner.parameters:
        console().print()
        show_table(("parameter", "default", "values", "meaning"), settings(owner))


def footer(owner: Sampler | Schedule | Mod) -> None:
    """Print the sources, and how to cite them."""
    console().print(Text("\n".join([f"\nFrom {owner.paper}:", *map(str, sources(owner.paper))])))
    console().print(Text.assemble((f"sigmafield cite {owner.name}", "bold"), " prints BibTeX."))
