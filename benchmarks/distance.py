"""Distance samplers against Euler's, Heun's and DPM++ 2M at equal network calls: is "7 steps are 20 of dpmpp_2m" true?

Two models. An exact one, a mixture of three Gaussians, plain and guided: the rms distance of x to the solution of its
ODE (by Heun's at each of the 1000 levels), and W₁, the mean difference of sorted values to those of the distribution.
And the embedded one: the share of captions whose image is nearest to a image of that caption among long runs with
other seeds (as training/evaluate.py does it with training images), and the rms distance of latents to a long run's
with the same seed. A sampler gets as many steps as its network calls allow.

    python benchmarks/distance.py [figure.png]
"""

import json
import sys
from collections.abc import Callable
from functools import cache
from importlib.resources import files

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

import sigmafield as sf
from sigmafield.lab.plot import figure
from sigmafield.parameterization.families import family
from sigmafield.samplers import SAMPLERS

LEVELS = family("SD15").sampling().levels
WAYS = {
    "euler": ("euler", "beta"),
    "heun": ("heun", "beta"),
    "dpmpp_2m": ("dpmpp_2m", "beta"),
    "dpmpp_2m, karras": ("dpmpp_2m", "karras"),
    "distance": ("distance", "beta"),
    "distance_n": ("distance_n", "beta"),
    "distance_fast": ("distance_fast", "beta"),
    "distance_c2": ("distance_c2", "beta"),
}
BUDGETS = (7, 11, 17, 20, 30, 44)
CLAIM = {"distance": 7, "dpmpp_2m": 20}
SHAPE = (8, 4, 16, 16)
CFG = 4.0
CAPTIONS, LONG, PICTURE_CFG = 40, 60, 3.0
PICTURE_BUDGETS = (7, 11, 17, 20, 30)


class Guided:
    """An exact denoiser guided away from another."""

    def __init__(self, cfg: float):
        self.cfg, self.of = cfg, sf.Mixture()
        self.other = sf.Mixture(means=(-1.3, -0.1, 0.8), weights=(0.4, 0.3, 0.3), tau=0.6)

    def __call__(self, x: Tensor, sigma: Tensor, ctx: sf.Ctx) -> sf.Pred:
        c, u = self.of(x, sigma).x0, self.other(x, sigma).x0
        return sf.Pred(u + self.cfg * (c - u), c, u)


@cache
def calls(name: str, steps: int) -> int:
    """Network calls of a run with this many steps."""
    sampler, scheduler = WAYS[name]
    grid = sf.Grid(sf.SCHEDULES[scheduler](steps, LEVELS), sf.VE())
    run = sf.Run(lambda x, sigma, ctx: sf.Pred(x * 0), SAMPLERS.lookup(sampler), grid)
    return sf.finish(run, torch.zeros(1, 1, 1, 1)).nfe


def steps_within(name: str, budget: int) -> int:
    """The largest number of steps that needs at most this many calls."""
    return max((n for n in range(1, budget + 1) if calls(name, n) <= budget), default=1)


def exact(cfg: float, measure: Callable[[Tensor], dict[str, float]], noise: Tensor) -> dict:
    """{(sampler, budget): (steps, calls, measures)} on the mixture."""
    out = {}
    for name, (sampler, scheduler) in WAYS.items():
        for budget in BUDGETS:
            n = steps_within(name, budget)
            x, nfe = drawn(Guided(cfg), sampler, sf.SCHEDULES[scheduler](n, LEVELS), noise)
            out[name, budget] = (n, nfe, measure(x))
    return out


def drawn(denoise: sf.Guider | Guided, sampler: str, sigmas: Tensor, noise: Tensor) -> tuple[Tensor, int]:
    """(x at the end, network calls) of a run from noise."""
    run = sf.Run(denoise, SAMPLERS.lookup(sampler), sf.Grid(sigmas, sf.VE()))
    state = sf.finish(run, noise * float(sigmas[0]))
    return state.x, state.nfe


def rms(a: Tensor, b: Tensor) -> float:
    """Root mean square difference."""
    return float((a - b).square().mean().sqrt())


