"""Laws of DemoFusion: its parts against closed forms, its paths at their ends, whole runs against the paper's steps."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from toys import NEGATIVE, POSITIVE, SAMPLINGS, STEPS, SYNCHRONOUS, Toy, drawn, sigmas_of

from sigmafield.core.conditioning import Cond, Control
from sigmafield.core.fitting import transformed
from sigmafield.core.grid import Grid
from sigmafield.core.protocols import Ctx, Pred
from sigmafield.core.statistics import moments, standardised
from sigmafield.core.views import stride
from sigmafield.guidance.guider import Guider
from sigmafield.noise.sources import Keyed
from sigmafield.parameterization.families import family
from sigmafield.parameterization.prediction import continuous_edm_sampling
from sigmafield.runs.level_noise import KeyedLevels, noised
from sigmafield.runs.mixing import Mixing
from sigmafield.runs.run import Run, finish, iterate
from sigmafield.samplers import SAMPLERS
from sigmafield.spatial.demofusion_views import (
    Composed,
    Dilated,
    Windows,
    blurred,
    clock,
    firsts,
    fused,
    gaussian,
    kappa,
    residual_weights,
    skip_of,
)
from sigmafield.spatial.inpaint import Inpaint

KINDS = pytest.mark.parametrize("kind", SAMPLINGS)
SHAPE = (2, 3, 20, 13)
N = 8  # side of the toy network, so that SHAPE needs windows and padding


def whole(sigma):
    """c_skip of networks that predict noise or a flow's velocity."""
    return 1.0


def context(kind, i=3, n=6):
    return Ctx(
        Grid(sigmas_of(kind, "euler", "simple", n), SAMPLINGS[kind].process, clock=SAMPLINGS[kind].clock).span(i), {}
    )


def ask(model, x, conds, ctx):
    return torch.cat(model(x.repeat(len(conds), 1, 1, 1), ctx.span.sigma, conds, ctx))


def demofused(kind, q=2, seed=4, **options):
    toy = Toy(SAMPLINGS[kind].process)
    return toy, fused(Windows(toy, (N, N), 4, seed), q, clock(SAMPLINGS[kind]), skip_of(SAMPLINGS[kind]), **options)


def mixed(kind, name="euler", seeds=(1, 2), shape=SHAPE, n=6, **options):
    """DemoFusion of one phase with any sampler, its source, and the network that counts."""
    toy, model = demofused(kind, **options)
    run = Run(
        Guider(model, POSITIVE, NEGATIVE, 3.0),
        SAMPLERS[name],
        Grid(sigmas_of(kind, name, "simple", n), SAMPLINGS[kind].process, clock=SAMPLINGS[kind].clock),
        Keyed(seeds, shape),
    )
    c = residual_weights(run.grid.sigmas, clock(SAMPLINGS[kind]))
    return Mixing(run, KeyedLevels(seeds, shape, shared=True), c, align="before"), drawn(shape, seed=9), toy


def test_weights_against_closed_forms():
    levels = SAMPLINGS["eps"].levels
    t = torch.tensor([999.0, 740.0, 261.0, 0.0], dtype=torch.float64)
    tau = clock(SAMPLINGS["eps"])(levels.sigma(t))
    assert tau.tolist() == pytest.approx((t / 1000).tolist())
    expected = [0.5 * (1 + math.cos(math.pi * (1000 - v) / 1000)) for v in t.tolist()]
    assert kappa(tau).tolist() == pytest.approx(expected)
    sigmas = torch.cat([levels.sigma(t), torch.zeros(1, dtype=torch.float64)])
    assert residual_weights(sigmas, clock(SAMPLINGS["eps"]), 3.0) == pytest.approx([1 - k**3 for k in expected])
    flow = torch.tensor([1.0, 0.5, 0.25], dtype=torch.float64)
    assert kappa(clock(SAMPLINGS["flow"])(flow)).tolist() == pytest.approx([1, 0.5, 0.5 - 0.5 * math.sqrt(0.5)])
    edm = continuous_edm_sampling("edm")
    ends = torch.tensor([edm.levels.sigma_min, edm.levels.sigma_max], dtype=torch.float64)
    assert clock(edm)(ends).tolist() == pytest.approx([0, 1])
    assert float(clock(edm)(ends.log().mean().exp())) == pytest.approx(0.5, abs=1e-3)  # half way in ln σ


