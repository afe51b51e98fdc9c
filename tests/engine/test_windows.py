"""Context windows: lists of windows against their definitions, fusion as a partition of unity, cut conditionings."""

import math
from dataclasses import replace
from itertools import pairwise, product

import pytest
import torch
from laws import run_of

from sigmafield.core.conditioning import Cond, Control, Residuals
from sigmafield.core.grid import Grid
from sigmafield.core.process import VE, Flow, Span
from sigmafield.core.protocols import Ctx
from sigmafield.guidance.guider import Guider
from sigmafield.recipes.mods import parse_mods
from sigmafield.runs.run import finish, iterate
from sigmafield.schedules import karras
from sigmafield.spatial import context_windows
from sigmafield.spatial.context_windows import context, free_noise, shares, weights, windows_of

SCHEDULES = ["standard_static", "standard_uniform", "looped_uniform", "batched"]
FUSES = ["pyramid", "relative", "flat", "overlap_linear"]
SIZES = [(17, 16, 4), (20, 16, 0), (21, 8, 3), (11, 5, 2), (33, 12, 11), (64, 16, 4), (9, 1, 0), (4, 3, 2)]
SIGMA = torch.tensor(2.0, dtype=torch.float64)


def ctx(sigma=SIGMA, **rest):
    return Ctx(Span(sigma, sigma / 2, Flow()), {}, **rest)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("size, length, overlap", SIZES)
def test_every_place_is_shown_and_none_twice_at_once(schedule, size, length, overlap):
    for stride in (1, 2, 4):
        for step, loop in product(range(9), (False, True)):
            chosen = windows_of(schedule, size, length, overlap, stride, loop, step)
            assert set().union(*chosen) == set(range(size))
            assert schedule == "looped_uniform" or len(set(chosen)) == len(chosen)
            for window in chosen:
                assert len(window) <= length and set(window) <= set(range(size))
                assert len(set(window)) == len(window) or (schedule == "looped_uniform" and stride > 1)
                assert schedule == "batched" or len(window) == length
                distances = {(b - a) % size for a, b in pairwise(window)}
                assert len(distances) < 2 and distances <= {1, 2, 4, 8}, "a window goes in steps of one power of 2"
                assert schedule == "looped_uniform" or list(window) == sorted(window), "only a loop wraps"


@pytest.mark.parametrize("size, length, overlap", SIZES)
def test_closed_forms(size, length, overlap):
    static = windows_of("standard_static", size, length, overlap, 1, False, 0)
    step = length - overlap
    assert len(static) == math.ceil((size - length) / step) + 1
    assert [w[0] for w in static] == [min(k * step, size - length) for k in range(len(static))]
    blocks = windows_of("batched", size, length, overlap, 1, False, 0)
    assert [place for window in blocks for place in window] == list(range(size))
    assert len(blocks) == math.ceil(size / length)
    assert windows_of("looped_uniform", length, length, overlap, 1, False, 3) == (tuple(range(length)),)


def test_the_loop_by_its_definition():
    """Kinds of windows, their starts and their positions, one by one; every step has its own start."""
    assert [context_windows.reversed_bits(k) for k in range(5)] == [0, 0.5, 0.25, 0.75, 0.125]
    for size, length, overlap, stride, step in [(20, 16, 4, 1, 1), (33, 8, 3, 3, 2), (64, 16, 4, 2, 5)]:
        for closed in (False, True):
            want, share = [], {1: 0.5, 2: 0.25, 5: 0.625}[step]
            for p in range(min(stride, math.ceil(math.log2(size / length)) + 1)):
                d, j = 2**p, math.floor(share * 2**p) + round(size * share)
                while j < size + round(size * share) - (0 if closed else overlap):
                    want.append([(j + i * d) % size for i in range(length)])
                    j += length * d - overlap
            assert [
                list(w) for w in context_windows.looped_uniform(size, length, overlap, stride, closed, step)
            ] == want


def test_edges_of_the_loop_without_its_ring():
    """A window that would wrap ends at the end, and one from 0 follows; a stride that does not fit is left out."""
    assert context_windows.looped_uniform(10, 4, 1, 1, False, 1)[1:] == ((8, 9, 0, 1), (1, 2, 3, 4))
    assert context_windows.standard_uniform(10, 4, 1, 1, 1) == ((5, 6, 7, 8), (6, 7, 8, 9), (0, 1, 2, 3), (1, 2, 3, 4))
    assert context_windows.standard_uniform(20, 16, 4, 2, 0) == context_windows.standard_uniform(20, 16, 4, 1, 0)
    two = context_windows.standard_uniform(64, 16, 4, 2, 0)
    assert any(w[1] - w[0] == 2 for w in two) and set(context_windows.standard_uniform(64, 16, 4, 1, 0)) < set(two)


