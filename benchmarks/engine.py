"""What the engine itself costs: every sampler with a network that costs nothing, and diffusers' schedulers.

Two figures for each. Time per step at the latent of a 1024x1024 image (1x4x128x128, float32, 20 Karras steps), noise
included: what a sampler adds to the network's time. And the update alone, at 4.2 M floats with free noise, in
copies of the latent (`x.clone()`): what a sampler costs where memory traffic counts. Then whole runs with guidance at
cfg 7 over a model whose network is free: what all of the engine costs per step. All on one thread, in CPU time of this
process, so that other programs disturb less.
"""

import ctypes
import dataclasses
import itertools
import statistics
import sys
import time
from collections.abc import Callable
from typing import Annotated

import cyclopts
import diffusers
import torch
from rich.console import Console
from rich.table import Table

from sigmafield import SAMPLERS, Cond, Grid, Guider, Pred, Run, finish, load, sample
from sigmafield.core.process import VE
from sigmafield.noise.policy import default_noise
from sigmafield.parameterization.families import family
from sigmafield.parameterization.timesteps import betas, discrete
from sigmafield.schedules import karras

STEPS, RUNS = 20, 11
LARGE, LARGE_STEPS, LARGE_RUNS = (1, 4, 1024, 1024), 8, 5
LIMIT = 12.0
"""Copies that an evaluation's update may cost before the sampler has to say why."""
CLOCK = discrete(betas()).sigma_at
TARGETS = ("euler", "dpmpp_2m", "uni_pc")
WHOLE, WHOLE_STEPS = ("euler", "dpmpp_2m", "uni_pc", "heun", "dpmpp_2m_sde"), 30
SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
K = {"use_karras_sigmas": True}
PEERS = {
    "euler": ("EulerDiscreteScheduler", K),
    "euler_ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", K),
    "dpm_2": ("KDPM2DiscreteScheduler", K),
    "dpm_2_ancestral": ("KDPM2AncestralDiscreteScheduler", K),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", K),
    "dpmpp_2m_sde": ("DPMSolverMultistepScheduler", K | {"algorithm_type": "sde-dpmsolver++"}),
    "dpmpp_2m_sde_heun": (
        "DPMSolverMultistepScheduler",
        K | {"algorithm_type": "sde-dpmsolver++", "solver_type": "heun"},
    ),
    "dpmpp_3m_sde": ("DPMSolverMultistepScheduler", K | {"algorithm_type": "sde-dpmsolver++", "solver_order": 3}),
    "dpmpp_sde": ("DPMSolverSDEScheduler", K),
    "uni_pc": ("UniPCMultistepScheduler", K | {"solver_order": 3, "solver_type": "bh1"}),
    "uni_pc_bh2": ("UniPCMultistepScheduler", K | {"solver_order": 3, "solver_type": "bh2"}),
    "lms": ("LMSDiscreteScheduler", K),
    "deis": ("DEISMultistepScheduler", K | {"solver_order": 3}),
    "ipndm": ("IPNDMScheduler", {}),
    "ddim": ("DDIMScheduler", {"clip_sample": False}),
    "ddpm": ("DDPMScheduler", {"clip_sample": False}),
    "lcm": ("LCMScheduler", {}),
}


def keep_memory() -> None:
    """Have the C library keep freed memory: else page faults of large latents, not passes over them, are measured."""
    if sys.platform == "linux":
        libc = ctypes.CDLL("libc.so.6")
        trim_threshold, mmap_threshold = -1, -3  # their numbers in malloc.h
        libc.mallopt(trim_threshold, 2**31 - 1)
        libc.mallopt(mmap_threshold, 2**30)


class Free:
    """Noise that costs nothing."""

    def __init__(self, xi: torch.Tensor):
        self.xi = xi

    def __call__(self, span):
        return self.xi

    def get_state(self):
        return None

    def set_state(self, state):
        pass


def ours(name: str, shape: tuple[int, ...]) -> Callable[[], int]:
    """A run from schedule to end, with its noise; returns its steps."""
    x, answer, sigmas = torch.randn(shape) * 14.6, Pred(*torch.randn(3, *shape)), karras(STEPS, 0.0292, 14.6146)
    taken = len(sigmas) - 1 if not SAMPLERS[name].adaptive else steps_taken(name, answer, x, sigmas)

    def run() -> int:
        sample(lambda x, sigma, ctx: answer, x, sigmas, name, clock=CLOCK)
        return taken

    return run


