"""The approximations of a strength per tile: what they do to a prediction, and that they say where they are wrong."""

import warnings

import pytest
import torch
from toys import POSITIVE, SAMPLINGS, Toy, drawn

from sigmafield.core.geometry import Box, grid_tiles, leaf_tiles
from sigmafield.core.grid import Grid
from sigmafield.core.process import Span
from sigmafield.core.protocols import Ctx
from sigmafield.guidance.guider import Guider
from sigmafield.parameterization.prediction import edm, eps, flow, v
from sigmafield.recipes.tile_strength import scaled_for
from sigmafield.runs.run import Run, finish, sample
from sigmafield.samplers import SAMPLERS
from sigmafield.spatial.tile_strength import (
    crop,
    gain,
    hybrid,
    in_raw,
    in_step,
    in_x0,
    kept,
    preserved,
    scaled,
    smaller,
)  # fmt: skip
from sigmafield.spatial.tiled_model import Tiled, fixed_cover, grid_cover

TILES = grid_tiles(16, 16, (8, 8))
D = dict(zip(TILES, [0.0, 0.3, 0.6, 1.0]))
SIGMAS = torch.tensor([10.0, 4.0, 1.0, 0.3, 0.0])
SHAPE = (1, 4, 16, 16)


def test_gain_is_the_formula():
    assert [round(gain(0.2, p), 2) for p in (0.0, 0.5, 1.0)] == [0.75, 0.89, 1.0]
    assert [round(gain(0.8, p), 2) for p in (0.0, 0.5, 1.0)] == [0.9, 0.97, 1.0]
    assert gain(1.0, 0.0) == 1 == gain(0.5, 1.0) and gain(0.0, 0.0) == 0.7
    assert gain(0.5, 0.2, floor=0.2) < gain(0.5, 0.2, floor=0.4) < gain(0.5, 0.4, floor=0.4)
    assert gain(0.5, 0.2, ramp=2.0) > gain(0.5, 0.2, ramp=0.0)


def test_spaces_agree_where_they_should(figure):
    """`in_raw` is `in_step` for ε and flow, `in_x0` where the network predicts x0 alone (c_skip → 0 for v, EDM)."""
    x, clean, sigma = drawn(SHAPE), drawn(SHAPE, 4), torch.tensor(0.7, dtype=torch.float64)
    for prediction in (eps, flow):
        assert torch.equal(in_raw(prediction)(x, clean, 0.8, sigma), in_step(x, clean, 0.8, sigma))
    for prediction in (v, edm):
        c_skip, got = float(prediction(sigma).c_skip), in_raw(prediction)(x, clean, 0.8, sigma)
        F = (clean - c_skip * x) / prediction(sigma).c_out
        error = (got - (c_skip * x + prediction(sigma).c_out * 0.8 * F)).abs().max()
        assert figure("scaled raw output − the network's, times g", error) < 1e-6
    assert torch.equal(in_x0(x, clean, 0.8, sigma), clean * 0.8)


@pytest.mark.parametrize("kind", SAMPLINGS)
def test_scaling_the_step_is_a_shorter_step(kind):
    """In a tile with gain g, Euler moves g times as far; with strength 1 it is the plain run."""
    process, x = SAMPLINGS[kind].process, drawn(SHAPE)
    sigmas = SIGMAS[1:3] if kind == "eps" else torch.tensor([0.9, 0.5])
    model = Toy(process)
    runs = [
        sample(Guider(Tiled(model, grid_cover((8, 8)), change=change), POSITIVE), x, sigmas, "euler", process=process)
        for change in (lambda tile, x, D, sigma, ctx: D, scaled(D))
    ]
    for tile, d in D.items():
        moved = [(run - x)[(..., *tile.box.index)] for run in runs]
        torch.testing.assert_close(moved[1], gain(d, 0.0) * moved[0], rtol=1e-4, atol=1e-5)
    assert torch.equal(runs[0][..., 8:, 8:], runs[1][..., 8:, 8:])


