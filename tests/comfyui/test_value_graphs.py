"""Prompts of nodes without a model: validated and run as they come from ComfyUI's page."""

import json

import pytest
import torch
from PIL import Image

from sigmafield.comfyui import events
from sigmafield.comfyui.context import Context, Folders
from sigmafield.comfyui.executor import execute
from sigmafield.comfyui.nodes import all_nodes
from sigmafield.comfyui.validation import validate


@pytest.fixture
def context(tmp_path):
    return Context(Folders(input=tmp_path, output=tmp_path / "out", temp=tmp_path / "temp"))


def prompt_of(*nodes):
    """{"1": …, "2": …} from pairs (class, inputs)."""
    return {str(k): {"class_type": kind, "inputs": inputs} for k, (kind, inputs) in enumerate(nodes, 1)}


def shown(prompt, context):
    """What each node shows, by id."""
    checked = validate(prompt, all_nodes(), context.folders)
    assert checked.error is None and not checked.faulty, checked
    found = list(execute(checked, all_nodes(), context))
    assert not [each for each in found if isinstance(each, events.Failed)]
    return {each.node: each.ui for each in found if isinstance(each, events.Executed) and each.ui}


def test_a_formula_gives_the_size_of_an_image(context):
    prompt = prompt_of(
        ("PrimitiveInt", {"value": 5}),
        ("ResolutionSelector", {"aspect_ratio": "1:1 (Square)", "megapixels": 0.1, "multiple": 64}),  # 324 → 320
        ("ComfyMathExpression", {"expression": "min(a, 64) // b + 1", "values.a": ["2", 0], "values.b": ["1", 0]}),
        ("EmptyImage", {"width": ["3", 1], "height": 8, "batch_size": 2, "color": 0xFF0000}),
        ("SaveImageAdvanced", {
            "images": ["4", 0], "filename_prefix": "x", "format": "png", "format.bit_depth": "16-bit",
            "format.input_color_space": "sRGB",
        }),
        ("PreviewAny", {"source": ["3", 0]}),
        ("CustomCombo", {"choice": "b", "index": 1, "option1": "a", "option2": "b"}),
        ("StringFormat", {"f_string": "{a} {b:.1f}", "values.a": ["7", 0], "values.b": ["3", 0]}),
        ("SaveText", {"text": ["8", 0], "filename_prefix": "t", "format": "txt"}),
    )  # fmt: skip
    found = shown(prompt, context)
    assert found["6"] == {"text": ["13.0"]}  # 64 // 5 + 1
    assert [each["filename"] for each in found["5"]["images"]] == ["x_00001.png", "x_00002.png"]
    with Image.open(context.folders.output / "x_00002.png") as file:
        assert file.size == (13, 8) and json.loads(file.text["prompt"])["3"]["class_type"] == "ComfyMathExpression"
    assert (context.folders.output / "t_00001.txt").read_text("utf-8") == "b 13.0"


@pytest.mark.parametrize("on", [False, True])
def test_text_is_generated_only_where_a_switch_asks_for_it(on, context):
    """The class is there, so that workflows in which it is switched off run."""
    prompt = prompt_of(
        ("CheckpointLoaderSimple", {"ckpt_name": "tiny"}),
        ("TextGenerate", {"clip": ["1", 1], "prompt": "a heart", "max_length": 9, "sampling_mode": "off"}),
        ("PrimitiveString", {"value": "a red heart"}),
        ("ComfySwitchNode", {"switch": on, "on_false": ["3", 0], "on_true": ["2", 0]}),
        ("PreviewAny", {"source": ["4", 0]}),
    )
    if not on:
        assert shown(prompt, context) == {"5": {"text": ["a red heart"]}}
        return
    *_, last = execute(validate(prompt, all_nodes(), context.folders), all_nodes(), context)
    assert isinstance(last, events.Failed) and last.node == "2"
    assert "language model's head" in str(last.error) and "CLIPText" in str(last.error)


def test_only_the_chosen_side_of_a_switch_runs(context):
    prompt = prompt_of(
        ("PrimitiveString", {"value": "on"}),
        ("LoadImage", {"image": "x.png"}),  # runs only if it is asked for
        ("ComfySwitchNode", {"switch": True, "on_false": ["2", 0], "on_true": ["1", 0]}),
        ("PreviewAny", {"source": ["3", 0]}),
        ("ComfySwitchNode", {"switch": False, "on_true": ["1", 0]}),
        ("PreviewAny", {"source": ["5", 0]}),
    )
    Image.new("RGB", (4, 4)).save(context.folders.input / "x.png")
    checked = validate(prompt, all_nodes(), context.folders)
    ran = [each.node for each in execute(checked, all_nodes(), context) if isinstance(each, events.Executing)]
    assert "2" not in ran and "1" in ran
    found = shown(prompt, context)
    assert found["4"] == {"text": ["on"]} and found["6"] == {"text": ["null"]}


def test_lists_are_mapped_joined_and_cut(context):
    prompt = prompt_of(
        ("EmptyLatentImage", {"width": 64, "height": 64, "batch_size": 3}),
        ("RebatchLatents", {"latents": ["1", 0], "batch_size": 2}),
        ("SaveLatent", {"samples": ["2", 0], "filename_prefix": "z"}),
        ("CreateList", {"inputs.input0": ["2", 0], "inputs.input1": ["1", 0]}),
        ("GetItemFromList", {"list": ["4", 0], "index": -1}),
        ("BatchLatentsNode", {"latents.latent0": ["5", 0], "latents.latent1": ["1", 0]}),
        ("SaveLatent", {"samples": ["6", 0], "filename_prefix": "all"}),
    )
    found = shown(prompt, context)
    assert [each["filename"] for each in found["3"]["latents"]] == ["z_00001_.latent", "z_00002_.latent"]
    (context.folders.input / "all.latent").write_bytes((context.folders.output / "all_00001_.latent").read_bytes())
    loaded = all_nodes()["LoadLatent"].call({"latent": "all.latent"}, context).values[0]
    assert loaded["samples"].equal(torch.zeros(6, 4, 8, 8))


def test_images_and_masks_pass_through_a_graph(context):
    Image.new("RGBA", (6, 4), (255, 0, 0, 102)).save(context.folders.input / "x.png")
    prompt = prompt_of(
        ("LoadImage", {"image": "x.png"}),
        ("ResizeImageMaskNode", {
            "input": ["1", 1], "resize_type": "scale dimensions", "resize_type.width": 12, "resize_type.height": 0,
            "resize_type.crop": "disabled", "scale_method": "nearest-exact",
        }),
        ("ThresholdMask", {"mask": ["2", 0], "value": 0.5}),
        ("MaskToImage", {"mask": ["3", 0]}),
        ("ImageScaleToMaxDimension", {"image": ["1", 0], "upscale_method": "bilinear", "largest_size": 12}),
        ("ImageCompositeMasked", {
            "destination": ["5", 0], "source": ["4", 0], "x": 6, "y": 0, "resize_source": False, "mask": ["3", 0],
        }),
        ("SaveImage", {"images": ["6", 0], "filename_prefix": "y"}),
    )  # fmt: skip
    shown(prompt, context)
    with Image.open(context.folders.output / "y_00001_.png") as file:
        assert file.size == (12, 8)
        assert file.getpixel((5, 4)) == (255, 0, 0) and file.getpixel((6, 4)) == (255, 255, 255)
