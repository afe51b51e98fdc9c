"""What delayed start, own schedules and their combinations promise besides exact regions."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from toys import NEGATIVE, POSITIVE, SAMPLINGS, Cropped, Toy, drawn, keyed, sigmas_of, started

from sigmafield.core.geometry import Box, grid_tiles, leaf_tiles
from sigmafield.core.grid import Grid
from sigmafield.core.linear import lincomb
from sigmafield.core.process import VE, Flow
from sigmafield.core.protocols import Ctx, Pred
from sigmafield.guidance.guider import Guider
from sigmafield.models.analytic import Mixture
from sigmafield.recipes.ksampler import open_run
from sigmafield.runs.checkpoint import load_state, save_state
from sigmafield.runs.run import Run, finish, iterate, sample
from sigmafield.samplers import SAMPLERS
from sigmafield.spatial.field_denoiser import KNOWN, Served, brought, by_level, by_tile, native
from sigmafield.spatial.inpaint import Inpaint, differential
from sigmafield.spatial.sigma_field import (
    by_sigma,
    by_timestep,
    delayed,
    field_from_mask,
    field_from_tiles,
    own_schedule,
    strength_of,
)
from sigmafield.spatial.tiled_model import Tiled, fixed_cover, grid_cover

SHAPE = (1, 4, 16, 16)
FOUR = grid_tiles(16, 16, (8, 8))
RAMP = torch.linspace(0, 1, 8).repeat_interleave(2).expand(1, 16, 16)
"""Strengths of eight levels, from left to right."""
kinds = pytest.mark.parametrize("kind", SAMPLINGS)
modes = pytest.mark.parametrize("mode", ["delayed", "own"])
# each way and each kind once; test_field_laws has the other two by default
both = pytest.mark.parametrize(
    "mode, kind",
    [("delayed", "eps"), ("own", "flow")]
    + [pytest.param(*pair, marks=pytest.mark.slow) for pair in (("delayed", "flow"), ("own", "eps"))],
)


def trajectory(mode, kind, sampler="euler", schedule="normal", n=10, **options):
    if mode == "delayed":
        return delayed(sigmas_of(kind, sampler, schedule, n), **options)
    return own_schedule(partial(sigmas_of, kind, sampler, schedule, n), **options)


def run_of(guider, kind, name, field, source, noise, **options):
    process = SAMPLINGS[kind].process
    served = Served(guider, source, noise, process, **options)
    run = Run(served, SAMPLERS[name], Grid(field, process, clock=SAMPLINGS[kind].clock), keyed(source.shape))
    return run, run.start(started(process, field, noise, source))


def end_of(*args, **options):
    return finish(*run_of(*args, **options))


@modes
@kinds
def test_frozen_places_cost_nothing(mode, kind, figure):
    """A2: network rows are Σ_t Σ_{i ≥ k_t} calls: 19 (delayed) or 30 (own) of 40; none where all is kept."""
    model = Toy(SAMPLINGS[kind].process)
    guider = Guider(Tiled(model, grid_cover((8, 8)), batch=1), POSITIVE)
    source, noise = drawn(SHAPE, 1), drawn(SHAPE)
    for d, rows in (([0.0, 0.3, 0.6, 1.0], {"delayed": 19, "own": 30}), ([0.0] * 4, {"delayed": 0, "own": 0})):
        model.rows = 0
        field = field_from_tiles(trajectory(mode, kind), FOUR, d, 16, 16)
        if len(field) == 1:  # nothing is sampled
            field = field.expand(11, *field.shape[1:])
        end = end_of(guider, kind, "euler", field, source, noise)
        assert figure(f"A2 rows, {mode}, d = {d}", model.rows) == rows[mode]
        assert torch.equal(end.x[..., :8, :8], source[..., :8, :8])
    assert torch.equal(end.x, source)


@both
@pytest.mark.parametrize("name", ["dpmpp_2m", pytest.param("heun", marks=pytest.mark.slow), "euler_ancestral"])
@pytest.mark.typed_elsewhere
def test_equal_strengths_are_one_run(mode, kind, name):
    """A3, B5: with all d equal, overlap or not, a plain tiled run from that strength, bit for bit."""
    process = SAMPLINGS[kind].process
    source, noise = drawn(SHAPE, 1), drawn(SHAPE)
    guider = Guider(Tiled(Toy(process), grid_cover((8, 8), 4)), POSITIVE, NEGATIVE, 3.0)
    tiles = grid_tiles(16, 16, (8, 8), 4)
    for d in (1.0, 0.5):
        field = field_from_tiles(trajectory(mode, kind, name, n=6), tiles, [d] * len(tiles), 16, 16)
        got = end_of(guider, kind, name, field, source, noise).x
        first = 0 if mode == "own" else 6 - int(6 * d)
        sigmas = sigmas_of(kind, name, "normal", 6, d if mode == "own" else None)[first:]
        plain = Run(
            guider,
            SAMPLERS[name],
            Grid(sigmas, process, clock=SAMPLINGS[kind].clock),
            Cropped(keyed(SHAPE), ..., first),
        )
        assert torch.equal(got, finish(plain, started(process, sigmas, noise, source)).x)


@kinds
@pytest.mark.parametrize("name", ["euler", "heun", "dpmpp_2m", "dpm_2_ancestral", "seeds_3"])
def test_waiting_places_are_the_noised_source(kind, name, figure):
    """A4: whatever level the network is asked at, stages within steps as well, a waiting place is α s + σ ξ exactly;
    what is never sampled ends as the source.
    """
    process, shown = SAMPLINGS[kind].process, []
    source, noise = drawn(SHAPE, 1), drawn(SHAPE)
    strength = torch.linspace(0, 1, 16).expand(1, 16, 16)
    field = field_from_mask(trajectory("delayed", kind, name), strength, (16, 16))
    model = Toy(process)

    def spy(x, sigma, conds, ctx):
        waiting = (field[0] == ctx.span.sigma) & ctx.span.frozen
        expected = lincomb(process.alpha(sigma), source, sigma, noise)
        assert sigma.ndim == 0
        shown.append(float(torch.where(waiting, x - expected, 0).abs().max()))
        return model(x, sigma, conds, ctx)

    end = end_of(Guider(spy, POSITIVE), kind, name, field, source, noise)
    assert figure("A4 waiting places − (α s + σ ξ)", max(shown)) == 0
    assert torch.equal(end.x[..., 0], source[..., 0]) and not torch.equal(end.x[..., 15], source[..., 15])
    assert len(shown) > 9


@pytest.mark.parametrize(
    "kind, denoise, top", [("eps", 0.6, None), ("flow", None, None), ("eps", None, math.inf), ("eps", None, None)]
)
def test_delayed_start_is_differential_diffusion(kind, denoise, top, figure):
    """A5: with Euler and the timestep rule; a multistep sampler differs, as it begins without history here.

    Where the run begins at the model's σ_max, with noise √(1 + σ²), differential diffusion carries that into places
    that join late; ours are the source noised to their level.
    """
    sampling = SAMPLINGS[kind]
    if top is not None:
        sampling = replace(sampling, process=VE(top))
    source, noise = drawn(SHAPE, 1, 0.5), drawn(SHAPE)
    mask = torch.linspace(0, 1, 16).reshape(1, 1, 16).expand(1, 16, 16)
    guider = Guider(Toy(sampling.process), POSITIVE, NEGATIVE, 3.0)
    for name in ("euler", "dpmpp_2m"):
        sigmas = sigmas_of(kind, name, "normal", 12, denoise)
        way = delayed(sigmas, by_timestep(sampling.levels, sigmas, strict=True))
        reference, ours = (
            finish(*open_run(guider, sampling, name, levels, source, noise, 0, **options)[:2]).x
            for levels, options in (
                (sigmas, {"mask": mask, "mask_of": differential(sampling.levels, sigmas)}),
                (field_from_mask(way, mask, (16, 16)), {}),
            )
        )
        error = float((reference - ours).abs().max())
        figure(f"A5 {name} − differential diffusion, {kind}, denoise {denoise}, σ_max {top}", error)
        raised = kind == "eps" and denoise is None and top is None
        assert error <= (5e-3 if raised else 2e-6) if name == "euler" else error > 0.01


LAYOUTS = {
    "none": lambda m: m,
    "grid": lambda m: Tiled(m, grid_cover((7, 9), 3)),
    "one size": lambda m: Tiled(m, grid_cover((8, 8), 4)),
    "leaves": lambda m: Tiled(m, fixed_cover(leaf_tiles([Box(0, 0, 16, 8), Box(0, 8, 16, 8)], 16, 16, 1, 3), 16, 16)),
}


@both
@pytest.mark.parametrize("name", ["dpmpp_2m", pytest.param("dpmpp_2s_ancestral", marks=pytest.mark.slow)])
@pytest.mark.typed_elsewhere
def test_pointwise_networks_do_not_see_the_layout(mode, kind, name, figure):
    """A6: the result at a place depends on its strength, source and noise alone; `native` is `by_level`."""
    source, noise = drawn(SHAPE, 1), drawn(SHAPE)
    field = field_from_mask(trajectory(mode, kind, name, n=5), RAMP, (16, 16))
    model = Toy(SAMPLINGS[kind].process, local=False)
    ends = [end_of(Guider(wrap(model), POSITIVE), kind, name, field, source, noise).x for wrap in LAYOUTS.values()]
    assert figure("A6 other layout, pointwise", max((a - ends[0]).abs().max() for a in ends[1:])) <= 5e-6
    whole = end_of(
        lambda x, s, ctx: Pred(model(x, s, [POSITIVE], ctx)[0]), kind, name, field, source, noise, rule=native
    )
    assert figure("A6 native − by level, pointwise", (whole.x - ends[0]).abs().max()) <= 5e-6


@pytest.mark.parametrize("process", [VE(), Flow(3.0)], ids=str)
def test_to_another_level_is_eulers_step(process, figure):
    """B2: with D frozen, x brought to σ_t = Euler's step that ends there. B3: at first, the source noised to σ_t."""
    source, noise = drawn(SHAPE, 1), drawn(SHAPE)
    sigma = torch.linspace(0.2, 0.9, 16, dtype=torch.float64).expand(1, 1, 16, 16)
    level, never = torch.tensor(0.5, dtype=torch.float64), torch.zeros(1, 1, 16, 16, dtype=torch.bool)
    x, D = process.start(sigma, noise, source), drawn(SHAPE, 9)
    euler = Run(
        lambda x, s, ctx: Pred(D), SAMPLERS["euler"], Grid(torch.stack([sigma, level.expand_as(sigma)]), process)
    )
    got = brought(x, sigma, level, D, noise, process, never)
    assert figure("B2 brought to a level − Euler's step", (got - finish(euler, x).x).abs().max()) <= 1e-6
    first = brought(x, sigma, level, source, noise, process, never)
    assert figure("B3 brought at first − α s + σ ξ", (first - process.start(level, noise, source)).abs().max()) <= 2e-6
    same = brought(x, sigma, sigma.clone(), D, noise, process, never)
    assert torch.equal(same, x)


