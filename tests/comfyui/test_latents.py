"""Nodes of latents: each rule written out again for small tensors."""

import math

import pytest
import torch
import torch.nn.functional as F

from sigmafield.comfyui.nodes import latent_batches, latent_math, latents


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def latent(*shape, seed=0, **more):
    return {"samples": noise(*shape, seed=seed), **more}


def mask_of(latent):
    return latent["noise_mask"]


def counting(*shape):
    return torch.arange(math.prod(shape), dtype=torch.float32).reshape(shape)


@pytest.mark.parametrize(
    "make, sizes, shape",
    [
        (latents.empty_latent_image, {"width": 72, "height": 40}, (2, 4, 5, 9)),
        (latents.empty_sd3_latent_image, {"width": 64, "height": 32}, (2, 16, 4, 8)),
        (latents.empty_flux2_latent_image, {"width": 64, "height": 48}, (2, 128, 3, 4)),
        (latents.empty_hunyuan_latent_video, {"width": 64, "height": 32, "length": 9}, (2, 16, 3, 4, 8)),
    ],
)
def test_empty_latents_are_zeros_of_the_familys_shape(make, sizes, shape):
    assert make(**sizes, batch_size=2)["samples"].equal(torch.zeros(shape))


@pytest.mark.parametrize(
    "width, height, size",
    [
        (0, 0, (6, 10)),
        (96, 80, (12, 10)),
        (16, 96, (8, 12)),  # at least 64 pixels
        (0, 120, (9, 15)),  # 6/10 · 120 = 72
        (120, 0, (15, 25)),  # 10/6 · 120 = 200
        (0, 16, (8, 8)),  # 6/10 · 64 = 38, at least 64
    ],
)
def test_latent_upscale_takes_pixels_and_fills_in_a_side_that_is_0(width, height, size):
    given = latent(1, 4, 10, 6, noise_mask=torch.ones(1, 1, 80, 48))
    out = latents.latent_upscale(given, "nearest-exact", width, height)
    assert (out["samples"].shape[3], out["samples"].shape[2]) == size
    assert out.get("noise_mask") is given["noise_mask"]


def test_latent_upscale_crops_to_the_new_ratio_and_interpolates_frames_one_by_one():
    x = noise(1, 4, 8, 12)
    # 12/8 > 1: round((12 − 8)/2) = 2 columns are cut on both sides
    out = latents.latent_upscale({"samples": x}, "bilinear", 128, 128, "center")["samples"]
    assert out.equal(F.interpolate(x[..., 2:10], (16, 16), mode="bilinear"))
    video = noise(1, 4, 3, 8, 8)
    out = latents.latent_upscale({"samples": video}, "area", 128, 64)["samples"]
    assert out[:, :, 1].equal(F.interpolate(video[:, :, 1], (8, 16), mode="area"))


def test_bislerp_of_two_positions_is_the_spherical_mean():
    x = torch.zeros(1, 2, 1, 2)
    x[0, :, 0, 0], x[0, :, 0, 1] = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 4.0])
    out = latents.latent_upscale_by({"samples": x}, "bislerp", 2.0)["samples"][0, :, 0]
    # positions −¼ (→ 0), ¼, ¾, 1¼ (→ 1): the angle is 90°, lengths (1 − r) 2 + r 4
    length = torch.tensor([2.0, 2.5, 3.5, 4.0])
    angle = torch.tensor([0.0, 0.25, 0.75, 1.0]) * math.pi / 2
    assert torch.allclose(out, length * torch.stack([angle.cos(), angle.sin()]), atol=1e-5)


def test_turning_is_clockwise_and_flips_exchange_rows_or_columns():
    x = counting(1, 1, 2, 3)  # 0 1 2 / 3 4 5
    turned = latents.latent_rotate({"samples": x}, "90 degrees")["samples"][0, 0]
    assert turned.tolist() == [[3, 0], [4, 1], [5, 2]]
    assert latents.latent_rotate({"samples": x}, "180 degrees")["samples"][0, 0].tolist() == [[5, 4, 3], [2, 1, 0]]
    assert latents.latent_rotate({"samples": x}, "270 degrees")["samples"][0, 0].tolist() == [[2, 5], [1, 4], [0, 3]]
    assert latents.latent_rotate({"samples": x}, "none")["samples"].equal(x)
    assert latents.latent_flip({"samples": x}, "x-axis: vertically")["samples"][0, 0].tolist() == [[3, 4, 5], [0, 1, 2]]
    flipped = latents.latent_flip({"samples": x}, "y-axis: horizontally")["samples"]
    assert flipped[0, 0].tolist() == [[2, 1, 0], [5, 4, 3]]


