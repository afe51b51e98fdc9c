"""The workflows in examples/pack are converted and valid, use nodes of the pack, and run on the embedded model."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

import sigmafield as sf
from sigmafield.comfyui.context import Context, Folders
from sigmafield.comfyui.nodes import all_nodes
from sigmafield.comfyui.pack.classes import offered
from sigmafield.comfyui.run import run_workflow
from sigmafield.comfyui.saving import to_pillow
from sigmafield.comfyui.validation import validate

FOLDER = Path(__file__).parents[2] / "examples" / "pack"
NAMES = ("mixed-distance", "stop-and-go-on", "strengths-by-tile")


@pytest.fixture
def folders(tmp_path):
    (tmp_path / "input").mkdir()
    image = torch.full((256, 256, 3), 0.5)
    image[:128, :128] = torch.rand(128, 128, 3, generator=torch.Generator().manual_seed(1))
    to_pillow(image).save(tmp_path / "input" / "example.png")
    return Folders({}, tmp_path / "input", tmp_path / "output", tmp_path / "temp")


def test_all_three_are_there():
    assert sorted(path.stem for path in FOLDER.glob("*.json")) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_an_example_is_converted_and_valid(name, folders):
    page = json.loads((FOLDER / f"{name}.json").read_text("utf-8"))
    prompt = sf.Workflow.load(page).prompt
    assert {node["class_type"] for node in prompt.values()} == {node["type"] for node in page["nodes"]} - {"Note"}
    assert validate(prompt, all_nodes(), folders).lines() == []
    ours = {node.name for node in offered()}
    assert len(ours & {node["class_type"] for node in prompt.values()}) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_an_example_runs(name, folders):
    made = run_workflow(sf.Workflow.load(FOLDER / f"{name}.json").prompt, Context(folders))
    [image] = [Image.open(path) for path in made.files if path.is_relative_to(folders.output) and path.suffix == ".png"]
    assert image.size == ((64, 64) if name == "stop-and-go-on" else (256, 256))
    assert all(high - low > 60 for low, high in [image.convert("L").getextrema()])


def test_going_on_gives_what_a_run_without_a_stop_gives(folders):
    flow = sf.Workflow.load(FOLDER / "stop-and-go-on.json").with_inputs(
        {"AnySchedule.steps": 3, "SampleToStep.step": 2, "EmptyLatentImage.width": 64, "EmptyLatentImage.height": 64}
    )
    prompt = {key: {**node, "inputs": dict(node["inputs"])} for key, node in flow.prompt.items()}
    run_workflow(prompt, Context(folders))
    [resumed] = [key for key, node in prompt.items() if node["class_type"] == "ResumeSampling"]
    inputs = {key: value for key, value in prompt[resumed]["inputs"].items() if key != "state"}
    run_workflow({**prompt, resumed: {"class_type": "SamplerCustomAdvanced", "inputs": inputs}}, Context(folders))
    first, second = (Image.open(path) for path in sorted(folders.output.glob("stop-and-go-on_*.png")))
    assert first.tobytes() == second.tobytes()
