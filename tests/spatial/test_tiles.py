"""Tiles: what they cover, how networks that are shown them blend, and that tiling alone changes nothing."""

import math
import random
from dataclasses import replace
from itertools import chain, pairwise

import pytest
import torch
from toys import NEGATIVE, POSITIVE, SAMPLINGS, Toy, cond, drawn

from sigmafield.core.conditioning import Area, Cond, Control
from sigmafield.core.geometry import (
    WINDOWS,
    Box,
    Tile,
    batches,
    check,
    grid_tiles,
    leaf_tiles,
    positions,
    shares,
    uniform,
)
from sigmafield.core.grid import Grid
from sigmafield.core.predict import predict
from sigmafield.core.process import VE
from sigmafield.core.protocols import Ctx
from sigmafield.core.tile_maps import painted
from sigmafield.core.views import part
from sigmafield.guidance.guider import Guider
from sigmafield.runs.run import sample
from sigmafield.spatial.quadtree import CONTENTS, leaf_denoise, quadtree, square
from sigmafield.spatial.tiled_model import ORDERS, Spot, Tiled, fixed_cover, grid_cover, spot_shifts

windows = pytest.mark.parametrize("window", WINDOWS.values(), ids=WINDOWS)


def context(sigma=1.0, want=None):
    return Ctx(Grid(torch.tensor([sigma, 0.0]), VE()).span(0), {}, want=want)


SIGMA = torch.tensor(1.0, dtype=torch.float64)


def test_grid_positions_are_the_references(figure):
    """T1: positions ⌊i (L − t)/(n − 1)⌋ as by floats truncated, except the last tile, which ends at the border."""
    rng, short = random.Random(0), 0
    for _ in range(2000):
        length, tile, overlap = rng.randint(8, 400), rng.randint(8, 160), rng.randint(0, 64)
        tile = min(tile, length)
        overlap = max(0, min(overlap, tile - 4))
        n = math.ceil((length - overlap) / (tile - overlap))
        step = (length - tile) / (n - 1) if n > 1 else 0
        reference = [min(int(i * step), length - tile) for i in range(n)]
        ours = positions(length, tile, overlap)
        wrong = [i for i, (a, b) in enumerate(zip(ours, reference)) if a != b]
        short += bool(wrong)
        assert len(ours) == n and ours[-1] + tile == length
        assert all(step * i == pytest.approx(ours[i], abs=1e-6) for i in wrong), "only where a float falls short"
    figure("T1 grids of 2000 where the reference's float falls short", short)
    for length, tile, overlap in ((584, 96, 16), (968, 96, 16), (616, 128, 48)):
        assert positions(length, tile, overlap)[-1] == length - tile


@pytest.mark.parametrize("seed", range(40))
def test_cores_make_up_the_canvas(seed):
    """Each place has one owner, whose centre is the nearest; overlaps are as asked and differ by 1 at most."""
    rng = random.Random(seed)
    height, width, overlap = rng.randint(1, 40), rng.randint(1, 40), rng.randint(0, 12)
    tile = rng.randint(1, 30), rng.randint(1, 50)
    tiles = grid_tiles(height, width, tile, overlap)
    check(tiles, height, width)
    for owner in tiles:
        assert owner.box.clipped(height, width) == owner.box
        assert owner.core.clipped(height, width) == owner.core
        for y, x in ((owner.core.y, owner.core.x), (owner.core.y + owner.core.height - 1, owner.core.x)):
            away = [max(abs(y - t.box.y - (t.box.height - 1) / 2) / t.box.height,
                        abs(x - t.box.x - (t.box.width - 1) / 2) / t.box.width) for t in tiles]  # fmt: skip
            own = tiles.index(owner)
            rows = abs(y - owner.box.y - (owner.box.height - 1) / 2)
            assert away[own] == min(away) and rows == min(abs(y - t.box.y - (t.box.height - 1) / 2) for t in tiles)
    firsts = sorted({t.box.y for t in tiles})
    gaps = [tiles[0].box.height - (b - a) for a, b in pairwise(firsts)]
    assert not gaps or (max(gaps) - min(gaps) <= 1 and min(gaps) >= max(0, min(overlap, min(tiles[0].box[2:]) - 4)))


