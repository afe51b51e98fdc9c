"""Many prompts, folders, previews, budgets and steering images on the command line."""

import hashlib
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from command_line import interrupted, run
from forked import Command
from sigmafield.cli.manifest import Entry, Manifest
from sigmafield.cli.parse import parse_control
from sigmafield.recipes.image_io import open_image
from sigmafield.recipes.inputs import ControlImage
from sigmafield.recipes.recipe import Recipe
from sigmafield.runs.checkpoint import load_state

pytestmark = pytest.mark.usefixtures("few_channels")

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
    assert facts["failed"] == [] == facts["skipped"]
    assert (pixels(out / names[0]) == pixels(out / names[2])).all()
    before = {path: path.read_bytes() for path in out.iterdir()}
    assert run("sample", "a red heart", "--out-dir", out, "--seed", 7, *FEW).exit_code == 0
    assert {path: path.read_bytes() for path in before} == before
    assert (pixels(out / "a-red-heart-7_3.png") == pixels(out / names[0])).all()
    assert run("replay", out / names[1]).exit_code == 0


def test_a_bad_line_does_not_end_the_others(tmp_path):
    """It is named, noted in the manifest and tried again by the same command; the status says so."""
    prompts, out = tmp_path / "p.txt", tmp_path / "out"
    lines = [
        '{"prompt": "x", "stepz": 3}',
        "a [red] heart[/b]",
        '{"prompt": "x", "image": "nowhere.png"}',
        '{"seed": 1}',
    ]
    prompts.write_text("\n".join([*lines, '{"prompt": "x", "size": "66x64"}', '{"prompt": ']))
    result = run("sample", "--prompts", prompts, "--out-dir", out, *FEW, "--json")
    assert result.exit_code == 2
    facts = json.loads(result.stdout)
    assert [image["line"] for image in facts["images"]] == [2]
    errors = {
        1: "unknown entry 'stepz'; did you mean steps?",
        3: "no image at nowhere.png",
        4: "an object with a prompt",
    }
    errors |= {5: "width must be a multiple of 4", 6: "not JSON"}
    assert {failure["line"] for failure in facts["failed"]} == set(errors)
    for failure in facts["failed"]:
        assert errors[failure["line"]] in failure["error"].replace("a JSON object", "an object")
        assert any(f"line {failure['line']}: " in json.loads(said)["error"] for said in result.stderr.splitlines())
    said = run("sample", "--prompts", prompts, "--out-dir", out, *FEW)
    assert said.exit_code == 2
    assert f"0 written, 1 skipped, 5 failed; lines are noted in {out / 'p.txt.manifest.jsonl'}" in said.stdout


def test_lines_may_be_recipes(tmp_path):
    """Each with fields of its own, over those of the command; in .jsonl every line is one."""
    prompts, out = tmp_path / "p.jsonl", tmp_path / "out"
    lines = [
        {"prompt": "a red heart", "seed": 5, "size": "96x64", "sampler": "euler"},
        {"prompt": "a red heart", "steps": 3, "negative": "blue", "tiling": {"tile": 32}, "batch": 2},
    ]
    prompts.write_text("\n".join(map(json.dumps, lines)))
    result = run("sample", "--prompts", prompts, "--out-dir", out, *FEW, "--seed", 9, "--json")
    assert result.exit_code == 0, result.output
    first, second = (image["recipe"] for image in json.loads(result.stdout)["images"])
    assert (first["seed"], first["width"], first["sampler"], first["steps"]) == (5, 96, "euler", 2)
    assert (second["seed"], second["steps"], second["negative"], second["tiling"]["tile"]) == (9, 3, "blue", 32)
    assert open_image(out / "a-red-heart-5.png").size == (96, 64)
    assert run("replay", out / "a-red-heart-9-2.png").exit_code == 0
    prompts.write_text("a red heart\n")
    assert "line 1: not JSON" in run("sample", "--prompts", prompts, "--out-dir", out).stderr


def test_standard_input_is_a_file_of_prompts(tmp_path, monkeypatch):
    """In a real process and a real terminal, whose bar is for all images; the same lines again are skipped."""
    options = ["sample", "--prompts", "-", "--steps", "2", "--cfg", "1"]
    lines = b'a red heart\n{"prompt": "green apple"}\n'
    command = Command(options, tmp_path, given=lines)
    command.read()
    assert command.close() == 0, command.shown
    said = "2 written; lines are noted in stdin.manifest.jsonl"
    for text in ("1 of 2: a red heart", "2 of 2: green apple", "100 %", "green-apple-0.png: 2 eval", said):
        assert text in command.shown
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["a-red-heart-0.png", "green-apple-0.png"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines)))
    assert "0 written, 2 skipped; " in run(*options).stdout


