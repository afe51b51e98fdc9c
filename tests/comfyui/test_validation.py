"""Prompts are checked before they run: the kinds of errors are those that ComfyUI's server was recorded to answer."""

import copy
import json
import re

import pytest
from PIL import Image
from shapes import DATA, recorded, with_shapes

from sigmafield.comfyui.context import Folders
from sigmafield.comfyui.definition import Definition, Hook, Output, Slot
from sigmafield.comfyui.nodes import all_nodes
from sigmafield.comfyui.validation import compatible, validate

ERRORS = json.loads((DATA / "prompt_errors.json").read_text("utf-8"))
SHAPES = with_shapes("CheckpointLoaderSimple", "CLIPTextEncode", "KSampler", "VAEDecode", "EmptyImage")
TEXT_TO_IMAGE = {
    "3": {
        "class_type": "KSampler",
        "inputs": {
            "cfg": 8, "denoise": 1, "latent_image": ["5", 0], "model": ["4", 0], "negative": ["7", 0],
            "positive": ["6", 0], "sampler_name": "euler", "scheduler": "normal", "seed": 77, "steps": 6,
        },
    },
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "model.safetensors"}},
    "5": {"class_type": "EmptyLatentImage", "inputs": {"batch_size": 1, "height": 64, "width": 64}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["4", 1], "text": "heart"}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["4", 1], "text": "bad"}},
    "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
    "9": {"class_type": "SaveImage", "inputs": {"filename_prefix": "ComfyUI", "images": ["8", 0]}},
}  # fmt: skip


def changed(node="3", **inputs):
    """The prompt with other inputs of a node; None removes one."""
    prompt = copy.deepcopy(TEXT_TO_IMAGE)
    prompt[node]["inputs"] |= inputs
    prompt[node]["inputs"] = {key: value for key, value in prompt[node]["inputs"].items() if value is not None}
    return prompt


def saving(**more):
    return {"class_type": "SaveImage", "inputs": {"filename_prefix": "x", **more}}


REQUESTS = {
    "empty_prompt": {},
    "missing_class_type": {**TEXT_TO_IMAGE, "9": {"inputs": {}}},
    "unknown_class": {**TEXT_TO_IMAGE, "9": {"class_type": "DoesNotExist", "inputs": {}}},
    "no_outputs": {key: node for key, node in TEXT_TO_IMAGE.items() if key != "9"},
    "required_input_missing": changed(positive=None),
    "bad_link_len": changed(positive=["6"]),
    "type_mismatch": changed(positive=["4", 0]),
    "bad_slot": changed(latent_image=["5", 7]),
    "missing_link_node": changed(latent_image=["66", 0]),
    "bad_int": changed(steps="abc"),
    "below_min": changed(steps=0),
    "above_max": changed(denoise=1.5),
    "not_in_list_long": changed(sampler_name="nope"),
    "not_in_list_short": changed(scheduler="nope"),
    "custom_validation": {
        **{key: node for key, node in TEXT_TO_IMAGE.items() if key != "9"},
        "9": saving(images=["10", 0]),
        "10": {"class_type": "LoadImage", "inputs": {"image": "missing.png"}},
        "11": saving(images=["10", 0]),
    },
    "two_outputs_one_bad": {
        **TEXT_TO_IMAGE,
        "10": saving(images=["12", 0]),
        "12": {"class_type": "EmptyImage", "inputs": {"width": 0, "height": 8, "batch_size": 1, "color": 0}},
    },
    "partial_targets_bad": TEXT_TO_IMAGE,
    "cycle": {**changed(latent_image=["13", 0]), "13": {"class_type": "LatentUpscaleBy", "inputs": {
        "samples": ["3", 0], "upscale_method": "bilinear", "scale_by": 1.0}}},
}  # fmt: skip


@pytest.fixture
def folders(tmp_path):
    (tmp_path / "model.safetensors").touch()
    Image.new("RGB", (2, 2)).save(tmp_path / "there.png")
    return Folders({"checkpoints": [tmp_path]}, input=tmp_path)


def test_every_recorded_request_has_its_case():
    assert set(ERRORS) - set(REQUESTS) == {"no_prompt"}