@modes
@kinds
def test_nearly_all_is_all(mode, kind):
    """B6: above 0.9999 the schedule is whole."""
    fields = [field_from_mask(trajectory(mode, kind), torch.full((4, 4), d), (4, 4)) for d in (1.0, 0.99995)]
    if mode == "own":
        assert torch.equal(*fields)
    assert torch.equal(fields[0], sigmas_of(kind, "euler", "normal", 10).reshape(-1, 1, 1, 1, 1).expand(-1, 1, 1, 4, 4))


@both
@pytest.mark.typed_elsewhere
def test_masks_and_fields_compose(mode, kind, figure):
    """M1: where the mask keeps, the source comes out whatever d; a soft one is weaker than the field alone."""
    process = SAMPLINGS[kind].process
    source, noise = drawn(SHAPE, 1), drawn(SHAPE)
    field = field_from_mask(trajectory(mode, kind, n=6), RAMP, (16, 16))
    mask = torch.ones(SHAPE)
    mask[..., :4, :], mask[..., 4:8, :] = 0, 0.5
    guider = Guider(Tiled(Toy(process), grid_cover((8, 8), 2)), POSITIVE, NEGATIVE, 2.0)
    end = end_of(Inpaint(guider, source, noise, mask, process), kind, "euler", field, source, noise).x
    plain = end_of(guider, kind, "euler", field, source, noise).x
    assert figure("M1 kept places − source", (end - source)[..., :4, :].abs().max()) <= 1e-6
    assert (end - source)[..., 4:8, 8:].abs().mean() < (plain - source)[..., 4:8, 8:].abs().mean()
    assert (end - source)[..., 8:, 8:].abs().max() > 0.1