def test_the_step_of_a_level():
    """The first level that equals it; off the schedule, the step that contains it; for fields, the run's step."""
    sigmas = torch.tensor([8.0, 4.0, 2.0, 1.0, 0.0], dtype=torch.float64)
    span = Span(sigmas[0], sigmas[1], Flow(), 0, 4, sigmas)
    for level, step in {8.0: 0, 4.0003: 1, 3.9: 1, 2.5: 1, 2.0: 2, 0.5: 3, 9.0: 0}.items():
        assert context_windows.step_of(torch.tensor(level, dtype=torch.float64), span) == step
    assert context_windows.step_of(torch.full((1, 1, 2, 2), 3.0, dtype=torch.float64), replace(span, i=2)) == 2


def test_weights_by_hand():
    assert weights("pyramid", (3, 4, 5, 6, 7), 20, 2).tolist() == [1, 2, 3, 2, 1]
    assert weights("pyramid", (0, 1, 2, 3), 20, 2).tolist() == [1, 2, 2, 1]
    assert weights("flat", (0, 1, 2), 20, 2).tolist() == [1, 1, 1]
    ends = {(0, 1, 2, 3): [1, 1, 1, 1e-37], (8, 9, 10, 11): [1e-37, 1, 1, 1e-37], (16, 17, 18, 19): [1e-37, 1, 1, 1]}
    for window, w in ends.items():
        assert weights("overlap_linear", window, 20, 2).tolist() == w
    assert weights("overlap_linear", (8, 9, 10), 20, 0).tolist() == [1, 1, 1], "without overlap it is flat"
    middle = weights("relative", (4, 5, 6, 7, 8), 20, 2)
    torch.testing.assert_close(middle, torch.tensor([0.01, 0.5, 1, 0.5, 0.01]).double(), rtol=0, atol=6e-3)


def test_a_ring_of_wide_strides_comes_to_positions_again():
    """Windows of every d are run; of a position that is shown twice the last one counts, with relative both."""
    chosen = windows_of("looped_uniform", 11, 5, 2, 4, True, 0)
    assert {(b - a) % 11 for w in chosen for a, b in pairwise(w)} == {1, 2, 4}
    twice = windows_of("looped_uniform", 8, 6, 2, 2, True, 0)
    assert (0, 2, 4, 6, 0, 2) in twice
    assert weights("pyramid", (0, 2, 4, 6, 0, 2), 8, 2).tolist() == [0, 0, 3, 3, 2, 1]
    assert weights("flat", (0, 2, 4, 6, 0, 2), 8, 2).tolist() == [0, 0, 1, 1, 1, 1]
    assert (weights("relative", (0, 2, 4, 6, 0, 2), 8, 2) > 0).all()


@pytest.mark.parametrize("fuse", FUSES)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_shares_sum_to_1(fuse, schedule):
    for size, length, overlap in SIZES:
        all_windows = windows_of(schedule, size, length, overlap, 2, False, 3)
        total = torch.zeros(size, dtype=torch.float64)
        for window, share in zip(all_windows, shares(fuse, all_windows, size, overlap)):
            assert (share >= 0).all()
            total.index_add_(0, torch.tensor(window), share)
        torch.testing.assert_close(total, torch.ones_like(total))


class Seen:
    """A model that records its inputs; its output at a position depends on that position alone, or on all."""

    def __init__(self, apart=True):
        self.apart, self.calls = apart, []

    def __call__(self, x, sigma, conds, ctx):
        self.calls.append((x, sigma, conds, ctx))
        out = []
        for part, c in zip(x.chunk(len(conds)), conds):
            told = 0 if c.concat is None else c.concat
            D = part.tanh() * c.embeds.mean((1, 2)).reshape(-1, *[1] * (x.ndim - 1)) + told + sigma.to(x)
            out.append(D if self.apart else D + part.mean())
        return out


def noise(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "fuse, schedule, dim",
    [
        pytest.param(fuse, schedule, dim, marks=() if fuse == FUSES[0] or dim == 2 else pytest.mark.slow)
        for fuse in FUSES
        for schedule in SCHEDULES
        for dim in (0, 2, 3, 4)
    ],
)
def test_a_network_that_sees_places_apart_sees_no_windows(fuse, schedule, dim):
    """Along any axis, with fields, concat and separate rows, for each of several conditionings."""
    shape = [2, 3, 5, 6, 7]
    shape[dim] = 23
    x = noise(*shape)
    field = 1 + noise(shape[0], 1, *shape[2:]).abs().double()
    conds = [Cond(noise(rows, 2, 4), concat=noise(rows, *shape[1:])) for rows in (shape[0], 1)]
    for sigma in (SIGMA, field):
        whole = Seen()(torch.cat([x, x]), sigma, conds, ctx())
        model = Seen()
        parts = context(model, length=8, overlap=3, schedule=schedule, fuse=fuse, dim=dim)(
            torch.cat([x, x]), sigma, conds, ctx()
        )
        torch.testing.assert_close(parts, whole)
        assert {shown.shape[dim] for shown, *_ in model.calls} <= ({8, 7} if dim else {16, 14})


