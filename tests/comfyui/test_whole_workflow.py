"""A workflow in one call, plain or awaited: what it shows, its values and its files."""

import asyncio

import pytest
from PIL import Image
from probes import CLASSES

from sigmafield.comfyui.context import Context, Folders
from sigmafield.comfyui.run import run_workflow, run_workflow_async

PROMPT = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 4, "batch_size": 2, "color": 255}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "a/blue"}},
    "3": {"class_type": "PreviewAny", "inputs": {"source": "text"}},
}


def test_a_workflow_gives_files_values_and_what_is_shown(tmp_path):
    context = Context(Folders(output=tmp_path))
    made = run_workflow(PROMPT, context)
    assert made.files == (tmp_path / "a" / "blue_00001_.png", tmp_path / "a" / "blue_00002_.png")
    assert Image.open(made.files[0]).getpixel((0, 0)) == (0, 0, 255)
    assert made.shown["3"] == {"text": ["text"]} and made.values["1"][0][0].shape == (2, 4, 8, 3)
    again = asyncio.run(run_workflow_async(PROMPT, context))
    assert again.files[0].name == "blue_00003_.png"


def test_errors_say_which_node(tmp_path):
    broken = {
        "1": {"class_type": "Broken", "inputs": {"value": 3}},
        "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}},
    }
    with pytest.raises(RuntimeError, match=r"node 1 \(Broken\): no 3"):
        run_workflow(broken, nodes=CLASSES)
    with pytest.raises(ValueError, match="node 2 .SaveImage.: Required input is missing: images"):
        run_workflow({**PROMPT, "2": {"class_type": "SaveImage", "inputs": {"filename_prefix": "x"}}})
