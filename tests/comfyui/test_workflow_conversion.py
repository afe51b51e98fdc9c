"""Workflows become the prompts that ComfyUI's own page makes of them, and what the page cannot say is an error."""

import copy
import json
from datetime import datetime
from importlib.resources import files
from random import Random

import pytest
from recorded import workflows

from sigmafield.comfyui.convert import missing_classes, to_prompt
from sigmafield.comfyui.replacements import RULES
from sigmafield.comfyui.workflow.classes import known_classes
from sigmafield.comfyui.workflow.document import read_node
from sigmafield.comfyui.workflow.texts import date_text, dynamic_text, filled_prefix
from sigmafield.comfyui.workflow.widgets import widgets_of

CASES, TEMPLATES, MISSING = (workflows()[key] for key in ("cases", "templates", "missing"))
OLDER, NEWER = "api_1.35.9", "api_1.58.1"
# where the two versions differ in more than the ids inside subgraphs, the one that is followed
NEWER_HOLDS = {"muted_upstream_of_widget", "subgraph_bypassed", "subgraph_muted", "widget_values_dict"}
REFUSED = {"missing_node_type"}  # the page sends the node of an unknown class, which no server runs; an error here
BEYOND = {"subgraph_passthrough"}  # the page raises an error, and no prompt was recorded; here it is converted


def convert(workflow, **options):
    return to_prompt(workflow, known_classes(), **options)


def node(number, kind, values=(), inputs=(), outputs=(), **more):
    """A node of a file: inputs (name, type, link), outputs (type, links)."""
    return {
        "id": number, "type": kind, "mode": 0, "widgets_values": values, "properties": {},
        "inputs": [{"name": name, "type": type_, "link": link} for name, type_, link in inputs],
        "outputs": [{"name": type_, "type": type_, "links": links} for type_, links in outputs],
        **more,
    }  # fmt: skip


def workflow(nodes, links, **more):
    return {"nodes": nodes, "links": links, "version": 0.4, **more}


@pytest.mark.parametrize("name", sorted(CASES.keys() - REFUSED - BEYOND))
def test_a_recorded_case_gives_the_recorded_prompt(name):
    assert convert(CASES[name]["workflow"]) == CASES[name][NEWER if name in NEWER_HOLDS else OLDER]


def test_a_link_straight_through_a_subgraph_is_the_link_into_it():
    assert convert(CASES["subgraph_passthrough"]["workflow"])["3"]["inputs"]["images"] == ["1", 0]


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_gives_the_recorded_prompt(name):
    prompt = convert(TEMPLATES[name]["workflow"])
    assert {key: {k: v for k, v in n.items() if k != "_meta"} for key, n in prompt.items()} == TEMPLATES[name]["api"]


def test_every_template_of_the_package_is_converted_or_its_missing_classes_are_listed():
    pytest.importorskip("comfyui_workflow_templates_json", reason="comfyui-workflow-templates-json is not installed")
    folder = files("comfyui_workflow_templates_json") / "templates"
    converted = 0
    for name, missing in MISSING.items():
        template = json.loads((folder / f"{name}.json").read_text("utf-8"))
        unknown = [each for each in missing if each not in RULES]  # these are replaced
        assert sorted(missing_classes(template, known_classes())) == unknown, name
        if not missing:
            converted += bool(convert(template))
    assert converted == sum(not missing for missing in MISSING.values()) == 133


def test_widgets_have_the_names_that_the_package_saves_them_under():
    """In the order of the file, except widgets that only some versions have."""
    pytest.importorskip("comfyui_workflow_templates_json", reason="comfyui-workflow-templates-json is not installed")
    folder, agreeing, others = files("comfyui_workflow_templates_json") / "templates", 0, 0
    for name in MISSING:
        template = json.loads((folder / f"{name}.json").read_text("utf-8"))
        for each in (*template["nodes"], *(n for s in subgraphs(template) for n in s["nodes"])):
            if each["type"] not in known_classes() or not each.get("widgets_values_named"):
                continue
            names = [widget.name for widget in widgets_of(known_classes()[each["type"]], read_node(each))]
            ours = [name for name in each["widgets_values_named"] if name in names]
            assert ours == [name for name in names if name in ours], (name, each["type"])
            agreeing, others = agreeing + len(ours), others + len(each["widgets_values_named"]) - len(ours)
    assert agreeing > 3500 and others < 0.05 * agreeing


def subgraphs(value):
    for each in (value.get("definitions") or {}).get("subgraphs", []):
        yield each
        yield from subgraphs(each)


def test_unknown_classes_are_all_named_with_their_nodes_and_near_misses():
    with pytest.raises(ValueError, match="unknown node class 'NoSuchNode' \\(node 4"):
        convert(CASES["missing_node_type"]["workflow"])
    nodes = [node(1, "KSamplr"), node(2, "Qqqqqqq"), node(3, "KSamplr"), node(4, "Zzzzz", mode=2)]
    with pytest.raises(ValueError, match="unknown node classes") as error:
        convert(workflow(nodes, []))
    assert "'KSamplr' (node 1, 3; did you mean KSampler" in str(error.value)
    assert "'Qqqqqqq' (node 2)" in str(error.value) and "Zzzzz" not in str(error.value)


