"""B4: what two neighbours at different noise levels should be shown of each other, where the truth is known.

A Gaussian process on a line, two halves with denoise strengths of their own: the exact prediction at a place, given a
latent whose noise varies, has a closed form. Compared are tiles that are shown nothing of the neighbour, the
neighbour's places as they are, its last prediction with fresh noise, and what `Served` brings to the tile's level.
"""

from dataclasses import dataclass
from functools import cache

import pytest
import torch
from toys import POSITIVE, drawn

from sigmafield.core.geometry import grid_tiles
from sigmafield.core.grid import Grid
from sigmafield.core.process import VE
from sigmafield.core.protocols import Pred
from sigmafield.guidance.guider import Guider
from sigmafield.runs.run import Run, finish
from sigmafield.samplers import SAMPLERS
from sigmafield.schedules import karras
from sigmafield.spatial.field_denoiser import Served, by_level, by_tile
from sigmafield.spatial.sigma_field import field_from_tiles, own_schedule
from sigmafield.spatial.tiled_model import Tiled, grid_cover

LENGTH, STEPS, SAMPLES = 128, 20, 32
TILES = grid_tiles(1, LENGTH, (1, 80))  # places 0 … 79 and 48 … 127, of which each owns 64
BAND = slice(56, 72)


@cache
def covariance(n):
    places = torch.arange(n, dtype=torch.float64)
    return (-((places - places[:, None]) ** 2) / (2 * 6**2)).exp()


def posterior(x, sigma):
    """E[x0 | x] where place p has noise σ_p: K (K + diag σ²)⁻¹ x."""
    K = covariance(x.shape[-1])
    A = torch.linalg.solve(K + torch.diag_embed(sigma.double().expand(x.shape[-1]) ** 2 + 1e-6), K)
    return (x.double() @ A).float()


def network(x, sigma, conds, ctx):
    return [posterior(x, sigma)]


@dataclass
class Watched:
    """A denoiser's distance from the exact prediction, in a band at the seam, step by step."""

    denoise: object
    errors: list

    def __call__(self, x, sigma, ctx):
        p = self.denoise(x, sigma, ctx)
        exact = posterior(x, sigma[0, 0, 0])
        self.errors.append(float((p.x0 - exact)[..., BAND].square().mean().sqrt()))
        return p


@dataclass
class Shown:
    """Two tiles; `halo` says what a tile is shown of the other's places: (x, σ, σ of the tile, D₋, ξ) → x̃."""

    halo: object
    noise: torch.Tensor
    last: torch.Tensor
    boxes: tuple = ((0, 80), (48, 128))

    def __call__(self, x, sigma, ctx):
        D = torch.zeros_like(x)
        for (low, high), (first, end) in zip(self.boxes, ((0, 64), (64, 128))):
            level = sigma[0, 0, 0, first]
            shown = torch.where(sigma == level, x, self.halo(x, sigma, level, self.last, self.noise)).float()
            D[..., first:end] = posterior(shown[..., low:high], level)[..., first - low : end - low]
        self.last = D
        return Pred(D)


@pytest.mark.parametrize("d", [(0.5, 0.7), pytest.param((0.3, 0.8), marks=pytest.mark.slow), (0.2, 1.0)])
def test_bringing_to_the_tiles_level_is_nearest_to_the_truth(d, figure):
    process = VE()
    root = torch.linalg.cholesky(covariance(LENGTH) + 1e-6 * torch.eye(LENGTH)).float()
    source = drawn((SAMPLES, 1, 1, LENGTH), 1) @ root.T
    noise = drawn((SAMPLES, 1, 1, LENGTH), 2)
    own = own_schedule(lambda v: karras(int(STEPS / v), 0.03, 14.6)[-(STEPS + 1) :])
    field = field_from_tiles(own, TILES, list(d), 1, LENGTH)
    start = process.start(field[0], noise, source)
    tiled = Guider(Tiled(network, grid_cover((1, 80)), batch=1), POSITIVE)
    ways = {
        "by level": Served(tiled, source, noise, process, by_level),
        "by tile": Served(tiled, source, noise, process, by_tile(TILES)),
        "fresh noise": Shown(lambda x, s, level, D, xi: D + level * xi, noise, source),
        "as it is": Shown(lambda x, s, level, D, xi: x, noise, source),
        "nothing": Shown(lambda x, s, level, D, xi: x, noise, source, ((0, 64), (64, 128))),
    }
    error = {}
    for name, denoise in ways.items():
        finish(
            Run(watched := Watched(denoise, []), SAMPLERS["euler"], Grid(field, process)),
            start,
        )
        error[name] = figure(f"B4 seam error, d = {d}, {name}", sum(watched.errors) / len(watched.errors))
    assert error["by level"] < error["fresh noise"] < min(error["as it is"], error["nothing"])
    assert error["by tile"] < error["fresh noise"]
