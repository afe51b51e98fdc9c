"""`sigmafield workflow`: images of ours become workflows that ComfyUI opens, and these become recipes again."""

import json

import numpy as np
import pytest
from PIL import Image

from command_line import run
from sigmafield.comfyui.workflow.files import read_workflow
from sigmafield.recipes.image_io import open_image
from sigmafield.recipes.label import read_label
from sigmafield.recipes.output import recipe_of
from sigmafield.recipes.recipe import Recipe

pytestmark = pytest.mark.usefixtures("few_channels")


@pytest.fixture(scope="module")
def heart(tmp_path_factory):
    path = tmp_path_factory.mktemp("workflow") / "heart.png"
    assert run("sample", "a heart", "--steps", 2, "--seed", 3, "-o", path).exit_code == 0
    return path


def test_an_image_of_ours_becomes_a_page_a_prompt_and_its_recipe_again(heart, tmp_path):
    page, prompt, graph = (tmp_path / name for name in ("page.json", "prompt.json", "graph.png"))
    made = run("workflow", heart, "-o", page, "--draw", graph)
    assert (made.exit_code, made.stdout.split()) == (0, [str(graph), str(page)])
    assert {node["type"] for node in json.loads(page.read_text())["nodes"]} == {
        "CheckpointLoaderSimple", "CLIPTextEncode", "EmptyLatentImage", "KSampler", "VAEDecode", "SaveImage",
    }  # fmt: skip
    assert Image.open(graph).size[0] > 1000
    assert run("workflow", page, "-o", prompt).exit_code == 0
    assert json.loads(run("workflow", heart, "--form", "api").stdout) == json.loads(prompt.read_text())
    recipe = json.loads(run("workflow", prompt, "--form", "recipe").stdout)
    own = read_label(recipe_of(heart)).recipe.to_plain()
    of_the_model = {"width": 64, "height": 64, "cfg": 5.0, "schedule": "karras"}
    assert recipe == {**own, **of_the_model}
    assert json.loads(run("workflow", heart, "--form", "recipe").stdout) == own


@pytest.mark.parametrize("ending", [".png", ".webp", ".avif"])
def test_images_carry_the_workflow_of_their_recipe_which_draws_the_same(ending, tmp_path):
    """In the texts that ComfyUI reads; the recipe is read as before, and the workflow runs here."""
    path = tmp_path / f"hearts{ending}"
    assert run("sample", "a heart", "--steps", 2, "--seed", 3, "--batch", 2, "-o", path).exit_code == 0
    for name in (path, tmp_path / f"hearts-2{ending}"):
        found = read_workflow(name)
        assert found.page["version"] == 0.4 and found.prompt["1"]["inputs"] == {"ckpt_name": "tiny"}
        assert Recipe.from_plain(json.loads(recipe_of(name))["recipe"]).batch == 2
    if ending == ".png":
        assert all(text.isascii() for key, text in Image.open(path).text.items() if key != "sigmafield")
        size = [f"--set=EmptyLatentImage.{side}=128" for side in ("width", "height")]  # tiny's factor is 4, not 8
        made = run("run", path, "-o", tmp_path, *size)
        saved = [np.asarray(Image.open(file)).astype(int) for file in made.stdout.split()]
        ours = [np.asarray(Image.open(tmp_path / f"hearts-{k}.png")).astype(int) for k in (1, 2)]
        assert np.abs(np.stack(saved) - np.stack(ours)).max() <= 1  # ComfyUI cuts to 8 bits, and does not round


def test_recipes_that_nodes_cannot_say_carry_no_workflow(tmp_path):
    for name, more in (("tiles.png", ["--noise", "pyramid"]), ("heart.jpg", [])):
        assert run("sample", "a heart", "--steps", 1, "-o", tmp_path / name, *more).exit_code == 0
        with pytest.raises(ValueError, match="has no workflow of ComfyUI; it has a recipe" if more else "no workflow"):
            read_workflow(tmp_path / name)
        assert read_label(recipe_of(tmp_path / name)).recipe.steps == 1


@pytest.mark.parametrize("ending", [".png", ".webp"])
def test_a_copy_of_an_image_carries_workflow_and_recipe_with_the_same_pixels(heart, tmp_path, ending):
    copy = tmp_path / f"copy{ending}"
    assert run("workflow", heart, "-o", copy).exit_code == 0
    found = read_workflow(copy)
    assert found.page["version"] == 0.4 and found.prompt["1"]["class_type"] == "CheckpointLoaderSimple"
    assert np.array_equal(np.asarray(open_image(copy).convert("RGB")), np.asarray(open_image(heart).convert("RGB")))
    if ending == ".png":
        assert recipe_of(copy) == recipe_of(heart)
    assert json.loads(run("workflow", copy, "--form", "api").stdout) == found.prompt


def test_files_are_not_replaced_unless_asked(heart, tmp_path):
    path = tmp_path / "a.json"
    path.write_text("mine")
    assert run("workflow", heart, "-o", path).stdout.strip() == str(tmp_path / "a_2.json")
    assert path.read_text() == "mine"
    assert run("workflow", heart, "-o", path, "--overwrite").exit_code == 0
    assert json.loads(path.read_text())["version"] == 0.4


def test_errors_are_one_line_and_nothing_is_written(heart, tmp_path):
    page = tmp_path / "page.json"
    page.write_text(json.dumps({"nodes": [{"id": 1, "type": "KSamplr"}], "links": []}))
    plain = tmp_path / "plain.png"
    Image.new("RGB", (8, 8)).save(plain)
    before = sorted(tmp_path.iterdir())
    for arguments, words in (
        ((page, "-o", tmp_path / "x.json"), "unknown node class 'KSamplr' (node 1; did you mean KSampler"),
        ((plain,), "has no workflow of ComfyUI"),
        ((tmp_path / "none.json",), "no file at"),
        ((heart, "-o", tmp_path / "x.jpg"), "must end in one of .png, .webp, .avif; got '.jpg'"),
        ((plain, "--form", "recipe"), "has no workflow"),
    ):
        ran = run("workflow", *arguments)
        assert ran.exit_code == 2 and words in ran.stderr and len(ran.stderr.splitlines()) == 1, ran.stderr
    assert sorted(tmp_path.iterdir()) == before


def test_further_classes_come_from_a_file(tmp_path):
    page, info = tmp_path / "page.json", tmp_path / "info.json"
    page.write_text(json.dumps({"nodes": [{"id": 1, "type": "Mine", "widgets_values": [4]}], "links": []}))
    info.write_text(json.dumps({"Mine": {"input": {"required": {"n": ["INT", {}]}}, "output": []}}))
    assert json.loads(run("workflow", page, "--object-info", info).stdout)["1"]["inputs"] == {"n": 4}
