"""Masks that fade out, results pasted into their input, padding and cutting: what is kept is kept to the bit."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import sigmafield as sf
from sigmafield.recipes.framing import cut, feathered, padded
from sigmafield.recipes.inputs import Inputs
from sigmafield.recipes.paste_back import PasteBack, matched

STEPS = {"steps": 3, "seed": 3, "cfg": 3.0}


def pixels(image):
    return np.asarray(image).astype(int)


def disc(side=64, radius=14):
    """A mask in 0 … 1 of a disc with a soft edge."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    return np.clip(radius + 2 - np.hypot(x, y), 0, 4).astype(np.float32) / 4


@pytest.mark.parametrize("feather, match_colours", [(None, False), (6, True)])
def test_what_the_mask_keeps_is_exactly_the_input(pipe, heart, feather, match_colours):
    given = {"image": heart, "mask": disc(), **STEPS}
    [plain] = sf.generate(pipe, "green apple", **given)
    [image] = sf.generate(
        pipe, "green apple", paste_back=True, mask_feather=feather, match_colours=match_colours, **given
    )
    kept = feathered(torch.from_numpy(disc())[None], feather or 0)[0].numpy() == 0
    assert kept.mean() > 0.5
    assert (pixels(plain)[kept] != pixels(heart)[kept]).any(-1).mean() > 0.5  # the VAE changes most of them
    assert (pixels(image)[kept] == pixels(heart)[kept]).all()
    drawn = disc() == 1
    assert np.abs(pixels(image) - pixels(heart))[drawn].mean() > 10
    if not match_colours and feather is None:
        assert (pixels(image)[drawn] == pixels(plain)[drawn]).all()


@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.booleans())
@settings(max_examples=20, deadline=None)
def test_the_law_of_pasting(seed, each, match):
    """out = input + m (drawn − input): between both everywhere, the input where m = 0, what was drawn where m = 1."""
    rng = np.random.default_rng(seed)
    frames = [Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8)) for _ in range(each)]
    drawn = [Image.fromarray(rng.integers(0, 256, (5, 6, 3), np.uint8)) for _ in range(2 * each)]
    mask = rng.choice([0, 0.25, 1], (5, 6)).astype(np.float32)
    out = PasteBack(frames, mask, (2, 3), match).onto(drawn, each)
    for k, image in enumerate(out):
        source = pixels(frames[k % each])
        outside = np.ones((9, 12), bool)
        outside[2:7, 3:9] = mask > 0
        outside[:2] = outside[7:] = outside[:, :3] = outside[:, 9:] = False
        assert (pixels(image)[~outside] == source[~outside]).all()
        if not match:
            assert (pixels(image)[2:7, 3:9][mask == 1] == pixels(drawn[k])[mask == 1]).all()


def test_matched_colours_undo_a_shift_of_brightness_and_contrast():
    rng = np.random.default_rng(0)
    source = rng.uniform(60, 190, (16, 16, 3))
    kept = np.zeros((16, 16), bool)
    kept[:, :9] = True
    shifted = source * [1.2, 0.9, 1.0] + [5, -8, 20]
    assert np.abs(matched(shifted, source, kept) - source).max() < 1e-9
    assert (matched(shifted, source, ~kept & kept) == shifted).all()  # nothing to measure


def test_a_feather_fades_by_distance_and_never_lowers_a_mask():
    mask = torch.zeros(1, 9, 20)
    mask[..., :4] = 1
    out = feathered(mask, 3)
    assert torch.allclose(out[0, 4], torch.tensor([1.0] * 4 + [0.75, 0.5, 0.25] + [0.0] * 13))
    soft = torch.rand(1, 9, 20)
    assert (feathered(soft, 5) >= soft).all()
    assert torch.equal(feathered(soft, 0), soft)
    assert torch.equal(feathered(torch.zeros(1, 4, 4), 9), torch.zeros(1, 4, 4))


def test_padding_is_drawn_around_the_input(pipe, heart):
    [image] = sf.generate(pipe, "red heart", image=heart, pad="16,0,32,8", paste_back=True, **STEPS)
    assert image.size == (64 + 48, 72)
    inside = pixels(image)[:64, 16:80]
    fade = 64 // 8
    assert (inside[: 64 - fade, fade:-fade] == pixels(heart)[: 64 - fade, fade:-fade]).all()
    [hard] = sf.generate(pipe, "red heart", image=heart, pad=(16, 0, 32, 8), mask_feather=0, paste_back=True, **STEPS)
    assert (pixels(hard)[:64, 16:80] == pixels(heart)).all()
    [plain] = sf.generate(pipe, "red heart", image=heart, pad=(16, 0, 32, 8), mask_feather=0, **STEPS)
    assert (pixels(hard)[:, 80:] == pixels(plain)[:, 80:]).all()


def test_a_mask_is_padded_with_its_image(pipe, heart):
    mask = np.zeros((64, 64), np.uint8)
    mask[20:40, 20:40] = 255
    [image] = sf.generate(
        pipe, "red heart", image=heart, mask=mask, pad=(0, 0, 16, 0), mask_feather=0, paste_back=True, **STEPS
    )
    changed = (pixels(image)[:, :64] != pixels(heart)).any(-1)
    assert not changed[mask == 0].any()
    assert changed[mask > 0].mean() > 0.5