def test_kernel_and_blur_against_closed_forms():
    taps = gaussian(3, 0.7)
    expected = [math.exp(-(k**2) / (2 * 0.7**2)) for k in (-2, -1, 0, 1, 2)]
    assert taps.tolist() == pytest.approx([value / sum(expected) for value in expected])
    point = torch.zeros(1, 1, 9, 9, dtype=torch.float64)
    point[..., 4, 4] = 1
    torch.testing.assert_close(blurred(point, 3, 0.7)[0, 0, 2:7, 2:7], taps[:, None] * taps)
    x = drawn((2, 3, 2, 6, 5))
    assert torch.equal(blurred(x, 1, 0.7), x) and torch.equal(blurred(x, 4, 0.01), x)
    frame = blurred(x, 2, 1.0)[:, :, 1]  # of a video: frame by frame
    torch.testing.assert_close(frame, blurred(x[:, :, 1], 2, 1.0))
    mean, std = moments(x)
    torch.testing.assert_close(standardised(3 * x + 1, mean, std), x)
    assert torch.equal(standardised(x * 0, mean, std), mean.expand_as(x))


@pytest.mark.parametrize(
    "length, window, stride", [(20, 8, 4), (20, 8, 8), (13, 8, 4), (9, 8, 1), (8, 8, 4), (5, 8, 4), (256, 128, 64)]
)
def test_where_windows_begin(length, window, stride):
    """The published count, ⌊(L − n)/stride − 10⁻⁶⌋ + 2 with ⌊·⌋ towards 0."""
    count = math.trunc((length - window) / stride - 1e-6) + 2 if length > window else 1
    assert firsts(length, window, stride) == [min(k * stride, max(length - window, 0)) for k in range(count)]


@pytest.mark.parametrize("stride", [1, 3, 4, 8])
@pytest.mark.parametrize("height, width", [(20, 13), (16, 32), (8, 17), (6, 9)])
def test_windows_cover_the_latent_and_stay_in_its_frame(height, width, stride):
    model = Windows(Toy(None), (8, 8), stride, seed=2)
    most = (8 - stride) // 4
    seen = set()
    for step in range(12):
        boxes = model.boxes(height, width, step)
        count = torch.zeros(height + 2 * most, width + 2 * most)
        for box in boxes:
            assert -most <= box.y and box.y + box.height <= height + most
            assert -most <= box.x and box.x + box.width <= width + most
            count[box.y + most : box.y + most + box.height, box.x + most : box.x + most + box.width] += 1
        assert (count[most : most + height, most : most + width] > 0).all()
        assert boxes == model.boxes(height, width, step)
        seen.add(tuple(boxes))
        grid = [(y, x) for y in firsts(height, 8, stride) for x in firsts(width, 8, stride)]
        for box, (y, x) in zip(boxes, grid, strict=True):  # the first may only move out of the latent, and the last
            assert (box.y <= 0 if y == 0 else True) and (box.y >= y if y == height - 8 > 0 else True)
            assert (box.x <= 0 if x == 0 else True) and (box.x >= x if x == width - 8 > 0 else True)
            assert abs(box.y - y) <= most * (height > 8) and abs(box.x - x) <= most * (width > 8)
    assert (len(seen) > 1) == (most > 0 and len(grid) > 1)


def test_all_offsets_are_drawn_alike():
    """Of an interior window −J … J, of the first −J … 0: about equally often."""
    model = Windows(Toy(None), (8, 8), 4, seed=3)
    boxes = [model.boxes(16, 16, step)[4] for step in range(900)] + [
        model.boxes(16, 16, 1000 + k)[4] for k in range(900)
    ]
    for values in ([box.y - 4 for box in boxes], [box.x - 4 for box in boxes]):
        assert all(abs(values.count(v) - 600) < 90 for v in (-1, 0, 1))
    corner = [model.boxes(16, 16, step)[0].y for step in range(600)]
    assert abs(corner.count(0) - 300) < 70 and set(corner) == {-1, 0}