def mixture(cfg: float) -> dict:
    """Errors on the exact model."""
    noise = torch.randn(SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    sigmas = sf.SCHEDULES["beta"](2000, LEVELS)
    solution, _ = drawn(Guided(cfg), "heun", torch.cat([sigmas[sigmas > 0].unique().flip(0), sigmas[-1:]]), noise)
    of, generator = sf.Mixture(), torch.Generator().manual_seed(2)
    which = torch.multinomial(torch.tensor(of.weights), noise.numel(), replacement=True, generator=generator)
    centre = torch.tensor(of.means, dtype=torch.float64)[which]
    truth = centre + of.tau * torch.randn(noise.numel(), dtype=torch.float64, generator=generator)

    def measure(x: Tensor) -> dict[str, float]:
        seen = {"rms to the ODE": rms(x, solution)}
        if cfg == 1:
            seen["W₁"] = float((x.flatten().sort().values - truth.sort().values).abs().mean())
        return seen

    return exact(cfg, measure, noise)


def images() -> dict:
    """Retrieval and distance to long runs on the embedded model."""
    pipe = sf.load("tiny")
    labels = json.loads((files("sigmafield") / "data" / "tiny" / "labels.json").read_text("utf-8"))
    captions = [labels[i] for i in np.linspace(0, len(labels) - 1, CAPTIONS).round().astype(int)]
    side = pipe.model.size[0] // pipe.model.latent.factor
    guider = sf.Guider(
        pipe.model,
        pipe.text.encode(captions, pipe.model.size),
        pipe.text.encode([""] * len(captions), pipe.model.size),
        PICTURE_CFG,
    )

    def noise(first: int) -> Tensor:
        rows = [
            sf.Gaussian(first + k, (1, pipe.model.latent.channels, side, side)).draw() for k in range(len(captions))
        ]
        return torch.cat(rows)

    def run(sampler: str, scheduler: str, steps: int, first: int) -> tuple[Tensor, int]:
        return drawn(guider, sampler, sf.SCHEDULES[scheduler](steps, pipe.model.sampling.levels), noise(first))

    known = torch.stack([run("dpmpp_2m", "karras", 20, 1000 * k)[0] for k in (1, 2)])
    long, _ = run("dpmpp_2m", "beta", LONG, 0)
    out = {}
    for name, (sampler, scheduler) in track(WAYS.items(), "embedded model"):
        for budget in PICTURE_BUDGETS:
            n = steps_within(name, budget)
            x, nfe = run(sampler, scheduler, n, 0)
            gap = torch.cdist(x.flatten(1), known.flatten(0, 1).flatten(1)).reshape(len(x), 2, -1).amin(1)
            right = float((gap.argmin(1) == torch.arange(len(x))).float().mean())
            out[name, budget] = (n, nfe, {"nearest is right": right, "rms to a long run": rms(x, long)})
    return out


def table(title: str, seen: dict, budgets: tuple[int, ...]) -> Table:
    """One row a sampler, one column a budget: measures, with steps and calls."""
    out = Table("sampler", *(f"≤ {budget} calls" for budget in budgets), title=title)
    for name in WAYS:
        cells = []
        for budget in budgets:
            n, nfe, values = seen[name, budget]
            cells.append("  ".join(f"{v:.0%}" if "right" in k else f"{v:.4f}" for k, v in values.items()))
            cells[-1] += f"\n[dim]{n} steps, {nfe} calls[/]"
        out.add_row(name, *cells)
    return out


def draw(panels: dict[str, tuple[dict, str]], path: str) -> None:
    """Error against calls, a panel each."""
    out, axes = figure(len(panels), (4.6, 3.8))
    for ax, (title, (seen, measure)) in zip(axes, panels.items()):
        for k, name in enumerate(WAYS):
            points = sorted({(nfe, values[measure]) for (m, _), (_, nfe, values) in seen.items() if m == name})
            style = "-" if name.startswith("distance") else "--"
            ax.plot(*zip(*points), marker=".", color=f"C{k}", linestyle=style, label=name)
        ax.set(xscale="log", yscale="log", xlabel="network calls", ylabel=measure, title=title)
        ticks = sorted({budget for _, budget in seen})
        ax.set_xticks(ticks, labels=[str(n) for n in ticks])
        ax.minorticks_off()
        ax.grid(alpha=0.3)
    axes[0].legend(fontsize=7)
    out.savefig(path, dpi=110)


def claim(title: str, seen: dict) -> None:
    """Say how 7 steps of distance and 20 of dpmpp_2m compare."""
    found = {n: next(v for (m, _), v in seen.items() if m == n and v[0] == steps) for n, steps in CLAIM.items()}
    (_, d_calls, d), (_, m_calls, m) = found["distance"], found["dpmpp_2m"]
    for key in d:
        gain = (d[key] - m[key]) * (1 if "right" in key else -1)
        verdict = "holds" if gain > 0 else "does not hold" if gain < 0 else "is not decided: there is no difference"
        print(
            f"{title}, {key}: distance, 7 steps ({d_calls} calls) {d[key]:.4f}; dpmpp_2m, 20 steps ({m_calls} calls) "
            f"{m[key]:.4f}: the claim {verdict}"
        )


def main(path: str | None = None) -> None:
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    console = Console(width=150)
    plain, guided = mixture(1.0), mixture(CFG)
    console.print(table("exact mixture, no guidance: rms to the ODE, W₁ to the distribution", plain, BUDGETS))
    console.print(table(f"exact mixture, cfg {CFG:g}: rms to the ODE", guided, BUDGETS))
    drawings = images()
    title = f"embedded model, {CAPTIONS} captions, cfg {PICTURE_CFG:g}: nearest is right, rms to a long run"
    console.print(table(title, drawings, PICTURE_BUDGETS))
    claim("exact mixture", plain)
    claim(f"exact mixture, cfg {CFG:g}", guided)
    claim("embedded model", drawings)
    if path:
        panels = {
            "exact mixture": (plain, "rms to the ODE"),
            f"exact mixture, cfg {CFG:g}": (guided, "rms to the ODE"),
            "embedded model": (drawings, "rms to a long run"),
        }
        draw(panels, path)


if __name__ == "__main__":
    main(*sys.argv[1:])
