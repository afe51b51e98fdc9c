"""What each mod of guidance costs beyond plain guidance: rows of the network that it adds, and time a step.

Runs of 10 steps at cfg 4 with the embedded model, at its own 64x64 pixels and at 128x128; mods for transformers with a
small random Stable Diffusion 3 of diffusers, if that is installed. A mod has its default parameters, or those that make
it act there. Times are of this process on one thread, over a run without the mod right before: medians of 5 pairs, with
quartiles.
"""

import statistics
import time
from dataclasses import dataclass, replace

import torch
from rich.console import Console
from rich.table import Table

import sigmafield as sf
from sigmafield.core.conditioning import Cond
from sigmafield.models.bundle import Pipeline
from sigmafield.models.diffusion_model import DiffusionModel
from sigmafield.models.text.bundled import NONE
from sigmafield.models.text.encoder import TextEncoder
from sigmafield.models.vae.vae import Vae
from sigmafield.parameterization.latent_format import latent_format
from sigmafield.parameterization.prediction import flow_sampling
from sigmafield.recipes.build import Job
from sigmafield.recipes.execute import open_job
from sigmafield.recipes.mods import MODS, parse_mods
from sigmafield.recipes.recipe import Recipe
from sigmafield.runs.run import finish

STEPS, PAIRS = 10, 5
SIZES = (64, 128)
ACTS = {
    "interval": "interval(start=0.2, end=0.8)",
    "sigma_interval": "sigma_interval(low=0.5, high=4)",
    "context": "context(length=6, overlap=2, dim=3)",
    "deep_shrink": "deep_shrink(end_percent=1)",
    "hypertile": "hypertile(tile_size=32, max_depth=2)",
    "tome": "tome(max_downsample=4)",
    "slg": "slg(end_percent=1)",
    "self_attention_multiply": "self_attention_multiply(q=1.1)",
    "cross_attention_multiply": "cross_attention_multiply(q=1.1)",
}
"""Parameters for mods that their defaults would leave idle on these models, or in most of the steps."""


@dataclass(frozen=True)
class Cost:
    """Rows a step beyond plain guidance; quartiles of its time beyond that, ms a step; and plain guidance's own."""

    rows: float
    extra: tuple[float, float, float]
    plain: float


def opened(pipe: Pipeline, line: str, size: int) -> Job:
    return open_job(
        Recipe("a red heart", steps=STEPS, cfg=4.0, width=size, height=size, guidance=line, sampler="euler"), pipe
    )


def rows_of(pipe: Pipeline, line: str, size: int) -> float:
    """Rows of the network in a step of a run."""
    rows = 0

    def forward(module: object, x: torch.Tensor, t: torch.Tensor, cond: Cond) -> torch.Tensor:
        nonlocal rows
        rows += len(x)
        return pipe.model.forward(module, x, t, cond)

    job = opened(replace(pipe, model=replace(pipe.model, forward=forward)), line, size)
    finish(job.run, job.start)
    return rows / STEPS


def timed(job: Job) -> float:
    """Milliseconds a step of a run."""
    began = time.process_time()
    finish(job.run, job.start)
    return (time.process_time() - began) / STEPS * 1e3


def measure(pipe: Pipeline, lines: dict[str, str], size: int) -> dict[str, Cost]:
    """The cost of each mod relative to plain guidance, in turn, so that drift of the machine affects all alike."""
    plain, jobs = opened(pipe, "", size), {name: opened(pipe, line, size) for name, line in lines.items()}
    base, own = rows_of(pipe, "", size), {name: rows_of(pipe, line, size) for name, line in lines.items()}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in lines}
    for _ in range(PAIRS):
        for name, job in jobs.items():
            times[name].append((timed(plain), timed(job)))
    without = statistics.median(before for pairs in times.values() for before, _ in pairs)
    costs = {}
    for name, pairs in times.items():
        low, middle, high = statistics.quantiles([after - before for before, after in pairs], n=4)
        costs[name] = Cost(own[name] - base, (low, middle, high), without)
    return costs


def transformer() -> Pipeline | None:
    """A small Stable Diffusion 3 with random weights; None without diffusers."""
    try:
        from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel

        from sigmafield.models.diffusers.transformer import plain
    except ImportError:
        return None
    torch.manual_seed(0)
    network = SD3Transformer2DModel(
        sample_size=16, in_channels=16, out_channels=16, num_layers=10, attention_head_dim=16, num_attention_heads=4,
        joint_attention_dim=64, caption_projection_dim=64, pooled_projection_dim=64, pos_embed_max_size=32,
    )  # fmt: skip

    def encode_text(modules, prompts, size, clip_skip=None, bundled=NONE) -> Cond:
        return Cond(torch.randn(len(prompts), 16, 64), {"pooled_projections": torch.randn(len(prompts), 64)})

    model = DiffusionModel(
        "Stable Diffusion 3", plain, flow_sampling(), latent_format("SD3"), (128, 128), network.eval(),
        part="transformer", patch=2,
    )  # fmt: skip
    return Pipeline(model, TextEncoder(encode_text), Vae(lambda images: images, lambda latents: latents))


def fitting(pipe: Pipeline, lines: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """(mods that have something to act on in the model's network, why the others have not)."""
    fit, unfit = {}, {}
    for name, line in lines.items():
        try:
            parse_mods(line).check(pipe.model.patchable())
            fit[name] = line
        except ValueError as error:
            unfit[name] = str(error)
    return fit, unfit


def show(title: str, costs: dict[str, Cost]) -> None:
    table = Table("mod", "rows a step", "ms a step", "quartiles", "of plain guidance", title=title)
    for name, cost in costs.items():
        low, middle, high = cost.extra
        share = 100 * middle / cost.plain
        table.add_row(name, f"{cost.rows:+.1f}", f"{middle:+.2f}", f"{low:+.2f} … {high:+.2f}", f"{share:+.0f} %")
    Console(width=120).print(table)
    print(f"plain guidance: {next(iter(costs.values())).plain:.2f} ms a step")


def main() -> None:
    torch.set_num_threads(1)
    pipe = sf.load("tiny")
    lines, left = fitting(pipe, {name: ACTS.get(name, name) for name in MODS})
    for size in SIZES:
        show(f"the embedded model, {size}x{size} pixels", measure(pipe, lines, size))
    other = transformer() if left else None
    if other is not None:
        lines, left = fitting(other, left | {name: ACTS.get(name, name) for name in left})
        if lines:
            show("a small random Stable Diffusion 3, 128x128 pixels", measure(other, lines, 128))
    for name, why in left.items():
        print(f"skipped: {name}: {why if other else 'needs diffusers'}")
    others = {name: line for name, line in ACTS.items() if name in MODS}
    print("with parameters of their own:", ", ".join(others.values()))


if __name__ == "__main__":
    main()
