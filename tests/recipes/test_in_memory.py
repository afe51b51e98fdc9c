"""Images in memory: every form of the same pixels gives the same result, and a recipe knows them by their digest."""

import io
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import sigmafield as sf
from sigmafield.recipes.output import save_image

STEPS = {"steps": 2, "seed": 3, "denoise": 0.6}


def forms(image, path):
    """An RGB image in every form."""
    save_image(image, path)
    pixels = np.array(image)
    planes = torch.from_numpy(pixels).permute(2, 0, 1)
    return {
        "path": path, "text": str(path), "image": image, "bytes": path.read_bytes(), "file": path.open("rb"),
        "array": pixels, "float array": pixels / np.float32(255), "16-bit array": pixels.astype(np.uint16) * 257,
        "tensor": planes, "float tensor": planes / 255, "batch of one": planes[None].double() / 255,
        "half tensor": (planes / 255).to(torch.float16), "video of one": planes[None, :, None] / 255,
    }  # fmt: skip


def test_the_same_pixels_in_any_form_are_the_same_image(pipe, heart, tmp_path):
    for name, each in forms(heart, tmp_path / "heart.png").items():
        _, inputs = sf.read_inputs(sf.Recipe("apple", image=each))
        assert [frame.tobytes() for frame in inputs.frames] == [heart.tobytes()], name
    images = [sf.generate(pipe, "apple", image=each, **STEPS)[0] for each in (heart, tmp_path / "heart.png")]
    assert images[0].tobytes() == images[1].tobytes()


def test_several_prompts_share_an_open_file(pipe, heart, tmp_path):
    save_image(heart, tmp_path / "heart.png")
    images = sf.generate(pipe, ["apple", "pizza"], image=(tmp_path / "heart.png").open("rb"), steps=1, denoise=0.5)
    assert len(images) == 2


def test_the_same_mask_in_any_form_gives_the_same_mask(heart, tmp_path):
    half = np.zeros((64, 64), np.uint8)
    half[:, 32:] = 255
    picture, path = Image.fromarray(half), tmp_path / "mask.png"
    picture.save(path)
    given = [
        path, picture, path.read_bytes(), path.open("rb"), half, half > 0, half / 255, half[..., None], half[None],
        half.astype(np.uint16) * 257, np.stack([half] * 3, -1), torch.from_numpy(half), torch.from_numpy(half > 0),
        torch.from_numpy(half)[None, None] / 255,
    ]  # fmt: skip
    for each in given:
        _, inputs = sf.read_inputs(sf.Recipe("x", image=heart, mask=each))
        assert torch.equal(inputs.mask, torch.from_numpy(half)[None] / 255)
        _, inputs = sf.read_inputs(sf.Recipe("x", image=heart, denoise_map=half if each is given[3] else each))
        assert torch.equal(inputs.denoise_map, torch.from_numpy(half)[None] / 255)


def test_a_mask_in_memory_keeps_its_depth(heart):
    ramp = torch.linspace(0, 1, 4096).reshape(64, 64)
    _, inputs = sf.read_inputs(sf.Recipe("x", image=heart, mask=ramp))
    assert torch.equal(inputs.mask, ramp[None])


def test_a_recipe_knows_images_in_memory_by_their_digest(pipe, heart, tmp_path):
    recipe = sf.Recipe("apple", image=heart, mask=np.ones((8, 8), bool), **STEPS)
    assert recipe == sf.Recipe("apple", image=heart.copy(), mask=torch.ones(8, 8) > 0, **STEPS)
    assert recipe != sf.Recipe("apple", image=Image.new("RGB", heart.size), mask=np.ones((8, 8), bool), **STEPS)
    assert recipe.image.startswith("memory:") and len(recipe.image) == len("memory:") + 64
    sealed, _ = sf.read_inputs(recipe)
    assert sealed.image_sha256 == recipe.image.removeprefix("memory:")
    read = sf.Recipe.from_json(recipe.to_json())
    assert read == recipe
    with pytest.raises(ValueError, match=r"the image was in memory when this recipe was made \(memory:[0-9a-f]{12}…\)"):
        sf.open_job(read, pipe)
    path = tmp_path / "heart.png"
    save_image(heart, path)
    found, _ = sf.read_inputs(replace(sealed, image=str(path)))  # a file of the same pixels takes its place
    assert found.image_sha256 == sealed.image_sha256
    save_image(Image.new("RGB", heart.size), path)
    with pytest.raises(ValueError, match="has changed since this recipe was made"):
        sf.read_inputs(replace(sealed, image=str(path)))