def test_latent_crop_counts_in_8_pixels_and_begins_8_positions_before_the_end():
    x = counting(1, 1, 16, 16)
    out = latents.latent_crop({"samples": x}, 64, 72, 24, 47)["samples"]
    assert out.equal(x[..., 5:14, 3:11])
    assert latents.latent_crop({"samples": x}, 128, 64, 800, 0)["samples"].equal(x[..., :8, 8:])


def test_latent_composite_pastes_and_feathers_the_edges_inside():
    to, part = torch.zeros(2, 1, 6, 6), torch.ones(1, 1, 4, 9)
    out = latents.latent_composite({"samples": to}, {"samples": part}, 16, 8, 0)["samples"]
    plain = torch.zeros(6, 6)
    plain[1:5, 2:] = 1
    assert out.equal(plain.expand(2, 1, 6, 6))
    out = latents.latent_composite({"samples": to}, {"samples": part}, 16, 8, 16)["samples"][0, 0]
    # left, top and bottom are inside, the right end is cut off; f = 2 gives ½, 1 from each edge
    rows, columns = torch.tensor([0.5, 1, 1, 0.5]), torch.tensor([0.5, 1, 1, 1])
    assert out[1:5, 2:].equal(rows[:, None] * columns)


def test_latent_composite_masked_blends_by_the_mask_at_the_sources_size():
    to, part = noise(2, 4, 6, 6), noise(1, 4, 4, 4, seed=1)
    mask = torch.rand(8, 8)
    m = F.interpolate(mask[None, None], (4, 4), mode="bilinear")
    out = latents.latent_composite_masked({"samples": to}, {"samples": part}, 32, 24, False, mask)["samples"]
    expected = to.clone()
    expected[:, :, 3:, 4:] = m[..., :3, :2] * part[..., :3, :2] + (1 - m[..., :3, :2]) * to[:, :, 3:, 4:]
    assert torch.allclose(out, expected, atol=1e-6)
    whole = latents.latent_composite_masked({"samples": to}, {"samples": part}, 0, 0, True)["samples"]
    assert whole.equal(F.interpolate(part, (6, 6), mode="bilinear").expand(2, 4, 6, 6))
    away = latents.latent_composite_masked({"samples": to}, {"samples": part}, 16384, 0)["samples"]
    assert away.equal(to)


def test_noise_masks_are_one_channel():
    out = latents.set_latent_noise_mask({"samples": noise(1, 4, 2, 2)}, torch.ones(3, 16, 8))
    assert mask_of(out).shape == (3, 1, 16, 8)
    assert mask_of(latents.set_latent_noise_mask(out, torch.ones(16, 8))).shape == (1, 1, 16, 8)


def test_sums_fit_size_and_batch_of_the_second_to_the_first():
    a, b = noise(3, 4, 4, 4), noise(2, 4, 8, 12, seed=1)
    # 12/8 > 1: round((12 − 8)/2) = 2 columns on both sides; a batch of 2 is tiled to 3
    fit = F.interpolate(b[..., 2:10], (4, 4), mode="bilinear")[[0, 1, 0]]
    first, second = {"samples": a, "batch_index": [7, 8, 9]}, {"samples": b}
    added = latent_math.latent_add(first, second)
    assert added["samples"].equal(a + fit) and added.get("batch_index") == [7, 8, 9]
    assert latent_math.latent_subtract(first, second)["samples"].equal(a - fit)
    assert latent_math.latent_multiply(first, -1.5)["samples"].equal(a * -1.5)
    fit = F.interpolate(b[..., 2:10], (4, 4), mode="bicubic")[[0, 1, 0]]
    assert torch.allclose(latent_math.latent_blend(first, second, 0.3)["samples"], 0.3 * a + 0.7 * fit, atol=1e-6)


