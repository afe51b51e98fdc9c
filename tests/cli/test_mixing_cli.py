"""`--mix` from the command line to the pixels and back, and its little language."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import sigmafield as sf
from command_line import run
from sigmafield.recipes.image_io import open_image
from sigmafield.recipes.output import recipe_of
from sigmafield.runs.blends import CURVES, blending_weights, slerp
from sigmafield.runs.mixing import Mixing
from sigmafield.runs.mixing_spec import parse_mixing
from sigmafield.runs.perlin_masks import Perlin
from small_network import shipped_model

LINE = "cosine(alpha_1=0.5, align=next)+rewind(least=0.4, most=0.9)"


def pixels(path):
    return np.asarray(open_image(path)).astype(int)


@pytest.fixture(scope="module")
def heart(tmp_path_factory):
    path = tmp_path_factory.mktemp("mixing") / "heart.png"
    assert run("sample", "red heart", "-o", path, "--steps", 6, "--cfg", 3, "--seed", 5).exit_code == 0
    return path


@pytest.mark.typed_elsewhere
def test_a_image_is_mixed_replayed_and_resumed(heart, tmp_path):
    """The image carries the line; it is nearer to the source than without; from a cut the pixels are the same."""
    options = ["--image", heart, "--steps", 5, "--cfg", 3, "--seed", 4, "--sampler", "dpmpp_2m_sde"]
    images = {}
    for name, mix in {"plain": "", "mixed": LINE, "held": "linear(most=0.3)"}.items():
        result = run("sample", "green apple", "-o", tmp_path / f"{name}.png", *options, "--mix", mix)
        assert result.exit_code == 0, result.output
        assert json.loads(recipe_of(tmp_path / f"{name}.png"))["recipe"].get("mixing", "") == mix
        images[name] = pixels(tmp_path / f"{name}.png")
    away = {name: np.abs(image - pixels(heart)).mean() for name, image in images.items()}
    assert away["held"] < away["mixed"] < away["plain"]
    recipe = sf.Recipe.from_json(json.dumps(json.loads(recipe_of(tmp_path / "mixed.png"))["recipe"]))
    job = sf.open_job(recipe, shipped_model())
    states = list(sf.iterate(job.run, job.start))
    assert len(states) == 5 + 3 + 2 and states[-1].nfe == 10
    assert run("replay", tmp_path / "mixed.png").exit_code == 0
    for state in (states[2], states[6]):  # between two steps of the sampler, and in the middle of one's mixing
        sf.save_state(state, tmp_path / "cut.safetensors", {"recipe": recipe.to_json(), "output": "out.png"})
        result = run("resume", tmp_path / "cut.safetensors", "-o", tmp_path / "out.png")
        assert result.exit_code == 0, result.output
        assert (pixels(tmp_path / "out.png") == images["mixed"]).all()


def test_what_a_mask_keeps_is_not_mixed(heart, tmp_path):
    mask = np.zeros((64, 64), np.uint8)
    mask[:, 32:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    recipe = sf.Recipe(
        "green apple", steps=4, cfg=3.0, image=str(heart), mask=str(tmp_path / "mask.png"), mixing="linear(align=next)"
    )
    job = sf.open_job(recipe, shipped_model())
    source, end = job.start.aux["mixing"]["source"], sf.finish(job.run, job.start)
    assert torch.equal(end.x[..., :8], source[..., :8]) and not torch.allclose(end.x[..., 8:], source[..., 8:])


def test_a_line_is_what_the_parts_say(heart):
    line = "logistic(alpha_1=1, start=0.25, stop=0.75, clamp=0.9, least=0.1, most=0.9, blend=slerp, align=before, "
    line += "shared=true, match_source=true)+perlin(mode=latents, strength=0.5, scale=4)+rewind"
    job = sf.open_job(sf.Recipe("green apple", steps=8, image=str(heart), mixing=line, seed=3), shipped_model())
    mixing = job.run
    assert isinstance(mixing, Mixing)
    assert mixing.weights == blending_weights(
        "logistic", 8, alpha_1=1.0, start=2, stop=6, clamp=0.9, least=0.1, most=0.9
    )
    assert (mixing.blend, mixing.align, mixing.of, mixing.match_source) == (slerp, "before", "state", True)
    assert mixing.perlin == Perlin("latents", 0.5, 4.0, 3) and mixing.rewind == (0.5, 0.8)
    assert torch.equal(mixing.noise(0, 0), mixing.noise(0, 3))
    for name in CURVES:
        assert parse_mixing(name).curve.name == name and parse_mixing(name).rewind is None
    assert parse_mixing("") is parse_mixing(" ") is None


@pytest.mark.parametrize(
    "text, message",
    [
        ("cosin", "mixing must begin with a curve, .* got 'cosin'; did you mean cosine?"),
        ("rewind+cosine", "mixing must begin with a curve, .* got 'rewind'"),
        ("cosine(alpha=2)", "cosine has no parameter 'alpha'; did you mean alpha_1?"),
        ("cosine(alpha_1=0)", "cosine needs alpha_1 > 0; got 0"),
        ("cosine(clamp=2)", "cosine needs 0 ≤ clamp ≤ 1; got 2"),
        ("cosine(align=behind)", "cosine needs align = after or next or before; got 'behind'"),
        ("cosine(blend=slerp, of=variance)", "blends by addition: give no other blend"),
        ("cosine(of=denoised, align=before)", "cannot be blended before the step"),
        ("cosine+rewinds", "unknown mixing term 'rewinds'; did you mean rewind?"),
        ("cosine+rewind+rewind", "mixing takes one rewind; got rewind and rewind"),
        ("cosine+linear", "mixing takes one curve; got cosine and linear"),
        ("cosine+rewind(least=0.9, most=0.2)", "rewind needs least < most; got 0.9 and 0.2"),
        ("cosine(", "mixing must be names with parameters, such as cosine"),
    ],
)
def test_mistakes_are_one_line_at_construction(heart, text, message):
    with pytest.raises(ValueError, match=message):
        sf.Recipe("green apple", image=str(heart), mixing=text)
    result = run("sample", "green apple", "--image", heart, "--mix", text)
    assert result.exit_code == 2 and "Traceback" not in result.stderr and len(result.stderr.splitlines()) == 1


def test_mixing_needs_an_image_and_a_schedule(heart):
    for settings, message in (
        ({}, "mixing needs an image to start from"),
        ({"image": str(heart), "denoise_map": str(heart)}, "mixing and a denoise_map exclude each other"),
        ({"image": str(heart), "sampler": "dpm_adaptive"}, "dpm_adaptive chooses its own steps"),
    ):
        with pytest.raises(ValueError, match=message):
            sf.Recipe("green apple", mixing="cosine", **settings)
