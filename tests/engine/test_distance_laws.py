"""Laws of the distance samplers and of their means of slopes."""

import itertools

import pytest
import torch
from laws import PROCESSES, Guided, grid, guided, repeats, run_of

from sigmafield.core.conditioning import Cond
from sigmafield.core.grid import Grid
from sigmafield.core.process import VE, Flow
from sigmafield.core.protocols import Pred
from sigmafield.guidance.guider import Guider
from sigmafield.models.analytic import Mixture
from sigmafield.noise.policy import default_noise
from sigmafield.noise.sources import Gaussian, Keyed, Pair, Silent
from sigmafield.runs.run import Run, finish, iterate, sample
from sigmafield.samplers import SAMPLERS
from sigmafield.samplers.distance import resamples
from sigmafield.samplers.soft_median import (
    combine,
    matrix_norm,
    perpendicular,
    sharpened,
    slerped,
    smoothed,
    weighted,
    weights,
)

processes = pytest.mark.parametrize("process", PROCESSES, ids=str)
SHAPES = [(2, 3, 7), (2, 4, 5, 6), (2, 3, 2, 4, 5)]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)
MEANS = [{}, {"use_slerp": True}, {"use_softmax": True}, {"use_softmax": True, "use_slerp": True}]
means = pytest.mark.parametrize("mean", MEANS, ids=lambda mean: "+".join(mean) or "linear")


