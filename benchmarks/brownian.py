"""What Brownian noise costs compared with torchsde's tree, and how much of it remains while the network runs."""

import itertools
import os
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Annotated

import torch
import torchsde
from cyclopts import Parameter, run, validators
from rich.console import Console
from rich.table import Table
from torch import Tensor

from sigmafield.core.arrays import Sigma
from sigmafield.core.grid import Grid
from sigmafield.core.process import VE
from sigmafield.core.protocols import Ctx, Denoiser, Pred
from sigmafield.noise.brownian import Brownian
from sigmafield.noise.sources import Silent
from sigmafield.runs.run import Run, finish
from sigmafield.samplers import SAMPLERS
from sigmafield.schedules import karras

SIGMAS = karras(20, 0.0291675, 14.614642)
GRID = Grid(SIGMAS, VE())
SHAPES = [(1, 4, 128, 128), (1, 16, 21, 60, 104)]
Tree = Callable[[tuple[int, ...], int], Iterator[Tensor]]
"""All answers that a run asks for, by a tree made for a shape and a seed."""

CALL = 0.1
"""Seconds of one network call."""


def theirs(shape: tuple[int, ...], seed: int) -> Iterator[Tensor]:
    """torchsde's tree, made and asked as a sampler does."""
    positive = SIGMAS[SIGMAS > 0].float()
    tree = torchsde.BrownianTree(
        positive.min(), torch.zeros(shape), positive.max(), entropy=seed, tol=1e-6, pool_size=24
    )
    for a, b in itertools.pairwise(positive):
        w = tree(b, a)
        assert isinstance(w, Tensor)
        yield w * -((a - b) ** -0.5)


def ours(shape: tuple[int, ...], seed: int) -> Iterator[Tensor]:
    """sigmafield's, without a moment between two questions in which anything could be drawn ahead."""
    source = Brownian(seed, GRID, shape)
    for i in range(GRID.n - 1):
        yield source(GRID.span(i))


def questions(tree: Tree, shape: tuple[int, ...], seed: int) -> None:
    for _ in tree(shape, seed):
        pass


def seconds(work: Callable[..., object], *args: object) -> float:
    began = time.perf_counter()
    work(*args)
    return time.perf_counter() - began


def sleeping(x: Tensor, sigma: Sigma, ctx: Ctx) -> Pred:
    """A network on another device: the CPU is free for CALL seconds."""
    time.sleep(CALL)
    return Pred(x / (1 + float(sigma)))


def busy_network() -> Denoiser:
    """A network on the CPU: as many matrix products as take CALL seconds alone, by all threads that torch has."""
    a = torch.full((256, 256), 1 / 256)

    def products(count: int) -> None:
        for _ in range(count):
            torch.mm(a, a)

    products(100)
    count = round(100 * CALL / statistics.median(seconds(products, 100) for _ in range(5)))

    def network(x: Tensor, sigma: Sigma, ctx: Ctx) -> Pred:
        products(count)
        return Pred(x / (1 + float(sigma)))

    return network


def whole(network: Denoiser, x: Tensor, eta: float, seed: int) -> None:
    """A run of dpmpp_2m_sde with its Brownian path, or without noise where eta is 0."""
    noise = Brownian(seed, GRID, x.shape) if eta else Silent()
    finish(Run(network, SAMPLERS.lookup("dpmpp_2m_sde"), GRID, noise, {"eta": eta}), x)


def spread(values: list[float], unit: float = 1e3) -> str:
    """Median and quartiles."""
    low, middle, high = (v * unit for v in statistics.quantiles(values, n=4))
    return f"{middle:.2f} ({low:.2f} … {high:.2f})"


def main(
    repeats: Annotated[int, Parameter(validator=validators.Number(gte=2), help="Repeats of each measurement.")] = 5,
    runs: Annotated[int, Parameter(validator=validators.Number(gte=2), help="Whole runs of each kind.")] = 3,
) -> None:
    """Print both tables. A number is a median, with the quartiles in brackets."""
    warnings.filterwarnings("ignore", message="Should have")  # torchsde clamps to its rounded ends, and says so
    console = Console(width=120)
    table = Table("latent", "torchsde, ms", "sigmafield, ms", "ratio", title="a question of 20 Karras steps, cold")
    for shape in SHAPES:
        assert all(map(torch.allclose, theirs(shape, 0), ours(shape, 0)))
        times: dict[Tree, list[float]] = {theirs: [], ours: []}
        for seed, (tree, values) in itertools.product(range(1, repeats + 1), times.items()):  # in turn
            values.append(seconds(questions, tree, shape, seed) / (GRID.n - 1))
        ratios = [b / a for a, b in zip(*times.values())]
        table.add_row("×".join(map(str, shape)), *map(spread, times.values()), spread(ratios, 1))
    console.print(table)

    title = f"a whole run of dpmpp_2m_sde, 20 steps, {CALL * 1e3:.0f} ms a network call, over the network's own time"
    table = Table("latent", "network on", "without noise", "with noise", title=title)
    networks = {"another device (sleeps)": sleeping, "the same CPU (computes)": busy_network()}
    for shape, (name, network) in itertools.product(SHAPES, networks.items()):
        ratios = {0.0: [], 1.0: []}
        x = torch.full(shape, 14.6)
        for seed, (eta, values) in itertools.product(range(runs), ratios.items()):
            own = sum(seconds(network, x, GRID.sigmas[0], Ctx(GRID.span(0), {})) for _ in range(GRID.n))
            values.append(seconds(whole, network, x, eta, seed) / own)
        row = [spread(values, 1) for values in ratios.values()]
        table.add_row("×".join(map(str, shape)), name, *row)
    console.print(table)
    print(f"{torch.get_num_threads()} threads of torch on {os.cpu_count()} cores")


if __name__ == "__main__":
    run(main)
