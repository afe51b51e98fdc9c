"""`sigmafield run`: workflows run without ComfyUI; `sigmafield nodes`: what their classes take."""

import json
import math
import re
import time

import pytest
from PIL import Image

from command_line import Pressing, heard, run
from sigmafield.comfyui.environment import extra_folders, joined_folders, model_folders

pytestmark = pytest.mark.usefixtures("few_channels")

DRAWN = {
    "3": {"class_type": "KSampler", "inputs": {
        "model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0], "seed": 3, "steps": 4,
        "cfg": 5.0, "sampler_name": "dpmpp_2m_sde", "scheduler": "karras", "denoise": 1.0}},
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd15.safetensors"}},
    "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["4", 1], "text": "a heart"}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["4", 1], "text": ""}},
    "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
    "9": {"class_type": "SaveImage", "inputs": {"images": ["8", 0], "filename_prefix": "heart"}},
}  # fmt: skip
INVERTED = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "example.png"}},
    "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
    "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "negative"}},
}


def written(prompt, path):
    path.write_text(json.dumps(prompt))
    return path


@pytest.fixture
def flow(tmp_path):
    return written(DRAWN, tmp_path / "flow.json")


def test_a_workflow_saves_its_images_which_carry_it(flow, tmp_path):
    out = tmp_path / "out"
    made = run("run", flow, "--substitute", "tiny", "-o", out, "--set", "KSampler.steps=2", "--set", "3.seed=5")
    assert (made.exit_code, made.stdout.split()) == (0, [str(out / "heart_00001_.png")])
    assert "embedded model stands in for the missing checkpoint sd15.safetensors" in made.stderr
    assert "3 KSampler" in made.stderr and "3 2/2" in made.stderr
    image = Image.open(out / "heart_00001_.png")
    assert json.loads(image.text["prompt"])["3"]["inputs"]["seed"] == 5
    again = run("run", out / "heart_00001_.png", "-o", out)
    assert again.stdout.split() == [str(out / "heart_00002_.png")]
    assert Image.open(out / "heart_00002_.png").tobytes() == image.tobytes()


def with_input(node, **inputs):
    """A node of the workflow with other inputs."""
    return {node: {**DRAWN[node], "inputs": {**DRAWN[node]["inputs"], **inputs}}}


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {"4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd15.safetensors"}}},
            "not in ['tiny', 'tiny-flow']",
        ),
        ({"8": {"class_type": "VAEDecoded", "inputs": {}}}, "no class VAEDecoded (node 8); did you mean VAEDecode"),
        ({"8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0]}}}, "node 8 (VAEDecode): Required input is"),
        (with_input("3", cfg=math.nan), "node 3 (KSampler): A FLOAT is a finite number: cfg must be finite; got nan"),
        (with_input("3", cfg=math.inf), "node 3 (KSampler): Value inf bigger than max"),
        (with_input("9", filename_prefix="../x"), "filename_prefix must stay in the output folder; got '../x'"),
        (with_input("9", filename_prefix="/x"), "filename_prefix must stay in the output folder; got '/x'"),
    ],
)
def test_a_dry_run_says_what_is_missing(change, message, tmp_path):
    file = written({**DRAWN, **change}, tmp_path / "flow.json")
    made = run("run", file, "--dry-run")
    assert made.exit_code == 2 and message in made.stderr and not made.stdout


def test_a_dry_run_of_a_complete_workflow_runs_nothing(flow, tmp_path):
    made = run("run", flow, "--dry-run", "--substitute", "tiny", "-o", tmp_path / "out")
    assert (made.exit_code, made.stdout) == (0, f"{flow} can run: 7 nodes, outputs 9\n")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["image", "LoadImage.image", "1.image"])
def test_files_are_given_as_inputs(name, tmp_path):
    Image.new("RGB", (8, 6), (255, 0, 10)).save(tmp_path / "cat.png")
    file = written(INVERTED, tmp_path / "flow.json")
    made = run("run", file, "--input", f"{name}={tmp_path / 'cat.png'}", "-o", tmp_path)
    assert made.exit_code == 0
    assert Image.open(made.stdout.strip()).getpixel((0, 0)) == (0, 255, 245)
    missing = run("run", file, "--input", f"{name}=none.png")
    assert missing.exit_code == 2 and "no file none.png" in missing.stderr


