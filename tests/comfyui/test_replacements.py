"""Nodes of classes that are not installed become nodes of the classes that took their place."""

import json

import pytest
from PIL import Image

from command_line import run
from sigmafield.comfyui.nodes import all_nodes
from sigmafield.comfyui.replacements import RULES, Replacement, described, replaced
from sigmafield.comfyui.validation import validate

OLD = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 32, "batch_size": 1, "color": 0}},
    "2": {"class_type": "ResizeImagesByLongerEdge", "inputs": {"images": ["1", 0], "longer_edge": 16}},
    "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "x"}},
}


def test_an_old_class_runs_as_the_new_one(tmp_path):
    file = tmp_path / "flow.json"
    file.write_text(json.dumps(OLD))
    made = run("run", file, "-o", tmp_path)
    assert made.exit_code == 0 and Image.open(made.stdout.strip()).size == (16, 8), made.output
    assert validate(OLD, all_nodes()).prompt["2"] == {
        "class_type": "ImageScaleToMaxDimension",
        "inputs": {"upscale_method": "lanczos", "largest_size": 16, "image": ["1", 0]},
    }


def test_classes_that_are_installed_stay():
    assert replaced(OLD, {*all_nodes(), "ResizeImagesByLongerEdge"}) == OLD


def test_the_first_rule_whose_class_is_there_counts_and_links_get_new_numbers():
    rules = {"Old": (Replacement("Gone", {}), Replacement("New", {"a": "b", "c": "d"}, {"e": 1}, {0: 2}))}
    prompt = {
        "1": {"class_type": "Old", "inputs": {"b": 5, "x": 6}},
        "2": {"class_type": "Other", "inputs": {"p": ["1", 0], "q": ["1", 1], "r": ["3", 0]}},
        "note": "not a node",
    }
    assert replaced(prompt, ["New", "Other"], rules) == {
        "1": {"class_type": "New", "inputs": {"a": 5, "e": 1}},
        "2": {"class_type": "Other", "inputs": {"p": ["1", 2], "q": ["1", 1], "r": ["3", 0]}},
        "note": "not a node",
    }
    assert replaced(prompt, ["Other"], rules) == prompt


@pytest.mark.parametrize("old", RULES)
def test_rules_name_inputs_that_their_class_has(old):
    for rule in RULES[old]:
        known = {each.name for each in all_nodes()[rule.new].inputs}
        assert {name.partition(".")[0] for name in (*rule.inputs, *rule.values)} <= known


def test_rules_are_described_as_comfyuis_server_does():
    [entry] = described()["ResizeImagesByLongerEdge"]
    assert entry == {
        "new_node_id": "ImageScaleToMaxDimension",
        "old_node_id": "ResizeImagesByLongerEdge",
        "old_widget_ids": None,
        "input_mapping": [
            {"new_id": "upscale_method", "set_value": "lanczos"},
            {"new_id": "image", "old_id": "images"},
            {"new_id": "largest_size", "old_id": "longer_edge"},
        ],
        "output_mapping": [],
    }
