"""Parts of a conditioning that follow from the latent's size alone: prepared before a run, and cut to a box."""

from dataclasses import dataclass

import pytest
import torch

from sigmafield.core.conditioning import Area, Cond, Control, Residuals, covering, fit, transformed
from sigmafield.core.geometry import Box
from sigmafield.core.predict import box_of, place, predict
from sigmafield.core.process import Grid
from sigmafield.core.protocols import Ctx
from sigmafield.core.views import crop
from sigmafield.parameterization.families import family

SD = family("SD15").sampling()
SPACE = (8, 12)


@dataclass(frozen=True)
class Side:
    """A side network that adds nothing."""

    factor: int = 2

    def __call__(self, x, t, cond, hint, strength):
        return Residuals()


def cond(**rest):
    return Cond(torch.rand(1, 2, 3), **rest)


CONDS = {
    "plain": cond(),
    "relative area": cond(area=Area((0.5, 0.25), (0.25, 0.5), relative=True), strength=0.7),
    "mask": cond(mask=torch.rand(2, 20, 20), mask_strength=0.5),
    "bounds": cond(mask=torch.eye(8, 12), bounds=True),
    "bounds of nothing": cond(mask=torch.zeros(8, 12), bounds=True),
    "mask in an area": cond(mask=torch.rand(5, 5), area=Area((4, 4), (2, 2))),
    "concat and controls": cond(
        concat=torch.rand(1, 5, 4, 6), controls=[Control(Side(), torch.rand(1, 3, 40, 40))], area=Area((4, 4), (2, 2))
    ),
}


def model(x, sigma, conds, ctx):
    """D depends on everything that a conditioning has, at every position."""
    out = []
    for part, c in zip(x.chunk(len(conds)), conds):
        more = 0 if c.concat is None else c.concat.mean(1, keepdim=True)
        for control in c.controls:
            more = more + control.hint[..., ::2, ::2].mean(1, keepdim=True)
        out.append(part * 0 + c.embeds.mean() + more)
    return out


@pytest.mark.parametrize("name", CONDS)
def test_a_conditioning_that_fits_predicts_the_same_and_has_no_work_left(name):
    x = torch.randn(2, 4, *SPACE)
    ctx = Ctx(Grid(torch.tensor([1.0, 0.5]), SD.process).span(0), {})
    once = fit(CONDS[name], SPACE)
    prompts = [CONDS[name], CONDS["plain"]], [once, CONDS["plain"]]
    raw, fitted = (predict(model, x, torch.tensor(1.0).double(), [prompt], ctx) for prompt in prompts)
    assert torch.equal(raw[0], fitted[0])
    again = fit(once, SPACE)
    assert again.mask is once.mask and again.concat is once.concat
    assert all(a.hint is b.hint for a, b in zip(again.controls, once.controls))
    assert (again.area, again.bounds) == (once.area, False)
    raw, fitted = (place([prompt], SPACE)[0][0] for prompt in prompts)
    assert box_of(raw, SPACE) == box_of(fitted, SPACE)


def test_boxes_of_boxes_are_boxes():
    whole = fit(CONDS["concat and controls"], SPACE)
    twice = transformed(transformed(whole, crop(Box(1, 2, 6, 8))), crop(Box(2, 1, 3, 4)))
    once = transformed(whole, crop(Box(3, 3, 3, 4)))
    assert torch.equal(twice.concat, once.concat)
    assert torch.equal(twice.controls[0].hint, once.controls[0].hint)
    assert once.concat.shape[2:] == (3, 4)
    assert once.controls[0].hint.shape[2:] == (6, 8)


@pytest.mark.parametrize("height, width", [(4, 4), (4, 8), (8, 4), (3, 7), (16, 16)])
def test_hints_keep_their_middle_and_their_proportions(height, width):
    """The same amount is cut off at both ends of an axis, and one axis is kept whole."""
    ramps = torch.meshgrid(torch.arange(30.0), torch.arange(50.0), indexing="ij")
    out = covering(torch.stack([*ramps, ramps[0]])[None], height, width)
    assert out.shape == (1, 3, height, width)
    kept = []
    for axis, n in enumerate((30, 50)):
        line = out[0, axis].movedim(axis, 0)[:, 0]
        low, high = float(line[0]), float(n - 1 - line[-1])
        step = max(float(line.diff().max()), 1)
        assert abs(low - high) <= step
        kept.append((n - low - high + step) / n)
    assert max(kept) >= 1 - 1e-6
