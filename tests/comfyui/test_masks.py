"""Nodes of masks: each rule written out again for small tensors."""

import pytest
import torch
import torch.nn.functional as F

from sigmafield.comfyui.nodes import masks


def mask(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def test_masks_and_images():
    m = mask(2, 3, 4)
    assert masks.mask_to_image(m).equal(torch.stack([m, m, m], -1))
    x = mask(2, 3, 4, 4)
    for k, channel in enumerate(("red", "green", "blue", "alpha")):
        assert masks.image_to_mask(x, channel).equal(x[..., k])
    with pytest.raises(ValueError, match="that have alpha; got 3 channels"):
        masks.image_to_mask(x[..., :3], "alpha")
    x[0, 0, 0, :3], x[0, 0, 1, :3] = torch.tensor([1.2, 0.5, 0]), torch.tensor([1, 0.503, 0])
    # round(255 · 0.5) = round(127.5) = 128, to even; 0.503 · 255 = 128.3
    found = masks.image_color_to_mask(x, 255 * 65536 + 128 * 256)
    assert found.nonzero().tolist() == [[0, 0, 0], [0, 0, 1]]


def test_simple_masks():
    m = mask(2, 4, 5)
    assert masks.solid_mask(0.25, 3, 2).equal(torch.full((1, 2, 3), 0.25))
    assert masks.invert_mask(m).equal(1 - m)
    assert masks.crop_mask(m, 1, 2, 99, 1).equal(m[:, 2:3, 1:])
    assert masks.crop_mask(m[0], 0, 0, 2, 2).equal(m[:1, :2, :2])
    assert masks.threshold_mask(torch.tensor([[0.2, 0.5, 0.7]]), 0.5).equal(torch.tensor([[0.0, 0, 1]]))
    other = mask(1, 8, 10, seed=1)
    out = masks.batch_masks({"mask0": m, "mask1": other})
    assert out.equal(torch.cat([m, F.interpolate(other[:, None], (4, 5), mode="bilinear")[:, 0]]))


OPERATIONS = {
    "multiply": lambda a, b: a * b,
    "add": lambda a, b: min(a + b, 1),
    "subtract": lambda a, b: max(a - b, 0),
    "and": lambda a, b: round(a) and round(b),
    "or": lambda a, b: round(a) or round(b),
    "xor": lambda a, b: round(a) ^ round(b),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_masks_are_combined_where_both_are(operation):
    a, b = mask(2, 4, 4), mask(1, 3, 3, seed=1)
    out = masks.mask_composite(a, b, 2, 3, operation=operation)
    for n in range(2):
        for i in range(4):
            for j in range(4):
                inside = i >= 3 and j >= 2
                value = float(a[n, i, j])
                expected = OPERATIONS[operation](value, float(b[0, i - 3, j - 2])) if inside else value
                assert float(out[n, i, j]) == pytest.approx(expected, abs=1e-6)
    assert masks.mask_composite(a, b, 4, 9, operation=operation).equal(a)


def test_feathering_rises_from_the_edges_themselves():
    out = masks.feather_mask(torch.ones(1, 3, 6), left=2, right=3)
    assert torch.allclose(out, torch.tensor([1 / 2, 1, 1, 1, 2 / 3, 1 / 3]).expand(1, 3, 6))
    out = masks.feather_mask(torch.ones(4, 4), top=4, bottom=2)
    assert torch.allclose(out[0, :, 0], torch.tensor([1 / 4, 2 / 4, 3 / 4 * 1, 1 * 1 / 2]))


@pytest.mark.parametrize("expand", [-2, -1, 0, 1, 2])
@pytest.mark.parametrize("tapered", [False, True])
def test_growing_takes_the_largest_or_smallest_of_the_neighbours(expand, tapered):
    m = mask(1, 5, 6)
    expected = m
    sign = 1 if expand > 0 else -1
    for _ in range(abs(expand)):
        padded = F.pad(expected[None], (1, 1, 1, 1), mode="replicate")[0]  # as mirrored with the border, for 1 position
        steps = [(i, j) for i in (0, 1, 2) for j in (0, 1, 2) if not tapered or 1 in (i, j)]
        around = torch.stack([padded[:, i : i + 5, j : j + 6] for i, j in steps])
        expected = sign * (sign * around).amax(0)
    assert masks.grow_mask(m, expand, tapered).equal(expected)
