"""One map of strengths from tiles that overlap."""

import pytest
import torch

from sigmafield.core.geometry import Box, Tile, grid_tiles, leaf_tiles
from sigmafield.core.tile_maps import COMBINES, weighted
from sigmafield.spatial.sigma_field import delayed, field_from_tiles

OVERLAPPING = grid_tiles(20, 26, (8, 12), 4)
DISJOINT = grid_tiles(16, 24, (8, 12))
LEAVES = leaf_tiles([Box(0, 0, 16, 8), Box(0, 8, 8, 8), Box(8, 8, 8, 8)], 16, 16, 1, 3)
ways = pytest.mark.parametrize("combine", COMBINES.values(), ids=COMBINES)


def rising(tiles):
    return [0.1 + 0.8 * k / len(tiles) for k in range(len(tiles))]


@ways
@pytest.mark.parametrize("tiles, size", [(OVERLAPPING, (20, 26)), (LEAVES, (16, 16))], ids=["grid", "leaves"])
def test_equal_strengths_stay_what_they_are(combine, tiles, size):
    assert torch.equal(combine(tiles, [0.3] * len(tiles), *size), torch.full((1, 1, *size), 0.3, dtype=torch.float64))


@ways
def test_without_overlap_all_are_the_owner(combine):
    values = rising(DISJOINT)
    assert torch.equal(combine(DISJOINT, values, 16, 24), COMBINES["owner"](DISJOINT, values, 16, 24))


def test_each_place_has_the_extremes_of_the_tiles_that_show_it():
    values, size = rising(OVERLAPPING)[::-1], (20, 26)
    maps = {name: combine(OVERLAPPING, values, *size)[0, 0] for name, combine in COMBINES.items()}
    shown = [[[] for _ in range(size[1])] for _ in range(size[0])]
    for tile, value in zip(OVERLAPPING, values):
        (_, rows, columns), _ = tile.indices(*size)
        for y in range(rows.start, rows.stop):
            for x in range(columns.start, columns.stop):
                shown[y][x].append(value)
    for name, rule in (("max", max), ("min", min)):
        assert maps[name].tolist() == [[rule(seen) for seen in row] for row in shown]
    assert (maps["min"] <= maps["owner"]).all() and (maps["owner"] <= maps["max"]).all()
    assert (maps["min"] <= maps["weighted"]).all() and (maps["weighted"] <= maps["max"]).all()
    assert (maps["weighted"] != maps["owner"]).any()


def test_weights_are_those_of_the_window():
    """Two tiles of 3 that share one place: by equal weights it has their mean."""
    tiles = (Tile(Box(0, 0, 1, 3), Box(0, 0, 1, 3)), Tile(Box(0, 2, 1, 3), Box(0, 3, 1, 2)))
    uniform = weighted(lambda height, width: torch.ones(height, width).double())
    assert uniform(tiles, [0.2, 0.6], 1, 5)[0, 0, 0].tolist() == pytest.approx([0.2, 0.2, 0.4, 0.6, 0.6], abs=1e-7)


def test_a_field_takes_one_of_them_and_refuses_strengths_beyond_1():
    sigmas, values = torch.linspace(1, 0, 11).double(), rising(OVERLAPPING)
    for combine in COMBINES.values():
        field = field_from_tiles(delayed(sigmas), OVERLAPPING, values, 20, 26, combine)
        assert torch.equal(field, delayed(sigmas)(combine(OVERLAPPING, values, 20, 26)))
        with pytest.raises(ValueError, match=r"strengths must lie in \[0, 1\]; got 0.1 … 1.5"):
            field_from_tiles(delayed(sigmas), OVERLAPPING, [0.1] * (len(OVERLAPPING) - 1) + [1.5], 20, 26, combine)
        with pytest.raises(ValueError, match="tiles need as many values; got 1"):
            combine(OVERLAPPING, [0.5], 20, 26)