@pytest.mark.parametrize(
    "rule, kind",
    [
        pytest.param(by_level, "flow", id="by_level-flow"),
        pytest.param(by_tile(FOUR), "eps", id="by_tile-eps"),
        pytest.param(by_level, "eps", id="by_level-eps", marks=pytest.mark.slow),
        pytest.param(by_tile(FOUR), "flow", id="by_tile-flow", marks=pytest.mark.slow),
    ],
)
def test_samples_have_strengths_of_their_own(rule, kind):
    """A batch with a map for each sample is each sample alone; levels that differ by sample share calls."""
    source, noise, model = drawn((3, 4, 16, 16), 1), drawn((3, 4, 16, 16)), Toy(SAMPLINGS[kind].process)
    masks = torch.stack([torch.full((16, 16), 0.3), torch.full((16, 16), 0.8), torch.zeros(16, 16)])
    masks[1, :8] = 0.5
    way = trajectory("own", kind)
    field = field_from_mask(way, masks, (16, 16))
    guider = Guider(model, POSITIVE, NEGATIVE, 2.0)
    whole = end_of(guider, kind, "dpmpp_2m", field, source, noise, rule=rule).x
    assert len(model.calls) == 2 * 9 + 1  # two levels in a sample, until all are at the smallest
    for b in range(3):
        one = slice(b, b + 1)
        alone = end_of(guider, kind, "dpmpp_2m", field[:, one], source[one], noise[one], rule=rule).x
        torch.testing.assert_close(whole[one], alone, rtol=1e-5, atol=1e-5)
    assert torch.equal(whole[2], source[2])