def steps_taken(name: str, answer: Pred, x: torch.Tensor, sigmas: torch.Tensor) -> int:
    """Attempts of an adaptive sampler; one of its steps is not one of the schedule's."""
    return finish(Run(lambda x, sigma, ctx: answer, SAMPLERS[name], Grid(sigmas, VE()), Free(x)), x).i


def theirs(name: str, settings: dict, shape: tuple[int, ...]) -> Callable[[], int]:
    """A loop over diffusers' scheduler, whose timesteps are set beforehand; returns its steps."""
    scheduler = getattr(diffusers, name)(**({} if name == "IPNDMScheduler" else SD), **settings)
    x, answer = torch.randn(shape) * 14.6, torch.randn(shape)

    def prepare() -> None:
        scheduler.set_timesteps(STEPS)
        scheduler.scale_model_input(x, scheduler.timesteps[0])

    def run() -> int:
        y = x
        for t in scheduler.timesteps:
            y = scheduler.step(answer, t, y).prev_sample
        return STEPS

    run.prepare = prepare  # type: ignore[attr-defined]
    return run


def updates(name: str) -> Callable[[], int]:
    """A run at 4.2 M floats with free noise; returns its evaluations."""
    x, answer, xi = torch.randn(LARGE), Pred(*torch.randn(3, *LARGE)), torch.randn(LARGE)
    run = Run(
        lambda x, sigma, ctx: answer,
        SAMPLERS[name],
        Grid(karras(LARGE_STEPS, 0.0292, 14.6146), VE(), clock=CLOCK),
        Free(xi),
    )
    return lambda: finish(run, x).nfe


def whole_run(name: str) -> Callable[[], int]:
    """A guided run over a model whose network returns a constant; returns its steps."""
    sampling, shape = family("SD15").sampling(), (1, 4, 128, 128)
    answer = 0.1 * torch.randn(2, *shape[1:])
    model = dataclasses.replace(
        load("tiny").model, forward=lambda module, x, t, cond: answer[: len(x)], sampling=sampling
    )
    positive, negative = (Cond(torch.randn(1, 77, 768)) for _ in range(2))
    guider = Guider(model, positive, negative, 7.0)
    grid, x = Grid(karras(WHOLE_STEPS, 0.0292, 14.6146), sampling.process, clock=CLOCK), 14.6 * torch.randn(shape)
    run = Run(guider, SAMPLERS[name], grid, default_noise(SAMPLERS[name].noise, 0, grid, x))
    return lambda: finish(run, x).i


def by_hand() -> Callable[[], int]:
    """Guided Euler steps as a loop of plain torch over the same network: the arithmetic, and nothing else."""
    shape = (1, 4, 128, 128)
    answer, start = 0.1 * torch.randn(2, *shape[1:]), 14.6 * torch.randn(shape)
    levels = karras(WHOLE_STEPS, 0.0292, 14.6146).tolist()

    def run() -> int:
        x = start
        for sigma, after in itertools.pairwise(levels):
            rows = torch.cat([x, x]) * (sigma**2 + 1) ** -0.5
            c, u = (torch.cat([x, x]) - sigma * answer[: len(rows)]).chunk(2)
            d = (x - (u + 7.0 * (c - u))) / sigma
            x = x + d * (after - sigma)
        return WHOLE_STEPS

    return run


def noise_alone(name: str) -> Callable[[], int]:
    """The noise of such a run, interval by interval; returns its steps."""
    grid = Grid(karras(WHOLE_STEPS, 0.0292, 14.6146), VE(), clock=CLOCK)
    noise = default_noise(SAMPLERS[name].noise, 0, grid, torch.zeros(1, 4, 128, 128))

    def run() -> int:
        for i in range(WHOLE_STEPS - 1):
            noise(grid.span(i))
        return WHOLE_STEPS

    return run