def test_bytes_in_memory_have_the_digest_of_their_file(heart, tmp_path):
    path = tmp_path / "heart.png"
    save_image(heart, path)
    digests = [sf.read_inputs(sf.Recipe("x", image=each))[0].image_sha256 for each in (path, path.read_bytes())]
    assert digests[0] == digests[1]


def test_an_image_in_memory_goes_with_its_recipe(heart):
    for each in (heart, np.ones((4, 4), np.uint8)):
        recipe = sf.Recipe("x", image=heart, mask=each)
        for again in (replace(recipe, seed=5), pickle.loads(pickle.dumps(recipe))):
            _, inputs = sf.read_inputs(again)
            assert inputs.frames[0].tobytes() == heart.tobytes()


def test_later_changes_do_not_reach_a_recipe(heart):
    image, mask = heart.copy(), np.zeros((4, 4), np.float32)
    recipe = sf.Recipe("x", image=image, mask=mask)
    image.paste("black", (0, 0, 64, 64))
    mask[:] = 1
    _, inputs = sf.read_inputs(recipe)
    assert inputs.frames[0].tobytes() == heart.tobytes()
    assert not inputs.mask.any()


def test_orientation_of_an_open_image_is_applied(heart):
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x112] = 6
    heart.crop((0, 0, 64, 32)).save(buffer, "PNG", exif=exif)
    _, inputs = sf.read_inputs(sf.Recipe("x", image=Image.open(buffer)))
    assert inputs.frames[0].size == (32, 64)


def test_a_controls_image_may_be_in_memory(heart):
    control = sf.ControlImage("net", heart)
    assert control.image == sf.Recipe("x", image=heart).image
    assert sf.Recipe.from_json(sf.Recipe("x", controls=[control]).to_json()).controls == (control,)


CUT_OFF = b"\x89PNG\r\n\x1a\n" + bytes(20)

WRONG = [
    (42, "image must be a path, a Pillow image, an array, a tensor, bytes or an open file; got int 42"),
    ([1, 2], r"image must be a path, .*; got list \[1, 2\]"),
    (np.zeros((3, 8, 8)), r"with C = 1, 3 or 4; got ndarray of shape \(3, 8, 8\)"),
    (torch.zeros(2, 3, 8, 8), r"with C = 1, 3 or 4; got Tensor of shape \(2, 3, 8, 8\)"),
    (np.zeros((0, 8, 3)), r"got ndarray of shape \(0, 8, 3\)"),
    (np.full((8, 8), 200.0), "floating-point numbers in 0 … 1; got 200 … 200: divide by 255"),
    (np.full((8, 8), np.nan), "floating-point numbers in 0 … 1; got nan … nan"),
    (np.zeros((8, 8), int), "image must hold uint8, uint16, true and false, or floats in 0 … 1; got int64"),
    (io.StringIO("x"), "image must be a file that is open for bytes, mode 'rb'; reading it gives str 'x'"),
    (b"", "image must be the bytes of an image; got none"),
]


@pytest.mark.parametrize("value, message", WRONG, ids=lambda v: "" if isinstance(v, str) else type(v).__name__)
@pytest.mark.typed_elsewhere
def test_what_is_not_an_image_is_refused_by_one_error(value, message):
    with pytest.raises(ValueError, match=message):
        sf.Recipe("x", image=value)


def test_damaged_bytes_are_named(pipe):
    with pytest.raises(ValueError, match="cannot read the image in memory as an image"):
        sf.generate(pipe, "x", image=CUT_OFF)