@pytest.mark.parametrize("text, message", [("3.stps=5", "did you mean steps"), ("3.steps", "NODE.INPUT=VALUE")])
def test_values_that_cannot_be_set_are_one_line(text, message, flow):
    made = run("run", flow, "--set", text)
    assert made.exit_code == 2 and message in made.stderr


def test_custom_nodes_run_when_they_are_asked_for(tmp_path):
    (tmp_path / "nodes").mkdir()
    (tmp_path / "nodes" / "twice.py").write_text(
        "class Twice:\n    INPUT_TYPES = classmethod(lambda cls: {'required': {'text': ('STRING', {})}})\n"
        "    RETURN_TYPES = ('STRING',)\n    FUNCTION = 'f'\n    def f(self, text):\n        return (text * 2,)\n"
        "NODE_CLASS_MAPPINGS = {'Twice': Twice}"
    )
    (tmp_path / "nodes" / "needs.py").write_text("import folder_paths")
    prompt = {
        "1": {"class_type": "Twice", "inputs": {"text": "5"}},
        "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}},
    }
    file = written(prompt, tmp_path / "flow.json")
    assert "no class Twice (node 1)" in run("run", file).stderr
    made = run("run", file, "--nodes", tmp_path / "nodes", "--set", "1.text=7")
    assert made.stdout == "77\n" and "needs.py is left out: it imports folder_paths" in made.stderr


def test_an_error_in_a_node_is_one_line(tmp_path):
    prompt = {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "flow.json/x"}},
    }
    made = run("run", written(prompt, tmp_path / "flow.json"), "-o", tmp_path)
    assert made.exit_code == 1
    assert re.search(r"^error: node 2 \(SaveImage\): (FileExists|NotADirectory)Error: ", made.stderr, re.M)


def test_ctrl_c_leaves_a_paused_workflow_which_ends_with_the_same_pixels(flow, tmp_path):
    out = tmp_path / "out"
    with heard():
        ended = run("run", flow, "--substitute", "tiny", "-o", out, stderr=Pressing("3 2/4"))
    assert ended.exit_code == 130, ended.output
    [paused] = out.glob("paused-*.safetensors")
    assert f"sigmafield run {paused}" in ended.stderr and not list(out.glob("*.png"))
    there = run("run", paused, "--server", "http://127.0.0.1:9")
    assert there.exit_code == 2 and "a server takes no states from clients" in there.stderr
    assert run("run", paused, "-o", out).exit_code == 0
    assert run("run", flow, "--substitute", "tiny", "-o", out).exit_code == 0
    first, second = (Image.open(out / f"heart_0000{k}_.png").tobytes() for k in (1, 2))
    assert first == second


def test_a_paused_workflow_has_the_files_that_were_given(tmp_path):
    """The image is loaded before the sampler and after it; its file is gone when the run goes on."""
    Image.new("RGB", (64, 64), (255, 120, 10)).save(tmp_path / "cat.png")
    encoded = {"1": {"class_type": "LoadImage", "inputs": {"image": "none.png"}},
               "5": {"class_type": "VAEEncode", "inputs": {"pixels": ["1", 0], "vae": ["4", 2]}}}  # fmt: skip
    joined = {"class_type": "ImageStitch", "inputs": {
        "image1": ["8", 0], "image2": ["1", 0], "direction": "right", "match_image_size": True, "spacing_width": 0,
        "spacing_color": "white"}}  # fmt: skip
    saved = {"class_type": "SaveImage", "inputs": {"images": ["10", 0], "filename_prefix": "both"}}
    sampler = {**DRAWN["3"], "inputs": {**DRAWN["3"]["inputs"], "steps": 4, "denoise": 0.5}}
    file = written({**DRAWN, **encoded, "3": sampler, "10": joined, "9": saved}, tmp_path / "flow.json")
    given = ["--substitute", "tiny", "--input", f"image={tmp_path / 'cat.png'}"]
    assert run("run", file, *given, "-o", tmp_path / "whole").exit_code == 0
    with heard():
        ended = run("run", file, *given, "-o", tmp_path / "out", stderr=Pressing("3 1/"))
    assert ended.exit_code == 130, ended.output
    (tmp_path / "cat.png").unlink()
    [paused] = (tmp_path / "out").glob("paused-*.safetensors")
    made = run("run", paused, "-o", tmp_path / "out")
    assert made.exit_code == 0, made.stderr
    first, second = (Image.open(tmp_path / name / "both_00001_.png").tobytes() for name in ("whole", "out"))
    assert first == second