def test_a_run_goes_on_from_a_checkpoint(tmp_path):
    """The last prediction, which levels are made from, is part of the state."""
    source, noise = drawn(SHAPE, 1), drawn(SHAPE)
    field = field_from_tiles(trajectory("own", "eps"), FOUR, [0.2, 0.5, 0.8, 1.0], 16, 16)
    guider = Guider(Tiled(Toy(VE()), grid_cover((8, 8), 4)), POSITIVE)
    run, start = run_of(guider, "eps", "dpmpp_2m", field, source, noise)
    states = list(iterate(run, start))
    save_state(states[4], tmp_path / "cut.safetensors")
    again, _ = load_state(tmp_path / "cut.safetensors")
    assert torch.equal(finish(run, again).x, states[-1].x)
    assert torch.equal(KNOWN.read(states[4].aux).x0, KNOWN.read(again.aux).x0)


def test_tiles_at_their_own_levels_cost_one_evaluation_each(figure):
    """`by_tile` with a map of many levels: each tile once a step, whatever the field; `by_level` is each level."""
    source, noise = drawn(SHAPE, 1), drawn(SHAPE)
    strength = torch.linspace(0.2, 1, 16).reshape(16, 1).expand(1, 16, 16)
    field = field_from_mask(trajectory("own", "eps"), strength, (16, 16))
    tiles, rows = grid_tiles(16, 16, (8, 8), 4), {}
    for name, rule in (("by_tile", by_tile(tiles)), ("by_level", by_level)):
        model = Toy(VE(), local=False)
        end = end_of(
            Guider(Tiled(model, grid_cover((8, 8), 4)), POSITIVE), "eps", "euler", field, source, noise, rule=rule
        )
        rows[name] = figure(f"rows for a ramp of 16 levels, 10 steps, {len(tiles)} tiles, {name}", model.rows)
        assert end.x.isfinite().all()
    assert rows["by_tile"] == 10 * len(tiles) < rows["by_level"]


@kinds
def test_by_sigma_joins_where_the_own_schedule_begins(kind):
    sigmas = sigmas_of(kind, "euler", "normal", 10)
    starts = partial(sigmas_of, kind, "euler", "normal", 10)
    d = torch.tensor([0.0, 0.2, 0.5, 0.9, 1.0], dtype=torch.float64)
    k = by_sigma(sigmas, starts)(d)
    assert k[0] == 10 and k[-1] == 0
    for v, at in zip(d[1:].tolist(), k[1:].tolist()):
        first = starts(v)[0] * (1 + 1e-6)
        assert sigmas[at] <= first and (at == 0 or sigmas[at - 1] > first)


def test_wrong_use_is_refused():
    with pytest.raises(ValueError, match=r"denoise strengths must lie in \[0, 1\]; got -1 … 2"):
        strength_of(torch.tensor([[-1.0, 2.0]]), (1, 2))
    with pytest.raises(ValueError, match="must end at 0; for denoise 1 it ends at 0.5"):
        field_from_mask(own_schedule(lambda d: torch.tensor([1.0, 0.5])), torch.ones(2, 2), (2, 2))
    with pytest.raises(ValueError, match="values must be ≥ 2"):
        own_schedule(lambda d: torch.zeros(2), values=1)
    field = field_from_mask(trajectory("delayed", "eps"), torch.ones(4, 4), (4, 4))
    with pytest.raises(ValueError, match="chooses its own steps"):
        Run(Mixture(), SAMPLERS["dpm_adaptive"], Grid(field, VE()), keyed((1, 4, 4, 4)))
    assert strength_of(torch.rand(3, 9, 9), (4, 4)).shape == (3, 1, 4, 4)
    ctx = Ctx(Grid(torch.tensor([1.0, 0.0]), VE()).span(0), {})
    served = Served(Mixture(), drawn(SHAPE), drawn(SHAPE), VE())
    assert torch.equal(served(drawn(SHAPE), ctx.span.sigma, ctx).x0, Mixture()(drawn(SHAPE), ctx.span.sigma).x0)
    assert sample(Mixture(), drawn(SHAPE), torch.tensor([1.0, 0.0])).isfinite().all()