@pytest.mark.parametrize("most", [1, 3, 4, 100])
def test_batches(most):
    """Every tile once, in order, equal sizes together, lengths that differ by as little as they can."""
    tiles = [Tile(Box(0, 0, h, 4), Box(0, 0, 1, 1)) for h in (4, 8, 4, 4, 8, 4, 4)]
    out = batches(tiles, most)
    assert sorted(map(id, chain(*out))) == sorted(map(id, tiles))
    for group in out:
        assert len(group) <= most and len({t.box.height for t in group}) == 1
    lengths = [len(group) for group in out if group[0].box.height == 4]
    assert len(lengths) == math.ceil(5 / most) and max(lengths) == math.ceil(5 / len(lengths))


@windows
@pytest.mark.parametrize("size", [(20, 26), (7, 40), (64, 3)])
def test_shares_sum_to_one(window, size, figure):
    """Σ of what the tiles count is 1 at each place, and exactly 1 where there is one tile; also for odd shapes."""
    for tiles in (
        grid_tiles(*size, (8, 12), 4),
        grid_tiles(*size, (64, 2), 0),
        leaf_tiles([Box(0, 0, *size)], *size, 1, 3),
    ):
        total = torch.zeros(size)
        for tile, w in zip(tiles, shares(tiles, window, *size)):
            assert (w >= 0).all()
            total[tile.box.clipped(*size).index] += w
        assert figure(f"sum of shares − 1, {window.__name__}", (total - 1).abs().max()) < 1e-6
        if len(tiles) == 1:
            assert torch.equal(total, torch.ones(size))


def placed(x, sigma, conds, ctx):
    """A tile-local network that knows where in its tile a place is: adds the place's number within the tile."""
    h, w = x.shape[-2:]
    return list((0.5 * x + torch.arange(h * w).reshape(h, w) / 16).chunk(len(conds)))


@windows
@pytest.mark.parametrize("tile, overlap", [((8, 8), 0), ((8, 8), 4), ((6, 12), 2), ((20, 8), 4)])
def test_blend_is_the_closed_form(window, tile, overlap, figure):
    """T2: D(p) = Σ w_t(p) D_t(p)/Σ w_t(p), place by place."""
    x = drawn((2, 3, 20, 26))
    (got,) = Tiled(placed, grid_cover(tile, overlap), window)(x, SIGMA, [POSITIVE], context())
    total, weights = torch.zeros_like(x, dtype=torch.float64), torch.zeros(20, 26, dtype=torch.float64)
    for t in grid_tiles(20, 26, tile, overlap):
        w = window(t.box.height, t.box.width)
        D = placed(x[(..., *t.box.index)], SIGMA, [POSITIVE], None)[0]
        total[(..., *t.box.index)] += D * w
        weights[t.box.index] += w
    error = (got - total / weights).abs().max()
    assert figure(f"T2 {window.__name__} against the closed form", error) <= 2e-6
    if overlap == 0 and tile == (20, 8):
        alone = weights == window(*tile)[0, 0]
        assert torch.equal(got[..., alone], (total / weights).float()[..., alone]) or window is not uniform


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("tile", [(8, 8), (4, 12), (24, 8), (30, 8)])
def test_spot_is_the_closed_form(order, tile, figure):
    """T2: rolled, shown tile by tile, later tiles over earlier, rolled back; one axis at a time."""
    sigmas = torch.tensor([4.0, 2.0, 1.0, 0.5, 0.0])
    shifts = spot_shifts(4, tile, 3, order)
    assert all(0 <= down < tile[0] and 0 <= right < tile[1] for down, right in shifts)
    x = drawn((1, 2, 24, 24))
    for i, sigma in enumerate(sigmas[:-1].double()):
        (got,) = Spot(placed, tile, sigmas, shifts)(x, sigma, [POSITIVE], context(float(sigma)))
        down = shifts[i][0] if tile[0] < 24 else 0
        right = shifts[i][1] if tile[1] < 24 else 0
        if down and right:
            down, right = (down, 0) if (i % 2 == 0) == (tile[0] > tile[1]) else (0, right)
        rolled, out = x.roll((down, right), (2, 3)), torch.zeros_like(x)
        for t in grid_tiles(24, 24, tile):
            out[(..., *t.box.index)] = placed(rolled[(..., *t.box.index)], sigma, [POSITIVE], None)[0]
        error = (got - out.roll((-down, -right), (2, 3))).abs().max()
        assert figure("T2 SpotDiffusion against the closed form", error) == 0