def test_preserving_blends_the_source():
    source, shown, clean = drawn(SHAPE, 1), drawn((1, 4, 8, 8)), drawn((1, 4, 8, 8), 5)
    ctx = Ctx(Grid(SIGMAS, SAMPLINGS["eps"].process).span(2), {})
    for tile, d in D.items():
        got = preserved(D, source)(tile, shown, clean, ctx.span.sigma, ctx)
        beta = d + (1 - d) * 0.5
        torch.testing.assert_close(got, beta * clean + (1 - beta) * source[(..., *tile.box.index)])


def test_skipped_tiles_are_the_source_and_cost_nothing():
    """Any sampler that ends at 0 gives the source back there; overlaps are blended."""
    process, source = SAMPLINGS["eps"].process, drawn(SHAPE, 1)
    leaves = [Box(0, 0, 16, 8), Box(0, 8, 8, 8), Box(8, 8, 8, 4), Box(8, 12, 8, 4)]
    tiles = leaf_tiles(leaves, 16, 16, 1, 0)
    small = smaller(tiles, 8 * 8)
    assert [tile.core for tile in small] == leaves[2:]
    model = Toy(process)
    tiled = Tiled(model, fixed_cover(tiles, 16, 16), batch=1, known=kept(small, source))
    end = sample(Guider(tiled, POSITIVE), 10 * drawn(SHAPE), SIGMAS, "dpmpp_2m", process=process)
    assert torch.equal(end[..., 8:, 8:], source[..., 8:, 8:])
    assert model.rows == 2 * 4
    grown = leaf_tiles(leaves, 16, 16, 1, 2)
    assert crop(source, grown[0]).shape == (1, 4, 20, 12)


def test_hybrid_classes():
    tiles = leaf_tiles(
        [Box(0, 0, 32, 48), Box(0, 48, 24, 8), Box(24, 48, 8, 8), Box(0, 56, 20, 8), Box(20, 56, 12, 8)], 32, 64, 1
    )
    d = list(hybrid(tiles, 0.2, 0.8).values())
    assert d[0] == 0 and d[2] == d[4] == 1 and 0.2 < d[1] < d[3] < 0.8
    assert list(hybrid(grid_tiles(64, 64, (64, 64)), 0.2, 0.8).values()) == [0], "a latent that is not split"
    assert set(hybrid(grid_tiles(64, 64, (8, 8)), 0.2, 0.8).values()) == {1}, "one that is split everywhere"
    with pytest.raises(ValueError, match="hybrid needs 0 ≤ low < high"):
        hybrid(tiles, 0.5, 0.5)


def test_where_it_is_wrong_it_says_so():
    for name, why in (("euler_ancestral", "adds noise"), ("dpmpp_2m", "uses earlier predictions")):
        with pytest.warns(UserWarning, match=f"{name} {why}.*spatial.sigma_field.delayed"):
            scaled_for(name, D)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scaled_for("euler", D)
        scaled_for("heun", D)
    with pytest.raises(ValueError, match=r"all tiles have the strength 0.5: give the run's denoise"):
        scaled(dict.fromkeys(TILES, 0.5))
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]; got 0.5 … 2"):
        preserved(dict(zip(TILES, [0.5, 2.0, 1.0, 1.0])), drawn(SHAPE))
    process, shown = SAMPLINGS["eps"].process, drawn((1, 4, 8, 8))
    sigma = torch.tensor(1.0, dtype=torch.float64)
    with pytest.raises(ValueError, match="predictions by progress need a run"):
        scaled(D)(TILES[0], shown, shown, sigma, Ctx(Span(sigma, 0 * sigma, process), {}))
    run = Run(
        Guider(Tiled(Toy(process), grid_cover((4, 4)), change=scaled(D)), POSITIVE),
        SAMPLERS["euler"],
        Grid(SIGMAS, process),
    )
    with pytest.raises(ValueError, match="no strength is given for the tile"):
        finish(run, drawn(SHAPE))
