"""Many prompts, folders, previews, budgets and steering images on the command line."""

import json
import os
import pty
import subprocess
import sys
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image

from command_line import run
from sigmafield.cli.parse import parse_control
from sigmafield.recipes.image_io import open_image
from sigmafield.recipes.inputs import ControlImage
from sigmafield.recipes.recipe import Recipe

PROMPTS = "a red heart\n\n# not this one\n  green apple  \na red heart\n"
FEW = ["--steps", 2, "--cfg", 1]


def pixels(path):
    return np.asarray(open_image(path))


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text(PROMPTS)
    return path


def test_each_prompt_of_a_file_becomes_a_image_and_none_is_overwritten(prompts, tmp_path):
    out = tmp_path / "new" / "out"
    names = ["a-red-heart-7.png", "green-apple-7.png", "a-red-heart-7_2.png"]
    result = run("sample", "--prompts", prompts, "--out-dir", out, "--seed", 7, *FEW, "--json")
    assert result.exit_code == 0, result.output
    facts = json.loads(result.output)
    assert [image["files"] for image in facts["images"]] == [[str(out / name)] for name in names]
    assert [image["line"] for image in facts["images"]] == [1, 4, 5]
    assert facts["failed"] == []
    assert (pixels(out / names[0]) == pixels(out / names[2])).all()
    before = {path: path.read_bytes() for path in out.iterdir()}
    assert run("sample", "a red heart", "--out-dir", out, "--seed", 7, *FEW).exit_code == 0
    assert {path: path.read_bytes() for path in before} == before
    assert (pixels(out / "a-red-heart-7_3.png") == pixels(out / names[0])).all()
    assert run("replay", out / names[1]).exit_code == 0


def test_failed_lines_are_named(prompts, tmp_path):
    """A folder that is a file: each line says so, the program ends with status 2."""
    result = run("sample", "--prompts", prompts, "--out-dir", prompts, *FEW, "--json")
    assert result.exit_code == 2
    assert [failure["line"] for failure in json.loads(result.stdout)["failed"]] == [1, 4, 5]
    assert [json.loads(line)["error"].partition(": [")[0] for line in result.stderr.splitlines()] == [
        f"line {k}" for k in (1, 4, 5)
    ]


def test_the_bar_is_for_all_images(prompts, tmp_path):
    """In a real terminal; prompts keep their numbers, and each file is told."""
    terminal, theirs = pty.openpty()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TERM": "xterm", "COLUMNS": "200"}
    command = [sys.executable, "-m", "sigmafield", "sample", "--prompts", prompts, "--steps", "6"]
    with subprocess.Popen(
        command, cwd=tmp_path, stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    ) as process:
        os.close(theirs)
        shown = ""
        with suppress(OSError):  # how Linux says that the other end has closed
            while part := os.read(terminal, 4096):
                shown += part.decode(errors="replace")
        os.close(terminal)
    assert process.returncode == 0, shown
    for text in ("1 of 3: a red heart", "2 of 3: green apple", "3 of 3: a red heart", "green-apple-0.png: 6 eval"):
        assert text in shown


def test_previews_are_written_beside_the_output(tmp_path):
    result = run("sample", "a red heart", "-o", tmp_path / "a.png", "--steps", 5, "--batch", 2, "--preview-every", 2)
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a-1.png", "a-2.png", "a-preview.png", "a.png"]
    assert open_image(tmp_path / "a-preview.png").size == open_image(tmp_path / "a.png").size
    assert (pixels(tmp_path / "a-preview.png") != pixels(tmp_path / "a.png")).any()  # of step 4, not of the last


def test_a_budget_of_rows_changes_no_pixel(tmp_path):
    image, mask, out = (tmp_path / name for name in ("in.png", "mask.png", "out.png"))
    Image.fromarray(np.full((64, 64, 3), 128, np.uint8)).save(image)
    Image.fromarray(np.eye(64, dtype=np.uint8) * 255).save(mask)
    drawn = []
    for options in ([], ["--max-rows", 1]):
        result = run("sample", "x", "--image", image, "--mask", mask, "-o", out, "--steps", 2, *options)
        assert result.exit_code == 0, result.output
        drawn.append(pixels(out).astype(int))
    assert np.abs(drawn[1] - drawn[0]).max() <= 1
    assert run("replay", out, "--max-rows", 1).exit_code == 0


def test_controls_are_read_whatever_is_in_their_paths(tmp_path):
    net, image = tmp_path / "C:, a=b" / "net,v1", tmp_path / "a,b:c.png"
    net.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(image)
    plain = parse_control(f"net={net},image={image}")
    assert plain == ControlImage(str(net), str(image))
    full = parse_control(f"strength=0.5,net={net},start=0.1,end=0.6,image={image},kind=canny")
    assert full == ControlImage(str(net), str(image), 0.5, 0.1, 0.6, "canny")
    recipe = Recipe("x", controls=(plain, full))
    assert Recipe.from_json(recipe.to_json()) == recipe


ERRORS = [
    ([], 'give a prompt, such as "a red heart", or --prompts FILE with one per line'),
    (["x", "--prompts", "p.txt"], "give a prompt, such as"),
    (["--prompts", "nowhere.txt"], "no file of prompts at nowhere.txt"),
    (["--prompts", "empty.txt"], "empty.txt has no prompts: it needs one per line"),
    (
        ["--prompts", "p.txt", "-o", "a.png"],
        "--prompts draws an image for each line: give --out-dir instead of -o a.png",
    ),
    (["x", "-o", "a.png", "--out-dir", "b"], "give -o or --out-dir, not both; got a.png and b"),
    (["x", "--max-rows", "0"], "the machine needs max_rows ≥ 1; got 0"),
    (["x", "--preview-every", "0"], "preview-every must be ≥ 1; got 0"),
    (["x", "--preview-decoder", "nowhere"], "nowhere: no such file or directory to take a preview decoder from"),
    (["x", "--controlnet", "canny"], "a control has no entry 'canny'"),
    (["x", "--controlnet", "net=a"], "a control must be net=DIR,image=PNG and, if wanted, strength=0.8,start=0,end=1;"),
    (
        ["x", "--controlnet", "net=a,image=b,strenght=2"],
        "a control has no entry 'strenght'; did you mean strength, start?",
    ),
    (["x", "--controlnet", "net=a,image=b,strength=much"], "a control's strength must be a number; got 'much'"),
    (["x", "--controlnet", "net=nowhere,image=b"], "nowhere: no such directory; a control's net is one in diffusers'"),
    (["x", "--controlnet", "net=.,image=b"], "no image at b"),
    (
        ["x", "--controlnet", "net=.,image=i.png,start=0.6,end=0.5"],
        "needs 0 ≤ start ≤ end; got 0.6 and end = 0.5",
    ),
    (["x", "--controlnet", "net=.,image=i.png"], "tiny takes no controls: these are for Stable Diffusion 1, 2 and XL"),
]


@pytest.mark.parametrize("options, message", ERRORS, ids=lambda v: " ".join(v) if isinstance(v, list) else "")
def test_bad_input_is_one_line_and_status_2(options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.txt").write_text(PROMPTS)
    (tmp_path / "empty.txt").write_text("# nothing\n\n")
    Image.new("RGB", (8, 8)).save("i.png")
    result = run("sample", *options)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert len(list(tmp_path.iterdir())) == 3  # nothing half-written


def test_help_teaches():
    text = " ".join(run("sample", "--help").output.split())
    for option in "prompts out-dir preview-every preview-decoder max-rows controlnet inpaint mask".split():
        assert f"--{option}" in text