def draw(*shape, seed=3, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def begin(g, shape=(2, 3, 4, 5), dtype=torch.float64):
    noise = draw(*shape, dtype=dtype)
    return g.process.start(g.sigmas[0], noise, torch.zeros_like(noise))


def end(name, model, g, x, **params):
    return finish(run_of(name, model, g, x, **params), x).x


@processes
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_no_resample_is_euler(process, eta):
    g, model = grid(process), guided(process)
    x = begin(g)
    plain = end("euler_ancestral", model, g, x, eta=eta) if eta else end("euler", model, g, x)
    assert torch.equal(end("distance_c3", model, g, x, resample=0, eta=eta), plain)
    if eta:  # no step is left to add noise in: as without noise
        off = {"eta_first": g.n - 1, "eta_last": g.n - 1}  # the last step never draws
        assert torch.equal(end("distance_c3", model, g, x, resample=0, eta=eta, **off), end("euler", model, g, x))


@processes
def test_one_resample_is_heun(process):
    g, model = grid(process), guided(process)
    x = begin(g)
    torch.testing.assert_close(end("distance_c3", model, g, x, resample=1), end("heun", model, g, x))
    window = {"distance_first": 0, "distance_last": 0, "resample": 1}
    first = next(iterate(run_of("heun", model, g, x), x)).x
    rest = Grid(g.sigmas[1:], process)
    torch.testing.assert_close(end("distance_c3", model, g, x, **window), end("euler", model, rest, first))


@processes
def test_the_paper_variant_is_cfg_plus_plus(process):
    g, model = grid(process), guided(process)
    x = begin(g)
    ours = end("distance_c3", model, g, x, resample=0, cfgpp="paper", eta=0.7)
    assert torch.equal(ours, end("euler_ancestral_cfg_pp", model, g, x, eta=0.7))
    assert torch.equal(ours, end("distance_c3", model, g, x, resample=3, cfgpp="paper", eta=0.7))


class Mean:
    """D moved towards the conditioning's value."""

    def __call__(self, x, sigma, conds, ctx):
        parts = x.chunk(len(conds))
        return [0.3 * part / (1 + float(sigma) ** 2) + c.embeds.mean() for part, c in zip(parts, conds)]


@processes
@pytest.mark.parametrize("scale", [1.0, pytest.param(2.0, marks=pytest.mark.slow), 3.5])
def test_doubled_is_guidance_of_twice_the_scale_and_off_at_scale_1(process, scale):
    """The network's D is linear in x, so that the doubled target equals the guider's."""
    positive, negative = (Cond(torch.full((1, 1, 3), value, dtype=torch.float64)) for value in (0.6, -0.2))
    g = grid(process)
    x = begin(g)

    def drawn(name, cfg):
        return end(name, Guider(Mean(), positive, negative, cfg), g, x)

    assert torch.allclose(drawn("euler_cfg_pp_alt", scale), drawn("euler", scale if scale == 1 else 2 * scale))
    assert torch.allclose(drawn("heun_cfg_pp", scale), drawn("heun", scale if scale == 1 else 2 * scale))
    if scale == 1:
        assert torch.equal(drawn("distance_cfgpp", 1.0), drawn("distance_c4", 1.0))
        assert torch.equal(drawn("distance_n", 1.0), drawn("distance", 1.0))
    else:
        assert not torch.allclose(drawn("distance_n", scale), drawn("distance", scale))


@shapes
@means
def test_a_mean_of_equal_slopes_is_the_slope(shape, mean):
    T = draw(*shape)
    for slopes in ([T] * 3, [T] * 5):
        # angles are kept above 0.014, and the error of slerp is the square of that
        torch.testing.assert_close(combine(slopes, **mean), T, rtol=1e-4 if "use_slerp" in mean else 1e-12, atol=1e-12)
    assert torch.equal(combine([T * 0] * 3, **mean), T * 0)


@shapes
@means
def test_means_do_not_depend_on_order_nor_on_other_samples(shape, mean):
    slopes, u = list(draw(5, *shape)), draw(*shape, seed=8)
    whole = combine(slopes, u, **mean)
    torch.testing.assert_close(combine(slopes[::-1], u, **mean), whole)
    for k in range(2):
        alone = combine([T[k : k + 1] for T in slopes], u[k : k + 1], **mean)
        torch.testing.assert_close(whole[k : k + 1], alone)


@shapes
def test_the_median_counts_most_and_what_is_farthest_nothing(shape):
    slopes = list(draw(3, *shape))
    w = torch.stack(weights(slopes))
    directions = torch.stack([T / matrix_norm(T) for T in slopes])
    order = directions.argsort(0)
    torch.testing.assert_close(w.sum(0), torch.ones(shape, dtype=w.dtype))
    assert torch.equal(w.argmax(0), order[1])
    assert (w.gather(0, order)[1] >= w.gather(0, order)[[0, 2]].amax(0)).all()
    assert (w.amin(0) == 0).all()
    away = torch.stack(weights(slopes, u=slopes[0]))
    assert away[0].mean() < w[0].mean()  # slopes similar to u count less


@shapes
def test_the_weighted_mean_keeps_direction_and_size(shape):
    slopes = list(draw(4, *shape))
    w = [torch.full(shape, k, dtype=torch.float64) for k in (0.1, 0.2, 0.3, 0.4)]
    out, plain = weighted(slopes, w), sum(k * T for k, T in zip(w, slopes))
    torch.testing.assert_close(out / matrix_norm(out), plain / matrix_norm(plain))
    torch.testing.assert_close(matrix_norm(out), sum(k[..., :1, :1] * matrix_norm(T) for k, T in zip(w, slopes)))


def test_slerp_of_two_is_slerp():
    a, b = draw(2, 1, 1, 4, 6)
    a, b = a / matrix_norm(a), b / matrix_norm(b)
    for t in (0.0, 0.3, 1.0):
        w = [torch.full_like(a, 1 - t), torch.full_like(a, t)]
        out = slerped([a, b], w)
        assert float(matrix_norm(out)) == pytest.approx(1)
        angle = torch.arccos((a * out).sum())
        assert float(angle) == pytest.approx(t * float(torch.arccos((a * b).sum())), abs=1e-6)


def test_operators_against_closed_forms():
    a, b = draw(2, 2, 3, 4, 5)
    turned = perpendicular(a, b, 0.5, per_matrix=True)
    torch.testing.assert_close(((turned - a) * a).sum((-2, -1)), torch.zeros(2, 3, dtype=a.dtype))
    torch.testing.assert_close(perpendicular(a, b, 0.0), a)
    assert torch.equal(sharpened(a, a), a)  # nothing differs: 0/0 everywhere
    sharp = sharpened(a, b)
    assert not torch.allclose(sharp, a)
    torch.testing.assert_close(sharp.norm(dim=1), a.norm(dim=1))
    plain = draw(2, 3, 4, 5)
    plain = plain / plain.std()
    torch.testing.assert_close(smoothed(plain), plain)  # of unit deviation already
    for one in (lambda k: sharpened(a[k], b[k], per_sample=True), lambda k: smoothed(a[k], per_sample=True)):
        whole = one(slice(None))
        torch.testing.assert_close(whole[1:], one(slice(1, 2)))


@pytest.mark.parametrize("levels", [[14.6, 6, 2.5, 1.2, 0.6, 0], [1.0, 0.8, 0.5, 0.3, 0.1], [2.0, 0.0]])
@pytest.mark.parametrize("start", [-1, 0, 1, 3, 6])
@pytest.mark.parametrize("stop", [-1, 0, 1, 5])
@pytest.mark.typed_elsewhere
def test_evaluations_follow_the_formula(levels, start, stop):
    g = Grid(torch.tensor(levels), VE())
    first = min(10, len(levels) // 2) if start == -1 else start
    low, high = min(level for level in levels if level), max(levels)
    asked = []
    for level, after in itertools.pairwise(levels):
        m = ((level - low) / (high - low)) ** 0.5 if high > low else 1.0
        mixed = int(first * m + stop * (1 - m) + 1e-6) if stop >= 0 else first
        asked.append(1 + (max(min(first, stop), mixed) if stop >= 0 else first) * bool(after))
    run = Run(Mixture(), SAMPLERS["distance_c3"], g, Silent(), {"resample": start, "resample_end": stop})
    assert finish(run, begin(g)).nfe == sum(asked)
    times = [resamples(g.span(i), start, stop) for i in range(g.n)]
    assert times == sorted(times, reverse=first >= stop)


def test_the_specified_runs_take_their_evaluations():
    g = Grid(torch.tensor([14.6, 9, 6, 4, 2.5, 1.2, 0.6, 0.2, 0]), VE())
    for (start, stop), nfe in {(3, 1): 20, (3, -1): 29, (-1, 1): 23}.items():
        run = Run(Mixture(), SAMPLERS["distance_c3"], g, Silent(), {"resample": start, "resample_end": stop})
        assert finish(run, begin(g)).nfe == nfe


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name.startswith("distance")])
def test_a_step_takes_the_evaluations_that_the_preset_declares(name):
    """The first of a long run takes most."""
    run = run_of(name, guided(VE()), grid(VE(), 20), begin(grid(VE(), 20)))
    assert run.step(run.start(begin(run.grid))).nfe == SAMPLERS[name].evals