@KINDS
def test_paths_at_their_ends(kind):
    """One window without jitter, and one view without blur, are the network itself; c = 0 and 1 are one path alone."""
    ctx, toy = context(kind), Toy(SAMPLINGS[kind].process)
    x, conds = drawn((2, 3, N, N)), [POSITIVE, NEGATIVE]
    plain = ask(toy, x, conds, ctx)
    assert torch.equal(ask(Windows(toy, (N, N), N), x, conds, ctx), plain)
    torch.testing.assert_close(ask(Dilated(toy, 1, lambda sigma: 0.01, whole), x, conds, ctx), plain)
    near, far = Windows(toy, (N, N), 4, seed=1), Dilated(toy, 2, lambda sigma: 0.8, whole)
    wide = drawn(SHAPE)
    for c, path in ((0.0, near), (1.0, far)):
        alone, toy.rows = ask(path, wide, conds, ctx), 0
        assert torch.equal(ask(Composed(near, far, lambda sigma, c=c: c), wide, conds, ctx), alone)
        assert toy.rows == 2 * 2 * (12 if path is near else 4)  # samples, prompts, windows or views
    half = ask(Composed(near, far, lambda sigma: 0.3), wide, conds, ctx)
    torch.testing.assert_close(half, 0.7 * ask(near, wide, conds, ctx) + 0.3 * ask(far, wide, conds, ctx))


@KINDS
def test_one_window_and_no_residual_is_plain_sampling(kind):
    toy, sigmas = Toy(SAMPLINGS[kind].process), sigmas_of(kind, "dpmpp_2m", "simple", 6)
    grid, x = Grid(sigmas, SAMPLINGS[kind].process, clock=SAMPLINGS[kind].clock), drawn((1, 3, N, N))
    near = Composed(Windows(toy, (N, N), N), Dilated(toy, 1, lambda sigma: 1.0, whole), lambda sigma: 0.0)
    run = Run(Guider(near, POSITIVE, NEGATIVE, 3.0), SAMPLERS["dpmpp_2m"], grid)
    mixing = Mixing(run, KeyedLevels([1], x.shape, shared=True), [1.0] * 6, align="before")
    plain = replace(run, denoise=Guider(toy, POSITIVE, NEGATIVE, 3.0))
    assert torch.equal(finish(mixing, x).x, finish(plain, mixing.start(x).x).x)


@KINDS
@pytest.mark.parametrize("name", ["euler", "ddim"])
def test_as_the_paper_averages_steps(kind, name):
    """Windows and views are stepped each on its own and their ends are averaged; a view's step is of the unblurred one
    with the noise that the network finds in the blurred one: the same end as one step of what is composed."""
    m, s, toy = mixed(kind, name, n=5)
    grid, process, time = m.run.grid, m.run.grid.process, clock(SAMPLINGS[kind])
    noise, model = m.noise(0, 0), m.run.denoise.model
    x = noised(s, grid.sigmas[0], noise, process)
    guided = Guider(toy, POSITIVE, NEGATIVE, 3.0)
    for i, state in enumerate(iterate(m, s)):
        span, ctx = grid.span(i), Ctx(grid.span(i), {})
        k = float(kappa(time(span.sigma)))
        if i:
            x = k**3 * noised(s, span.sigma, noise, process) + (1 - k**3) * x

        def stepped(at, D, span=span):  # x' = α' D + σ' (x − α D)/σ
            rest = (at - float(process.alpha(span.sigma)) * D) / float(span.sigma)
            return float(process.alpha(span.sigma_next)) * D + float(span.sigma_next) * rest

        total, count = torch.zeros(2, 3, 22, 15), torch.zeros(22, 15)
        padded = F.pad(x, (1, 1, 1, 1))
        for box in model.local.boxes(20, 13, i):
            at = (..., slice(box.y + 1, box.y + 1 + N), slice(box.x + 1, box.x + 1 + N))
            total[at] += stepped(padded[at], guided(padded[at], span.sigma, ctx).x0)
            count[at] += 1
        near = (total / count)[..., 1:-1, 1:-1]
        wide = F.pad(x, (1, 0, 0, 0))
        blur = F.conv2d(wide.reshape(6, 1, 20, 14), _square(2, 0.99 * k + 0.01), padding=1).reshape(wide.shape)
        blur = standardised(blur, *moments(wide))
        far = torch.empty_like(wide)
        for a in range(2):
            for b in range(2):
                view, seen = wide[..., a::2, b::2], blur[..., a::2, b::2]
                shift = view - seen
                D = guided(seen, span.sigma, ctx).x0 + shift
                far[..., a::2, b::2] = stepped(view, D)
        x = (1 - k) * near + k * far[..., 1:]
        torch.testing.assert_close(state.x, x, rtol=1e-5, atol=1e-5)


def _square(q, deviation):
    taps = gaussian(q, deviation).float()
    return (taps[:, None] * taps)[None, None]


