"""Guidance of each tile alone: what a run on the tile would have, and the whole canvas's where it is place by place."""

from dataclasses import replace

import pytest
import torch
from toys import NEGATIVE, POSITIVE, SAMPLINGS, Toy, cond, drawn, keyed, sigmas_of, started

from sigmafield.core.conditioning import Area, Control, Residuals
from sigmafield.core.fitting import fit
from sigmafield.core.geometry import Box, gaussian, grid_tiles
from sigmafield.core.grid import Grid
from sigmafield.guidance.guider import Guider
from sigmafield.recipes.mods import parse_mods
from sigmafield.runs.checkpoint import load_state, save_state
from sigmafield.runs.run import Run, finish, iterate
from sigmafield.samplers import SAMPLERS
from sigmafield.spatial.field_denoiser import Served
from sigmafield.spatial.sigma_field import delayed, field_from_tiles
from sigmafield.spatial.tiled_guidance import PerTile, seen_in
from sigmafield.spatial.tiled_model import Counted, Tiled, grid_cover, rows_shown

SHAPE = (2, 4, 16, 24)
PROCESS = SAMPLINGS["eps"].process
SIGMAS = sigmas_of("eps", "dpmpp_2m", "normal", 6)
STATEFUL = parse_mods("apg(momentum=-0.5)+rescale(multiplier=0.6)")
PROMPTS = {
    "plain": [POSITIVE],
    "area": [POSITIVE, replace(cond(0.9), area=Area((12, 14), (2, 7)), strength=2.0)],
    "relative": [POSITIVE, replace(cond(0.9), area=Area((0.5, 0.75), (0.25, 0.25), relative=True))],
    "mask": [POSITIVE, replace(cond(0.9), mask=torch.linspace(0, 1, 24).expand(1, 16, 24), mask_strength=0.7)],
    "default": [replace(cond(0.9), area=Area((16, 10), (0, 3))), replace(POSITIVE, default=True)],
    "window": [POSITIVE, replace(cond(0.9), window=(0.0, 0.5))],
}


def per_tile(model, prompts, cover, window=gaussian, mods=None, cfg=lambda tile: 3.0):
    """PerTile of Guiders over conditionings that fit the latent."""
    fitted = [[fit(c, SHAPE[2:]) for c in prompt] for prompt in prompts]

    def guide(tile, space):
        positive, negative = (seen_in(tile, prompt, space) for prompt in fitted)
        return Guider(Counted(model), positive, negative, cfg(tile), mods or parse_mods(""))

    return PerTile(guide, cover, window)


def run_of(denoise, sigmas=SIGMAS, name="dpmpp_2m", shape=SHAPE):
    return Run(denoise, SAMPLERS[name], Grid(sigmas, PROCESS, clock=SAMPLINGS["eps"].clock), keyed(shape))


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
def test_guidance_place_by_place_is_that_of_the_canvas(prompt, figure):
    """Areas keep their feathered borders; a network that looks at one place hides nothing else."""
    cover, x = grid_cover((8, 12), 4), drawn(SHAPE, scale=5.0)
    tiles = per_tile(Toy(PROCESS, local=False), [prompt, [NEGATIVE]], cover)
    canvas = Guider(Tiled(Toy(PROCESS, local=False), cover, gaussian), prompt, NEGATIVE, 3.0)
    ends = [finish(run_of(d), x).x for d in (tiles, canvas)]
    assert figure("guidance by tile, from the canvas's", (ends[0] - ends[1]).abs().max()) < 1e-5


@pytest.mark.parametrize("mods", [parse_mods(""), STATEFUL], ids=["plain", "apg and rescale"])
def test_a_disjoint_tile_is_guided_as_a_run_of_its_own(mods):
    """Bit for bit over a whole run, with a scale of its own, and with mods that look around and remember."""
    disjoint, x = grid_tiles(16, 24, (8, 12)), drawn(SHAPE, scale=5.0)
    scales = dict(zip(disjoint, (1.0, 2.0, 4.0, 8.0)))
    cover = grid_cover((8, 12))
    end = finish(run_of(per_tile(Toy(PROCESS), [[POSITIVE], [NEGATIVE]], cover, mods=mods, cfg=scales.get)), x)
    for tile, cfg in scales.items():
        alone = Guider(Toy(PROCESS), POSITIVE, NEGATIVE, cfg, mods)
        at = (..., *tile.box.index)
        assert torch.equal(end.x[at], finish(run_of(alone, shape=(2, 4, 8, 12)), x[at].contiguous()).x)
    whole = finish(run_of(Guider(Tiled(Toy(PROCESS), cover), POSITIVE, NEGATIVE, 2.0, mods)), x).x
    same = torch.equal(whole[(..., *disjoint[1].box.index)], end.x[(..., *disjoint[1].box.index)])
    assert same is (mods is not STATEFUL)  # guidance of the canvas looks at other tiles


def test_what_a_conditioning_has_in_every_place_is_cut_along():
    """Further channels and hints by the box, hints in their resolution; what does not reach a tile is left out."""

    class Net:
        factor = 8

        def __call__(self, x, t, cond, hint, strength):
            return Residuals()

    concat, hint = drawn((1, 2, 16, 24)), drawn((1, 3, 128, 192))
    given = replace(POSITIVE, concat=concat, controls=(Control(Net(), hint, crop="along"),))
    corner = replace(given, area=Area((4, 4), (12, 20)))
    tiles = grid_tiles(16, 24, (8, 12))
    for tile in tiles:
        y, x, height, width = tile.box
        inner = seen_in(tile, [given, corner], SHAPE[2:])
        assert len(inner) == (2 if tile is tiles[-1] else 1)
        for one in inner:
            assert torch.equal(one.concat, concat[..., y : y + height, x : x + width])
            at = (..., slice(8 * y, 8 * (y + height)), slice(8 * x, 8 * (x + width)))
            assert torch.equal(one.controls[0].hint, hint[at])
    assert inner[1].area == Box(4, 8, 4, 4)


def test_memory_of_tiles_is_in_checkpoints(tmp_path):
    run = run_of(per_tile(Toy(PROCESS), [[POSITIVE], [NEGATIVE]], grid_cover((8, 12), 4), mods=STATEFUL))
    states = list(iterate(run, drawn(SHAPE, scale=5.0)))
    for k in (0, 3):
        save_state(states[k], tmp_path / "state")
        end = finish(run, load_state(tmp_path / "state")[0])
        assert torch.equal(end.x, states[-1].x)
        assert rows_shown(end.aux) == rows_shown(states[-1].aux)


def test_tiles_that_wait_are_not_asked():
    """Rows are counted, and those of tiles that join late are saved: 2 samples × 2 prompts × (6 + 3 + 1) of 4 tiles."""
    model, tiles = Toy(PROCESS), grid_tiles(16, 24, (8, 12))
    denoise = per_tile(model, [[POSITIVE], [NEGATIVE]], grid_cover((8, 12)))
    field = field_from_tiles(delayed(SIGMAS), tiles, [0.0, 1.0, 0.5, 0.2], 16, 24)
    source, noise = drawn(SHAPE, 1), drawn(SHAPE)
    served = Served(denoise, source, noise, PROCESS)
    end = finish(run_of(served, field), started(PROCESS, field, noise, source))
    assert model.rows == rows_shown(end.aux) == 2 * 2 * (6 + 3 + 1)
    assert torch.equal(end.x[(..., *tiles[0].box.index)], source[(..., *tiles[0].box.index)])