def test_spot_orders_keep_the_shifts():
    drawn_, ordered, golden = (spot_shifts(13, (8, 8), 5, order) for order in ORDERS.values())
    assert sorted(drawn_) == ordered == sorted(golden) and drawn_ != ordered != golden
    first = sorted(down for down, _ in drawn_)
    for k, at in enumerate((0, 1, 2, 3, 4, 5, 8, 6)):  # of 0, 1, 1, 2, 3, 5, 8, 13, the taken ones moved on
        assert golden[at][0] == first[k]


ALL_WRAPPERS = {
    "uniform": lambda m, s: Tiled(m, grid_cover((8, 8), 4), uniform, 3),
    "gaussian": lambda m, s: Tiled(m, grid_cover((10, 7), 3), WINDOWS["gaussian"], 2),
    "mixture": lambda m, s: Tiled(m, grid_cover((7, 10), 3), WINDOWS["mixture_gaussian"], 2),
    "leaves": lambda m, s: Tiled(m, fixed_cover(LEAVES, 20, 26), WINDOWS["cosine"]),
    "spot": lambda m, s: Spot(m, (8, 8), s, spot_shifts(len(s) - 1, (8, 8))),
}
LEAVES = leaf_tiles([Box(0, 0, 12, 26), Box(12, 0, 8, 13), Box(12, 13, 8, 13)], 20, 26, 1, 4)


@pytest.mark.parametrize("name", ALL_WRAPPERS)
@pytest.mark.parametrize("shape", [(2, 4, 20, 26), (1, 4, 3, 20, 26)], ids=["image", "video"])
def test_a_pointwise_network_does_not_see_tiles(name, shape, figure):
    """T3: with guidance, over a whole run, for 4-D and 5-D latents."""
    process, sigmas = SAMPLINGS["eps"].process, torch.tensor([10.0, 3.0, 1.0, 0.2, 0.0])
    x = 10 * drawn(shape)
    model = Toy(process, local=False)
    plain, tiled = (
        sample(Guider(m, POSITIVE, NEGATIVE, 3.0), x, sigmas, "dpmpp_2m", process=process)
        for m in (model, ALL_WRAPPERS[name](model, sigmas))
    )
    assert figure("T3 tiled − untiled, pointwise network", (plain - tiled).abs().max()) <= 2e-6


@pytest.mark.parametrize("make", [
    lambda m: Tiled(m, grid_cover((64, 64), 16)),
    lambda m: Tiled(m, grid_cover((20, 26)), WINDOWS["mixture_gaussian"]),
    lambda m: Tiled(m, fixed_cover(leaf_tiles([Box(0, 0, 20, 26)], 20, 26, 1), 20, 26), WINDOWS["gaussian"]),
    lambda m: Spot(m, (20, 26), torch.tensor([1.0, 0.0]), [(3, 5)]),
])  # fmt: skip
def test_one_tile_is_no_tiling(make):
    """Bit for bit, in as many rows."""
    x, model = drawn((4, 4, 20, 26)), Toy(VE())
    plain = model(x, SIGMA, [POSITIVE, NEGATIVE], context())
    rows = model.rows
    tiled = make(model)(x, SIGMA, [POSITIVE, NEGATIVE], context())
    assert all(torch.equal(a, b) for a, b in zip(plain, tiled)) and model.rows == 2 * rows