@pytest.mark.parametrize("window, steps", [((0, -1), 8), ((2, 4), 3), ((-3, -2), 2), ((4, 2), 3), ((-99, 99), 8)])
def test_windows_count_steps_from_either_end(window, steps):
    g = grid(VE())
    params = {"resample": 2, "distance_first": window[0], "distance_last": window[1]}
    inner = steps if window[1] not in (-1, 99) else steps - 1  # the last step is Euler's anyway
    assert finish(Run(Mixture(), SAMPLERS["distance_c3"], g, Silent(), params), begin(g)).nfe == g.n + 2 * inner


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=repeats(name)) for name in SAMPLERS if name.startswith(("distance", "perp"))]
)
@processes
def test_a_constant_answer_makes_it_euler(name, process):
    """All slopes are (x − D)/σ up to rounding. Options that change slopes are left out: they act on rounding or D."""
    D = draw(1, 3, 4, 5, seed=5)
    g = grid(process)
    x = begin(g, (1, 3, 4, 5))
    model = lambda x, sigma, ctx: Pred(D, D, D)  # noqa: E731
    straight = {"perp_step": False} if "perp_step" in SAMPLERS[name].defaults else {"strength": 0.0}
    ours = list(iterate(run_of(name, model, g, x, **straight), x))
    for state, other in zip(ours, iterate(run_of("euler", model, g, x), x)):
        torch.testing.assert_close(state.x, other.x, rtol=2e-3, atol=2e-3)
    assert torch.equal(ours[-1].x, D)


@means
@processes
def test_tied_pixels_stay_finite(mean, process):
    """A pinned part gives equal slopes, where the reference divides 0 by 0."""
    g = grid(process)
    x = begin(g)

    def pinned(x, sigma, ctx):
        D = Mixture(process=process)(x, sigma).x0
        return Pred(torch.where(torch.arange(5) < 2, x, D))  # slopes are 0 on the left

    out = end("distance_c3", pinned, g, x, **mean)
    assert torch.isfinite(out).all()
    assert torch.equal(out[..., :2], x[..., :2])


@means
def test_slopes_of_opposite_direction_are_mixed_linearly(mean):
    """No great circle joins them: a ratio of sines is 70 at the clamped angle."""
    a = draw(1, 2, 4, 5)
    out = combine([a, -0.1 * a, 2 * a], **mean)
    assert (out.abs() <= 2.01 * a.abs()).all()
    assert torch.equal(slerped([a, -a], [torch.full_like(a, 0.5)] * 2), 0 * a)


@means
@pytest.mark.parametrize("zeros", [(0,), (1, 2), (0, 1, 2)], ids=str)
def test_a_slope_of_zero_norm_stays_finite(mean, zeros):
    slopes = [draw(1, 2, 4, 5, seed=k) * (k not in zeros) for k in range(3)]
    for u in (None, slopes[0]):
        assert torch.isfinite(combine(slopes, u, **mean)).all()
    assert torch.allclose(torch.stack(weights([slopes[zeros[0]]] * 3)), torch.tensor(1 / 3, dtype=torch.float64))


