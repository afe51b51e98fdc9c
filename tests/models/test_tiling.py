"""Recipes with tiles on the embedded model: what equals a run without, what is counted, what is refused."""

import re
from contextlib import nullcontext
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image

import sigmafield as sf
from sigmafield.models.text.encoder import TextEncoder
from sigmafield.recipes.image_io import to_images
from sigmafield.recipes.inputs import Inputs
from sigmafield.recipes.options import Detail, Tiling
from sigmafield.recipes.sizes import size_of
from sigmafield.recipes.tiling import WINDOWS
from small_network import small_model

WAYS = [(sampler, "canvas") for sampler in WINDOWS] + [("mixture", "tile"), ("multidiffusion", "tile")]


@pytest.fixture(scope="module")
def pipe():
    return small_model()


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A image of 32 × 48: flat to the left, a bright disc to the right."""
    y, x = np.mgrid[:32, :48]
    pixels = np.where(((y - 16) ** 2 + (x - 34) ** 2 < 100)[..., None], [230, 60, 40], [250, 250, 250])
    path = tmp_path_factory.mktemp("tiling") / "small.png"
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return str(path)


def recipe(small, **settings):
    return sf.Recipe("red heart", image=small, cfg=3.0, seed=2, **{"steps": 4, "denoise": 0.6, **settings})


@pytest.fixture(scope="module")
def whole(pipe, small):
    """A sampler → a run of an enlarged image without tiles, with areas and with mods that remember: (recipe, end)."""

    @cache
    def of(sampler):
        plain = recipe(
            small, steps=3, scale=2.0, sampler=sampler, guidance="apg(momentum=-0.5)",
            regions=(sf.Region("green apple", 48, 8, 40, 48, 2.0),),
        )  # fmt: skip
        return plain, end_of(plain, pipe)[1]

    return of


def end_of(recipe, pipe):
    job = sf.open_job(recipe, pipe)
    return job, sf.finish(job.run, job.start)


@pytest.mark.parametrize("kind, scope", WAYS)
@pytest.mark.parametrize("sampler", ["dpmpp_2m", pytest.param("euler_ancestral", marks=pytest.mark.slow)])
def test_one_tile_over_all_is_image_to_image(pipe, whole, kind, scope, sampler):
    """Bit for bit, with areas and with mods that remember."""
    plain, end = whole(sampler)
    tiled = replace(plain, tiling=Tiling(kind, 96, scope=scope, vae_tile=0))
    assert torch.equal(end.x, end_of(tiled, pipe)[1].x)


def test_scale_enlarges_the_image(pipe, small):
    assert sf.generate(pipe, "x", image=small, scale=2.0, steps=1, denoise=0.3)[0].size == (96, 64)


@pytest.mark.parametrize("way, sampler", [("delayed", "mixture"), ("own", "mixture"), ("delayed", "spot")])
def test_a_constant_map_is_the_scalar_run(pipe, small, way, sampler, tmp_path):
    tiled = recipe(small, steps=3, scale=2.0, tiling=Tiling(sampler, tile=64, overlap=16))
    _, scalar = end_of(tiled, pipe)
    _, auto = end_of(replace(tiled, denoise_map="auto", min_denoise=0.6, map_schedule=way), pipe)
    assert torch.equal(auto.x, scalar.x)
    Image.new("L", (7, 5), "white").save(tmp_path / "white.png")
    white = replace(tiled, denoise_map=str(tmp_path / "white.png"), min_denoise=0.1, map_schedule=way)
    assert torch.equal(end_of(white, pipe)[1].x, scalar.x)
    Image.new("L", (7, 5), "black").save(tmp_path / "black.png")
    if way == "own":  # black is a run of its own at the least strength
        black = replace(tiled, denoise_map=str(tmp_path / "black.png"), min_denoise=0.3, map_schedule=way)
        assert torch.equal(end_of(black, pipe)[1].x, end_of(replace(tiled, denoise=0.3), pipe)[1].x)


@pytest.mark.parametrize("tiling", [Tiling(tile=64), Tiling("spot", tile=64), None], ids=str)
def test_the_map_of_the_image_keeps_what_is_empty(pipe, small, tiling):
    """Leaves of one colour, left of the disc and within it, have the least strength, 0: they are kept as they are."""
    job, end = end_of(recipe(small, scale=4.0, steps=5, denoise_map="auto", tiling=tiling), pipe)
    source = pipe.encode(_tensor(small, 4))
    change = (end.x - source).abs().amax((0, 1))
    y, x = torch.meshgrid(torch.arange(32) + 0.5, torch.arange(48) + 0.5, indexing="ij")
    edge = (((y - 16.5) ** 2 + (x - 34.5) ** 2).sqrt() - 10).abs() < 0.5
    assert (change[:, :8] == 0).all() and (change[14:18, 33:35] == 0).all()
    assert change[edge].min() > 0
    assert tiling is None or job.rows(end)[0] < job.rows(end)[1]


def _tensor(path, scale):
    image = Image.open(path).convert("RGB")
    image = image.resize((image.width * scale, image.height * scale), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255


class Counting:
    def __init__(self, forward):
        self.forward, self.rows = forward, 0

    def __call__(self, module, x, t, cond):
        self.rows += len(x)
        return self.forward(module, x, t, cond)


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, marks=pytest.mark.slow),  # heun's, in one evaluation per step
        {"cfg": 1.0},
        {"cfg": 1.0, "sampler": "euler_cfg_pp"},
        {"sampler": "heun", "batch": 2},
        {"guidance": "pag+perp_neg"},
        {"tiling": Tiling("spot", tile=64)},
        {"tiling": Tiling("multidiffusion", tile=64, batch=1, scope="tile")},
        {"regions": (sf.Region("green apple", 64, 0, 80, 72),)},
    ],
    ids=str,
)
def test_rows_are_those_of_the_network(pipe, small, settings):
    """Told rows are counted ones; without a map they are what a plain run is said to take, with one no more."""
    settings = {"tiling": Tiling(tile=64), **settings}
    plain = replace(recipe(small, scale=3.0, steps=2), **settings)
    told = {}
    for name, one in {"plain": plain, "map": replace(plain, denoise_map="auto")}.items():
        counting = Counting(pipe.model.forward)
        job, end = end_of(one, replace(pipe, model=replace(pipe.model, forward=counting)))
        told[name] = job.rows(end)
        assert told[name][0] == counting.rows
    assert told["plain"][0] == told["plain"][1] == told["map"][1] > told["map"][0] > 0


def test_without_tiles_no_rows_are_told(pipe, small):
    job, end = end_of(recipe(small), pipe)
    assert job.rows(end) == (0, 0)


def test_the_network_is_told_what_it_sees_and_its_limit_is_the_tile(pipe, small):
    seen = []

    def encode_text(modules, prompts, size, clip_skip=None, bundled=None):
        seen.append(size)
        return pipe.text.encode(prompts, size, clip_skip)

    limited = replace(pipe, model=replace(pipe.model, max_side=64), text=TextEncoder(encode_text))
    sf.open_job(recipe(small, scale=3.0, tiling=Tiling(tile=64)), limited)
    assert set(seen) == {(64, 64)}
    with pytest.raises(ValueError, match="height must be at most 64, where the network's positions end; got 96"):
        sf.open_job(recipe(small, scale=3.0, tiling=Tiling(tile=96)), limited)


def test_large_images_go_through_the_vae_in_tiles(pipe, small):
    """Above its tile only; and where parts wait elsewhere it is brought first."""
    brought = []
    waiting = replace(pipe, vae=replace(pipe.vae, running=lambda: nullcontext(brought.append("vae"))))
    whole = sf.open_job(recipe(small, scale=4.0, tiling=Tiling(tile=64)), pipe)
    tiled = sf.open_job(recipe(small, scale=4.0, tiling=Tiling(tile=64, vae_tile=64)), waiting)
    z = 0.5 * torch.randn(1, 4, 32, 48, generator=torch.Generator().manual_seed(1))
    assert brought == ["vae"]
    assert torch.equal(tiled.pipe.decode(z), replace(pipe, vae=pipe.vae.tiled(16)).decode(z))
    assert brought == ["vae", "vae"]
    assert torch.equal(whole.pipe.decode(z), pipe.decode(z))
    assert len(to_images(tiled.pipe.preview(z))) == 1 and len(brought) == 3


def test_sides_are_whole_places(pipe, small, tmp_path):
    """A scale goes to the nearest ones."""
    odd = tmp_path / "odd.png"
    Image.open(small).resize((47, 33)).save(odd)
    image = Inputs([Image.open(odd)])
    assert size_of(recipe(str(odd), scale=2.0), pipe.model, image) == (64, 96)
    assert size_of(recipe(str(odd), scale=1.5), pipe.model, image) == (48, 72)
    assert size_of(recipe(str(odd)), pipe.model, image) == (32, 44)  # the middle of the image


def test_recipes_with_tiles_are_json(small):
    one = recipe(small, scale=2.5, denoise_map="auto", min_denoise=0.2, detail=Detail(0.1, 2, 16, "edges"))
    for tiling in (None, Tiling("mixture", 64, 16, 2, "canvas", "per_tile")):
        assert sf.Recipe.from_json(replace(one, tiling=tiling).to_json()) == replace(one, tiling=tiling)


WRONG = [
    (
        lambda: Tiling("mixtur"),
        "tiling needs kind = mixture or multidiffusion or spot; got 'mixtur'; did you mean mixture?",
    ),
    (lambda: Tiling(tile=0), "tiling needs tile ≥ 1; got 0"),
    (lambda: Tiling(tile=64, overlap=64), "tiling needs overlap below tile = 64; got 64"),
    (lambda: Tiling(overlap=-1), "tiling needs overlap ≥ 0; got -1"),
    (lambda: Tiling(batch=0), "tiling needs batch ≥ 1; got 0"),
    (lambda: Tiling(scope="whole"), "tiling needs scope = canvas or tile; got 'whole'"),
    (lambda: Tiling("spot", scope="tile"), "use kind mixture or multidiffusion"),
    (lambda: Tiling(vae_tile=-8), "tiling needs vae_tile ≥ 0; got -8"),
    (lambda: Detail(threshold=-1.0), "detail needs threshold ≥ 0; got -1"),
    (lambda: Detail(smallest=0), "detail needs smallest ≥ 1; got 0"),
    (lambda: Detail(content="color_distance"), "got 'color_distance'; did you mean colour_distance?"),
]


@pytest.mark.typed_elsewhere  # what is refused is the annotations' own
@pytest.mark.parametrize("make, message", WRONG, ids=[message for _, message in WRONG])
def test_bad_values_are_refused(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


REFUSED = [
    ({"scale": 0.5}, "the recipe needs scale ≥ 1; got 0.5"),
    ({"scale": float("nan")}, "the recipe needs scale ≥ 1; got nan"),
    ({"scale": 2.0, "width": 64, "height": 64}, "needs an image to enlarge, and no width and height"),
    ({"min_denoise": 0.2}, "min_denoise 0.2 needs a denoise_map"),
    (
        {"min_denoise": 0.7, "denoise_map": "auto"},
        "the recipe needs 0 ≤ min_denoise ≤ denoise; got 0.7 and denoise = 0.6",
    ),
    ({"tiling": Tiling("spot"), "denoise_map": "auto", "map_schedule": "own"}, "map_schedule 'delayed'"),
    ({"tiling": Tiling(tile=66)}, "tile must be a multiple of 4, the VAE's factor; got 66: try 64 or 68"),
    ({"tiling": Tiling(overlap=6)}, "overlap must be a multiple of 4, the VAE's factor; got 6: try 4 or 8"),
    ({"tiling": Tiling(overlap=52)}, "overlap must be at most 48, 4 positions of 4 less than the tile; got 52"),
    ({"tiling": Tiling(vae_tile=70)}, "vae_tile must be a multiple of 4, the VAE's factor; got 70: try 68 or 72"),
]


@pytest.mark.parametrize("settings, message", REFUSED, ids=[message for _, message in REFUSED])
def test_bad_recipes_are_refused(pipe, tmp_path, settings, message):
    Image.new("RGB", (64, 64)).save(tmp_path / "black.png")
    with pytest.raises(ValueError, match=re.escape(message)):
        sf.open_job(recipe(str(tmp_path / "black.png"), **settings), pipe)
    with pytest.raises(ValueError, match="scale 2.0 needs an image to enlarge"):
        sf.Recipe("x", scale=2.0)