@pytest.mark.parametrize("cover", [grid_cover((8, 8), 4), fixed_cover(LEAVES, 20, 26)])
def test_a_batch_of_tiles_is_the_tiles_one_by_one(cover):
    x = drawn((4, 4, 20, 26))
    outs = [
        Tiled(Toy(VE()), cover, WINDOWS["gaussian"], n)(x, SIGMA, [POSITIVE, NEGATIVE], context()) for n in (1, 3, 99)
    ]
    assert all(torch.equal(a, b) for out in outs[1:] for a, b in zip(outs[0], out))


def test_what_is_not_wanted_is_not_evaluated():
    """Rows are those of the tiles whose core is wanted, and there the prediction is the whole one's (no overlap)."""
    x, want = drawn((1, 4, 20, 24)), torch.zeros(1, 1, 20, 24, dtype=torch.bool)
    want[..., 3, 20] = want[..., 11, 2] = True
    tiled, model = (Tiled(m := Toy(VE()), grid_cover((10, 8)), batch=2), m)
    (part_,) = tiled(x, SIGMA, [POSITIVE], context(want=want))
    assert model.rows == 2
    (whole,) = tiled(x, SIGMA, [POSITIVE], context())
    assert model.rows == 2 + 6
    assert torch.equal(part_[want.expand_as(x)], whole[want.expand_as(x)]) and part_.isfinite().all()


def test_areas_have_tiles_of_their_own_and_masks_stay_outside():
    """A conditioning with an area: its crop, tiled in crop coordinates; masks weight the stitched prediction."""
    x, model = drawn((1, 4, 20, 24)), Toy(VE(), local=False)
    mask = drawn((1, 20, 24)).abs()
    prompt = [
        POSITIVE,
        Cond(cond(0.8).embeds, area=Area((12, 10), (4, 8)), strength=2.0),
        Cond(cond(-0.5).embeds, mask=mask),
    ]
    (plain,) = predict(model, x, SIGMA, [prompt], context())
    for tiled in (Tiled(model, grid_cover((8, 8), 4)), Spot(model, (8, 8), torch.tensor([1.0, 0.0]), [(3, 3)])):
        model.calls.clear()
        (got,) = predict(tiled, x, SIGMA, [prompt], context())
        torch.testing.assert_close(got, plain, rtol=1e-5, atol=1e-6)
        assert {shape[-2:] for shape, _ in model.calls} == {(8, 8)}
    want = torch.zeros(1, 1, 20, 24, dtype=torch.bool)
    want[..., 18, 22] = True  # outside of the area
    rows = model.rows
    predict(Tiled(model, grid_cover((8, 8))), x, SIGMA, [prompt], context(want=want))
    assert model.rows - rows == 2


class Lines:
    """A control network that is not asked: its hint has two pixels for each place."""

    factor = 2

    def __call__(self, x, t, cond, hint, strength):
        raise AssertionError


@pytest.mark.parametrize("made", ["plain", "tiled", "leaves", "spot"])
def test_what_is_in_every_place_is_cut_with_the_tiles(made, figure):
    """Further channels at the latent's resolution, hints at theirs: a tile is shown its own part."""
    x, size = drawn((1, 2, 16, 24)), (16, 24)
    concat = torch.arange(16 * 24).reshape(1, 1, 16, 24) / 100.0
    hint = torch.nn.functional.interpolate(concat, (32, 48), mode="nearest").expand(1, 3, 32, 48)
    given = Cond(
        cond(0.0).embeds, {"vector": drawn((1, 5))}, concat=concat, controls=(Control(Lines(), hint, crop="along"),)
    )

    def network(x, sigma, conds, ctx):
        for c in conds:
            assert c.extra["vector"].shape == (1, 5)
        seen = torch.cat([c.concat + c.controls[0].hint[:, :1, ::2, 1::2] for c in conds])
        return list((x + seen).chunk(len(conds)))

    leaves = leaf_tiles([Box(0, 0, 16, 12), Box(0, 12, 8, 12), Box(8, 12, 8, 12)], *size, 1, 4)
    model = {
        "plain": network,
        "tiled": Tiled(network, grid_cover((8, 8), 4)),
        "leaves": Tiled(network, fixed_cover(leaves, *size)),
        "spot": Spot(network, (8, 8), torch.tensor([1.0, 0.0]), [(0, 4)]),
    }[made]
    (whole,) = predict(network, x, SIGMA, [[given]], context())
    (got,) = predict(model, x, SIGMA, [[given]], context())
    assert figure("tiled − untiled, hints cut along", (got - whole).abs().max()) <= 1e-6
    if made != "leaves":
        area = replace(given, area=Area((8, 12), (4, 4)))
        (inside,) = predict(model, x, SIGMA, [[area]], context())
        torch.testing.assert_close(inside[..., 4:12, 4:16], whole[..., 4:12, 4:16])


