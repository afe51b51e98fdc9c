"""`sigmafield guidance`, and `--guidance` from the command line to the pixels and back."""

import json

import numpy as np
import pytest

import sigmafield as sf
from command_line import run
from sigmafield.recipes.image_io import open_image
from sigmafield.recipes.mods import MODS
from sigmafield.recipes.output import recipe_of

pytestmark = pytest.mark.usefixtures("few_channels")


def test_all_mods_are_listed():
    text = run("guidance").output
    for name, mod in MODS.items():
        assert name in text and all(f"{key}={value}" in text for key, value in mod.defaults.items())
    rows = {row["name"]: row for row in json.loads(run("guidance", "--json").output)}
    assert rows.keys() == MODS.keys()
    assert rows["apg"]["params"]["eta"] == {
        "default": 1.0, "values": "-10 ≤ eta ≤ 10", "doc": "Factor of the part of the difference along C.",
    }  # fmt: skip
    assert (rows["perp_neg"]["evals"], rows["perp_neg"]["stage"]) == (1, "combine")


@pytest.mark.parametrize("name", MODS)
def test_every_mod_is_explained(name):
    result = run("guidance", name)
    assert result.exit_code == 0, result.output
    assert MODS[name].apply.__doc__.splitlines()[0] in result.output
    assert all(key in result.output for key in MODS[name].defaults)
    assert f"sigmafield cite {name}" in result.output
    assert run("cite", name).output.startswith("@")


def test_a_image_carries_its_guidance(tmp_path):
    """Each of the three prompts is encoded; what is drawn differs from plain guidance, and is drawn again."""
    images = {}
    for text in ("", "ramp+perp_neg(over=sample)+apg(momentum=-0.5, eta=0, form=paper)+tsr"):
        path = tmp_path / f"{len(text)}.png"
        options = ["--negative", "green apple", "--cfg", 8, "--steps", 5, "--guidance", text]
        result = run("sample", "red heart", "-o", path, *options)
        assert result.exit_code == 0, result.output
        assert json.loads(recipe_of(path))["recipe"].get("guidance", "") == text
        assert run("replay", path).exit_code == 0
        images[text] = np.asarray(open_image(path)).astype(int)
    assert np.abs(np.subtract(*images.values())).mean() > 2


def test_mistakes_are_one_line():
    for text, message in {"apgg": "did you mean apg", "apg(eta=99)": "apg needs -10 ≤ eta ≤ 10; got 99"}.items():
        with pytest.raises(ValueError, match=message):
            sf.Recipe("red heart", guidance=text)
        result = run("sample", "red heart", "--guidance", text)
        assert result.exit_code == 2 and message in result.stderr and "Traceback" not in result.stderr


def test_what_a_run_finds_out_is_one_line_as_well(tmp_path):
    """Prompts that the rows of a call hold apart, and a network without the blocks: no image, and the reason."""
    lines = {
        "nag": "nag needs the positive and the negative prompt in one network call",
        "slg": "is not one of the transformers",
    }
    for text, message in lines.items():
        result = run("sample", "red heart", "--guidance", text, "--max-rows", 1, "--steps", 2, "-o", tmp_path / "a.png")
        assert result.exit_code == 2 and message in result.stderr and "Traceback" not in result.stderr
        assert not list(tmp_path.iterdir())
