"""What in a conditioning follows from the latent's size alone, how it follows views, and what plain prompts cost."""

import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sigmafield.core.conditioning import Area, Cond, Control, Residuals
from sigmafield.core.fitting import covering, fit, transformed
from sigmafield.core.geometry import Box
from sigmafield.core.grid import Grid
from sigmafield.core.placement import box_of, place
from sigmafield.core.predict import predict
from sigmafield.core.protocols import Ctx
from sigmafield.core.views import crop, positions, roll, samples, stride
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


@pytest.mark.parametrize(
    "size, space, rows, columns",
    [
        ((100, 140), (16, 24), range(3, 97), range(140)),  # 100 − 100 · 1.4/1.5 = 6.67: 3 rows at each end
        ((140, 100), (24, 16), range(140), range(3, 97)),
        ((100, 139), (16, 24), range(4, 96), range(139)),  # 7.33: 4 rows at each end
        ((96, 150), (16, 16), range(96), range(27, 123)),
    ],
)
def test_a_hint_loses_as_many_rows_or_columns_at_both_ends(size, space, rows, columns):
    """round((n − n · ratio)/2) of them, then the nearest pixel of the middle of each of the latent's pixels."""
    hint = torch.stack(torch.meshgrid(*(torch.arange(float(n)) for n in size), indexing="ij"))
    hint = torch.cat([hint, hint[:1]])[None]
    (shown,) = fit(cond(controls=[Control(Side(), hint)]), space).controls
    for axis, kept in enumerate((rows, columns)):
        n = 2 * space[axis]
        want = [kept[math.floor((i + 0.5) * len(kept) / n)] for i in range(n)]
        assert shown.hint[0, axis].movedim(axis, 0)[:, 0].tolist() == want


def test_an_area_is_shown_the_whole_hint_or_the_part_that_lies_there():
    """By default all of the image at the area's size; along: the part of the image made to fit the whole latent."""
    hint, area = torch.rand(1, 3, 40, 60), Area((4, 4), (2, 6))
    for crop_, want in {
        "fit": covering(hint, 8, 8),
        "along": covering(hint, 2 * SPACE[0], 2 * SPACE[1])[..., 4:12, 12:20],
    }.items():
        given = cond(controls=[Control(Side(), hint, crop=crop_)], area=area)
        seen = []

        def network(x, sigma, conds, ctx, seen=seen):
            seen.append(conds[0].controls[0].hint)
            return [x]

        ctx = Ctx(Grid(torch.tensor([1.0, 0.5]), SD.process).span(0), {})
        for one in (given, fit(given, SPACE), fit(fit(given, SPACE), SPACE)):
            predict(network, torch.zeros(1, 4, *SPACE), torch.tensor(1.0).double(), [[one]], ctx)
            assert torch.equal(seen[-1], want)


VIEWS = {
    "crop": crop(Box(1, 2, 5, 4)),
    "crop beyond": crop(Box(-2, 9, 5, 6)),
    "roll": roll(3, -2),
    "rows": positions((5, 1, 2), -2),
    "columns": positions((0, 7, 11), -1),
}


@pytest.mark.parametrize("name", VIEWS)
def test_concat_mask_and_hints_follow_the_latent(name):
    """All of a view's tensors show the same part of the image: hints are in their own resolution."""
    view, latent = VIEWS[name], torch.rand(1, 5, *SPACE)
    hint = latent[:, :3].repeat_interleave(2, -2).repeat_interleave(2, -1)
    given = cond(concat=latent, mask=latent[0, :1], controls=(Control(Side(), hint),))
    shown = transformed(given, view)
    assert torch.equal(shown.concat, view.latent(latent))
    assert torch.equal(shown.mask, view.latent(latent)[0, :1])
    inside = ... if name != "crop beyond" else (..., slice(2, None), slice(0, 3))
    assert torch.equal(shown.controls[0].hint[..., ::2, ::2][inside], view.latent(latent)[:, :3][inside])
    assert transformed(CONDS["plain"], view) is CONDS["plain"]


def test_a_strided_view_shows_the_whole_hint():
    hint = torch.rand(1, 3, 16, 24)
    given = cond(concat=torch.rand(1, 2, *SPACE), controls=(Control(Side(), hint),))
    shown = transformed(given, stride(2, 1, 0, (0, 0)))
    assert torch.equal(shown.concat, given.concat[..., 1::2, 0::2])
    assert torch.equal(shown.controls[0].hint, torch.nn.functional.avg_pool2d(hint, 2))


def test_rows_of_samples():
    given = cond(extra={"ids": torch.arange(3.0)[:, None]}, concat=torch.rand(3, 1, *SPACE))
    shown = transformed(given, samples((2, 0)))
    assert shown.extra["ids"].flatten().tolist() == [2, 0] and torch.equal(shown.concat, given.concat[[2, 0]])
    assert shown.embeds is given.embeds, "one row for all samples"


class LargeOps(TorchDispatchMode):
    """Names of the operations that make a tensor of a latent's size or more, views left out."""

    def __init__(self, least):
        super().__init__()
        self.least, self.seen = least, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.numel() >= self.least and not func.is_view:
            self.seen.append(func.name())
        return out


def answering(x, sigma, conds, ctx):
    return [part + c.embeds.mean() for part, c in zip(x.chunk(len(conds)), conds)]


@pytest.mark.parametrize("window", [(None, None), (0.0, 0.5)])
def test_prompts_that_act_everywhere_cost_a_network_call_alone(window):
    """The rows are joined, and nothing else is made of a latent's size; a mask of ones gives the same, bit for bit."""
    x, sigma = torch.randn(2, 4, *SPACE), torch.tensor(5.0, dtype=torch.float64)
    ctx = Ctx(Grid(torch.tensor([5.0, 0.5]), SD.process, clock=SD.clock).span(0), {})
    prompts = [[cond(window=window)], [cond()]]
    with LargeOps(x.numel()) as ops:
        model = predict(lambda x, *rest: list(x.chunk(2)), x, sigma, prompts, ctx)
    assert ops.seen == ["aten::cat"] and all(torch.equal(D, x) for D in model)
    masked = [[replace(c, mask=torch.ones(SPACE)) for c in prompt] for prompt in prompts]
    plain, general = (predict(answering, x, sigma, each, ctx) for each in (prompts, masked))
    assert all(torch.equal(a, b) for a, b in zip(plain, general))


def test_what_is_not_wanted_is_not_asked():
    x, sigma = torch.randn(2, 4, *SPACE), torch.tensor(5.0, dtype=torch.float64)
    span = Grid(torch.tensor([5.0, 0.5]), SD.process).span(0)
    nowhere = Ctx(span, {}, want=torch.zeros(1, 1, *SPACE, dtype=torch.bool))
    (D,) = predict(lambda *_: pytest.fail("asked"), x, sigma, [[cond()]], nowhere)
    assert not D.any()