@pytest.mark.parametrize("case", sorted(REQUESTS))
def test_errors_have_the_kinds_and_keys_of_the_recorded_ones(case, folders):
    found = validate(REQUESTS[case], SHAPES, folders, ["77"] if case == "partial_targets_bad" else None)
    answer, expected = found.described(), ERRORS[case]
    assert (answer["error"]["type"] if "error" in answer else None) == expected["error"]
    assert set(answer["node_errors"]) == set(expected["nodes"])
    for key, node in expected["nodes"].items():
        ours = answer["node_errors"][key]
        assert [each["type"] for each in ours["errors"]] == node["types"]
        assert [each["extra_info"]["input_name"] for each in ours["errors"]] == node["inputs"]
        assert [sorted(each["extra_info"]) for each in ours["errors"]] == node["keys"]
        assert [each["message"] for each in ours["errors"]] == node["messages"]
        assert sorted(ours["dependent_outputs"]) == sorted(node["dependent_outputs"])
        assert ours["class_type"] == node["class_type"]
    if found.error:
        assert found.lines() and (found.error.details or case in ("empty_prompt", "no_outputs"))
        with pytest.raises(ValueError, match=re.escape(found.lines()[0])):
            found.check()


def test_null_is_not_one_of_the_choices(folders):
    prompt = copy.deepcopy(TEXT_TO_IMAGE)
    prompt["3"]["inputs"]["sampler_name"] = None
    [problem] = validate(prompt, SHAPES, folders).faulty["3"].problems
    assert problem.type == "value_not_in_list" and "sampler_name: 'None' not in" in problem.details


def test_null_is_not_a_text(folders):
    prompt = copy.deepcopy(TEXT_TO_IMAGE)
    prompt["6"]["inputs"]["text"] = None
    [problem] = validate(prompt, SHAPES, folders).faulty["6"].problems
    assert problem.type == "invalid_input_type" and problem.details == "text, None, a text is needed; got null"


@pytest.mark.parametrize("image", [None, 5, {"a": 1}])
def test_a_class_s_own_check_may_fail_for_a_value_of_another_type(image, folders):
    prompt = {"1": {"class_type": "LoadImage", "inputs": {"image": image}}, "2": saving(images=["1", 0])}
    [problem] = validate(prompt, SHAPES, folders).faulty["1"].problems
    assert problem.type == "custom_validation_failed" and problem.details.startswith("image - ")


@pytest.mark.parametrize(
    "prefix, message",
    [("a" * 250, "at most 200 bytes"), ("é" * 120 + "/x", "has 240"), ("a\0b", "NUL"), ("../x", "must stay in")],
)
def test_a_prefix_that_no_file_can_have_is_refused_before_anything_runs(prefix, message, folders):
    [problem] = validate(changed("9", filename_prefix=prefix), SHAPES, folders).faulty["9"].problems
    assert message in problem.details


def test_literals_get_the_types_of_their_inputs(folders):
    found = validate(
        {**changed(steps="7", cfg=8), "3": {**changed(steps="7")["3"], "is_changed": ["x"]}}, SHAPES, folders
    )
    assert found.error is None and found.outputs == ("9",)
    inputs = found.prompt["3"]["inputs"]
    assert inputs["steps"] == 7 and type(inputs["cfg"]) is float
    assert "is_changed" not in found.prompt["3"]
    assert TEXT_TO_IMAGE["3"]["inputs"]["cfg"] == 8 and type(TEXT_TO_IMAGE["3"]["inputs"]["cfg"]) is int


def test_undeclared_literals_are_dropped(folders):
    found = validate(changed(node="6", other=3, link=["5", 0]), SHAPES, folders)
    assert set(found.prompt["6"]["inputs"]) == {"clip", "text"}


@pytest.mark.parametrize("value", [3, None, "x"])
def test_a_socket_refuses_literals(value, folders):
    prompt = copy.deepcopy(TEXT_TO_IMAGE)
    prompt["9"]["inputs"]["images"] = value
    [problem] = validate(prompt, SHAPES, folders).faulty["9"].problems
    assert problem.type == "invalid_input_type" and "comes from a node" in problem.details


def of_images(names):
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": "there.png"}},
        "2": {"class_type": "BatchImagesNode", "inputs": {f"images.{name}": ["1", 0] for name in names}},
        "3": saving(images=["2", 0]),
    }


@pytest.mark.parametrize(
    "names, missing",
    [(("image0", "image1"), []), (("image1",), ["images.image0"]), ((), ["images.image0", "images.image1"])],
)
def test_a_group_has_at_least_its_minimum(names, missing, folders):
    faulty = validate(of_images(names), all_nodes(), folders).faulty
    assert [each.extra["input_name"] for node in faulty.values() for each in node.problems] == missing