def test_the_same_command_goes_on(prompts, tmp_path):
    """Lines that changed, and those whose files are gone, are drawn; others are not, whatever tore the manifest."""
    out = tmp_path / "out"
    command = ["sample", "--prompts", prompts, "--out-dir", out, "--seed", 7, *FEW]
    assert run(*command).exit_code == 0
    manifest = out / "prompts.txt.manifest.jsonl"
    whole = pixels(out / "a-red-heart-7_2.png")
    (out / "a-red-heart-7_2.png").unlink()
    manifest.write_bytes(manifest.read_bytes() + b'{"line": 1, "status": "wri')
    for left in (".prompts.txt.abc.tmp", "prompts.txt.line-1.checkpoint.safetensors"):  # by a kill
        (out / left).write_bytes(b"half a file")
    prompts.write_text(PROMPTS.replace("green", "yellow"))
    facts = json.loads(run(*command, "--json").stdout)
    assert [entry["line"] for entry in facts["skipped"]] == [1]
    assert {image["line"]: image["files"] for image in facts["images"]} == {
        4: [str(out / "yellow-apple-7.png")], 5: [str(out / "a-red-heart-7_2.png")],
    }  # fmt: skip
    assert (pixels(out / "a-red-heart-7_2.png") == whole).all()
    assert not list(out.glob(".*.tmp")) and not list(out.glob("*.safetensors"))
    again = run(*command)
    assert again.exit_code == 0
    assert again.stdout == f"0 written, 3 skipped; lines are noted in {manifest}; to draw them again, remove it\n"


def test_a_random_seed_is_drawn_once(tmp_path):
    prompts, out = tmp_path / "p.txt", tmp_path / "out"
    prompts.write_text('a red heart\n{"prompt": "green apple", "seed": -1}\n{"prompt": "pizza", "seed": 3}\n')
    command = ["sample", "--prompts", prompts, "--out-dir", out, "--steps", 1, "--cfg", 1, "--seed", "random"]
    assert run(*command).exit_code == 0
    files = sorted(path.name for path in out.glob("*.png"))
    assert len(files) == 3 and "pizza-3.png" in files
    assert "0 written, 3 skipped" in run(*command).stdout
    (out / files[0]).unlink()
    assert "1 written, 2 skipped" in run(*command).stdout
    assert sorted(path.name for path in out.glob("*.png")) == files


def test_a_kill_while_files_get_their_names(tmp_path):
    """Files that are all there count as written; a part of them is removed."""
    recipe = Recipe("x").to_plain()
    for there, written in ((("a.png", "a-1.png"), True), (("a.png",), False), ((), False)):
        folder = tmp_path / str(len(there))
        with Manifest(folder, Path("p.txt")) as manifest:
            digests = [hashlib.sha256(name.encode()).hexdigest() for name in ("a.png", "a-1.png")]
            manifest.add(Entry(1, "writing", recipe, ["a.png", "a-1.png"], digests))
            for name in there:
                (folder / name).write_text(name)
            (folder / "b.png").write_text("another's")
        with Manifest(folder, Path("p.txt")) as manifest:
            assert bool(manifest.written(1, recipe)) == written
            assert manifest.written(2, recipe) == [] == manifest.written(1, {**recipe, "seed": 2})
        left = {path.name for path in folder.glob("*.png")}
        assert left == {"a.png", "a-1.png", "b.png"} if written else {"b.png"}
        with Manifest(folder, Path("p.txt")) as manifest:
            assert bool(manifest.written(1, recipe)) == written


def test_one_process_at_a_time(prompts, tmp_path):
    with Manifest(tmp_path / "out", prompts):
        result = run("sample", "--prompts", prompts, "--out-dir", tmp_path / "out", *FEW)
    assert result.exit_code == 2
    assert "another process works on this batch" in result.stderr


