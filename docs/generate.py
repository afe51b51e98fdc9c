"""A page for every sampler, schedule and mod of guidance, from the code: a hook of mkdocs, run by `make docs`."""

from __future__ import annotations

import inspect
import io
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import get_args

import matplotlib
import torch
from matplotlib.figure import Figure
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from sigmafield.citations import sources
from sigmafield.cli.explain import EXAMPLE, NETWORK, NOISE, facts, relatives, settings
from sigmafield.core.process import VE, Flow
from sigmafield.guidance.registry import Mod, Stage
from sigmafield.lab import amplification, convergence, plot, real_interval, table
from sigmafield.lab.coefficients import terms
from sigmafield.lab.stability import STEP
from sigmafield.parameterization.timesteps import betas, discrete, shifted_flow
from sigmafield.recipes.mods import MODS
from sigmafield.samplers import SAMPLERS, Sampler
from sigmafield.schedules import SCHEDULES, Schedule

FAMILIES = {
    "euler": "First order",
    "runge_kutta": "Runge–Kutta",
    "multistep": "Multistep in σ",
    "dpm": "DPM-Solver",
    "dpmpp": "DPM-Solver++, multistep",
    "singlestep": "DPM-Solver++, single step",
    "exponential": "Exponential",
    "uni_pc": "UniPC",
    "sa_solver": "SA-Solver",
    "distance": "Distance",
}
"""Headings for the modules of `sigmafield.samplers`; others are headed by their names."""

NETWORKS = {
    "Stable Diffusion": (discrete(betas()), VE()),
    "Stable Diffusion 3": (shifted_flow(3.0), Flow(3.0)),
}
"""The noise levels that schedules are drawn for."""

STABILITY = """`evals` is the number of evaluations of the network in one step, at most.

Each page has the sampler's **region of stability**: where one step, as a linear map of x and of the sampler's memory,
has no eigenvalue beyond the unit circle. The test equation is dx/dλ = −x + D(x) with D(x) = (1 + μ) x, whose solutions
decay for Re μ < 0, and z = h μ for a step h. An exact denoiser has μ ≥ −1, since dD/dx is a covariance over σ²;
guidance multiplies differences of predictions, and can take μ below −1. Outside of the region errors grow from step
to step.

In tables of **coefficients** D₁, D₂ … are the step's own predictions and D₋₁, D₋₂ … earlier ones, U unconditional
predictions and ξ noises. They are read off by unit vectors, without a model: `sigmafield.lab.coefficients`."""

ACTS = {
    "around": "Around a guided prediction",
    "scale": "On the scale",
    "model": "On how prompts are evaluated",
    "network": "Within the network",
    "against": "Within the network, for the negative prompt alone",
    "before": "Before C and U are combined",
    "combine": "In the place of D = U + cfg (C − U)",
    "after": "On D",
}
"""Headings for the stages of mods, in the order in which they act."""

PAIRS = Path(__file__).parent / "images" / "guidance"
"""Images without and with each mod, by examples/guidance_images.py."""

STEPS = 20
BOX = (-5.0, 1.5, -3.25, 3.25)
POINTS = 161

matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "sigmafield", "font.size": 9})


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages under 'Samplers', 'Schedules' and 'Guidance mods' of the navigation."""
    for item in config.nav or []:
        if "samplers/index.md" in item.values():
            item["Samplers"] = ["samplers/index.md"] + [
                {family: [f"samplers/{sampler.name}.md" for sampler in members]}
                for family, members in families().items()
            ]
        if "schedules/index.md" in item.values():
            item["Schedules"] = ["schedules/index.md"] + [f"schedules/{name}.md" for name in SCHEDULES]
        if "mods/index.md" in item.values():
            item["Guidance mods"] = ["mods/index.md"] + [
                {ACTS[stage]: [f"mods/{mod.name}.md" for mod in members]} for stage, members in stages().items()
            ]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages and their figures."""

    def write(path: str, content: str | bytes) -> None:
        files.append(File.generated(config, path, content=content))

    write("samplers/index.md", samplers_page())
    for sampler in SAMPLERS.values():
        write(f"samplers/{sampler.name}.md", sampler_page(sampler, write))
    write("schedules/index.md", schedules_page())
    for schedule in SCHEDULES.values():
        write(f"schedules/{schedule.name}.md", schedule_page(schedule, write))
    write("mods/index.md", mods_page())
    for mod in MODS.values():
        write(f"mods/{mod.name}.md", mod_page(mod))
    return files


