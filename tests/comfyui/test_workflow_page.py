"""A prompt becomes a page that ComfyUI opens, from which the same prompt is made; its graph is an image."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ImageChops
from recorded import workflows
from test_workflow_conversion import node, workflow

from sigmafield.comfyui.convert import to_prompt
from sigmafield.comfyui.workflow.classes import known_classes
from sigmafield.comfyui.workflow.draw import draw, hue
from sigmafield.comfyui.workflow.layout import boxes, depths
from sigmafield.comfyui.workflow.offered import offered_classes
from sigmafield.comfyui.workflow.page import to_page
from sigmafield.comfyui.workflow.scene import scene_of
from sigmafield.comfyui.workflow.texts import dynamic_text, literal_text

CLASSES = known_classes()
TEMPLATES = {name: template["api"] for name, template in workflows()["templates"].items()}


def with_numbers(prompt):
    """A prompt whose ids are numbers in its order, and without titles."""
    number = {name: str(k) for k, name in enumerate(prompt)}

    def renamed(value):
        return [number[value[0]], value[1]] if isinstance(value, list) and value[0] in number else value

    return [(n["class_type"], {key: renamed(value) for key, value in n["inputs"].items()}) for n in prompt.values()]


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_page_of_a_prompt_gives_the_prompt_again(name):
    prompt = TEMPLATES[name]
    page = to_page(prompt, CLASSES)
    assert with_numbers(to_prompt(page, CLASSES)) == with_numbers(prompt)
    ids = [each["id"] for each in page["nodes"]]
    assert len(set(ids)) == len(ids) and page["last_node_id"] == max(ids) and page["last_link_id"] == len(page["links"])


def test_links_on_a_page_are_known_at_both_ends():
    page = to_page(TEMPLATES["controlnet_example"], CLASSES)
    nodes = {each["id"]: each for each in page["nodes"]}
    for number, origin, slot, target, index, kind in page["links"]:
        assert number in nodes[origin]["outputs"][slot]["links"] and nodes[target]["inputs"][index]["link"] == number
        assert nodes[origin]["outputs"][slot]["type"] == kind


def test_titles_stay_and_seeds_are_fixed():
    prompt = {"7": {"class_type": "KSampler", "inputs": {"seed": 3}, "_meta": {"title": "Mine"}}}
    [made] = to_page(prompt, CLASSES)["nodes"]
    assert (made["id"], made["title"], made["widgets_values"][:2]) == (7, "Mine", [3, "fixed"])


def test_a_group_that_grows_has_slots_for_its_values_only():
    given = {"class_type": "CreateList", "inputs": {"inputs.input0": ["1", 0], "inputs.input1": ["1", 0]}}
    text = {"class_type": "PrimitiveString", "inputs": {"value": "a"}}
    page = to_page({"1": text, "2": given}, offered_classes())
    assert [slot["name"] for slot in page["nodes"][1]["inputs"]] == ["inputs.input0", "inputs.input1"]
    assert to_prompt(page, offered_classes())["2"]["inputs"] == given["inputs"]


def test_a_prompt_of_an_unknown_class_has_no_page():
    with pytest.raises(ValueError, match="unknown node class 'KSamplr' \\(node 1\\); did you mean KSampler"):
        to_page({"1": {"class_type": "KSamplr", "inputs": {}}}, CLASSES)


@given(st.text(alphabet="ab{}|\\/*\n ", max_size=12))
@settings(max_examples=100)
def test_literal_text_is_sent_as_it_is(text):
    assert dynamic_text(literal_text(text), Random(0)) == text


@given(st.lists(st.lists(st.integers(0, 9), max_size=4), max_size=10))
@settings(max_examples=50)
def test_nodes_stand_right_of_what_feeds_them_and_on_no_other(rows):
    feeds = {str(k): [str(other) for other in row if other < k] for k, row in enumerate(rows)}
    placed = boxes(feeds, {name: (100.0, 50.0 + 10 * int(name)) for name in feeds})
    assert all(placed[other].x + 100 < placed[name].x for name in feeds for other in feeds[name])
    for name in feeds:
        for other in feeds:
            one, two = placed[name], placed[other]
            apart = one.x != two.x or one.y + one.height <= two.y or two.y + two.height <= one.y
            assert name == other or apart


def test_depths_of_a_circle_end():
    assert depths({"a": ["b"], "b": ["a"], "c": ["a"]}).keys() == {"a", "b", "c"}


def test_a_drawing_shows_nodes_where_they_are_and_links_in_their_colours():
    page = workflow(
        [
            node(1, "EmptyImage", [32, 16, 1, 0], outputs=[("IMAGE", [1])], pos=[0, 0], size=[200, 140]),
            node(2, "SaveImage", ["x"], [("images", "IMAGE", 1)], pos=[400, 100], size=[200, 60]),
        ],
        [[1, 1, 0, 2, 0, "IMAGE"]],
    )
    scene = scene_of(page, CLASSES)
    [(start, end, kind)] = scene.links
    assert (start, end, kind) == ((200, 10), (400, 110), "IMAGE")
    assert [(row.name, row.text) for row in scene.shapes[0].rows] == [
        ("width", "32"), ("height", "16"), ("batch_size", "1"), ("color", "0"),
    ]  # fmt: skip
    image = draw(page, CLASSES)
    assert image.size == (600 + 2 * 40, 160 + 2 * 40 + 30)
    blue = tuple(int(hue("IMAGE")[k : k + 2], 16) for k in (1, 3, 5))
    for x, y in (start, end):  # the dots of the slots
        pixel = image.getpixel((round(x + 40), round(y + 70)))
        assert all(abs(a - b) < 12 for a, b in zip(pixel, blue))
    other = draw({**page, "links": [], "nodes": [{**each, "inputs": []} for each in page["nodes"]]}, CLASSES)
    assert ImageChops.difference(image, other).getbbox() is not None


def test_a_drawing_of_subgraphs_notes_and_unknown_nodes_has_their_values():
    page = workflows()["cases"]["subgraph_promoted_values"]["workflow"]
    rows = {shape.title: [(row.name, row.text) for row in shape.rows] for shape in scene_of(page, CLASSES).shapes}
    assert rows["S"] == [("w", "64"), ("h", "24")]
    others = workflow([node(1, "Note", ["hello"]), node(2, "Mystery", [5], mode=4)], [])
    shapes = scene_of(others, CLASSES).shapes
    assert [(shape.kind, [row.text for row in shape.rows]) for shape in shapes] == [
        ("note", ["hello"]), ("bypassed", ["5"]),
    ]  # fmt: skip


def test_a_workflow_without_nodes_is_not_drawn():
    with pytest.raises(ValueError, match="no nodes"):
        draw(workflow([], []), CLASSES)