@KINDS
def test_views_find_the_noise_of_the_blurred_and_take_it_from_the_latent(kind):
    """A network's ε of x_b, or velocity: what is stepped from x is x − x_b + D(x_b)."""
    ctx, toy = context(kind), Toy(SAMPLINGS[kind].process)
    x = drawn((1, 3, 12, 8))
    x_b = standardised(blurred(x, 2, 0.9), *moments(x))
    D = ask(Dilated(toy, 2, lambda sigma: 0.9, whole), x, [POSITIVE], ctx)
    for a, b in ((0, 0), (1, 0), (0, 1), (1, 1)):
        view = (..., slice(a, None, 2), slice(b, None, 2))
        own = toy(x_b[view].contiguous(), ctx.span.sigma, [POSITIVE], ctx)[0]
        torch.testing.assert_close((x - D)[view], x_b[view] - own)  # σ ε in VE, σ v in a flow


@KINDS
@pytest.mark.parametrize(
    "name",
    [
        "heun",
        "dpmpp_2m_sde",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("euler", "dpmpp_2m", "euler_ancestral")),
    ],
)
@pytest.mark.typed_elsewhere
def test_resume_rows_and_seeds(kind, name):
    """Any sampler: from every cut the same next step, to the same end, with the rows that are specified."""

    def made():
        return mixed(kind, name, n=4)

    m, s, toy = made()
    states = list(iterate(m, s))
    windows, calls = len(m.run.denoise.model.local.boxes(20, 13, 0)), states[-1].nfe
    assert windows == 4 * 3
    views_alone = sum(kind == "flow" and float(sigma) == 1 for _, sigma in toy.calls)  # there c₂ = 1
    assert toy.rows == 2 * 2 * (calls * (windows + 4) - views_alone * windows)  # samples, prompts
    assert max(shape[0] for shape, _ in toy.calls) == 2 * 2 * 12
    assert torch.isfinite(states[-1].x).all()
    for state, following in pairwise(states):
        assert torch.equal(made()[0].step(replace(state, pred=None)).x, following.x)
    assert torch.equal(finish(made()[0], s).x, states[-1].x)
    other, _, _ = mixed(kind, name, seeds=(1, 3), n=4)
    assert not torch.allclose(finish(other, s).x[1], states[-1].x[1])


@KINDS
def test_samples_do_not_meet(kind):
    m, s, _ = mixed(kind, "dpmpp_2m")
    both = finish(m, s).x
    for b, seed in enumerate((1, 2)):
        alone, _, _ = mixed(kind, "dpmpp_2m", seeds=(seed,), shape=(1, *SHAPE[1:]))
        torch.testing.assert_close(finish(alone, s[b : b + 1]).x, both[b : b + 1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in STEPS.values() else pytest.mark.slow) for name in SYNCHRONOUS]
)
def test_every_method_steps_with_it(name):
    m, s, _ = mixed("eps", name, n=3, shape=(2, 3, 13, 8))
    assert torch.isfinite(finish(m, s).x).all()


@KINDS
def test_a_right_answer_stays_on_the_noised_source(kind):
    """D = s: x is s with the phase's one noise at every level, whatever the weights."""
    s = drawn(SHAPE)
    run = Run(
        lambda x, sigma, ctx: Pred(s),
        SAMPLERS["euler"],
        Grid(sigmas_of(kind, "euler", "simple", 6), SAMPLINGS[kind].process, clock=SAMPLINGS[kind].clock),
    )
    c = residual_weights(run.grid.sigmas, clock(SAMPLINGS[kind]))
    m = Mixing(run, KeyedLevels([1, 2], SHAPE, shared=True), c, align="before")
    for state in iterate(m, s):
        on_it = noised(s, run.grid.sigmas[state.i], m.noise(0, 0), run.grid.process)
        torch.testing.assert_close(state.x, on_it, rtol=1e-4, atol=1e-4)


@KINDS
def test_outside_of_a_mask_is_the_source(kind):
    m, s, _ = mixed(kind)
    mask = torch.zeros(SHAPE)
    mask[..., :7] = 1
    kept = Inpaint(m.run.denoise, s, drawn(SHAPE, seed=11), mask, m.run.grid.process)
    end = finish(replace(m, run=replace(m.run, denoise=kept)), s).x
    assert torch.equal(end[..., 7:], s[..., 7:]) and not torch.allclose(end[..., :7], s[..., :7])