def test_one_window_over_all_is_no_window():
    x, conds = noise(2, 3, 16, 4, 4), [Cond(noise(1, 2, 4))]
    whole = Seen(apart=False)(x, SIGMA, conds, ctx())[0]
    for schedule in SCHEDULES:
        assert torch.equal(context(Seen(apart=False), schedule=schedule)(x, SIGMA, conds, ctx())[0], whole)
    assert not torch.allclose(context(Seen(apart=False), length=15)(x, SIGMA, conds, ctx())[0], whole)
    with pytest.raises(ValueError, match=r"context needs latents with an axis 4; got shape \(2, 3, 16, 4\)"):
        context(Seen(), dim=4)(x[..., 0], SIGMA, conds, ctx())


@pytest.mark.parametrize("dim", [0, 2])
def test_no_latent_is_read(dim):
    """Reading a latent on the meta device raises."""
    x = noise(20, 3, 20, 4, 4).to("meta")
    assert context(Seen(), length=6, overlap=2, dim=dim)(x, SIGMA, [Cond(noise(1, 2, 4).to("meta"))], ctx())[0].is_meta


def test_hints_are_cut_in_their_own_resolution_and_not_along_frames():
    class Net:
        factor = 2

        def __call__(self, x, t, cond, hint, strength):
            return Residuals()

    hint = torch.arange(40.0).reshape(1, 1, 1, 40).expand(1, 3, 12, 40)
    model, cond = Seen(), Cond(noise(1, 2, 4), controls=[Control(Net(), hint)])
    context(model, length=8, overlap=2, dim=3)(noise(1, 3, 6, 20), SIGMA, [cond], ctx())
    shown = [conds[0].controls[0].hint[0, 0, 0].tolist() for _, _, conds, _ in model.calls]
    assert shown == [list(range(first, first + 16)) for first in (0, 12, 24)]
    model = Seen()
    context(model, length=8, overlap=2, dim=2)(noise(1, 3, 20, 6, 20), SIGMA, [cond], ctx())
    assert all(torch.equal(conds[0].controls[0].hint, hint) for _, _, conds, _ in model.calls)


def test_windows_that_are_not_wanted_are_not_evaluated():
    want = torch.zeros(1, 1, 30, 4, 4, dtype=torch.bool)
    want[:, :, 19] = True
    x, model, conds = noise(1, 3, 30, 4, 4), Seen(apart=False), [Cond(noise(1, 2, 4))]
    parts = context(model, length=8, overlap=2)(x, SIGMA, conds, ctx(want=want))[0]
    every = context(Seen(apart=False), length=8, overlap=2)(x, SIGMA, conds, ctx())[0]
    assert torch.equal(parts[:, :, 19], every[:, :, 19]) and parts.isfinite().all()
    assert len(model.calls) == 2 and all(c.want is not None and c.want.any() for *_, c in model.calls)


@pytest.mark.parametrize("sampler", ["heun", "dpm_2", "dpmpp_2s_ancestral", "seeds_2"])
def test_methods_that_ask_between_the_levels(sampler):
    """They work on every schedule, and a run resumes: windows follow from the level alone."""
    x, grid = 14.6 * noise(1, 2, 20, 3, 3), Grid(karras(5, 0.03, 14.6), VE(14.6))
    mods = parse_mods("context(length=6, overlap=2, schedule=looped_uniform, stride=2, closed_loop=true)")
    guider = Guider(Seen(apart=False), Cond(noise(1, 2, 4)), Cond(-noise(1, 2, 4)), 3.0, mods)
    states = list(iterate(run_of(sampler, guider, grid, x), x))
    assert torch.equal(finish(run_of(sampler, guider, grid, x), states[2]).x, states[-1].x)


def test_free_noise_repeats_the_windows_in_another_order():
    """After the first window, each stretch is a shuffle of the one that lies one window step earlier."""
    x = noise(2, 3, 30, 4, 4)
    free = free_noise(x, length=8, overlap=3, seed=5)
    assert torch.equal(free[:, :, :8], x[:, :, :8]) and not torch.equal(free, x)
    at = [next(j for j in range(30) if torch.equal(free[:, :, i], x[:, :, j])) for i in range(30)]
    assert at[:8] == list(range(8)) and set(at) == set(range(8))
    for first in range(0, 22, 5):
        count = min(5, 30 - first - 8)
        place = first + 8
        assert sorted(at[place : place + count]) == sorted(at[first : first + count])
    assert torch.equal(free_noise(x, 8, 3, 5), free) and not torch.equal(free_noise(x, 8, 3, 6), free)
    by_row = free_noise(x.movedim(2, 0), 8, 3, 5, dim=0)
    assert torch.equal(by_row.movedim(0, 2), free)
    assert torch.equal(free_noise(x, 30, 3), x), "not longer than a window"
    for wrong, message in [({"overlap": 8}, "overlap < length; got 8"), ({"dim": 5}, "noise with an axis 5")]:
        with pytest.raises(ValueError, match=message):
            free_noise(x, **{"length": 8, "overlap": 3, **wrong})