@pytest.mark.parametrize("value", [{}, {"nodes": [], "links": 3}, {"nodes": [{"type": "Note"}], "links": []},
                                   {"nodes": [], "links": [[1, 2]]}])  # fmt: skip
def test_what_is_no_workflow_is_one_clear_error(value):
    with pytest.raises(ValueError, match="workflow|node|link"):
        convert(value)


def test_named_values_win_over_listed_ones_and_both_over_defaults():
    given = node(1, "EmptyImage", [1, 2], widgets_values_named={"height": 5, "color": 7})
    assert convert(workflow([given], []))["1"]["inputs"] == {"width": 1, "height": 5, "batch_size": 1, "color": 7}


def test_values_of_old_files_for_inputs_that_are_sockets_now_are_dropped():
    kind = {"input": {"required": {"text": ["STRING", {"forceInput": True}], "seed": ["INT", {}], "n": ["INT", {}]}}}
    found = to_prompt(workflow([node(1, "K", ["dummy", 3, "fixed", 4])], []), {"K": kind})
    assert found["1"]["inputs"] == {"seed": 3, "n": 4}
    newer = to_prompt(workflow([node(1, "K", [3, "fixed", 4])], []), {"K": kind})
    assert newer == found


def test_a_dynamic_combo_has_the_widgets_of_what_is_chosen():
    given = node(1, "ResizeImageMaskNode", ["scale dimensions", 320, 200, "disabled", "lanczos"])
    assert convert(workflow([given], []))["1"]["inputs"] == {
        "resize_type": "scale dimensions", "resize_type.width": 320, "resize_type.height": 200,
        "resize_type.crop": "disabled", "scale_method": "lanczos",
    }  # fmt: skip


def test_lists_are_wrapped():
    kind = {"input": {"required": {"curve": ["CURVE", {}]}}}
    found = to_prompt(workflow([node(1, "K", [[[0, 0], [1, 1]]])], []), {"K": kind})
    assert found["1"]["inputs"] == {"curve": {"__value__": [[0, 0], [1, 1]]}}


def test_get_nodes_are_linked_to_what_set_nodes_get():
    nodes = [
        node(1, "EmptyImage", outputs=[("IMAGE", [1])]),
        node(2, "SetNode", ["a"], [("IMAGE", "IMAGE", 1)], [("*", [2])]),
        node(3, "GetNode", ["a"], outputs=[("IMAGE", [3])]),
        node(4, "SaveImage", ["x"], [("images", "IMAGE", 3)]),
        node(5, "SaveImage", ["y"], [("images", "IMAGE", 2)]),
    ]
    links = [[1, 1, 0, 2, 0, "IMAGE"], [2, 2, 0, 5, 0, "IMAGE"], [3, 3, 0, 4, 0, "IMAGE"]]
    prompt = convert(workflow(nodes, links))
    assert prompt.keys() == {"1", "4", "5"}
    assert prompt["4"]["inputs"]["images"] == prompt["5"]["inputs"]["images"] == ["1", 0]


def test_a_circle_of_reroutes_ends():
    nodes = [
        node(1, "Reroute", inputs=[("", "*", 2)], outputs=[("*", [1])]),
        node(2, "Reroute", inputs=[("", "*", 1)], outputs=[("*", [2, 3])]),
        node(3, "SaveImage", ["x"], [("images", "IMAGE", 3)]),
    ]
    links = [[1, 1, 0, 2, 0, "*"], [2, 2, 0, 1, 0, "*"], [3, 2, 0, 3, 0, "*"]]
    assert convert(workflow(nodes, links))["3"]["inputs"] == {"filename_prefix": "x"}


def promoted(**instance):
    """The recorded subgraph with its widgets w and h, and one instance of it with other entries."""
    found = copy.deepcopy(CASES["subgraph_promoted_values"]["workflow"])
    found["nodes"][0].update(instance)
    return found


@pytest.mark.parametrize(
    "instance, size",
    [
        ({"widgets_values": [64, 24]}, (64, 24)),
        ({"widgets_values": []}, (100, 50)),
        ({"widgets_values": [64, 24], "widgets_values_named": {"h": 7}}, (64, 7)),
        ({"widgets_values": [64, 24], "properties": {"proxyWidgets": '[["-1", "h"], ["-1", "w"]]'}}, (24, 64)),
        ({"widgets_values": [], "properties": {"proxyWidgets": [["1", "width"], ["1", "height"]]}}, (100, 50)),
        ({"properties": {"proxyWidgetErrorQuarantine": [
            {"originalEntry": ["-1", "w"], "hostValue": 8}, {"originalEntry": ["-1", "w"], "hostValue": 9},
            {"originalEntry": ["-1", "gone"], "hostValue": 1}, {"originalEntry": ["1", "h"], "hostValue": 3},
        ]}}, (8, 24)),
    ],
)  # fmt: skip
def test_promoted_widgets_have_the_instances_values(instance, size):
    inputs = convert(promoted(**instance))["5:1"]["inputs"]
    assert (inputs["width"], inputs["height"]) == size


