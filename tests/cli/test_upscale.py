"""`sigmafield upscale` as a user meets it: files, tiles drawn, rows told, replay, interruption, one-line errors."""

import json
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from PIL import Image
from test_cli import pixels

import sigmafield as sf
from command_line import interrupted, run
from sigmafield.recipes.image_io import open_image
from sigmafield.recipes.options import Tiling
from sigmafield.recipes.output import recipe_of
from small_network import shipped_model

few_channels = pytest.mark.usefixtures("few_channels")

QUICK = ["--steps", 2, "--cfg", 3]


@pytest.fixture(scope="module")
def heart(tmp_path_factory):
    """A small image of a heart on white."""
    path = tmp_path_factory.mktemp("upscale") / "heart.png"
    assert run("sample", "red heart", "-o", path, "--steps", 6, "--cfg", 3, "--seed", 1).exit_code == 0
    return path


@few_channels
@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--denoise", 0.4, "--tiling", "spot", "--tile", 48],
        ["--scale", 1.5, "--map-schedule", "own", "--tile", 64, "--overlap", 32, "--scope", "tile"],
        ["--size", "160x96", "--tiling", "multidiffusion", "--tile-batch", 1, "--vae-tile", 64],
    ],
    ids=lambda v: " ".join(map(str, v)),
)
@pytest.mark.typed_elsewhere
def test_a_image_is_enlarged_and_replayed(heart, tmp_path, options):
    out = tmp_path / "large.png"
    result = run("upscale", heart, "red heart", "-o", out, *QUICK, *options)
    assert result.exit_code == 0, result.output
    sizes = {"--scale": (96, 96), "--size": (160, 96)}
    assert open_image(out).size == next((sizes[o] for o in options if o in sizes), (128, 128))
    again = run("replay", out)
    assert again.exit_code == 0, again.output


@few_channels
def test_it_is_a_recipe(heart, tmp_path):
    """What the command draws is what Python draws with those settings; told rows are the job's."""
    out = tmp_path / "large.png"
    options = ["--scale", 2, "--min-denoise", 0.1, "--max-denoise", 0.7, "--seed", 3, "--json"]
    facts = json.loads(run("upscale", heart, "red heart", "-o", out, *QUICK, *options).output)
    recipe = sf.Recipe(
        "red heart", image=str(heart), scale=2.0, denoise=0.7, min_denoise=0.1, denoise_map="auto", tiling=Tiling(),
        steps=2, cfg=3.0, seed=3,
    )  # fmt: skip
    assert json.loads(recipe_of(out))["recipe"] == json.loads(sf.read_inputs(recipe)[0].to_json()) == facts["recipe"]
    job = sf.open_job(recipe, shipped_model())
    end = sf.finish(job.run, job.start)
    assert (np.asarray(job.images(end)[0]) == pixels(out)).all()
    assert (facts["rows"], facts["rows"] + facts["rows_saved"]) == job.rows(end)
    told = run("upscale", heart, "red heart", "-o", out, *QUICK, *options[:-1]).output
    assert f"{facts['rows']} network rows, {facts['rows_saved']} fewer than plain tiling" in told


@few_channels
def test_tiles_are_drawn_over_the_enlarged_image(heart, tmp_path):
    """Boxes of the quadtree, or of the grid for one strength; strengths are those asked for."""
    out, svg, png = (tmp_path / name for name in ("o.png", "t.svg", "t.PNG"))
    result = run("upscale", heart, "-o", out, *QUICK, "--show-tiles", svg, "--min-denoise", 0.1, "--max-denoise", 0.6)
    assert result.exit_code == 0, result.output
    frames = ET.fromstring(svg.read_text("utf-8")).findall("{http://www.w3.org/2000/svg}rect")
    values = [float(frame[0].text.split()[1]) for frame in frames]
    assert 0.1 <= min(values) < 0.25 and max(values) == 0.6  # the drawn background is nearly of one colour
    assert len(frames) > 4
    result = run("upscale", heart, "-o", out, *QUICK, "--show-tiles", png, "--denoise", 0.4, "--tile", 80)
    assert result.exit_code == 0, result.output
    drawn = pixels(png)
    assert drawn.shape == (128, 128, 3)
    assert (drawn[0, :, 2] == 255).all() and (drawn[:, 64, 2] == 255).all()  # frames of four tiles, in one colour


def test_a_busy_image_changes_most_and_an_empty_one_least(tmp_path):
    """Every position of noise has the largest strength, at any tile; every one of a plain colour the least."""
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((64, 64), Image.Resampling.NEAREST).save(tmp_path / "busy.png")
    Image.new("RGB", (64, 64), (200, 30, 30)).save(tmp_path / "flat.png")
    options = ["--min-denoise", 0.1, "--max-denoise", 0.4, "--cfg", 1, "--json", "-o", tmp_path / "o.png"]
    for name, tile, saved in (("busy", 64, 0.0), ("busy", 128, 0.0), ("flat", 64, 0.75), ("flat", 128, 0.75)):
        facts = json.loads(run("upscale", tmp_path / f"{name}.png", *options, "--steps", 4, "--tile", tile).output)
        assert facts["rows"] > 0 and facts["rows_saved"] == saved * (facts["rows"] + facts["rows_saved"])
    result = run("upscale", tmp_path / "flat.png", *options, "--steps", 3)
    assert result.exit_code == 2 and "the denoise map would change nothing: its largest strength here" in result.stderr


