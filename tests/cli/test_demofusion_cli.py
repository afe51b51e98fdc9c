"""`sigmafield upscale --method demofusion`: phases, replay, interruption in any of them, one-line errors."""

import json

import numpy as np
import pytest
from test_cli import pixels

import sigmafield as sf
from command_line import interrupted, run
from sigmafield.recipes.image_io import open_image
from sigmafield.recipes.output import recipe_of
from small_network import shipped_model

pytestmark = pytest.mark.usefixtures("few_channels")

QUICK = ["--scale", 2, "--steps", 2, "--cfg", 3]


@pytest.fixture(scope="module")
def heart(tmp_path_factory):
    """A small image of a heart on white."""
    path = tmp_path_factory.mktemp("demofusion") / "heart.png"
    assert run("sample", "red heart", "-o", path, "--steps", 6, "--cfg", 3, "--seed", 1).exit_code == 0
    return path


def upscale(*arguments):
    return run("upscale", *([] if "--method" in arguments else ["--method", "demofusion"]), *arguments)


def test_a_prompt_is_drawn_large(tmp_path):
    """As Python draws it with those settings; the first phase is what `sample` draws; a replay is the same."""
    out, small, phases = tmp_path / "large.png", tmp_path / "small.png", tmp_path / "phases"
    phases.mkdir()
    options = ["--cosine-scale-1", 0.5, "--stride", 12, "--phases", phases, "--json"]
    result = upscale("red heart", "-o", out, *QUICK, *options)
    assert result.exit_code == 0, result.output
    facts = json.loads(result.output)
    how = sf.DemoFusion(2, stride=12, cosine_scale_1=0.5)
    recipe = sf.Recipe("red heart", steps=2, cfg=3.0, demofusion=how)
    assert json.loads(recipe_of(out))["recipe"] == json.loads(recipe.to_json()) == facts["recipe"]
    assert sf.Recipe.from_json(recipe.to_json()) == recipe
    assert (facts["files"], facts["nfe"]) == ([str(out)], 4)
    [image] = sf.generate(shipped_model(), "red heart", steps=2, cfg=3.0, demofusion=how)
    assert (np.asarray(image) == pixels(out)).all() and image.size == (128, 128)
    assert run("sample", "red heart", "-o", small, "--steps", 2, "--cfg", 3).exit_code == 0
    assert [path.name for path in phases.iterdir()] == ["large-phase-1-of-2.png"]
    assert (pixels(phases / "large-phase-1-of-2.png") == pixels(small)).all()
    again = run("replay", out)
    assert again.exit_code == 0, again.output


@pytest.mark.parametrize(
    "options",
    [["--denoise", 0.5, "--sampler", "dpmpp_2m_sde"], ["--first-size", "48x64", "--vae-tile", 64, "--blur", 0.8]],
    ids=lambda v: " ".join(map(str, v)),
)
@pytest.mark.typed_elsewhere
def test_a_image_is_drawn_large_and_replayed(heart, tmp_path, options):
    out = tmp_path / "large.png"
    result = upscale(heart, "red heart", "-o", out, *QUICK, *options)
    assert result.exit_code == 0, result.output
    assert open_image(out).size == ((96, 128) if "--first-size" in options else (128, 128))
    again = run("replay", out)
    assert again.exit_code == 0, again.output


@pytest.mark.parametrize(
    "done, source, phase",
    [
        pytest.param(1, True, "phase 1 of 2, 64x64", marks=pytest.mark.slow, id="first, of an image"),
        pytest.param(4, False, "phase 2 of 2, 128x128", id="second"),
    ],
)
@pytest.mark.typed_elsewhere
def test_interrupted_in_any_phase_it_resumes_to_the_same_pixels(heart, tmp_path, done, source, phase):
    """A real Ctrl-C; the bar says which phase it is in."""
    out, whole = tmp_path / "i.png", tmp_path / "whole.png"
    options = [*([heart] if source else []), "red heart", "--steps", 3, "--sampler", "dpmpp_2m_sde", "--cfg", 3]
    command = ["upscale", "--method", "demofusion", "-o", out, *options]
    ended = interrupted(*command, when=lambda job, state: state.i == done)
    assert ended.exit_code == 130, ended.output
    assert phase in ended.stderr and f"interrupted after {done} step" in ended.stderr
    resumed, straight = run("resume", tmp_path / "i.checkpoint.safetensors"), upscale("-o", whole, *options)
    assert resumed.exit_code == straight.exit_code == 0, resumed.output
    assert (pixels(out) == pixels(whole)).all()


ERRORS = [
    (["x", "--tile", "64"], "--tile is for --method tiles: leave it out with --method demofusion"),
    (["x", "--map-schedule", "own"], "--map-schedule is for --method tiles"),
    (["x", "--mask", "m.png"], "--mask is for --method tiles"),
    (["x", "--tiling", "mixture"], "--tiling is for --method tiles: leave it out with --method demofusion"),
    (["x", "--denoise-map", "auto"], "--denoise-map is for --method tiles"),
    (["x", "--size", "128x128"], "--size is for --method tiles"),
    (["x", "--method", "tiles", "--cosine-scale-1", "1"], "--cosine-scale-1 is for --method demofusion: leave it out"),
    (["x", "--method", "tiles", "--stride", "8"], "--stride is for --method demofusion"),
    (
        ["x", "--method", "demofusoin"],
        'Invalid value "demofusoin" for --method. Choose from: "tiles", "demofusion". Did you mean "demofusion"?',
    ),
    (["x", "--scale", "2.5"], "with demofusion scale must be a whole number, 2, 3, …; got 2.5"),
    (["x", "--scale", "1"], "with demofusion scale must be a whole number, 2, 3, …; got 1"),
    (["x", "--scale", "inf"], "with demofusion scale must be a whole number, 2, 3, …; got inf"),
    (["x", "--stride", "17"], "stride must be at most 16, the network's own size in latent positions; got 17"),
    (["x", "--blur", "0"], "demofusion needs sigma > 0; got 0"),
    (["x", "--cosine-scale-2", "-1"], "demofusion needs cosine_scale_2 ≥ 0; got -1"),
    (["x", "--denoise", "0.5"], "denoise 0.5 needs an image to start from; without one it must be 1"),
    (["nowhere.png"], "nowhere.png alone would be the prompt: say what the image shows too"),
    (["nowhere.png", "x"], "no image at nowhere.png"),
    (["x", "--phases", "nowhere"], "no folder nowhere to write the phases in"),
    (["x", "--sampler", "dpm_adaptive"], "dpm_adaptive chooses its own steps"),
    (["x", "--first-size", "66x64"], "width must be a multiple of 4, the VAE's factor; got 66: try 64 or 68"),
]


@pytest.mark.parametrize("options, message", ERRORS, ids=lambda v: " ".join(v) if isinstance(v, list) else "")
def test_bad_input_is_one_line_and_status_2(options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = upscale(*options)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_help_has_a_panel_of_its_own():
    text = run("upscale", "--help").output
    panel = text[text.index("DemoFusion ─") :].partition("╰")[0]
    for option in "stride cosine-scale-1 cosine-scale-2 cosine-scale-3 blur views-batch first-size phases".split():
        assert f"--{option}" in panel
