"""What clients post and what the engine is given are each other's inverses, and name nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from serving import LIMITS, RECIPE, png

from sigmafield.recipes.output import encoded
from sigmafield.recipes.recipe import Recipe
from sigmafield.serve.jobs import JobRecord
from sigmafield.serve.names import ModelNames
from sigmafield.serve.requests import BadRequest, Requests
from sigmafield.serve.uploads import Uploads


@pytest.fixture
def requests(tmp_path):
    for name in ("given", "models/loras", "models/nets/canny", "models/embeddings", "inputs"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("given/main.safetensors", "models/sd.safetensors", "models/loras/style.safetensors"):
        (tmp_path / name).touch()
    (tmp_path / "inputs" / "a.png").write_bytes(png())
    names = ModelNames.of([str(tmp_path / "given" / "main.safetensors"), "tiny"], tmp_path / "models")
    return Requests(names, Uploads(tmp_path / "uploads", LIMITS), LIMITS, tmp_path / "inputs")


def test_every_file_of_a_recipe_is_named_as_it_was_posted(requests, tmp_path):
    upload = requests.uploads.add(png(), "alice").image
    posted = {
        **RECIPE,
        "model": "sd.safetensors",
        "parts": "nets",
        "embeddings": "embeddings",
        "loras": [{"path": "loras/style.safetensors", "strength": 0.5}],
        "controls": [{"net": "nets/canny", "image": upload}, {"net": "nets/canny", "image": "a.png"}],
        "references": [{"image": "a.png"}, {"image": upload}],
        "ip_adapters": [{"net": "loras/style.safetensors", "encoder": "sd.safetensors", "image": upload}],
        "image": "a.png",
        "mask": upload,
        "denoise_map": None,
        "denoise": 0.5,
    }
    made = requests.recipe(posted, "alice")
    files = [made["model"], made["parts"], made["embeddings"], made["loras"][0]["path"], made["image"], made["mask"]]
    files += [each[key] for each in made["controls"] for key in ("net", "image")]
    files += [each["image"] for each in made["references"]]
    files += [each[key] for each in made["ip_adapters"] for key in ("net", "encoder", "image")]
    assert all(file.startswith(str(tmp_path)) for file in files)
    recipe = Recipe.from_plain({key: value for key, value in made.items() if value is not None})
    assert str(tmp_path) not in requests.public.shown(recipe).to_json()
    shown = requests.public.job(JobRecord("1", "recipe", recipe.to_plain(), "failed", error=f"no file {made['model']}"))
    for key in ("model", "parts", "embeddings", "image", "mask"):
        assert shown["recipe"][key] == posted[key]
    assert shown["recipe"]["loras"][0]["path"] == "loras/style.safetensors"
    assert [each["image"] for each in shown["recipe"]["controls"]] == [upload, "a.png"]
    assert [each["image"] for each in shown["recipe"]["references"]] == ["a.png", upload]
    assert shown["recipe"]["ip_adapters"][0].items() >= posted["ip_adapters"][0].items()
    assert shown["error"] == "no file sd.safetensors"
    again = requests.recipe(shown["recipe"], "alice")
    assert {key: again[key] for key in ("model", "parts", "embeddings", "image", "mask")} == {
        key: made[key] for key in ("model", "parts", "embeddings", "image", "mask")
    }


def test_a_recipe_without_a_model_has_the_first_one_of_the_server(requests, tmp_path):
    assert requests.recipe(RECIPE, "")["model"] == str(tmp_path / "given" / "main.safetensors")
    assert requests.recipe({**RECIPE, "model": "main.safetensors"}, "") == requests.recipe(RECIPE, "")
    with pytest.raises(BadRequest, match=r"tin.*tiny") as error:
        Requests(ModelNames.of(["tiny"], None), requests.uploads, LIMITS).recipe({**RECIPE, "model": "tin"}, "")
    assert error.value.field == "model"


def test_two_models_of_one_name_are_refused(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "sd.safetensors").touch()
    with pytest.raises(ValueError, match="two models are called sd.safetensors"):
        ModelNames.of([str(tmp_path / name / "sd.safetensors") for name in ("a", "b")], None)


def test_what_grows_in_a_run_counts_for_the_limit(requests):
    """Padding, enlargement and DemoFusion make the image that is drawn larger than the one that is given."""
    small = {**RECIPE, "width": 200, "height": 200}
    assert requests.recipe(small, "")
    larger = [
        {**small, "frames": 2},
        {**small, "demofusion": {"scale": 2}},
        {**RECIPE, "image": "a.png", "denoise": 0.5, "scale": 5},
        {**RECIPE, "image": "a.png", "pad": "0,0,500,500"},
    ]
    for entries in larger:
        with pytest.raises(BadRequest, match="pixels on this server"):
            requests.recipe(entries, "")


@pytest.mark.parametrize("name", ["regions", "controls", "ip_adapters", "loras"])
def test_a_list_of_a_recipe_has_a_limit(requests, name):
    """The same upload named often costs its memory each time."""
    upload = requests.uploads.add(png(), "").image
    entry = {
        "regions": {"prompt": "", "x": 0, "y": 0, "width": 8, "height": 8},
        "loras": {"path": "loras/style.safetensors"},
        "controls": {"net": "loras", "image": upload},
        "ip_adapters": {"net": "loras/style.safetensors", "encoder": "loras/style.safetensors", "image": upload},
    }[name]  # fmt: skip
    assert requests.recipe({**RECIPE, name: [entry] * LIMITS.max_entries}, "")
    with pytest.raises(BadRequest, match=f"{name} must be at most 32 on this server; got 33") as error:
        requests.recipe({**RECIPE, name: [entry] * 33}, "")
    assert error.value.field == name


def test_uploads_have_room_for_some_and_the_old_ones_go(tmp_path):
    draws = np.random.default_rng(0)
    images = [Image.fromarray(draws.integers(0, 256, (500, 500, 3), np.uint8)) for _ in range(2)]
    noise = [encoded([image], ".png") for image in images]
    uploads = Uploads(tmp_path, replace(LIMITS, upload_space=1, max_pixels=10**6, keep_uploads=1e-9))
    first = uploads.add(noise[0], "alice")
    with pytest.raises(ValueError, match="1 MiB"):
        uploads.add(noise[1], "alice")
    assert uploads.add(noise[1], "bob")
    uploads.tidy(lambda id: id == first.id)
    assert uploads.path(first.image, "alice").is_file()
    assert uploads.add(noise[0], "bob"), "the room of what was deleted is free"


def test_images_that_grow_from_node_to_node_are_limited():
    """A node is refused that would enlarge an image beyond the limit, or is given one that is beyond it."""
    image, latent = torch.zeros(1, 200, 100, 3), {"samples": torch.zeros(1, 4, 16, 16)}
    LIMITS.check_node(
        "1", {"image": image, "mask": image[..., 0], "samples": latent, "scale_by": 1.5, "model": object()}
    )
    with pytest.raises(
        ValueError, match="node 1: an image must have at most 65536 pixels .* got 100x200, enlarged 2 times"
    ):
        LIMITS.check_node("1", {"image": image, "scale_by": 2.0})
    with pytest.raises(ValueError, match="got 100x200, enlarged 8 times"):
        LIMITS.check_node("1", {"input": image, "resize_type.multiplier": 8})
    with pytest.raises(ValueError, match="got 128x128, enlarged 4 times"):
        LIMITS.check_node("1", {"samples": latent, "scale_by": 4.0})
    with pytest.raises(ValueError, match="got 400x200"):
        LIMITS.check_node("1", {"images": torch.zeros(1, 200, 400, 3)})