def test_a_map_changes_each_place_as_much_as_it_says(heart, tmp_path):
    """Left is black and 0: kept, except for the VAE's error; right is white."""
    mask, out, plain = (tmp_path / name for name in ("mask.png", "out.png", "plain.png"))
    Image.fromarray(np.repeat([[0] * 8 + [255] * 8], 16, 0).astype(np.uint8)).save(mask)
    options = ["--denoise-map", mask, "--min-denoise", 0, "--max-denoise", 0.8]
    assert run("upscale", heart, "green apple", "-o", out, *QUICK, *options).exit_code == 0
    large = open_image(heart).resize((128, 128), Image.Resampling.LANCZOS)
    change = np.abs(pixels(out).astype(int) - np.asarray(large)).mean((0, 2))
    assert change[:52].mean() < change[76:].mean() / 3
    large.save(plain)
    assert run("replay", out).exit_code == 0


@few_channels
@pytest.mark.slow
def test_interrupted_upscale_resumes_to_the_same_pixels(heart, tmp_path):
    """A real Ctrl-C; the bar tells rows."""
    out, whole = tmp_path / "i.png", tmp_path / "whole.png"
    options = [
        "red heart",
        "--steps",
        "20",
        "--sampler",
        "dpmpp_2m_sde",
        "--seed",
        "9",
        "--cfg",
        "3",
        "--scope",
        "tile",
    ]
    options += ["--guidance", "apg(momentum=-0.5)"]
    ended = interrupted("upscale", heart, "-o", out, *options, when=lambda job, state: state.i == 8)
    assert ended.exit_code == 130, ended.output
    assert re.search(r"\d+ network rows, \d+ fewer than plain tiling", ended.stderr)
    checkpoint = tmp_path / "i.checkpoint.safetensors"
    resumed, straight = run("resume", checkpoint), run("upscale", heart, "-o", whole, *options)
    assert resumed.exit_code == straight.exit_code == 0, resumed.output
    assert (pixels(out) == pixels(whole)).all()
    rows = [re.search(r"\d+ network rows.*", result.output)[0] for result in (resumed, straight)]
    assert rows[0] == rows[1]


ERRORS = [
    (["--scale", "1"], "scale must be above 1; got 1: to redraw an image at its size, give --size"),
    (["--scale", "2", "--size", "128x128"], "give --scale or --size, not both; got 2 and 128x128"),
    (["--size", "130x128"], "width must be a multiple of 4, the VAE's factor; got 130: try 128 or 132"),
    (["--tile", "50"], "tile must be a multiple of 4, the VAE's factor; got 50: try 48 or 52"),
    (["--tile", "64", "--overlap", "64"], "tiling needs overlap below tile = 64; got 64"),
    (["--overlap", "10"], "overlap must be a multiple of 4, the VAE's factor; got 10: try 8 or 12"),
    (
        ["--tiling", "mixtures"],
        'Choose from: "mixture", "multidiffusion", "spot". Did you mean "mixture"?',
    ),
    (["--tiling", "spot", "--map-schedule", "own"], "with a denoise map, map_schedule 'delayed'"),
    (["--denoise", "0.4", "--min-denoise", "0.1"], "give --denoise for all positions, or a map with"),
    (["--denoise", "0"], "the recipe needs 0 < denoise ≤ 1; got 0"),
    (["--min-denoise", "0.6"], "must be 0 ≤ min ≤ max ≤ 1, and max above 0; got 0.6 and 0.4"),
    (["--denoise-map", "nowhere.png"], "no image at nowhere.png"),
    (["--threshold", "-1"], "detail needs threshold ≥ 0; got -1"),
    (["--smallest", "0"], "detail needs smallest ≥ 1; got 0"),
    (["--vae-tile", "30"], "vae_tile must be a multiple of 4, the VAE's factor; got 30: try 28 or 32"),
    (["--show-tiles", "tiles.jpg"], "show-tiles must be a .png or .svg file; got tiles.jpg"),
    (["--show-tiles", "nowhere/tiles.png"], "no folder nowhere to write tiles.png in"),
    (["--sampler", "dpm_adaptive"], "dpm_adaptive chooses its own steps"),
    (["--positive-region", "96,0,64,64:x"], "the region 96,0,64,64 is not within 128x128 pixels"),
]


@few_channels
@pytest.mark.parametrize("options, message", ERRORS, ids=lambda v: " ".join(v) if isinstance(v, list) else "")
def test_bad_input_is_one_line_and_status_2(heart, options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run("upscale", heart, "red heart", *options)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_help_teaches():
    text = " ".join(run("upscale", "--help").output.split())
    assert "sigmafield upscale heart.png" in text
    for option in "scale size tile overlap denoise-map min-denoise max-denoise show-tiles tiling negative seed".split():
        assert f"--{option}" in text