def test_padding_continues_the_colours_of_the_edge():
    image = Image.new("RGB", (20, 10), "red")
    image.paste("blue", (10, 0, 20, 10))
    wide = pixels(padded(image, (4, 0, 4, 0)))
    assert wide.shape == (10, 28, 3)
    assert (wide[:, 4:24] == pixels(image)).all()
    assert np.abs(wide[:, 0] - [255, 0, 0]).max() < 8
    assert np.abs(wide[:, -1] - [0, 0, 255]).max() < 8


def test_of_an_image_of_any_size_the_middle_is_drawn_and_the_rest_kept(pipe, heart):
    """67x70 pixels with a VAE of factor 4: 64x68 are drawn, pasted back into all of them."""
    whole = Image.new("RGB", (67, 70), "white")
    whole.paste(heart, (1, 1))
    mask = np.zeros((70, 67), np.uint8)
    mask[:, 40:] = 255
    job = sf.open_job(sf.Recipe("apple", image=whole, mask=mask, paste_back=True, **STEPS), pipe)
    assert job.notes == [
        "of the image's 67x70 pixels the middle 64x68 are drawn: sides are multiples of 4, the VAE's factor; "
        "a size resizes it instead"
    ]
    [[image]] = sf.execute(job).images
    assert image.size == (67, 70)
    inside = np.zeros((70, 67), bool)
    inside[1:69, 1:65] = True
    changed = (pixels(image) != pixels(whole)).any(-1)
    assert not changed[~inside | (mask == 0)].any()
    assert changed[inside & (mask > 0)].mean() > 0.5
    with pytest.warns(UserWarning, match="the middle 64x68 are drawn"):
        [plain] = sf.generate(pipe, "apple", image=whole, denoise=0.5, **STEPS)
    assert plain.size == (64, 68)


def test_an_image_below_the_models_multiple_is_refused(pipe):
    with pytest.raises(ValueError, match=r"the image's width must be a multiple of 4, the VAE's factor; got 3: try 4"):
        sf.generate(pipe, "x", image=np.zeros((8, 3, 3), np.uint8), steps=1)


def test_inputs_of_any_mode_are_made_rgb(pipe, heart):
    recipe = sf.Recipe("x", image=heart, mask=disc(), paste_back=True, **STEPS)
    _, inputs = sf.read_inputs(recipe)
    given = replace(inputs, frames=[heart.convert("RGBA")])
    assert sf.execute(sf.open_job(recipe, pipe, given)).images[0][0].mode == "RGB"


def test_what_has_the_images_size_is_cut_with_it():
    hints = [torch.rand(1, 3, 70, 67), torch.rand(1, 3, 32, 32)]
    mask = torch.rand(1, 70, 67)
    out = cut(Inputs([Image.new("RGB", (67, 70))], mask, None, hints), (68, 64))
    assert out.frames[0].size == (64, 68)
    assert torch.equal(out.mask, mask[:, 1:69, 1:65])
    assert torch.equal(out.hints[0], hints[0][..., 1:69, 1:65])
    assert out.hints[1] is hints[1]


def test_pasting_into_an_image_that_was_resized(pipe, heart):
    mask = np.zeros((64, 64), np.uint8)
    mask[:, 40:] = 255
    [image] = sf.generate(
        pipe, "apple", image=heart, mask=mask, paste_back=True, width=96, height=64, steps=1, seed=1, cfg=3.0
    )
    large = heart.resize((96, 64), Image.Resampling.LANCZOS)
    assert (pixels(image)[:, :56] == pixels(large)[:, :56]).all()


@pytest.mark.parametrize("value, note", [(0, "the mask keeps everything"), (255, "the mask keeps nothing")])
def test_a_mask_that_does_nothing_is_said(pipe, heart, value, note):
    with pytest.warns(UserWarning, match=note):
        sf.generate(pipe, "x", image=heart, mask=np.full((8, 8), value, np.uint8), steps=1)


WRONG = [
    ({"pad": "1,2,3"}, "pad must be LEFT,TOP,RIGHT,BOTTOM in pixels, such as 0,0,256,0; got '1,2,3'"),
    ({"pad": "1,2,3,x"}, "pad must be LEFT,TOP,RIGHT,BOTTOM"),
    ({"pad": (1, 2, 3, -4)}, "pad must be four numbers of pixels, 0 … 16384; got (1, 2, 3, -4)"),
    ({"pad": (1, 2, 3, 4), "image": None}, "pad needs an image to start from"),
    ({"paste_back": True}, "paste_back needs a mask, or pad"),
    ({"mask_feather": 4}, "mask_feather needs a mask, or pad"),
    ({"mask_from": "alpha"}, "mask_from 'alpha' needs a mask"),
    ({"mask": "m.png", "match_colours": True}, "match_colours needs paste_back"),
    ({"mask": "m.png", "mask_from": "alfa"}, "did you mean alpha"),
    ({"pad": (8, 0, 0, 0), "demofusion": sf.DemoFusion(2)}, "demofusion draws whole images in whole runs: leave pad"),
]


@pytest.mark.parametrize("options, message", WRONG, ids=lambda v: " ".join(v) if isinstance(v, dict) else "")
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        sf.Recipe("x", **{"image": "a.png", **options})
    assert message in str(error.value)


def test_padding_of_nothing_is_none():
    assert sf.Recipe("x", image="a.png", pad="0,0,0,0") == sf.Recipe("x", image="a.png")
    recipe = sf.Recipe("x", image="a.png", pad=(0, 8, 0, 0))
    assert sf.Recipe.from_json(recipe.to_json()) == recipe
