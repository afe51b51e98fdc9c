"""Nodes of conditionings do what their formulas say, on copies."""

import pytest
import torch

from sigmafield.comfyui.nodes import conditioning as nodes
from sigmafield.comfyui.nodes import conditioning_properties as properties
from sigmafield.comfyui.nodes.prompts import flux_guidance

GENERATOR = torch.Generator().manual_seed(0)


def entry(tokens=2, **extra):
    return [(torch.randn(1, tokens, 3, generator=GENERATOR), {"kept": 1, **extra})]


def test_average_cuts_or_pads_the_other_and_mixes_pooled_outputs():
    pooled, theirs = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 6.0]])
    to, short, long = entry(3, pooled_output=pooled), entry(1, pooled_output=theirs), entry(5)
    out, extra = nodes.conditioning_average(to, short, 0.25)[0]
    padded = torch.cat([short[0][0], torch.zeros(1, 2, 3)], dim=1)
    torch.testing.assert_close(out, 0.25 * to[0][0] + 0.75 * padded)
    torch.testing.assert_close(extra["pooled_output"], torch.tensor([[2.5, 5.0]]))
    out, extra = nodes.conditioning_average(to, long, 0.25)[0]
    torch.testing.assert_close(out, 0.25 * to[0][0] + 0.75 * long[0][0][:, :3])
    assert extra["pooled_output"] is pooled
    assert nodes.conditioning_average(entry(), short, 0.25)[0][1]["pooled_output"].equal(theirs)


def test_concat_takes_the_first_entry_of_the_second_list():
    to, other = entry(2) + entry(3), entry(1) + entry(4)
    out = nodes.conditioning_concat(to, other)
    assert [each.shape[1] for each, _ in out] == [3, 4]
    assert out[1][0][:, 3:].equal(other[0][0]) and out[0][1] == {"kept": 1}


@pytest.mark.parametrize(
    "make, expected",
    [
        (lambda c: nodes.conditioning_set_area(c, 128, 64, 24, 9, 0.5),
         {"area": (8, 16, 1, 3), "strength": 0.5, "set_area_to_bounds": False}),
        (lambda c: nodes.conditioning_set_area_percentage(c, 0.5, 0.25, 0.1, 0.2, 0.5),
         {"area": ("percentage", 0.25, 0.5, 0.2, 0.1), "strength": 0.5, "set_area_to_bounds": False}),
        (lambda c: nodes.conditioning_set_area_percentage_video(c, 0.5, 0.25, 0.75, 0.1, 0.2, 0.3),
         {"area": ("percentage", 0.75, 0.25, 0.5, 0.3, 0.2, 0.1), "strength": 1.0, "set_area_to_bounds": False}),
        (lambda c: nodes.conditioning_set_area_strength(c, 2.0), {"strength": 2.0}),
        (lambda c: nodes.conditioning_set_timestep_range(c, 0.2, 0.7), {"start_percent": 0.2, "end_percent": 0.7}),
        (lambda c: flux_guidance(c, 4.0), {"guidance": 4.0}),
        (lambda c: properties.conditioning_set_properties(c, set_cond_area="default", timesteps=(0.1, 0.3)),
         {"start_percent": 0.1, "end_percent": 0.3}),
        (lambda c: properties.conditioning_set_default_combine([], c), {"default": True}),
    ],
)  # fmt: skip
def test_keys_are_set_in_every_entry_of_a_copy(make, expected):
    before = entry() + entry()
    made = make(before)
    assert [extra for _, extra in made] == [{"kept": 1, **expected}] * 2
    assert [extra for _, extra in before] == [{"kept": 1}] * 2


def test_mask_and_bounds():
    out = nodes.conditioning_set_mask(entry(), torch.ones(4, 6), 0.5, set_cond_area="mask bounds")[0][1]
    assert out["mask"].shape == (1, 4, 6) and out["mask_strength"] == 0.5 and out["set_area_to_bounds"] is True
    out = nodes.conditioning_set_mask(entry(), torch.ones(2, 4, 6), set_cond_area="default")[0][1]
    assert out["mask"].shape == (2, 4, 6) and out["set_area_to_bounds"] is False


def test_zero_out_and_combine():
    pooled = torch.ones(1, 2)
    (embeds, extra), *_ = nodes.conditioning_zero_out(entry(pooled_output=pooled))
    assert not embeds.any() and not extra["pooled_output"].any() and pooled.all() and extra["kept"] == 1
    a, b = entry(), entry()
    assert nodes.conditioning_combine(a, b) == [*a, *b]
    assert properties.conditioning_timesteps_range(0.2, 0.6) == ((0.2, 0.6), (0.0, 0.2), (0.6, 1.0))
    with pytest.raises(ValueError, match="hooks must not be given"):
        properties.conditioning_set_properties(a, set_cond_area="default", hooks=object())