def whole_runs(runs: int) -> tuple[Table, str]:
    """(the table of whole runs, what DPM++ 2M SDE takes compared with its noise alone)."""
    noise = "noise of dpmpp_2m_sde"
    cases = {name: whole_run(name) for name in WHOLE} | {
        noise: noise_alone("dpmpp_2m_sde"), "euler by hand, in plain torch": by_hand(),
    }  # fmt: skip
    times = timed(cases, runs)
    table = Table("run", "ms per step ± IQR", title=f"guided runs with a free network, {WHOLE_STEPS} steps")
    for name, values in times.items():
        table.add_row(name, "{:.2f} ± {:.2f}".format(*middle(values)))
    ratio = middle([whole / alone for whole, alone in zip(times["dpmpp_2m_sde"], times[noise])])
    return table, "dpmpp_2m_sde: {:.2f} ± {:.2f} times its noise alone, run by run".format(*ratio)


def clones() -> Callable[[], int]:
    x = torch.randn(LARGE)

    def run() -> int:
        for _ in range(10):
            x.clone()
        return 10

    return run


def timed(cases: dict[str, Callable[[], int]], runs: int) -> dict[str, list[float]]:
    """Milliseconds a step of each run; in turn, so that the machine's changes meet all alike."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    for k in range(runs + 1):
        for name, run in cases.items():
            getattr(run, "prepare", lambda: None)()
            began = time.process_time()
            steps = run()
            if k:  # the first round warms up
                times[name].append((time.process_time() - began) / steps * 1e3)
    return times


def middle(values: list[float]) -> tuple[float, float]:
    """(median, interquartile range)."""
    quarters = statistics.quantiles(values, n=4)
    return quarters[1], quarters[2] - quarters[0]


def measure(cases: dict[str, Callable[[], int]], runs: int) -> dict[str, tuple[float, float]]:
    """(median, interquartile range) of milliseconds a step."""
    return {name: middle(values) for name, values in timed(cases, runs).items()}


def main(
    *names: str,
    runs: Annotated[int, cyclopts.Parameter(validator=cyclopts.validators.Number(gte=2))] = RUNS,
) -> None:
    """Print the tables, and which targets are met. A number is a median, with the interquartile range.

    Args:
        names: Samplers; none = all.
        runs: Runs of each, for the time per step.
    """
    chosen = [SAMPLERS.lookup(name).name for name in names or SAMPLERS]
    torch.set_num_threads(1)
    keep_memory()
    torch.set_grad_enabled(False)
    shape = (1, 4, 128, 128)
    cases = {name: ours(name, shape) for name in chosen}
    peers = {name: peer for name, peer in PEERS.items() if name in chosen}
    cases |= {"diffusers " + name: theirs(kind, settings, shape) for name, (kind, settings) in peers.items()}
    small = measure(cases, runs)
    large: dict[str, tuple[float, float]] = {}
    for name in chosen:  # one at a time, so that they fit into memory
        both = measure({name: updates(name), "clone": clones()}, LARGE_RUNS)
        large[name] = tuple(value / both["clone"][0] for value in both[name])  # type: ignore[assignment]

    table = Table(
        "sampler",
        "ms a step ± IQR",
        "diffusers, ms ± IQR",
        "ratio",
        "clones an evaluation ± IQR",
        title=f"CPU time, 1 thread; medians of {runs} runs of {STEPS} steps, {LARGE_RUNS} runs of {LARGE_STEPS} steps",
    )
    for name in sorted(chosen, key=lambda name: small[name][0]):
        peer = small.get("diffusers " + name)
        table.add_row(
            name,
            "{:.2f} ± {:.2f}".format(*small[name]),
            "{:.2f} ± {:.2f}".format(*peer) if peer else "",
            f"{small[name][0] / peer[0]:.2f}" if peer else "",
            "{:.1f} ± {:.1f}".format(*large[name]),
        )
    Console(width=120).print(table)
    whole, against_noise = whole_runs(runs)
    Console(width=120).print(whole)
    print(against_noise)
    print("diffusers' multistep SDE draws fresh noise, ours a Brownian path, as diffusers' dpmpp_sde does")
    for name in filter(small.__contains__, TARGETS):
        ratio = small[name][0] / small["diffusers " + name][0]
        print(f"{name}: {ratio:.2f} of diffusers' time; target 1.00: {'met' if ratio <= 1 else 'missed'}")
    above = [f"{name} ({value:.1f})" for name, (value, _) in large.items() if value > LIMIT]
    print(f"updates above {LIMIT:.0f} clones an evaluation: {', '.join(above) or 'none'}")


if __name__ == "__main__":
    cyclopts.run(main)