def test_watching_runs_again_when_the_file_changes(tmp_path):
    def asking(text):
        return {"1": {"class_type": "PreviewAny", "inputs": {"source": text}}}

    file = written(asking("one"), tmp_path / "flow.json")

    def change():
        time.sleep(0.01)  # file systems may have no finer times
        written(asking("two"), file)

    with heard():
        ended = run("run", file, "--watch", stdout=Pressing("two", at={"one": change}))
    assert (ended.exit_code, ended.stdout.split()) == (130, ["one", "two"]), ended.stderr


def test_folders_of_models_in_comfyuis_form(tmp_path):
    for name in ("models/checkpoints/a.safetensors", "more/b.safetensors", "more/sub/c.ckpt", "text/t.safetensors"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    file = tmp_path / "extra.yaml"
    file.write_text(
        "other:\n  clip: text\nmine:\n  base_path: .\n  is_default: true\n  checkpoints: |\n    more\n    none\n"
    )
    found = joined_folders(model_folders(tmp_path / "models"), extra_folders(file))
    assert found["checkpoints"] == [tmp_path / "models" / "checkpoints", tmp_path / "more", tmp_path / "none"]
    assert found["text_encoders"][-1] == tmp_path / "text"
    file.write_text("a: [1]")
    with pytest.raises(ValueError, match="must have sections"):
        extra_folders(file)
    with pytest.raises(FileNotFoundError, match="no folder of models"):
        model_folders(tmp_path / "missing")


def test_classes_are_listed_and_explained():
    listed = run("nodes")
    assert listed.exit_code == 0 and "KSampler" in listed.stdout
    one = run("nodes", "KSampler")
    assert "1 … 10000; default 20" in one.stdout and "outputs: LATENT (LATENT)" in one.stdout
    entry = json.loads(run("nodes", "KSampler", "--json").stdout)
    assert list(entry) == ["KSampler"] and entry["KSampler"]["output"] == ["LATENT"]
    unknown = run("nodes", "KSampl")
    assert unknown.exit_code == 2 and "did you mean KSampler" in unknown.stderr


def test_files_of_the_same_name_stay_apart(tmp_path):
    prompt, inputs = {}, []
    for k, colour in enumerate(("red", "blue")):
        file = tmp_path / colour / "x.png"
        file.parent.mkdir()
        Image.new("RGB", (8, 8), colour).save(file)
        prompt[f"{k}"] = {"class_type": "LoadImage", "inputs": {"image": "none.png"}}
        prompt[f"{k}s"] = {"class_type": "SaveImage", "inputs": {"images": [f"{k}", 0], "filename_prefix": colour}}
        inputs += ["--input", f"{k}.image={file}"]
    result = run("run", written(prompt, tmp_path / "flow.json"), *inputs, "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    colours = {"red": (255, 0, 0), "blue": (0, 0, 255)}
    for colour, value in colours.items():
        [file] = (tmp_path / "out").glob(f"{colour}*.png")
        assert Image.open(file).convert("RGB").getpixel((0, 0)) == value


def test_what_is_wrong_with_a_value_that_is_set(flow):
    wrong = run("run", flow, "--set", "KSampler.seed=-1", "--dry-run")
    assert wrong.exit_code == 2 and "must be from 0 to" in wrong.stderr, wrong.stderr