@pytest.mark.typed_elsewhere
def test_an_interrupted_batch_goes_on_in_the_middle_of_a_line(prompts, tmp_path):
    """A real Ctrl-C: nothing is drawn twice, and the pixels are those of an uninterrupted batch."""
    command = ["sample", "--prompts", prompts, "--steps", 4, "--sampler", "dpmpp_2m_sde", "--cfg", 3, "--out-dir"]
    ended = interrupted(*command, tmp_path / "a", when=lambda job, state: "green" in job.recipe.prompt and state.i == 2)
    assert ended.exit_code == 130 and "2 of 3: green apple" in ended.stderr, ended.output
    assert "interrupted after " in ended.stderr and "the same command" in ended.stderr
    assert "1 written, 2 left; lines are noted in" in ended.stdout
    checkpoint = tmp_path / "a" / "prompts.txt.line-4.checkpoint.safetensors"
    assert load_state(checkpoint)[0].i > 0
    facts = json.loads(run(*command, tmp_path / "a", "--json").stdout)
    assert [image["line"] for image in facts["images"]] == [4, 5]
    assert run(*command, tmp_path / "b").exit_code == 0
    files = sorted(path.name for path in (tmp_path / "b").iterdir())
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == files
    for name in files[2:]:
        if name.endswith(".png"):
            assert (pixels(tmp_path / "a" / name) == pixels(tmp_path / "b" / name)).all()


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
        common = ["--image", image, "--mask", mask, "-o", out, "--steps", 2, "--overwrite"]
        result = run("sample", "x", *common, *options)
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
    (["x", "--prompts", "p.txt"], "give a prompt or --prompts, not both; got 'x' and p.txt"),
    (["--prompts", "nowhere.txt"], "no file of prompts at nowhere.txt"),
    (["--prompts", "q.txt"], "no file of prompts at q.txt; did you mean p.txt?"),
    (["--prompts", "."], "--prompts must be a file, or - for standard input; . is a folder"),
    (["--prompts", "p.txt", "--out-dir", "i.png"], "cannot make the folder i.png: i.png is a file"),
    (["x", "--out-dir", "i.png/a"], "cannot make the folder i.png/a: i.png is a file"),
    (["x", "--image", "ii.png"], "no image at ii.png; did you mean i.png?"),
    (["a", "red", "heart"], "unexpected 'red': a text of several words needs quotes"),
    (["x", "-o", "a.txt"], "an image file must end in one of .png, .jpg, .jpeg, .webp, .avif; a.txt ends in '.txt'\n"),
    (["x", "--server", "nowhere"], "a server's address must be one of HTTP, such as http://127.0.0.1:8188; got"),
    (["x", "--checkpoint-every", "-1"], "--checkpoint-every must be seconds ≥ 0, or inf; got -1"),
    (["--prompts", "empty.txt"], "empty.txt has no prompts: it needs one per line"),
    (
        ["--prompts", "p.txt", "-o", "a.png"],
        "--prompts draws an image for each line: give --out-dir instead of -o a.png",
    ),
    (["x", "--ray"], "--ray draws the lines of a file: give --prompts FILE"),
    (["--prompts", "p.txt", "--ray", "atuo"], "a cluster's address is local, auto, HOST:PORT or ray://HOST:PORT; got"),
    (["--prompts", "p.txt", "--ray", "--device", "cuda:1"], "give --device cpu or cuda; got 'cuda:1'"),
    (["x", "-o", "a.png", "--out-dir", "b"], "give -o or --out-dir, not both; got a.png and b"),
    (["x", "--max-rows", "0"], "the machine needs max_rows ≥ 1; got 0"),
    (["x", "--preview-every", "0"], "--preview-every must be ≥ 1; got 0"),
    (["x", "--preview-decoder", "nowhere"], "nowhere: no such file or directory to take a preview decoder from"),
    (["x", "--controlnet", "canny"], "a control has no entry 'canny'"),
    (["x", "--controlnet", "net=a"], "a control must be net=PATH,image=PNG and, if wanted, strength=0.8,start=0,end=1"),
    (
        ["x", "--controlnet", "net=a,image=b,strenght=2"],
        "a control has no entry 'strenght'; did you mean strength, start?",
    ),
    (["x", "--controlnet", "net=a,image=b,strength=much"], "a control's strength must be a number; got 'much'"),
    (["x", "--controlnet", "net=nowhere,image=b"], "nowhere: no such file or directory; a control"),
    (["x", "--controlnet", "net=.,image=b"], "no image at b"),
    (
        ["x", "--controlnet", "net=.,image=i.png,start=0.6,end=0.5"],
        "needs 0 ≤ start ≤ end; got 0.6 and end = 0.5",
    ),
    (
        ["x", "--controlnet", "net=.,image=i.png"],
        "tiny takes no controls: these are for Stable",
    ),
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


def test_the_nearest_directory_is_named_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "network").mkdir()
    assert run("sample", "x", "--model", "netwrk").stderr.count("did you mean network?") == 1


def test_without_ray_a_cluster_is_one_line_about_installing_it(prompts, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)  # how Python marks what cannot be imported
    result = run("sample", "--prompts", prompts, "--ray")
    assert result.exit_code == 2 and 'pip install "sigmafield[ray]"' in result.stderr, result.output


def test_help_teaches():
    text = " ".join(run("sample", "--help").output.split())
    for option in "prompts out-dir preview-every preview-decoder max-rows controlnet mask".split():
        assert f"--{option}" in text
