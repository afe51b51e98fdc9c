"""Nodes of classes that are not installed become nodes of the classes that took their place."""

import json

import pytest
from PIL import Image

from command_line import run
from sigmafield.comfyui.convert import missing_classes, to_prompt
from sigmafield.comfyui.nodes import all_nodes
from sigmafield.comfyui.replacements import RULES, Replacement, described, replaced, with_former
from sigmafield.comfyui.validation import validate
from sigmafield.comfyui.workflow.classes import known_classes
from sigmafield.comfyui.workflow.value import Workflow

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


def page(*nodes, links=()):
    return {"version": 0.4, "nodes": list(nodes), "links": [list(each) for each in links]}


def placed(number, kind, values, **slots):
    return {"id": number, "type": kind, "mode": 0, "widgets_values": values,
            "inputs": [{"name": name, "type": "IMAGE", "link": link} for name, link in slots.items()],
            "outputs": [{"name": "IMAGE", "type": "IMAGE", "links": []}]}  # fmt: skip


PAGE = page(
    placed(1, "EmptyImage", [64, 32, 1, 0]),
    placed(2, "ResizeImagesByLongerEdge", [16], images=1),
    placed(3, "SaveImage", ["x"], images=2),
    links=[(1, 1, 0, 2, 0, "IMAGE"), (2, 2, 0, 3, 0, "IMAGE")],
)


def test_an_old_class_on_a_page_runs_as_the_new_one(tmp_path):
    file = tmp_path / "page.json"
    file.write_text(json.dumps(PAGE))
    made = run("run", file, "-o", tmp_path)
    assert made.exit_code == 0 and Image.open(made.stdout.strip()).size == (16, 8), made.output
    found = {name: {k: v for k, v in node.items() if k != "_meta"} for name, node in Workflow.load(PAGE).prompt.items()}
    assert found["2"] == validate(OLD, all_nodes()).prompt["2"]


@pytest.mark.parametrize("old, values, inputs", [
    ("ImageScaleBy", ["area", 2.5],
     {"resize_type": "scale by multiplier", "scale_method": "area", "resize_type.multiplier": 2.5}),
    ("T2IAdapterLoader", ["a.safetensors"], {"control_net_name": "a.safetensors"}),
    ("ConditioningAverage ", [0.25], {"conditioning_to_strength": 0.25}),
    ("ImageBatch", [], {}),
])  # fmt: skip
def test_values_of_a_page_get_the_names_of_the_new_class(old, values, inputs):
    classes = {name: entry for name, entry in known_classes().items() if name != old}
    [made] = to_prompt(page(placed(1, old, values)), classes).values()
    assert made["class_type"] == RULES[old][0].new and made["inputs"] == inputs
    assert missing_classes(page(placed(1, old, values)), classes) == {}
    assert set(with_former(classes)) == {*classes, *(RULES.keys() - classes.keys())}


def test_all_that_a_page_lacks_is_said_at_once(tmp_path):
    file = tmp_path / "page.json"
    nodes = [
        placed(1, "KSamplr", []),
        placed(2, "HypernetworkLoader", []),
        placed(3, "Qqqq", []),
        placed(4, "KSamplr", []),
    ]
    file.write_text(json.dumps(page(*nodes)))
    made = run("run", file, "-o", tmp_path, "--dry-run")
    assert made.exit_code == 2
    said = " ".join(made.stderr.split())
    assert "no class KSamplr (node 1, 4); did you mean KSampler" in said and "no class Qqqq (node 3)" in said
    assert "no class HypernetworkLoader (node 2): it needs a kind of patch file that is not read" in said


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