def test_interpolation_turns_and_stretches_each_vector():
    a = torch.tensor([3.0, 0.0, 0.0, 1.0]).reshape(2, 2, 1, 1)  # vectors (3, 0) and (0, 1)
    b = torch.tensor([0.0, 1.0, 0.0, 0.0]).reshape(2, 2, 1, 1)  # vectors (0, 1) and (0, 0)
    out = latent_math.latent_interpolate({"samples": a}, {"samples": b}, 0.5)["samples"].reshape(2, 2)
    assert torch.allclose(out[0], torch.tensor([1.0, 1.0]) / math.sqrt(2) * 2)
    assert torch.allclose(out[1], torch.tensor([0.0, 0.5]))  # no direction of b: that of a, lengths ½ · 1 + ½ · 0


def test_tone_mapping_and_sharpening_of_latents():
    x = noise(2, 4, 5, 6)
    n = (x**2).sum(1, keepdim=True).sqrt() + 1e-10
    for k in range(2):
        top = 0.7 * (n[k].mean() + 5 * n[k].std())
        out = latent_math.latent_apply_operation({"samples": x}, latent_math.latent_operation_tonemap_reinhard(0.7))[
            "samples"
        ]
        assert torch.allclose(out[k], x[k] / n[k] * n[k] / (1 + n[k] / top), atol=1e-5)
    sharpen = latent_math.latent_operation_sharpen(2, 0.8, 0.3)
    out = latent_math.latent_apply_operation({"samples": x}, sharpen)["samples"]
    line = torch.linspace(-1, 1, 5)
    g = torch.exp(-(line[:, None] ** 2 + line**2) / (2 * 0.8**2))
    kernel = -10 * 0.3 * g / g.sum()
    kernel[2, 2] += 1 - kernel.sum()
    n = (x**2).sum(1, keepdim=True).sqrt() + 1e-6
    padded = F.pad(x / n, (2, 2, 2, 2), mode="reflect")
    assert torch.allclose(out, n * F.conv2d(padded, kernel.expand(4, 1, 5, 5), groups=4), atol=1e-5)


def test_batches_are_taken_repeated_and_joined_with_their_noise():
    x = latent(4, 4, 2, 2, noise_mask=torch.arange(2.0).reshape(2, 1, 1, 1).expand(2, 1, 8, 8))
    out = latent_batches.latent_from_batch(x, 1, 2)
    assert out["samples"].equal(x["samples"][1:3]) and out.get("batch_index") == [1, 2]
    assert mask_of(out)[:, 0, 0, 0].tolist() == [1, 0]  # 0 1 0 1, cut
    last = latent_batches.latent_from_batch({**x, "batch_index": [5, 6, 7, 9]}, 60, 8)
    assert last["samples"].equal(x["samples"][3:]) and last.get("batch_index") == [9]
    twice = latent_batches.repeat_latent_batch({**x, "batch_index": [3, 4, 5, 7]}, 3)
    assert twice["samples"].equal(x["samples"].repeat(3, 1, 1, 1))
    assert twice.get("batch_index") == [3, 4, 5, 7, 8, 9, 10, 12, 13, 14, 15, 17]  # + k (7 − 3 + 1)
    assert mask_of(twice)[:, 0, 0, 0].tolist() == [0, 1] * 3
    assert "batch_index" not in latent_batches.repeat_latent_batch(latent(1, 4, 2, 2), 2)
    other = latent(2, 4, 4, 4, seed=1)
    both = latent_batches.latent_batch(x, other)
    small = F.interpolate(other["samples"], (2, 2), mode="bilinear")
    assert both["samples"].equal(torch.cat([x["samples"], small])) and both.get("batch_index") == [0, 1, 2, 3, 0, 1]
    grown = latent_batches.batch_latents({"latent0": x, "latent1": {**other, "batch_index": [8, 9]}})
    assert grown["samples"].equal(both["samples"]) and grown.get("batch_index") == [0, 1, 2, 3, 8, 9]
    with pytest.raises(ValueError, match="at least one"):
        latent_batches.batch_latents({})