@pytest.mark.parametrize(
    "inputs, kind, name",
    [
        ({"resize_type": "scale by multiplier", "resize_type.multiplier": 0.5}, None, None),
        ({"resize_type": "scale by multiplier"}, "required_input_missing", "resize_type.multiplier"),
        ({"resize_type": "scale by multiplier", "resize_type.multiplier": 9},
         "value_bigger_than_max", "resize_type.multiplier"),
        ({"resize_type": "match size", "resize_type.match": ["4", 0], "resize_type.crop": "center"},
         "return_type_mismatch", "resize_type.match"),
        ({"resize_type": "bigger"}, "value_not_in_list", "resize_type"),
    ],
)  # fmt: skip
def test_a_dynamic_combo_has_the_inputs_of_its_choice(inputs, kind, name, folders):
    prompt = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "there.png"}},
        "2": {"class_type": "ResizeImageMaskNode", "inputs": {"input": ["1", 0], "scale_method": "area", **inputs}},
        "3": saving(images=["2", 0]),
        "4": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
    }
    found = [each for node in validate(prompt, all_nodes(), folders).faulty.values() for each in node.problems]
    assert [(each.type, each.extra["input_name"]) for each in found] == ([(kind, name)] if kind else [])


@pytest.mark.parametrize(
    "received, expected, fits",
    [("IMAGE", "IMAGE", True), ("IMAGE", "MASK", False), ("IMAGE", "MASK,IMAGE", True), ("*", "MASK", True),
     ("A,B", "C,*", True), ("A", "COMFY_MATCHTYPE_V3", True), ("A,B", "C,D", False)],
)  # fmt: skip
def test_types_fit(received, expected, fits):
    assert compatible(received, expected) is fits


def probe(validate=None, **options):
    return Definition(
        "Probe", "", recorded("SaveImage").call, (Slot("a", "INT", {"min": 0}), Slot("c", "COMBO", options)),
        (Output("INT", "n"),), shows=True, validate=validate and Hook.of(validate),
    )  # fmt: skip


def test_a_class_that_checks_an_input_itself_is_asked_alone():
    prompt = {"1": {"class_type": "Probe", "inputs": {"a": -1, "c": "z"}}}

    def check(a):
        return f"{a} is odd"

    both = validate(prompt, {"Probe": probe(options=["x"])}).faulty["1"].problems
    assert [each.type for each in both] == ["value_smaller_than_min", "value_not_in_list"]
    [own] = validate(prompt, {"Probe": probe(check, options=["z"])}).faulty["1"].problems
    assert own.type == "custom_validation_failed" and own.details == "a - -1 is odd"
    assert validate(prompt, {"Probe": probe(lambda **every: True, options=["x"])}).error is None


def test_several_choices_are_looked_up_one_by_one():
    nodes = {"Probe": probe(options=["x", "y"], multiselect=True)}
    good = {"1": {"class_type": "Probe", "inputs": {"a": 1, "c": {"__value__": ["x", "y"]}}}}
    assert validate(good, nodes).error is None
    bad = {"1": {"class_type": "Probe", "inputs": {"a": 1, "c": {"__value__": ["x", "z"]}}}}
    assert "'z' not in" in validate(bad, nodes).faulty["1"].problems[0].details
    assert validate(good, {"Probe": probe()}).error is None


@pytest.mark.parametrize("prompt", [3, [], {"1": 3}, {"1": {"class_type": "SaveImage", "inputs": []}}])
def test_what_is_not_a_prompt_is_one_error(prompt):
    assert validate(prompt, all_nodes()).error.type == "invalid_prompt"


def test_a_chain_of_thousands_of_nodes_is_checked(folders):
    prompt = {"0": {"class_type": "StringConcatenate", "inputs": {"string_a": "a", "string_b": "b", "delimiter": ""}}}
    for k in range(1, 2000):
        prompt[str(k)] = {
            "class_type": "StringConcatenate",
            "inputs": {"string_a": [str(k - 1), 0], "string_b": "b", "delimiter": ""},
        }
    prompt["end"] = {"class_type": "PreviewAny", "inputs": {"source": ["1999", 0]}}
    assert validate(prompt, all_nodes(), folders).outputs == ("end",)
