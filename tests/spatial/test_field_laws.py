"""A region of a σ-field is a run of its own: delayed start and own schedule, for every sampler, bit for bit."""

from itertools import product

import pytest
import torch
from toys import (
    NEGATIVE,
    POSITIVE,
    SAMPLINGS,
    STEPS,
    SUMMED,
    SYNCHRONOUS,
    Cropped,
    Toy,
    drawn,
    keyed,
    sigmas_of,
    started,
)

from sigmafield.core.geometry import grid_tiles
from sigmafield.core.grid import Grid
from sigmafield.guidance.guider import Guider
from sigmafield.runs.run import Run, finish
from sigmafield.samplers import SAMPLERS
from sigmafield.spatial.field_denoiser import Served
from sigmafield.spatial.sigma_field import delayed, field_from_tiles, own_schedule
from sigmafield.spatial.tiled_model import Tiled, grid_cover

N, D = 5, [0.0, 0.4, 0.6, 1.0]
SHAPE = (1, 4, 8, 8)
TILES = grid_tiles(8, 8, (4, 4))
OWN = {"euler", "heun", "dpmpp_2m", "dpmpp_2m_sde", "dpmpp_2s_ancestral", "lms", "seeds_3", "uni_pc", "euler_cfg_pp"}
"""Samplers of each kind: tests/engine runs every one over a field of two schedules."""


def cases():
    """Every step of a sampler with a delayed start in a flow, and some with a schedule of their own in VE."""
    quick = {("flow", "normal", "delayed"): STEPS.values(), ("eps", "normal", "own"): OWN}
    for name, *setting in product(SYNCHRONOUS, ("eps", "flow"), ("normal", "karras"), ("delayed", "own")):
        if setting[:2] != ["flow", "karras"]:
            marks = () if name in quick.get(tuple(setting), ()) else pytest.mark.slow
            yield pytest.param(name, *setting, marks=marks)


def canvas_run(name, kind, field, source, noise, model):
    """The end of a run on the whole canvas, in four tiles."""
    process = SAMPLINGS[kind].process
    guider = Guider(Tiled(model, grid_cover((4, 4)), batch=1), POSITIVE, NEGATIVE, 3.0)
    served = Served(guider, source, noise, process)
    run = Run(served, SAMPLERS[name], Grid(field, process, clock=SAMPLINGS[kind].clock), keyed(SHAPE))
    return finish(run, started(process, field, noise, source))


def tile_run(name, kind, sigmas, source, noise, tile, first):
    """The end of a run on one tile alone."""
    process, at = SAMPLINGS[kind].process, (..., *tile.box.index)
    run = Run(
        Guider(Toy(process), POSITIVE, NEGATIVE, 3.0), SAMPLERS[name],
        Grid(sigmas, process, clock=SAMPLINGS[kind].clock),
        Cropped(keyed(SHAPE), at, first),
    )  # fmt: skip
    return finish(run, started(process, sigmas, noise[at].contiguous(), source[at].contiguous())).x


@pytest.mark.parametrize("name, kind, schedule, mode", list(cases()))
@pytest.mark.typed_elsewhere
def test_a_tile_is_a_run_of_its_own(name, kind, schedule, mode):
    """A1, B1, S1, and A2's d = 0: each tile ends as KSampler would on the crop, with the crop of the noise."""
    sigmas = sigmas_of(kind, name, schedule, N)
    ways = {
        "delayed": delayed(sigmas),
        "own": own_schedule(lambda d: sigmas_of(kind, name, schedule, N, d)),
    }
    field = field_from_tiles(ways[mode], TILES, D, 8, 8)
    source, noise = drawn(SHAPE, 1, 0.5), drawn(SHAPE)
    end = canvas_run(name, kind, field, source, noise, Toy(SAMPLINGS[kind].process)).x
    for tile, d in zip(TILES, D):
        got, at = end[(..., *tile.box.index)], (..., *tile.box.index)
        if d == 0:
            assert torch.equal(got, source[at])
            continue
        k = N - int(N * d + 1e-9) if mode == "delayed" else 0
        row = sigmas[k:] if mode == "delayed" else sigmas_of(kind, name, schedule, N, d)
        alone = tile_run(name, kind, row, source, noise, tile, k)
        if name in SUMMED:
            torch.testing.assert_close(got, alone, rtol=1e-5, atol=1e-5)
        else:
            assert torch.equal(got, alone), f"d = {d}: {float((got - alone).abs().max()):.1e}"
