"""A recipe's references: what an editing network is shown, and how the files are known."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from PIL import Image

import sigmafield as sf
from sigmafield.cli.moved import with_moved
from sigmafield.cli.parse import READERS
from sigmafield.models.references import references, with_references
from sigmafield.recipes.editing import proportioned, sized
from sigmafield.recipes.label import read_label
from sigmafield.recipes.output import recipe_of
from small_network import small_model

pytest.importorskip("diffusers")


def image(size, seed=0):
    torch.manual_seed(seed)
    return Image.fromarray((torch.rand(size[1], size[0], 3) * 255).byte().numpy())


def tensor(picture):
    return sf.read_inputs(sf.Recipe("", references=[sf.Reference(picture)]))[1].references[0]


def asked(pipe, recipe):
    """The conditionings that a network is asked about in the first step of a recipe, and the job."""
    seen = []

    def forward(module, x, t, cond):
        seen.append(cond)
        return pipe.model.forward(module, x, t, cond)

    job = sf.open_job(recipe, replace(pipe, model=replace(pipe.model, forward=forward)))
    job.run.step(job.start)
    return seen, job


def test_the_text_encoder_and_the_network_are_shown_references(loaded):
    """Prompt and negative prompt are encoded with the image, and the network is shown its latent."""
    pipe = loaded("qwen-image")
    pipe = replace(pipe, text=replace(pipe.text, numbered=False, seen_pixels=None))
    shown, large = sf.Reference(image((48, 32))), sf.Reference(image((96, 64), 1))
    recipe = sf.Recipe("make it red", "blue", references=[shown], width=48, height=32, cfg=2.0, sampler="euler")
    with pytest.raises(ValueError, match="references must be one image for .* got 2"):
        sf.open_job(replace(recipe, references=[shown, large]), pipe)
    given, _ = asked(pipe, recipe)
    latent = pipe.encode(tensor(shown.image))
    for text in ("make it red", "blue"):
        want = with_references(pipe.text.encode_edit([text], [tensor(shown.image)]), [latent])
        found = [cond for cond in given if len(cond.embeds) == 1 and torch.equal(cond.embeds, want.embeds)]
        assert found and torch.equal(references(found[0])[0], latent)
    (smaller, *_), _ = asked(pipe, replace(recipe, references=[large], cfg=1.0))
    assert references(smaller)[0].shape == latent.shape  # no more pixels than are drawn


@pytest.mark.slow
def test_several_references_are_numbered(loaded):
    pipe = loaded("qwen-image")
    assert pipe.text.numbered and pipe.text.seen_pixels == 384**2
    pictures = [image((48, 32)), image((40, 80), 1)]
    shown = [sf.Reference(each) for each in pictures]
    recipe = sf.Recipe("make it red", references=shown, width=48, height=32, cfg=1.0, sampler="euler")
    (given, *_), _ = asked(pipe, recipe)
    assert [tuple(each.shape[2:]) for each in references(given)] == [(4, 6), (6, 4)]
    images = [sized(tensor(each), proportioned(tensor(each), 384**2, 1)) for each in pictures]
    assert torch.equal(given.embeds, pipe.text.encode_edit(["make it red"], images, numbered=True).embeds)


def test_references_change_the_image_and_give_its_proportions(loaded):
    pipe = loaded("flux dev")
    pipe = replace(pipe, model=replace(pipe.model, size=(16, 16)))
    drawn = sf.generate(pipe, "make it red", references=[sf.Reference(image((64, 16)))], steps=1)
    assert drawn[0].size == (32, 8)
    plain, other = (
        sf.generate(pipe, "make it red", steps=1, width=32, height=8, references=each)
        for each in ([], [sf.Reference(image((64, 16), 1))])
    )
    assert len({each[0].tobytes() for each in (drawn, plain, other)}) == 3


def test_a_narrow_reference_is_not_more_pixels_than_are_drawn(loaded):
    assert proportioned(torch.zeros(1, 3, 1, 100), 1024, 4) == (4, 320)
    with pytest.raises(ValueError, match="a reference of 4000x1 pixels is too narrow: of 1024 pixels"):
        proportioned(torch.zeros(1, 3, 1, 4000), 1024, 4)
    pipe = loaded("flux dev")
    pipe = replace(pipe, model=replace(pipe.model, size=(32, 32)))
    with pytest.raises(ValueError, match="too narrow"):
        sf.open_job(sf.Recipe("x", references=[sf.Reference(image((1, 4000)))]), pipe)


def test_what_cannot_be_shown_is_refused(loaded):
    shown = [sf.Reference(image((8, 8)))]
    with pytest.raises(ValueError, match="tiny cannot be shown images"):
        sf.generate(small_model(), "x", references=shown)
    with pytest.raises(ValueError, match="references must be at most 16 images; got 17"):
        sf.Recipe("x", references=shown * 17)
    with pytest.raises(ValueError, match="leave references out"):
        sf.Recipe("x", references=shown, demofusion=sf.DemoFusion(2))
    with pytest.raises(ValueError, match="a reference's image must be one image; got 2 in one array"):
        sf.read_inputs(sf.Recipe("x", references=[sf.Reference(torch.zeros(1, 3, 2, 8, 8))]))
    recipe = sf.Recipe("x", references=[sf.Reference("a.png")])
    assert sf.Recipe.from_json(recipe.to_json()) == recipe
    assert json.loads(recipe.to_json())["references"] == [{"image": "a.png", "image_sha256": None}]


def sigmafield(*arguments, cwd):
    return subprocess.run(
        [sys.executable, "-m", "sigmafield", *map(str, arguments)], cwd=cwd, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_the_command_line_edits_and_knows_the_files(family, tmp_path):
    folder, _ = family("flux dev")
    for k, size in enumerate(((64, 48), (32, 32))):
        image(size, k).save(tmp_path / f"{k}.png")
    done = sigmafield(
        "sample", "make it red", "--model", folder, "--reference", "0.png", "--reference", "1.png", "--steps", 1,
        "--size", "16x16", "-o", "out.png", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    recipe = read_label(recipe_of(tmp_path / "out.png")).recipe
    assert [each.image for each in recipe.references] == ["0.png", "1.png"]
    assert all(each.image_sha256 for each in recipe.references)


def test_replays_know_the_files_of_references(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for k in range(2):
        image((8, 8), k).save(f"{k}.png")
    references = READERS.read("references", ["0.png", "1.png"])
    sealed, inputs = sf.read_inputs(sf.Recipe("x", references=references))
    assert [each.image for each in sealed.references] == ["0.png", "1.png"] and len(inputs.references) == 2
    (tmp_path / "0.png").rename(tmp_path / "there.png")
    sf.read_inputs(with_moved(sealed, {"reference_images": ["there.png", "1.png"]}))
    with pytest.raises(ValueError, match=r"1\.png has changed since this recipe was made"):
        sf.read_inputs(with_moved(sealed, {"reference_images": ["1.png", "1.png"]}))
    with pytest.raises(ValueError, match="--reference-images must be given 2 times"):
        with_moved(sealed, {"reference_images": ["1.png"]})