def families() -> dict[str, list[Sampler]]:
    """The samplers by the module that they are in, under its heading."""
    out: dict[str, list[Sampler]] = {}
    for sampler in SAMPLERS.values():
        module = sampler.step.__module__.rpartition(".")[2]
        out.setdefault(FAMILIES.get(module, module.replace("_", " ").capitalize()), []).append(sampler)
    return out


def samplers_page() -> str:
    """The table of all samplers."""
    lines = ["# Samplers", "", "From `sigmafield.SAMPLERS`. [How to choose](../choose.md) one.", "", STABILITY]
    for family, members in families().items():
        rows = [(f"[{m.name}]({m.name}.md)", str(m.order), str(m.evals), NOISE[m.noise], m.paper) for m in members]
        lines += ["", f"## {family}", "", *grid(("sampler", "order", "evals", "noise", "from"), rows)]
    return "\n".join(lines)


def sampler_page(sampler: Sampler, write: Callable[[str, str | bytes], None]) -> str:
    """Equation, row, parameters, coefficients, figures and sources of one sampler."""
    name = sampler.name
    parts = [f"# {name}", prose(inspect.getdoc(sampler.step) or "")]
    head, *rows = facts(sampler).items()
    parts += [block(grid(head, rows))]
    if others := relatives(sampler):
        listed = (f"[{other}]({other}.md)" + f" ({differs})" * bool(differs) for other, differs in others.items())
        parts += ["The same function, with other defaults: " + "; ".join(listed) + "."]
    parts += parameters(sampler)
    if sampler.linear:
        parts += coefficients(name) + order(name, write) + stability(name, write)
    return "\n\n".join(parts + citation(sampler.paper)) + "\n"


def parameters(owner: Sampler | Schedule | Mod) -> list[str]:
    """The table of parameters, if there are any."""
    rows = [(f"`{name}`", default, values) for name, default, values in settings(owner)]
    return ["## Parameters", block(grid(("name", "default", "values"), rows))] if rows else []


def coefficients(name: str) -> list[str]:
    """The weights of a middle step."""
    rows = table(name, EXAMPLE)
    i = len(rows) // 2
    now, then = float(rows[i].span.sigma), float(rows[i].span.sigma_next)
    cells = [(what, "" if s is None else f"{s:.4g}", f"{w:+.6f}") for what, s, w in terms(rows, i)]
    return [
        "## Coefficients",
        f"x' at σ' = {then:.4g} from x at σ = {now:.4g}: step {i + 1} of {len(rows)} on Karras levels of VE. "
        "[How to read it](index.md).",
        block(grid(("term", "at σ", "weight"), cells)),
    ]


def order(name: str, write: Callable[[str, str | bytes], None]) -> list[str]:
    """The figure of its convergence, if without noise it has an ODE to converge to."""
    try:
        seen = [convergence(name, process) for process in (VE(), Flow())]
    except ValueError as error:
        return ["## Convergence", f"{error}."]
    write(f"samplers/figures/{name}-order.svg", svg(plot.errors(seen)))
    return [
        "## Convergence",
        "Without noise, on an exact denoiser (a mixture of three Gaussians), with steps in λ that alternate 1 : 2.",
        f"![error against steps](figures/{name}-order.svg)",
    ]


def stability(name: str, write: Callable[[str, str | bytes], None]) -> list[str]:
    """The figure of its region of stability, and the real interval."""
    re_, im = (torch.linspace(*ends, POINTS, dtype=torch.float64) for ends in (BOX[:2], BOX[2:]))
    radius = amplification(name, torch.complex(re_.expand(POINTS, -1), im[:, None].expand(-1, POINTS)))
    write(f"samplers/figures/{name}-stability.svg", svg(plot.region(radius, BOX)))
    return [
        "## Stability",
        f"Where a step of length h = {STEP} in λ, with z = h μ, damps dx/dλ = −x + D(x), D(x) = (1 + μ) x; of the mean "
        f"for samplers with noise. On the real axis: −{real_interval(name):.3f} ≤ z ≤ 0. "
        "[How to read it](index.md).",
        f"![region of stability](figures/{name}-stability.svg)",
    ]