@pytest.mark.parametrize("per_sample", [False, True])
def test_operators_leave_alone_what_has_no_contrast(per_sample):
    for level in (0.0, 0.5, 1.0, 30.0):
        flat = torch.full((2, 3, 4, 5), level)
        assert torch.equal(smoothed(flat, per_sample=per_sample), flat)
    nearly = 30 + 1e-4 * draw(2, 3, 4, 5, dtype=torch.float32)
    assert torch.isfinite(smoothed(nearly, per_sample=per_sample)).all()
    a, b = draw(2, 2, 3, 4, 5)
    a[..., 0], b[..., 1] = 0, 0  # positions without a direction change nothing elsewhere
    sharp = sharpened(a, b, per_sample=per_sample)
    torch.testing.assert_close(sharp[..., :2], a[..., :2])
    assert not torch.allclose(sharp[..., 2:], a[..., 2:])
    zero = torch.zeros_like(a)
    for operator in (sharpened, perpendicular):
        assert torch.equal(operator(zero, b), zero)
        torch.testing.assert_close(operator(a, zero), a)


@pytest.mark.parametrize("process", [PROCESSES[0], pytest.param(PROCESSES[1], marks=pytest.mark.slow)], ids=str)
@shapes
@pytest.mark.parametrize(
    "name",
    ["distance_n", "distance_c4", *(pytest.param(f"distance{k}", marks=pytest.mark.slow) for k in ("", "_fast"))],
)
@pytest.mark.typed_elsewhere
def test_samples_do_not_meet(name, shape, process):
    g, model = grid(process, 6), guided(process)
    x = begin(g, shape)
    whole = end(name, model, g, x)
    alone = torch.cat([end(name, model, g, x[k : k + 1]) for k in range(2)])
    torch.testing.assert_close(whole, alone, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("option", ["sharpen", "perp_step", "smooth"])
def test_options_that_mix_samples_can_be_told_not_to(option):
    g, model = grid(VE(), 5), guided(VE())
    x = begin(g, (2, 1, 4, 5) if option == "perp_step" else (2, 3, 4, 5))  # of 3 channels q is at its bound anyway
    x[1] *= 3
    for apart in (True, False):
        params = {"resample": 2, "use_softmax": True, option: True, "per_sample": apart}
        whole = end("distance_c3", model, g, x, **params)
        alone = torch.cat([end("distance_c3", model, g, x[k : k + 1], **params) for k in range(2)])
        assert torch.allclose(whole, alone, rtol=1e-3, atol=1e-3) == apart


def test_inner_noise_has_a_stream_of_its_own():
    """Noise within steps does not change the draws after steps, nor the other way round."""
    g = grid(VE(), 4)
    x = begin(g)
    drawn = {}

    class Kept(Gaussian):
        def __call__(self, span):
            drawn[self.name].append(super().__call__(span))
            return drawn[self.name][-1]

    def draws(**params):
        drawn.update(main=[], inner=[])
        pair = Pair(Kept(1, x.shape), Kept(2, x.shape))
        pair.main.name, pair.inner.name = "main", "inner"
        finish(Run(guided(VE()), SAMPLERS["distance_c2"], g, pair, params), x)
        return list(drawn["main"]), list(drawn["inner"])

    main, nothing = draws(eta=0.5)
    again, inner = draws(eta=0.5, distance_step_eta=0.2)
    assert len(main) == 3 and not nothing and len(inner) == 6
    assert all(torch.equal(a, b) for a, b in zip(main, again))
    only = draws(distance_step_eta=0.2, distance_eta_first=1, distance_eta_last=1)
    assert not only[0] and len(only[1]) == 2


def test_a_pair_goes_on_where_it_was():
    g = grid(VE(), 4)
    x = begin(g)
    for source in (
        default_noise(SAMPLERS["distance"].noise, 3, g, x),
        Pair(Keyed([1, 2], x.shape), Keyed([3, 4], x.shape)),
    ):
        state = source.get_state()
        first = source(g.span(0)), source.inner(g.span(0))
        source.set_state(state)
        assert torch.equal(first[0], source(g.span(0)))
        assert torch.equal(first[1], source.inner(g.span(0)))
        assert not torch.equal(*first)


def test_noise_on_a_flow_may_be_all_there_is():
    """However large η, σ_down does not fall below 0."""
    g = grid(Flow(3.0))
    x = begin(g)
    assert float(g.span(2).ancestral(50.0)[0].sigma_next) == 0
    assert torch.isfinite(end("distance", guided(Flow(3.0)), g, x, eta=50.0, distance_step_eta=50.0)).all()


def test_presets_leave_nothing_behind():
    model = Guided(Mixture(), Mixture(weights=(0.4, 0.3, 0.3)))
    for name in (name for name, sampler in SAMPLERS.items() if sampler.step.__name__ == "distance"):
        short = grid(VE(), 3)
        x = begin(short)
        fresh = sample(model, x, short.sigmas, name)
        sample(model, x, grid(VE(), 6).sigmas, name)
        assert torch.equal(sample(model, x, short.sigmas, name), fresh)