def test_seeds_of_a_batch():
    x = latent(3, 4, 2, 2, batch_index=[4, 5, 6])
    assert latent_batches.latent_batch_seed_behavior(x).get("batch_index") == [4, 4, 4]
    assert "batch_index" not in latent_batches.latent_batch_seed_behavior(x, "random") and "batch_index" in x
    assert latent_batches.latent_batch_seed_behavior(latent(2, 4, 2, 2)).get("batch_index") == [0, 0]


def test_rebatching_joins_neighbours_of_one_size_only():
    parts = [latent(3, 4, 8, 8), latent(2, 4, 8, 8, seed=1), latent(3, 4, 8, 16, seed=2)]
    out = latent_batches.rebatch_latents(parts, [2])
    assert [len(each["samples"]) for each in out] == [2, 2, 1, 2, 1]
    assert [k for each in out for k in each.get("batch_index", [])] == list(range(8))
    assert out[1]["samples"].equal(torch.stack([parts[0]["samples"][2], parts[1]["samples"][0]]))
    assert not any("noise_mask" in each for each in out)  # all of them would be 1


def test_rebatching_resizes_masks_that_differ():
    parts = [
        latent(1, 4, 2, 2, noise_mask=torch.zeros(1, 1, 16, 16)),
        latent(2, 4, 2, 2, noise_mask=torch.eye(2)[None, None]),
    ]
    [first, second] = latent_batches.rebatch_latents(parts, [2])
    eye = F.interpolate(torch.eye(2)[None, None], (16, 16), mode="bilinear")
    assert mask_of(first).equal(torch.cat([torch.zeros(1, 1, 16, 16), eye]))
    assert mask_of(second).equal(torch.eye(2)[None, None])


@pytest.mark.parametrize("dim, axis", [("x", -1), ("y", -2), ("t", -3)])
def test_latents_are_joined_and_cut_along_their_axes(dim, axis):
    a, b = noise(2, 4, 3, 4, 5), noise(1, 4, 3, 4, 5, seed=1)
    first, second = {"samples": a}, {"samples": b}
    both = b.expand(2, -1, -1, -1, -1)
    assert latent_batches.latent_concat(first, second, dim)["samples"].equal(torch.cat([a, both], axis))
    assert latent_batches.latent_concat(first, second, f"-{dim}")["samples"].equal(torch.cat([both, a], axis))
    n = a.shape[axis]
    for index, amount, start, length in [
        (1, 1, 1, 1),
        (0, 99, 0, n),
        (99, 3, n - 1, 1),
        (-2, 9, n - 2, 2),
        (-99, 2, 0, 2),
    ]:
        out = latent_batches.latent_cut(first, dim, index, amount)["samples"]
        assert out.equal(a.narrow(axis, start, length))


def test_slices_become_the_batch():
    x = counting(2, 1, 1, 5)
    out = latent_batches.latent_cut_to_batch({"samples": x}, "x", 2)["samples"]
    assert out.flatten(1).tolist() == [[0, 1], [2, 3], [5, 6], [7, 8]]
    assert latent_batches.latent_cut_to_batch({"samples": x}, "x", 9)["samples"].equal(x)
    assert latent_batches.latent_cut_to_batch({"samples": x}, "t", 1)["samples"].equal(x)
    video = noise(1, 4, 6, 2, 2)
    out = latent_batches.latent_cut_to_batch({"samples": video}, "t", 3)["samples"]
    assert out.equal(torch.cat([video[:, :, :3], video[:, :, 3:]]))


def test_frames_are_replaced_and_trimmed():
    video, new = noise(1, 4, 6, 2, 2), noise(1, 4, 2, 2, 2, seed=1)
    out = latent_batches.replace_video_latent_frames({"samples": video}, -3, {"samples": new})["samples"]
    assert out.equal(torch.cat([video[:, :, :3], new, video[:, :, 5:]], 2))
    assert latent_batches.replace_video_latent_frames({"samples": video})["samples"] is video
    with pytest.raises(ValueError, match="needs 2 frames from index 5"):
        latent_batches.replace_video_latent_frames({"samples": video}, 5, {"samples": new})
    assert latent_batches.trim_video_latent({"samples": video}, 2)["samples"].equal(video[:, :, 2:])