def test_what_a_window_and_a_view_are_told():
    """SDXL's crop of each window in pixels of the padded latent; concat and hints of its own places."""

    class Net:
        factor = 2

        def __call__(self, x, t, cond, hint, strength):
            raise NotImplementedError

    places = torch.arange(16.0 * 16).reshape(1, 1, 16, 16)
    hint = places.repeat_interleave(2, 2).repeat_interleave(2, 3).repeat(1, 3, 1, 1)
    ids = torch.tensor([[64.0, 64, 0, 0, 64, 64]])
    told = Cond(torch.zeros(1, 2, 3), {"time_ids": ids}, concat=places, controls=[Control(Net(), hint)])
    seen = []

    def network(x, sigma, conds, ctx):
        seen.extend(zip(x.chunk(len(conds)), conds))
        return [part.clone() for part in x.chunk(len(conds))]

    ctx, windows = context("eps"), Windows(network, (8, 8), 4, seed=2, factor=4)
    out = windows(places, ctx.span.sigma, [told], ctx)[0]
    assert torch.equal(out, places)
    for box, (shown, cond) in zip(windows.boxes(16, 16, 3), seen, strict=True):
        assert cond.extra["time_ids"][0, 2:4].tolist() == [4 * (box.y + 1), 4 * (box.x + 1)]
        assert cond.extra["time_ids"][0, [0, 1, 4, 5]].tolist() == [64] * 4
        inside = shown[0, 0] > 0  # zeros are outside the latent, except at the first position
        assert torch.equal(cond.concat[0, 0][inside], shown[0, 0][inside])
        assert torch.equal(cond.controls[0].hint[0, 0, ::2, ::2][inside], shown[0, 0][inside])
    seen.clear()
    Dilated(network, 2, lambda sigma: 0.01, whole)(places, ctx.span.sigma, [told], ctx)
    for (a, b), (_, cond) in zip(((0, 0), (0, 1), (1, 0), (1, 1)), seen, strict=True):
        assert torch.equal(cond.concat, places[..., a::2, b::2])
        assert cond.controls[0].hint.shape == (1, 3, 16, 16) and cond.extra["time_ids"] is ids
    assert transformed(POSITIVE, stride(2, 0, 0, (0, 0))) is POSITIVE


@pytest.mark.parametrize("name, sigma", [("SD20_V", 3.0), ("SD20_V", 0.4), ("SD15", 3.0), ("SD3", 0.7)])
def test_views_find_the_network_s_own_output_of_the_blurred(name, sigma):
    """D = c_skip x + c_out F(c_in x_b) for every prediction: for v, c_skip = 1/(σ² + 1), and not D(x_b) + x − x_b."""
    sampling, level = family(name).sampling(), torch.tensor(sigma, dtype=torch.float64)
    pre, x = sampling.prediction(level), sigma * drawn((1, 3, 12, 8))

    def network(x, sigma, conds, ctx):
        return list((pre.c_skip * x + pre.c_out * (pre.c_in * x).tanh()).chunk(len(conds)))

    x_b = standardised(blurred(x, 2, 0.9), *moments(x))
    [D] = Dilated(network, 2, lambda sigma: 0.9, skip_of(sampling))(x, level, [POSITIVE], context("eps"))
    torch.testing.assert_close(D, (pre.c_skip * x + pre.c_out * (pre.c_in * x_b).tanh()).float())
    skip = {"SD20_V": 1 / (sigma**2 + 1), "SD15": 1.0, "SD3": 1.0}[name]
    assert float(pre.c_skip) == pytest.approx(skip)


def test_nothing_waits_for_a_device():
    """On the meta device, whose numbers cannot be read."""

    def network(x, sigma, conds, ctx):
        return list(x.chunk(len(conds)))

    x = torch.zeros(SHAPE, device="meta")
    model = fused(Windows(network, (N, N), 4), 2, clock(SAMPLINGS["eps"]), whole)
    assert ask(model, x, [POSITIVE, NEGATIVE], context("eps")).shape == (4, *SHAPE[1:])


def test_refusals():
    field = torch.full((1, 1, 8, 8), 2.0, dtype=torch.float64)
    toy = Toy(SAMPLINGS["eps"].process)
    for call, message in {
        lambda: Windows(toy, (8, 6), 7): "stride must be 1 … 6, the window's side; got 7",
        lambda: Windows(toy, (8, 8), 4, batch=0): "batch must be ≥ 1 window; got 0",
        lambda: Dilated(toy, 0, lambda sigma: 1.0, whole): "q must be ≥ 1; got 0",
        lambda: Windows(toy, (8, 8), 4)(
            drawn((1, 3, 8, 8)), field, [POSITIVE], context("eps")
        ): "needs one sigma per step",
    }.items():
        with pytest.raises(ValueError, match=message):
            call()
