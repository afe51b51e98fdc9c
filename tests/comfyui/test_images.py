"""Nodes of images: each rule written out again for small tensors."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from sigmafield.comfyui.context import Remarked
from sigmafield.comfyui.nodes import compositing, image_filters, image_sizes, images, latents


def image(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def interpolated(x, height, width, mode):
    return F.interpolate(x.movedim(-1, 1), (height, width), mode=mode).movedim(1, -1)


def test_invert_empty_size_crop_and_batches():
    x = image(3, 4, 5, 4)
    assert images.image_invert(x).equal(1 - x)
    plain = images.empty_image(3, 2, 2, 0x0A80FF)
    assert plain.shape == (2, 2, 3, 3) and plain[1, 1, 2].equal(torch.tensor([10, 128, 255]) / 255)
    assert images.get_image_size(x) == Remarked((5, 4, 3), "width: 5, height: 4\n batch size: 3")
    assert images.image_crop(x, 9, 2, 1, 99).equal(x[:, 3:, 1:])
    assert images.image_from_batch(x, 99, 2).equal(x[2:]) and images.image_from_batch(x, 1, 2).equal(x[1:])
    assert images.repeat_image_batch(x, 2).equal(torch.cat([x, x]))
    parts = images.rebatch_images([x, x[:2]], [2])
    assert [len(each) for each in parts] == [2, 2, 1] and torch.cat(parts).equal(torch.cat([x, x[:2]]))
    assert images.image_rotate(x, "90 degrees")[0, 0, 0].equal(x[0, 3, 0])
    assert images.image_rotate(x, "90 degrees").equal(x.rot90(-1, (1, 2)))
    assert images.image_flip(x, "x-axis: vertically").equal(x[:, [3, 2, 1, 0]])
    assert images.image_flip(x, "y-axis: horizontally").equal(x[:, :, [4, 3, 2, 1, 0]])


@pytest.mark.parametrize("join", ["ImageBatch", "BatchImagesNode"])
def test_joined_images_get_the_first_size_and_any_alpha(join):
    a, b = image(1, 4, 4, 3), image(2, 8, 12, 4, seed=1)
    out = images.image_batch(a, b) if join == "ImageBatch" else images.batch_images({"image0": a, "image1": b})
    assert out[:1].equal(torch.cat([a, torch.ones(1, 4, 4, 1)], -1))
    assert out[1:].equal(interpolated(b[:, :, 2:10], 4, 4, "bilinear"))


def test_joining_needs_an_image():
    with pytest.raises(ValueError, match="at least one"):
        images.batch_images({})


def test_scaling_nodes_and_their_sizes():
    x = image(1, 30, 20, 3)

    def size(made):
        return made.shape[2], made.shape[1]

    assert image_sizes.image_scale(x, "area", 0, 0).equal(x)
    assert size(image_sizes.image_scale(x, "area", 0, 13)) == (round(20 * 13 / 30), 13)
    assert size(image_sizes.image_scale(x, "area", 7, 0)) == (7, round(30 * 7 / 20))
    out = image_sizes.image_scale(x, "bicubic", 10, 10, "center")
    assert torch.allclose(out, interpolated(x[:, 5:25], 10, 10, "bicubic"))
    assert size(image_sizes.image_scale_by(x, "bilinear", 0.33)) == (round(6.6), round(9.9))
    k = math.sqrt(0.01 * 1024 * 1024 / 600)
    made = image_sizes.image_scale_to_total_pixels(x, "bilinear", 0.01, 16)
    assert size(made) == (round(20 * k / 16) * 16, round(30 * k / 16) * 16)
    assert size(image_sizes.image_scale_to_max_dimension(x, "bilinear", 100)) == (round(20 / 30 * 100), 100)
    flat = x.movedim(1, 2)
    assert size(image_sizes.image_scale_to_max_dimension(flat, "bilinear", 100)) == (100, round(20 / 30 * 100))


def test_lanczos_is_pillows_in_8_bits():
    x = image(2, 6, 8, 3)
    out = image_sizes.image_scale(x, "lanczos", 5, 4)
    for k in range(2):
        pixels = np.floor(x[k].numpy() * 255).astype(np.uint8)
        expected = Image.fromarray(pixels).resize((5, 4), Image.Resampling.LANCZOS)
        assert out[k].numpy() == pytest.approx(np.asarray(expected) / 255, abs=1e-7)


@pytest.mark.parametrize(
    "size, expected",
    [((100, 100), (1024, 1024)), ((300, 100), (1568, 672)), ((100, 152), (832, 1248)), ((9, 8), (1104, 944))],
)
def test_kontext_takes_the_nearest_ratio(size, expected):
    width, height = size
    out = image_sizes.flux_kontext_image_scale(torch.zeros(1, height, width, 3))
    assert (out.shape[2], out.shape[1]) == expected


def test_padding_keeps_the_ratio_and_centres():
    x = image(1, 4, 8, 3)
    out = image_sizes.resize_and_pad_image(x, 6, 7, padding_color="white", interpolation="bilinear")
    inner = interpolated(x, 3, 6, "bilinear")  # k = min(6/8, 7/4) = ¾
    assert out.shape == (1, 7, 6, 3) and out[:, 2:5].equal(inner)
    assert (out[:, :2] == 1).all() and (out[:, 5:] == 1).all()


SIZES = [
    (image_sizes.ByFactor(multiplier=0.25), (round(7.5), 5)),
    (image_sizes.ToSize(width=0, height=7), (round(30 * 7 / 20), 7)),
    (image_sizes.ToSize(width=0, height=0), (30, 20)),
    (image_sizes.ToSize(width=3, height=9), (3, 9)),
    (image_sizes.LongerSide(longer_size=7), (7, round(20 / 30 * 7))),
    (image_sizes.ShorterSide(shorter_size=7), (round(30 / 20 * 7), 7)),
    (image_sizes.ToWidth(width=7), (7, round(20 / 30 * 7))),
    (image_sizes.ToHeight(height=1), (round(30 / 20), 1)),
    (image_sizes.ToWidth(width=0), (30, 20)),
    (
        image_sizes.ToArea(megapixels=0.01),
        (round(30 * math.sqrt(10485.76 / 600)), round(20 * math.sqrt(10485.76 / 600))),
    ),
    (image_sizes.ToMatch(match=torch.zeros(1, 5, 6, 3)), (6, 5)),
    (image_sizes.ToMatch(match=torch.zeros(5, 6)), (6, 5)),
]


@pytest.mark.parametrize("sizing, expected", SIZES, ids=lambda each: type(each).__name__)
def test_resize_of_images_and_masks(sizing, expected):
    width, height = expected
    x = image(2, 20, 30, 3)
    out = image_sizes.resize_image_mask(x, sizing, "bilinear")
    mask = image_sizes.resize_image_mask(x[..., 0], sizing, "bilinear")
    assert out.shape == (2, height, width, 3) and torch.allclose(mask, out[..., 0], atol=1e-6)
    assert image_sizes.resize_image_mask(x[0, :, :, 0], sizing, "bilinear").shape == (1, height, width)


def test_resize_crops_in_the_centre_by_default():
    x = image(1, 20, 30, 3)
    sizing = image_sizes.ToSize(width=10, height=10)
    assert torch.allclose(image_sizes.resize_image_mask(x, sizing, "area"), interpolated(x[:, :, 5:25], 10, 10, "area"))
    sizing = image_sizes.ToSize(width=10, height=10, crop="disabled")
    assert torch.allclose(image_sizes.resize_image_mask(x, sizing, "area"), interpolated(x, 10, 10, "area"))


def test_outpainting_masks_fall_off_from_the_new_borders():
    x = image(1, 9, 11, 3)
    out, mask = images.image_pad_for_outpaint(x, left=8, top=0, right=0, bottom=16, feathering=4)
    assert out.shape == (1, 25, 19, 3) and out[:, :9, 8:].equal(x) and (out[:, 9:] == 0.5).all()
    for i in range(25):
        for j in range(19):
            d = min(j - 8, 9 - i) if i < 9 and j >= 8 else None
            expected = 1 if d is None else ((4 - d) / 4) ** 2 if d < 4 else 0
            assert float(mask[0, i, j]) == pytest.approx(expected, abs=1e-6)
    hard = images.image_pad_for_outpaint(x, 8, 0, 0, 0, feathering=5)[1]  # 2 · 5 is not below 9
    assert (hard[..., 8:] == 0).all() and (hard[..., :8] == 1).all()


@pytest.mark.parametrize("direction", ["right", "down", "left", "up"])
def test_stitching(direction):
    a, b = image(2, 4, 6, 3), image(1, 8, 4, 4, seed=1)
    across, first = direction in ("right", "left"), direction in ("right", "down")
    # beside: height 4, width int(4 · 4/8) = 2; below: width 6, height int(8 · 6/4) = 12
    fit = image_sizes.image_scale(b, "lanczos", *((2, 4) if across else (6, 12))).repeat(2, 1, 1, 1)
    colour = torch.tensor([1.0, 0, 0, 1]).expand(2, *((4, 4) if across else (4, 6)), 4)
    parts = [torch.cat([a, torch.ones(2, 4, 6, 1)], -1), colour, fit]
    expected = torch.cat(parts if first else parts[::-1], 2 if across else 1)
    assert images.image_stitch(a, direction, True, 3, "red", b).equal(expected)
    assert images.image_stitch(a, direction) is a


def test_stitching_without_resizing_centres_the_smaller_one():
    a, b = image(1, 4, 6, 3), image(1, 7, 2, 3, seed=1)
    out = images.image_stitch(a, "right", False, 0, "white", b)
    assert out.shape == (1, 7, 8, 3) and out[:, :, 6:].equal(b)
    assert out[:, 1:5, :6].equal(a) and (out[:, 0, :6] == 0).all() and (out[:, 5:, :6] == 0).all()


def test_alpha_is_split_and_joined():
    x = image(3, 4, 4, 4)
    colours, mask = compositing.split_image_with_alpha(x)
    assert colours.equal(x[..., :3]) and mask.equal(1 - x[..., 3])
    assert compositing.split_image_with_alpha(colours)[1].equal(torch.zeros(3, 4, 4))
    m = image(2, 8, 8)
    out = compositing.join_image_with_alpha(x, m)
    small = F.interpolate(m[:, None], (4, 4), mode="bilinear")[:, 0]
    assert out.equal(torch.cat([x[:2, ..., :3], 1 - small[..., None]], -1))


def test_composites_with_and_without_alpha():
    to, part = image(1, 6, 6, 3), image(1, 4, 4, 4, seed=1)
    mask = image(4, 4, seed=2)
    out = compositing.image_composite_masked(to, part, 3, 4, False, mask)
    m = mask[:2, :3, None]
    expected = to.clone()
    expected[:, 4:, 3:] = m * part[:, :2, :3, :3] + (1 - m) * to[:, 4:, 3:]
    assert torch.allclose(out, expected, atol=1e-6)
    with_alpha = torch.cat([to, torch.zeros(1, 6, 6, 1)], -1)
    out = compositing.image_composite_masked(with_alpha, part[..., :3], 0, 0)
    assert out[:, :4, :4].equal(torch.cat([part[..., :3], torch.ones(1, 4, 4, 1)], -1))  # a missing alpha is 1
    assert out[:, 4:].equal(with_alpha[:, 4:])


def soft(a, b):
    g = ((16 * a - 12) * a + 4) * a if a <= 0.25 else math.sqrt(a)
    return a - (1 - 2 * b) * a * (1 - a) if b <= 0.5 else a + (2 * b - 1) * (g - a)


MODES = {
    "normal": lambda a, b: b,
    "multiply": lambda a, b: a * b,
    "screen": lambda a, b: 1 - (1 - a) * (1 - b),
    "overlay": lambda a, b: 2 * a * b if a <= 0.5 else 1 - 2 * (1 - a) * (1 - b),
    "soft_light": soft,
    "difference": lambda a, b: a - b,
}


@pytest.mark.parametrize("mode", MODES)
def test_blending(mode):
    grid = torch.linspace(0, 1, 5)
    a, b = (each.reshape(1, 5, 5, 1).repeat(1, 1, 1, 3) for each in torch.meshgrid(grid, grid, indexing="ij"))
    out = compositing.image_blend(a, b, 0.75, blend_mode=mode)
    for i in range(5):
        for j in range(5):
            x, y = i / 4, j / 4
            expected = min(max(0.25 * x + 0.75 * MODES[mode](x, y), 0), 1)
            assert float(out[0, i, j, 1]) == pytest.approx(expected, abs=1e-6)


def test_blending_fits_size_batch_and_alpha_to_the_first():
    a, b = image(2, 4, 4, 4), image(1, 8, 8, 3, seed=1)
    out = compositing.image_blend(a, b, 1.0, blend_mode="normal")
    small = interpolated(b, 4, 4, "bicubic").clamp(0, 1)
    assert torch.allclose(out, torch.cat([small, torch.ones(1, 4, 4, 1)], -1).expand(2, 4, 4, 4), atol=1e-6)


def porter_duff(mode, s, a, d, b):
    """Colour times alpha and alpha, from colours s and d that are multiplied by their alphas a and b."""
    both, around = a + b - a * b, (1 - b) * s + (1 - a) * d
    overlay = 2 * s * d if 2 * d < b else a * b - 2 * (b - s) * (a - d)
    return {
        "ADD": (min(s + d, 1), min(a + b, 1)),
        "CLEAR": (0, 0),
        "DARKEN": (around + min(s, d), both),
        "DST": (d, b),
        "DST_ATOP": (a * d + (1 - b) * s, a),
        "DST_IN": (a * d, a * b),
        "DST_OUT": ((1 - a) * d, (1 - a) * b),
        "DST_OVER": (d + (1 - b) * s, b + (1 - b) * a),
        "LIGHTEN": (around + max(s, d), both),
        "MULTIPLY": (s * d, a * b),
        "OVERLAY": (overlay, both),
        "SCREEN": (s + d - s * d, both),
        "SRC": (s, a),
        "SRC_ATOP": (b * s + (1 - a) * d, b),
        "SRC_IN": (b * s, a * b),
        "SRC_OUT": ((1 - b) * s, (1 - b) * a),
        "SRC_OVER": (s + (1 - a) * d, a + (1 - a) * b),
        "XOR": (around, (1 - b) * a + (1 - a) * b),
    }[mode]


PORTER_DUFF = (
    "ADD CLEAR DARKEN DST DST_ATOP DST_IN DST_OUT DST_OVER LIGHTEN MULTIPLY OVERLAY SCREEN SRC SRC_ATOP SRC_IN SRC_OUT "
    "SRC_OVER XOR"
).split()


@pytest.mark.parametrize("mode", PORTER_DUFF)
def test_porter_duff(mode):
    s, d = image(1, 3, 3, 3), image(2, 3, 3, 3, seed=1)
    s_mask, d_mask = image(3, 3, 3, seed=2), image(2, 3, 3, seed=3)
    s_mask[0, 0], d_mask[0, :, 0] = torch.tensor([0.0, 1, 1]), torch.tensor([1.0, 0, 1])
    out, mask = compositing.porter_duff_image_composite(s, s_mask, d, d_mask, mode)
    assert out.shape == (1, 3, 3, 3) and mask.shape == (1, 3, 3)
    for i in range(3):
        for j in range(3):
            a, b = 1 - float(s_mask[0, i, j]), 1 - float(d_mask[0, i, j])
            for c in range(3):
                colour, alpha = porter_duff(mode, float(s[0, i, j, c]) * a, a, float(d[0, i, j, c]) * b, b)
                colour = min(max(colour / alpha if alpha > 1e-5 else colour, 0), 1)
                assert float(out[0, i, j, c]) == pytest.approx(colour, abs=1e-5)
            assert float(mask[0, i, j]) == pytest.approx(1 - alpha, abs=1e-6)


def test_porter_duff_resizes_to_the_destination_and_wants_equal_channels():
    source, destination = image(1, 8, 8, 3), image(1, 4, 4, 3, seed=1)
    none = torch.zeros(1, 6, 6)
    out, _ = compositing.porter_duff_image_composite(source, none, destination, none, "SRC")
    assert torch.allclose(out, interpolated(source, 4, 4, "bicubic").clamp(0, 1), atol=1e-6)
    with pytest.raises(ValueError, match="as many channels; got 4 and 3"):
        compositing.porter_duff_image_composite(image(1, 4, 4, 4), none, destination, none)


def kernel(radius, sigma):
    line = torch.linspace(-1, 1, 2 * radius + 1)
    g = torch.exp(-(line[:, None] ** 2 + line**2) / (2 * sigma**2))
    return g / g.sum()


def filtered(x, k):
    radius = len(k) // 2
    padded = F.pad(x.movedim(-1, 1), (radius,) * 4, mode="reflect")
    return F.conv2d(padded, k.expand(x.shape[-1], 1, *k.shape), groups=x.shape[-1]).movedim(1, -1)


def test_blurring_and_sharpening():
    x = image(2, 9, 11, 3)
    assert torch.allclose(image_filters.image_blur(x, 3, 0.6), filtered(x, kernel(3, 0.6)), atol=1e-6)
    k = -10 * 0.4 * kernel(2, 1.3)
    k[2, 2] += 1 - k.sum()
    assert torch.allclose(image_filters.image_sharpen(x, 2, 1.3, 0.4), filtered(x, k).clamp(0, 1), atol=1e-5)
    assert image_filters.image_blur(image(1, 2, 2, 3), 31, 1.0).shape == (1, 2, 2, 3)


def test_noise_is_drawn_on_the_cpu_by_the_seed():
    x = image(1, 4, 4, 3)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(2**64 - 1))
    assert image_filters.image_add_noise(x, 2**64 - 1, 0.25).equal((x + 0.25 * noise).clamp(0, 1))


def test_quantizing_uses_pillows_palette():
    x = image(1, 16, 18, 3)
    picture = Image.fromarray((x[0].numpy() * 255).astype(np.uint8))
    palette = picture.quantize(5)
    for word, how in (("none", Image.Dither.NONE), ("floyd-steinberg", Image.Dither.FLOYDSTEINBERG)):
        expected = np.asarray(picture.quantize(5, palette=palette, dither=how).convert("RGB")) / 255
        assert image_filters.image_quantize(x, 5, dither=word)[0].numpy() == pytest.approx(expected)
    shifted = np.asarray(picture).astype(float)
    matrix = np.array([[-1.5, 0.5], [1.5, -0.5]]) / 4  # M₁ from M₀ = 0
    for i in range(16):
        for j in range(18):
            shifted[i, j] += 512 / 5 * matrix[i % 2, j % 2] + 0.5
    dithered = Image.fromarray(shifted.clip(0, 255).astype(np.uint8))
    expected = np.asarray(dithered.quantize(5, palette=palette, dither=Image.Dither.NONE).convert("RGB")) / 255
    assert image_filters.image_quantize(x, 5, dither="bayer-2")[0].numpy() == pytest.approx(expected)
    assert sorted(np.round(image_filters.bayer(4) * 16 + 7.5).ravel()) == list(range(16))


def test_morphology_is_the_largest_and_smallest_value_of_a_square():
    x = image(1, 5, 6, 3)
    wide = torch.empty_like(x)
    for i in range(5):
        for j in range(6):
            wide[0, i, j] = x[0, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2].amax((0, 1))
    assert image_filters.morphology(x, "dilate").equal(wide)
    narrow = -image_filters.morphology(-x, "dilate")
    assert image_filters.morphology(x, "erode").equal(narrow)
    opened = image_filters.morphology(narrow, "dilate")
    closed = image_filters.morphology(wide, "erode")
    assert image_filters.morphology(x, "open").equal(opened) and image_filters.morphology(x, "close").equal(closed)
    assert image_filters.morphology(x, "gradient").equal(wide - narrow)
    assert image_filters.morphology(x, "top_hat").equal(x - opened)
    assert image_filters.morphology(x, "bottom_hat").equal(closed - x)


def test_brightness_and_colour_are_taken_apart():
    x = image(1, 3, 3, 3)
    y, u, v = image_filters.image_rgb_to_yuv(x)
    r, g, b = x.unbind(-1)
    assert torch.allclose(y[..., 1], 0.299 * r + 0.587 * g + 0.114 * b)
    assert torch.allclose(u[..., 0], -0.168736 * r - 0.331264 * g + 0.5 * b + 0.5, atol=1e-5)  # JFIF
    assert torch.allclose(v[..., 2], 0.5 * r - 0.418688 * g - 0.081312 * b + 0.5, atol=1e-5)
    assert torch.allclose(image_filters.image_yuv_to_rgb(y, u, v), x, atol=1e-6)


def test_canny_finds_the_border_of_a_square_as_one_thin_line():
    x = torch.zeros(1, 24, 24, 3)
    x[:, 8:16, 8:16] = 1
    out = image_filters.canny(x)
    assert set(out.unique().tolist()) == {0, 1} and out[..., 0].equal(out[..., 2])
    rows = out[0, 12, :, 0].nonzero().flatten().tolist()
    assert len(rows) == 2 and 6 < rows[0] < 9 and 14 < rows[1] < 17
    columns = out[0, :, 12, 0].nonzero().flatten().tolist()
    assert columns == rows
    assert image_filters.canny(0.2 * x).sum() == 0  # a step of 0.2 has a gradient of 0.52


def test_canny_keeps_weak_edges_that_touch_a_strong_one():
    x = torch.zeros(1, 20, 40, 3)
    x[:, 10:] = torch.linspace(1, 0.25, 40)[:, None]  # gradients from 2.6 to 0.65
    out = image_filters.canny(x, 0.5, 0.9)[0, 8:12, 1:-1, 0]
    assert (out.sum(0) == 1).all()
    assert image_filters.canny(0.3 * x, 0.15, 0.9).sum() == 0  # from 0.78 down


def test_results_that_no_machine_can_hold_are_refused():
    """Also where repeated scaling leads to them: what is checked is the size of the result."""
    wide = torch.zeros(1, 1, 60000, 3)
    for method in ("bicubic", "lanczos"):
        with pytest.raises(ValueError, match="480000x8 for 1 image is too large: sides are at most 65536"):
            image_sizes.image_scale_by(wide, method, 8.0)
    latent = {"samples": torch.zeros(1, 4, 1, 60000)}
    with pytest.raises(ValueError, match="480000x8 for 1 image is too large"):
        latents.latent_upscale_by(latent, "bislerp", 8.0)
    memory = "and a result takes at most .* GiB on this machine"
    with pytest.raises(ValueError, match=memory):
        image_sizes.image_scale_by(torch.zeros(1, 8000, 8000, 1).expand(99, -1, -1, 3), "area", 8.0)
