"""Texts of people in the terminal: never markup, never taken for numbers; errors for machines; narrow terminals."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image
from rich.cells import cell_len

from command_line import run
from sigmafield.cli.parse import parse_control, parse_lora, parse_region, parse_seed
from sigmafield.recipes.image_io import open_image
from sigmafield.recipes.options import Lora, Region
from sigmafield.recipes.output import recipe_of, save_image

pytestmark = pytest.mark.usefixtures("few_channels")

CLI = Path(__file__).parents[2] / "src" / "sigmafield" / "cli"


def test_every_console_prints_text_as_it_is():
    makers = [path.name for path in CLI.glob("*.py") if re.search(r"\bConsole\(", path.read_text("utf-8"))]
    assert makers == ["console.py"]


@pytest.mark.parametrize("text", ["[/b]", "[red]a[/red] :smile:", "\\[b]", "sigmafield[diffusers]"])
def test_brackets_are_text(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words in (["--image", text], ["--sampler", text], ["--positive-region", text]):
        assert text in run("sample", "x", *words).stderr.replace("\\\\", "\\")
    prompts = tmp_path / "prompts.txt"
    prompts.write_text(text + "\n" + text, "utf-8")
    drawn = run("sample", "--prompts", prompts, "--steps", 1, "--out-dir", tmp_path / "out")
    assert drawn.exit_code == 0, drawn.output
    assert len(list((tmp_path / "out").glob("*.png"))) == 2


BOX = {"x": 0, "y": 0, "width": 32, "height": 32}


@pytest.mark.parametrize(
    "text, prompt, strength",
    [
        ("a clock at 12:30", "a clock at 12:30", 1.0),
        ("16:9", "16:9", 1.0),
        ("(apple:1.2)", "(apple:1.2)", 1.0),
        ("x:nan", "x:nan", 1.0),
        ("apple:strength=4", "apple", 4.0),
        ('"apple:4"', "apple:4", 1.0),
        ('"a clock at 12:30":strength=0.5', "a clock at 12:30", 0.5),
        ('"a" and "b"', '"a" and "b"', 1.0),
    ],
)
def test_a_number_in_a_prompt_is_not_a_strength(text, prompt, strength):
    assert parse_region(f"0,0,32,32:{text}") == Region(prompt, **BOX, strength=strength)


@pytest.mark.parametrize(
    "text, message",
    [
        ("apple:4", "a region's strength is written 0,0,32,32:apple:strength=4; if ':4' belongs to the prompt, quote "
         'it: 0,0,32,32:"apple:4"'),
        ("apple:strength=much", "a region's strength must be a number; got 'much'"),
        ("", "a region must be X,Y,W,H:PROMPT or X,Y,W,H:PROMPT:strength=S; got '0,0,32,32:'"),
        ('""', "a region must be X,Y,W,H:PROMPT or X,Y,W,H:PROMPT:strength=S"),
    ],
)  # fmt: skip
def test_regions_that_are_refused(text, message):
    with pytest.raises(ValueError, match="^") as caught:
        parse_region(f"0,0,32,32:{text}")
    assert str(caught.value).startswith(message)


def test_a_file_with_a_colon_is_a_file(tmp_path):
    (tmp_path / "a:0.5").touch()
    assert parse_lora(f"{tmp_path}/a:0.5") == Lora(f"{tmp_path}/a:0.5")
    assert parse_lora(f"{tmp_path}/b:0.5") == Lora(f"{tmp_path}/b", 0.5)
    assert parse_lora("a:b") == Lora("a:b")


def test_other_texts_that_are_refused():
    with pytest.raises(ValueError, match="a control must have each entry once; got 'net=a,image=b,net=c'"):
        parse_control("net=a,image=b,net=c")
    with pytest.raises(ValueError, match="seed must be a whole number or 'random'; got 'many'"):
        parse_seed("many")


@pytest.mark.parametrize("seed", ["random", "-1"])
def test_a_drawn_seed_is_shown_and_carried(seed, tmp_path):
    out = tmp_path / "a.png"
    said = run("sample", "x", "--seed", seed, "--steps", 1, "-o", out)
    assert said.exit_code == 0, said.output
    [shown] = re.findall(r"seed (\d+)", said.stdout)
    assert json.loads(recipe_of(out))["recipe"]["seed"] == int(shown)


def test_the_largest_seed(tmp_path):
    options = ["--sampler", "euler_ancestral", "--steps", 1, "-o", tmp_path / "a.png"]
    assert f"seed {2**64 - 1}" in run("sample", "x", "--seed", 2**64 - 1, *options).stdout


@pytest.mark.parametrize(
    "words, message",
    [
        (["--cfg", "1e38", "--steps", "4"], "the latent has NaN or infinity after step 2; what usually helps"),
        (["--steps", "a"], "--steps must be a whole number; got 'a'"),
        (["--stepz", "3"], "Unknown option: --stepz. Did you mean --steps?"),
        (["--lora", "nope"], "LoRA 'nope': no such file"),
        (["--size", "65536x65536"], "65536x65536 pixels take"),
        (["--image", "nope.png"], "no image at nope.png"),
    ],
)
def test_errors_are_one_line_or_one_object(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for_people, for_machines = run("sample", "red heart", *words), run("sample", "red heart", *words, "--json")
    assert for_people.exit_code == for_machines.exit_code == 2
    assert for_people.stderr.startswith(f"error: {message}") and for_people.stderr.count("\n") == 1
    assert json.loads(for_machines.stderr)["error"].startswith(message) and not for_machines.stdout
    assert not list(tmp_path.iterdir())


def test_what_is_not_finite_may_be_allowed(tmp_path):
    out = tmp_path / "a.png"
    assert run("sample", "x", "--cfg", "1e38", "--steps", 3, "--allow-nonfinite", "-o", out).exit_code == 0
    assert open_image(out).size == (64, 64)


def test_bytes_that_are_no_text_give_a_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("prompts.txt").write_bytes(b"red \xff heart")
    assert "the recipe needs prompt to be Unicode text" in run("sample", "red \udcff heart").stderr
    assert "prompts.txt is not text in UTF-8" in run("sample", "--prompts", "prompts.txt").stderr
    assert "nests more than 100 parentheses" in run("sample", "(" * 1000 + "a" + ")" * 1000).stderr


def test_upscale_that_changes_nothing_says_so(tmp_path):
    small, black, out = tmp_path / "a.png", tmp_path / "black.png", tmp_path / "b.png"
    Image.new("RGB", (64, 64), "red").save(small)
    Image.new("L", (64, 64)).save(black)
    Image.new("L", (64, 64), "white").save(white := tmp_path / "white.png")
    options = ["--min-denoise", 0, "--steps", 2, "--size", "64x64", "-o", out]
    done = run("upscale", small, "red heart", "--denoise-map", black, *options)
    assert done.exit_code == 2
    assert done.stderr.startswith("error: the denoise map would change nothing: its largest strength here is 0")
    assert not out.exists()
    assert run("upscale", small, "red heart", "--denoise-map", white, *options).exit_code == 0


def test_replay_refuses_what_is_not_a_label(tmp_path):
    small, other = tmp_path / "a.png", tmp_path / "b.png"
    assert run("sample", "red heart", "--steps", 1, "-o", small).exit_code == 0
    whole = json.loads(recipe_of(small))
    for text, message in (
        ('{"prompt": "x"}', "what the image carries must be an object with a recipe"),
        (json.dumps({**whole, "image": 7}), "image must be one of the batch of 1, from 0; got 7"),
        (
            json.dumps({**whole, "recipe": {**whole["recipe"], "tiling": {"later": 1}}}),
            "the recipe: tiling has an unknown",
        ),
    ):
        save_image(open_image(small), other, text)
        result = run("replay", other)
        assert result.exit_code == 2 and message in result.stderr and result.stderr.count("\n") == 1


@pytest.mark.parametrize("words", [["samplers"], ["guidance"], ["schedules"], ["samplers", "euler"]], ids=" ".join)
def test_forty_columns_show_every_word(words):
    """No cell is cut with an ellipsis, and no line is longer than the terminal."""
    narrow = run(*words, columns=40).stdout
    assert max(map(cell_len, narrow.splitlines())) <= 40
    assert "…" not in narrow
    wide = run(*words, columns=300).stdout
    assert sorted(re.sub(r"\W|_", "", wide)) == sorted(re.sub(r"\W|_", "", narrow)) or len(narrow) > len(wide) / 2