def schedules_page() -> str:
    """The table of all schedules."""
    rows = [(f"[{s.name}]({s.name}.md)", NETWORK[s.network], s.paper) for s in SCHEDULES.values()]
    intro = "From `sigmafield.SCHEDULES`; parts, refinements and reversals of them are in `sigmafield.schedules`."
    return "\n".join(["# Schedules", "", intro, "", *grid(("schedule", "networks", "from"), rows)])


def schedule_page(schedule: Schedule, write: Callable[[str, str | bytes], None]) -> str:
    """Equation, parameters, figure and sources of one schedule."""
    fitting = {
        name: (levels, process)
        for name, (levels, process) in NETWORKS.items()
        if schedule.network in ("any", "flow" if isinstance(process, Flow) else "ve")
    }
    levels = {name: schedule(STEPS, known).tolist() for name, (known, _) in fitting.items()}
    figure = plot.schedule(levels, {name: process for name, (_, process) in fitting.items()})
    write(f"schedules/figures/{schedule.name}.svg", svg(figure))
    parts = [f"# {schedule.name}", prose(inspect.getdoc(schedule.make) or "")]
    parts += parameters(schedule)
    parts += [f"{STEPS} steps:", f"![noise levels](figures/{schedule.name}.svg)"]
    return "\n\n".join(parts + citation(schedule.paper)) + "\n"


def stages() -> dict[str, list[Mod]]:
    """The mods by where they act, in the order in which they do."""
    assert set(ACTS) == set(get_args(Stage))
    by_stage = {stage: [mod for mod in MODS.values() if mod.stage == stage] for stage in ACTS}
    return {stage: members for stage, members in by_stage.items() if members}


def mods_page() -> str:
    """The table of all mods of guidance."""
    lines = ["# Guidance mods", "", "From `sigmafield.MODS`. [How they are used](../guidance.md), with images."]
    for stage, members in stages().items():
        rows = [(f"[{mod.name}]({mod.name}.md)", str(mod.evals), mod.paper) for mod in members]
        lines += ["", f"## {ACTS[stage]}", "", *grid(("mod", "further evaluations", "from"), rows)]
    return "\n".join(lines)


def mod_page(mod: Mod) -> str:
    """Equation, parameters, images and sources of one mod."""
    parts = [
        f"# {mod.name}",
        prose(inspect.getdoc(mod.apply) or ""),
        f"It acts **{ACTS[mod.stage][0].lower()}{ACTS[mod.stage][1:]}**.",
    ]
    parts += parameters(mod)
    if (PAIRS / f"{mod.name}.png").exists():
        parts += [
            "## Images",
            "The embedded model, without it above and with it below; at cfg 10 where it says nothing else:",
            f"![without and with {mod.name}](../images/guidance/{mod.name}.png)",
        ]
    return "\n\n".join(parts + citation(mod.paper)) + "\n"


def citation(paper: str) -> list[str]:
    """Where it is from, in words and as BibTeX."""
    entries = sources(paper)
    listed = block(f"- {entry}" for entry in entries)
    return ["## From", f"{paper}:", listed, "```bibtex\n" + "\n\n".join(entry.text for entry in entries) + "\n```"]


def prose(doc: str) -> str:
    """A docstring as Markdown. Its equation is the second paragraph where nothing is indented."""
    paragraphs = doc.split("\n\n")
    if len(paragraphs) > 1 and not re.search("^    ", doc, re.MULTILINE) and re.search(" [=←] ", paragraphs[1]):
        paragraphs[1] = block("    " + line for line in paragraphs[1].splitlines())
    return "\n\n".join(paragraphs)


def grid(head: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """Lines of a Markdown table."""
    head = list(head)
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def block(lines: Iterable[str]) -> str:
    """Lines that belong together."""
    return "\n".join(lines)


def svg(figure: Figure) -> str:
    """A figure as text; without a date, so that the same figure is the same file."""
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()