def test_a_primitive_node_overwrites_a_promoted_widget():
    found = promoted()
    found["nodes"][0]["inputs"][0]["link"] = 9
    found["nodes"].append(node(9, "PrimitiveNode", [333, "fixed"], outputs=[("INT", [9])]))
    found["links"].append([9, 9, 0, 5, 0, "INT"])
    assert convert(found)["5:1"]["inputs"]["width"] == 333


def test_a_subgraph_in_itself_is_refused():
    found = promoted()
    [inner] = found["definitions"]["subgraphs"]
    inner["nodes"].append(node(77, inner["id"]))
    with pytest.raises(ValueError, match="'S' contains itself, at node 5:77"):
        convert(found)


def test_a_group_node_passes_links_in_and_values_on():
    found = copy.deepcopy(CASES["group_node"]["workflow"])
    found["nodes"].append(node(1, "EmptyImage", outputs=[("IMAGE", [9])]))
    found["nodes"][0].update(
        type="workflow/H", widgets_values=["y"], inputs=[{"name": "image", "type": "IMAGE", "link": 9}]
    )
    found["links"].append([9, 1, 0, 5, 0, "IMAGE"])
    inner = [node(1, "ImageInvert", [], [("image", "IMAGE", None)], [("IMAGE", [])]),
             node(2, "SaveImage", ["w"], [("images", "IMAGE", None)])]  # fmt: skip
    found["extra"]["groupNodes"]["H"] = {
        "nodes": inner,
        "links": [[0, 0, 1, 0, 1, "IMAGE"]],
        "external": [[0, 0, "IMAGE"]],
    }
    prompt = convert(found)
    assert prompt["5:0"]["inputs"] == {"image": ["1", 0]}
    assert prompt["5:1"]["inputs"] == {"filename_prefix": "y", "images": ["5:0", 0]}
    assert prompt["2"]["inputs"]["images"] == ["5:0", 0]


@pytest.mark.parametrize(
    "text, options",
    [
        ("a {b|c} d", {"a b d", "a c d"}),
        ("{a|{b|c}d}", {"a", "bd", "cd"}),
        ("{|x}", {"", "x"}),
        (r"\{a|b\} \|", {"{a|b} |"}),
        ("a } b", {"a } b"}),
        ("a // b\nc /* d\ne */ f", {"a \nc  f"}),
        ("http:/{/}x", {"http://x"}),
    ],
)
def test_a_dynamic_prompt_gives_each_of_its_options(text, options):
    assert {dynamic_text(text, Random(seed)) for seed in range(40)} == options


def test_a_workflows_dynamic_prompts_follow_the_given_choice():
    given = workflow([node(1, "CLIPTextEncode", ["{" + "|".join(map(str, range(1000))) + "}"])], [])
    one, same, other = (convert(given, random=Random(seed)) for seed in (1, 1, 2))
    assert one == same != other


def test_file_names_have_dates_and_values():
    now = datetime(2026, 3, 7, 5, 4, 9)
    assert date_text("yyyy-yy-MM-M-dd-d-hh-h-mm-m-ss-s", now) == "2026-26-03-3-07-7-05-5-04-4-09-9"
    values = {("A", "x"): 'a/b:c"', ("A", "n"): 2.0, ("A", "t"): True}
    text = filled_prefix(
        "%date:yyMMdd%_%A.x%_%A.n%_%A.t%_%B.x%_%width%_100%", lambda *key: values.get(key), now
    )  # fmt: skip
    assert text == "260307_a_b_c__2_true_%B.x%_%width%_100%"


def test_titles_in_file_names_are_those_of_nodes_by_name_then_by_title():
    nodes = [
        node(1, "EmptyImage", [11], title="Size"),
        node(2, "EmptyImage", [22], properties={"Node name for S&R": "Size"}),
        node(3, "SaveImage", ["%Size.width%"]),
    ]
    assert convert(workflow(nodes, []))["3"]["inputs"]["filename_prefix"] == "22"


@pytest.mark.parametrize("replaced", [False, True])
def test_a_primitive_node_fills_in_values_if_it_is_asked_to(replaced):
    nodes = [
        node(1, "EmptyImage", [11]),
        node(2, "PrimitiveNode", ["%date:yyyy%_%EmptyImage.width%"], outputs=[("STRING", [1])],
             properties={"Run widget replace on values": replaced}),
        node(3, "CLIPTextEncode", ["x"], [("text", "STRING", 1)]),
    ]  # fmt: skip
    prompt = convert(workflow(nodes, [[1, 2, 0, 3, 0, "STRING"]]), now=datetime(2026, 1, 2))
    assert prompt["3"]["inputs"]["text"] == ("2026_11" if replaced else "%date:yyyy%_%EmptyImage.width%")