def test_what_lies_outside_is_mirrored():
    t = torch.arange(5.0)
    assert part(t, Box(-2, 5)).tolist() == [2, 1, 0, 1, 2]
    assert part(t, Box(3, 4)).tolist() == [3, 4, 4, 4]  # too little within: the edge, repeated
    assert part(t, Box(2, 5)).tolist() == [2, 3, 4, 3, 2]
    assert part(t, Box(1, 3)).data_ptr() == t[1:].data_ptr()


def drawing(height, width, seed=0):
    """Flat on the left, noise on the right, in [0, 1]."""
    image = torch.full((3, height, width), 0.4)
    image[..., width // 2 :] += 0.3 * drawn((3, height, width - width // 2), seed).clamp(-1, 1)
    return image


SPLIT = [((256, 256), (3, 16)), ((200, 344), (5, 8)), ((96, 640), (8, 64)), ((67, 130), (5, 8)), ((67, 130), (0, 8))]
"""Every size and every (depth, least side) once."""


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
@pytest.mark.parametrize(
    "size, depth, least",
    [
        pytest.param(size, *ends, marks=() if (size, ends) in SPLIT else pytest.mark.slow)
        for size in [(256, 256), (200, 344), (96, 640), (67, 130)]
        for ends in [(3, 16), (5, 8), (0, 8), (8, 64)]
    ],
    ids=str,
)
def test_leaves_partition_the_image(content, size, depth, least, figure):
    """T5: whole units, each pixel once, no leaf smaller than asked, flat parts left whole; the same each time."""
    image = drawing(*size)
    threshold = 5.0 if content.__name__ == "deviation_255" else 0.02
    leaves = quadtree(image, threshold, max_depth=depth, min_size=least, content=content)
    height, width = (n // 8 * 8 for n in size)
    counts = torch.zeros(height, width)
    for leaf in leaves:
        assert all(side % 8 == 0 for side in leaf)
        assert min(leaf.height, leaf.width) >= min(least, height, width)
        counts[leaf.index] += 1
    figure("T5 pixels that have not one owner", int((counts != 1).sum()))
    assert (counts == 1).all()
    assert leaves == quadtree(image, threshold, max_depth=depth, min_size=least, content=content)
    assert len(quadtree(torch.full((3, *size), 0.4), threshold, max_depth=depth, min_size=least, content=content)) == 1
    tiles = leaf_tiles(leaves, height // 8, width // 8, 8, 3)
    check(tiles, height // 8, width // 8)
    if depth == 3 and least == 16 and size == (256, 256):
        flat, busy = (max(leaf.height for leaf in leaves if (leaf.x < 128) is left) for left in (True, False))
        assert flat == 128 and busy == 32 and len(leaves) > 4


def test_square_roots_are_cut_to_the_image():
    image = drawing(96, 200)
    leaves = quadtree(image, 0.02, max_depth=4, min_size=8, root=square(96, 200))
    assert square(96, 200) == Box(0, 0, 256, 256)
    check(leaf_tiles(leaves, 12, 25), 12, 25)


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
@pytest.mark.parametrize("size", [(64, 64), (72, 200)])
@pytest.mark.parametrize("depth, least", [(4, 8), (0, 8), (3, 64)])
def test_strengths_follow_the_detail_and_not_the_rest_of_the_image(content, size, depth, least):
    """T5: an image of one colour has the least everywhere, one that is busy everywhere the most, each half its own."""
    threshold = 5.0 if content.__name__ == "deviation_255" else 0.02
    flat, busy = torch.full((3, *size), 0.7), drawn((3, *size), 1).clamp(-1, 1)

    def strengths(image):
        leaves = quadtree(image, threshold, max_depth=depth, min_size=least, content=content)
        return leaves, leaf_denoise(image, leaves, threshold, 0.2, 0.8, content=content)

    assert set(strengths(flat)[1]) == {0.2} and set(strengths(busy)[1]) == {0.8}
    both = torch.cat([flat, busy], 2)
    if depth == 4:
        for leaf, d in zip(*strengths(both)):
            if leaf.x >= size[1] or leaf.x + leaf.width <= size[1]:
                assert d == (0.8 if leaf.x >= size[1] else 0.2)


def test_a_leaf_s_strength_is_its_share_of_the_threshold():
    """Half its pixels at 0.5 − c and half at 0.5 + c: `mean_deviation` c, and d = low + (high − low) min(1, c/t)."""
    for c, share in {0.0: 0.0, 0.01: 0.25, 0.02: 0.5, 0.04: 1.0, 0.3: 1.0}.items():
        image = torch.full((3, 16, 16), 0.5, dtype=torch.float64)
        image[:, ::2] -= c
        image[:, 1::2] += c
        for leaves in ([Box(0, 0, 16, 16)], [Box(0, 0, 8, 16), Box(8, 0, 8, 16)]):
            d = leaf_denoise(image, leaves, 0.04, 0.2, 0.8, content=CONTENTS["mean_deviation"])
            assert d == pytest.approx([0.2 + 0.6 * share] * len(leaves), rel=1e-9)
    with pytest.raises(ValueError, match="0 ≤ low ≤ high ≤ 1; got 0.8 and 0.2"):
        leaf_denoise(image, leaves, 0.04, 0.8, 0.2)


def test_wrong_use_is_refused():
    with pytest.raises(ValueError, match="a tile's sides must be ≥ 1"):
        grid_cover((0, 8))
    with pytest.raises(ValueError, match="row 0, column 4 has 0 owners"):
        fixed_cover([Tile(Box(0, 0, 8, 4), Box(0, 0, 8, 4))], 8, 8)
    with pytest.raises(ValueError, match="take grid_cover"):
        Tiled(Toy(VE()), fixed_cover(LEAVES, 20, 26))(drawn((1, 4, 8, 8)), SIGMA, [POSITIVE], context())
    with pytest.raises(ValueError, match=r"tiles need latents \[B, C, \(frames,\) height, width\]"):
        Tiled(Toy(VE()), grid_cover((8, 8)))(drawn((1, 4, 8)), SIGMA, [POSITIVE], context())
    with pytest.raises(ValueError, match="4 steps need as many shifts; got 1"):
        Spot(Toy(VE()), (8, 8), torch.ones(5), [(0, 0)])
    with pytest.raises(ValueError, match="2 tiles need as many values; got 1"):
        painted(grid_tiles(8, 16, (8, 8)), [0.5], 8, 16)


@pytest.mark.parametrize("side, sobel", [(8, True), (12, True), (7, False)])
def test_edges_of_one_bright_pixel(side, sobel):
    """Closed form for one pixel of value a in n: deviation 2a(n − 1)/n², Sobel lengths 4 of √2 a and 4 of 2a."""
    a, n = 0.7, side**2
    image = torch.zeros(1, side, side, dtype=torch.float64)
    image[0, 3, 4] = a
    want = a * (n - 1) / n**2 + (a * (4 * math.sqrt(2) + 8) / n / 16 if sobel else 0)
    assert CONTENTS["edges"](image) == pytest.approx(want, rel=1e-12)
