"""Laws of iterative mixing: its ends, levels, rewinds, resumption, masks; and its parts against closed forms."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from laws import PROCESSES, grid, guided, repeats, run_of, same

from sigmafield.comfyui.iterative_mixing import (
    batch_unsample,
    mixing_ksampler,
    mixing_ksampler_advanced,
    mixing_sampler,
)
from sigmafield.comfyui.mixing_sampler import MixingSampler
from sigmafield.core.grid import Grid
from sigmafield.core.process import VE
from sigmafield.core.protocols import Pred
from sigmafield.models.analytic import Mixture
from sigmafield.parameterization.families import family
from sigmafield.parameterization.latent_format import formats
from sigmafield.recipes.ksampler import ksampler_sigmas
from sigmafield.runs.blends import BLENDS, CURVES, addition, blending_weights, norm_only, slerp
from sigmafield.runs.checkpoint import load_state, save_state
from sigmafield.runs.level_noise import KeyedLevels, StreamLevels, noised
from sigmafield.runs.mixing import Mixing, matched, passes
from sigmafield.runs.perlin_masks import Perlin, improved_noise, masks, perlin_masks
from sigmafield.runs.run import Run, finish, iterate
from sigmafield.samplers import SAMPLERS
from sigmafield.spatial.inpaint import Inpaint, differential

processes = pytest.mark.parametrize("process", PROCESSES, ids=str)
ON_SCHEDULE = [name for name, sampler in SAMPLERS.items() if not sampler.adaptive]
SHAPE = (2, 3, 4, 5)


def source(shape=SHAPE, seed=5):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.7


def mixing(name, process, c, n=8, **settings):
    """A mixing with weights c (a number, or one per step of the sampler's own schedule) and the noise of its levels."""
    run = run_of(name, guided(process), grid(process, n), source())
    weights = [c] * run.grid.n if isinstance(c, float) else c
    return Mixing(run, KeyedLevels([1, 2], SHAPE), weights, **settings)


@pytest.mark.parametrize("name", [pytest.param(name, marks=repeats(name)) for name in ON_SCHEDULE])
@pytest.mark.parametrize("process", [PROCESSES[0], pytest.param(PROCESSES[1], marks=pytest.mark.slow)], ids=str)
@pytest.mark.typed_elsewhere
def test_all_of_the_run_is_the_run(name, process):
    """c = 1: any sampler gives its result without mixing from the noised source, in as few evaluations."""
    m, s = mixing(name, process, 1.0, n=5), source()
    start = noised(s, m.run.grid.sigmas[0], m.noise(0, 0), process)
    plain, end = finish(m.run, start), finish(m, s)
    assert torch.equal(end.x, plain.x)
    assert end.nfe == plain.nfe


@pytest.mark.parametrize(
    "name, process",
    [(name, PROCESSES[0]) for name in ("euler", "dpmpp_2m_sde", "distance", "uni_pc")]
    + [("euler", PROCESSES[1])]
    + [pytest.param(name, PROCESSES[1], marks=pytest.mark.slow) for name in ("dpmpp_2m_sde", "distance", "uni_pc")],
    ids=str,
)
@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.typed_elsewhere
def test_none_of_the_run_is_the_noised_source(name, blend, process):
    """c = 0: after every step x is the source at the level that align chooses; with "next" it ends as the source."""
    s = source()
    for align, ahead in (("after", 0), ("next", 1)):
        m = mixing(name, process, 0.0, blend=BLENDS[blend], align=align)
        for i, state in enumerate(iterate(m, s)):
            z = noised(s, m.run.grid.sigmas[i + ahead], m.noise(0, i + ahead), process)
            torch.testing.assert_close(state.x, z)
    if name == "euler":  # no memory: blended before the step, its last step sees only the noised source
        m = mixing(name, process, 0.0, blend=BLENDS[blend], align="before")
        z = noised(s, m.run.grid.sigmas[7], m.noise(0, 7), process)
        torch.testing.assert_close(finish(m, s).x, m.run.step(replace(m.run.start(z), i=7)).x)


@pytest.mark.parametrize("name", ["euler", "heun", "dpmpp_2m", "res_multistep"])
@processes
@pytest.mark.parametrize("c", [0.2, 0.7])
def test_a_right_answer_stays_on_the_noised_source(name, process, c):
    """D = s, one noise for all levels, blended before the step: x is s noised to its level at all times."""
    s = source()
    run = Run(lambda x, sigma, ctx: Pred(s), SAMPLERS[name], grid(process))
    m = Mixing(run, KeyedLevels([1, 2], SHAPE, shared=True), [c] * 8, align="before")
    for state in iterate(m, s):
        sigma = run.grid.sigmas[state.i]
        torch.testing.assert_close(state.x, noised(s, sigma, m.noise(0, 0), process), rtol=1e-4, atol=1e-4)


@processes
@pytest.mark.parametrize("align", ["next", "before"])
def test_the_variance_form_keeps_the_level(align, process):
    """With D = s the remaining noise has the level's deviation; a plain blend of independent noises has less."""
    shape = (1, 1, 200, 200)
    s = source(shape)
    run = Run(lambda x, sigma, ctx: Pred(s), SAMPLERS["euler"], grid(process))
    deviations = {}
    for of in ("state", "variance"):
        m = Mixing(run, KeyedLevels([1], shape), [0.5] * 8, align=align, of=of)
        states = list(iterate(m, s))[:-1]
        deviations[of] = []
        for st in states:
            sigma = run.grid.sigmas[st.i]
            rest = st.x - float(process.alpha(sigma)) * s
            deviations[of].append(float(rest.std() / sigma))
    assert deviations["variance"] == pytest.approx([1.0] * 7, abs=0.03)
    assert max(deviations["state"][1 if align == "before" else 0 :]) < 0.95  # before the first there is no blend


@processes
def test_lcm_blends_what_is_clean_and_noises_it_after(process):
    s, c = source(), 0.4
    m = mixing("lcm", process, c, of="denoised")
    first = m.step(m.start(s))
    plain = m.run.step(m.start(s))
    alpha = float(process.alpha(m.run.grid.sigmas[1]))
    z, D = m.start(s).x, plain.pred.x0 * alpha
    torch.testing.assert_close(first.x, (1 - c) * z + c * D + (plain.x - D))


REWOUND = {
    "plain": ("euler", {}),
    "history": ("dpmpp_2m", {}),
    "stream": ("dpmpp_2s_ancestral", {"of": "denoised"}),
    "path": ("dpmpp_2m_sde", {"align": "next", "blend": slerp}),
    "before": ("euler_ancestral", {"align": "before", "of": "variance"}),
    "resampled": ("distance_p", {"match_source": True}),
    "perlin": ("heun", {"perlin": Perlin("masks", scale=3.0), "blend": norm_only}),
}


@pytest.mark.parametrize("k, case", list(enumerate(REWOUND)))
def test_resume_in_the_middle_of_a_rewind(k, case, tmp_path):
    """At every cut, between passes too, with everything newly constructed."""
    (name, settings), process = REWOUND[case], PROCESSES[k % 2]

    def made():
        c = blending_weights("cosine", 5, alpha_1=1.0)
        return mixing(name, process, c, n=5, rewind=(0.4, 0.9), **settings)

    states = list(iterate(made(), source()))
    assert len(states) == made().n == 5 + 3 + 2
    assert [st.i for st in states] == list(range(1, 11))
    for state, following in pairwise(states):
        save_state(state, tmp_path / "cut.safetensors")
        again, _ = load_state(tmp_path / "cut.safetensors")
        assert same(made().step(again), following)
    assert same(finish(made(), states[4]), states[-1])


def test_each_pass_begins_at_the_result_of_the_one_before():
    m, s = mixing("euler", VE(), [0.5] * 8, rewind=(0.4, 0.9)), source()
    assert m.starts == [0, 3, 5, 6]
    states = list(iterate(m, s))
    for k, (start, before) in enumerate(zip(m.starts[1:], (8, 13, 16)), 1):
        result = states[before - 1].x
        whole = Mixing(m.runs[k], lambda rewind, level, k=k: m.noise(k, level), [0.5] * (8 - start))
        torch.testing.assert_close(states[before + 8 - start - 1].x, finish(whole, result).x)
    assert states[-1].nfe == m.n


@pytest.mark.parametrize(
    "n, least, most, starts",
    [
        (100, 0.5, 0.8, [0, 50, 75]),
        (10, 0.5, 0.8, [0, 5, 7, 8]),
        (8, 0.0, 0.5, [0]),
        (1, 0.5, 0.8, [0]),
        (4, 0.2, 1, [0]),
    ],
)
def test_passes(n, least, most, starts):
    assert passes(n, least, float(most)) == starts


@pytest.mark.parametrize("mode", ["latents", "masks", "matched_noise"])
@processes
def test_perlin_modes(mode, process):
    """Against the formulas, and in the specified number of evaluations: masks 2N − 1, the others N."""
    c, s = blending_weights("linear", 8), source()
    p = Perlin(mode, strength=0.6, scale=3.0, seed=9)
    m, without = mixing("euler", process, c, perlin=p), mixing("euler", process, c)
    P = perlin_masks(8, SHAPE[-2:], 9, scale=3.0)
    state = m.start(s)
    for i in range(8):
        x = without.step(state).x
        weak = [1 + 0.6 * (value - 1) for value in (*c, 1.0)]
        if mode == "latents":
            x = x * (weak[i] + P[i] * (1 - weak[i]))
        elif mode == "matched_noise":
            x = weak[i] * x + (1 - weak[i]) * P[i]
        elif i < 7:
            y = m.run.step(replace(state, i=i + 1, x=x)).x
            x = (1 - P[i]) * x + P[i] * (weak[i + 1] * x + (1 - weak[i + 1]) * y)
        state = m.step(state)
        torch.testing.assert_close(state.x, x)
    assert state.nfe == (15 if mode == "masks" else 8)


@processes
@pytest.mark.parametrize("settings", [{}, {"align": "next"}, {"align": "before"}, {"rewind": (0.5, 0.8)}], ids=str)
@pytest.mark.parametrize("kept", ["clean", "noised"])
def test_outside_of_a_mask_is_the_source(settings, kept, process):
    s = source()
    mask = torch.zeros(SHAPE)
    mask[..., 2:] = 1
    nu = torch.zeros(SHAPE) if kept == "clean" else source(seed=8)
    seen = []

    def denoise(x, sigma, ctx):
        seen.append((float(sigma), x))
        return Mixture(process=process)(x, sigma)

    inpaint = Inpaint(denoise, s, nu, mask, process)
    run = Run(inpaint, SAMPLERS["euler"], grid(process))
    end = finish(Mixing(run, KeyedLevels([1, 2], SHAPE), [0.5] * 8, keep=inpaint.kept, **settings), s)
    assert torch.equal(end.x[..., :2], s[..., :2])
    assert not torch.allclose(end.x[..., 2:], s[..., 2:])
    for sigma, x in seen:  # the network is given the source there, at its level
        expected = noised(s, torch.tensor(sigma, dtype=torch.float64), nu, process)
        torch.testing.assert_close(x[..., :2], expected[..., :2])


@processes
def test_what_is_kept_does_not_depend_on_wrappers(process):
    """Another denoiser around the inpainting one changes nothing: what is kept is an argument of the mixing."""
    s, mask = source(), torch.zeros(SHAPE)
    mask[..., 2:] = 1
    inpaint = Inpaint(guided(process), s, source(seed=8), mask, process)
    ends = []
    for denoise in (inpaint, lambda x, sigma, ctx: inpaint(x, sigma, ctx)):
        m = Mixing(
            Run(denoise, SAMPLERS["dpmpp_2m"], grid(process)), KeyedLevels([1, 2], SHAPE), [0.5] * 8,
            align="next", keep=inpaint.kept,
        )  # fmt: skip
        ends.append(finish(m, s).x)
    assert torch.equal(*ends)
    assert torch.equal(ends[0][..., :2], s[..., :2])


def test_differential_diffusion_lets_places_in_at_their_level():
    """A position kept until a step joins the run as the source noised to that step's level."""
    sampling = family("SD15").sampling()
    sigmas = ksampler_sigmas(sampling.levels, "euler", "normal", 8)
    s, nu = source(), source(seed=8)
    ramp = torch.linspace(0, 1, 5).expand(SHAPE)
    kept = Inpaint(Mixture(), s, nu, ramp, sampling.process, differential(sampling.levels, sigmas))
    m = Mixing(Run(kept, SAMPLERS["euler"], Grid(sigmas, VE())), KeyedLevels([1, 2], SHAPE), [0.5] * 8, keep=kept.kept)
    for state in iterate(m, s):
        if state.i < 8:
            still = kept.mask_of(sigmas[state.i - 1].double(), ramp) == 0
            torch.testing.assert_close(state.x[still], noised(s, sigmas[state.i].double(), nu, VE())[still])


def test_samples_do_not_meet_and_seeds_reproduce():
    for settings in ({"blend": slerp}, {"blend": norm_only, "match_source": True}, {"perlin": Perlin("latents")}):
        s, c = source(), blending_weights("logistic", 8)
        run = Run(Mixture(), SAMPLERS["dpmpp_2m"], grid(VE()))
        both = finish(Mixing(run, KeyedLevels([1, 2], SHAPE), c, rewind=(0.5, 0.8), **settings), s).x
        torch.manual_seed(0)  # nothing may depend on the global generator
        for k in range(2):
            noise = KeyedLevels([k + 1], (1, *SHAPE[1:]))
            alone = finish(Mixing(run, noise, c, rewind=(0.5, 0.8), **settings), s[k : k + 1]).x
            torch.testing.assert_close(both[k : k + 1], alone)


def test_a_video_and_a_sound_are_mixed_as_well():
    for shape in ((1, 3, 2, 4, 5), (2, 3, 9)):
        s = source(shape)
        run = Run(Mixture(), SAMPLERS["euler"], grid(VE()))
        end = finish(Mixing(run, KeyedLevels(range(len(s)), shape), [0.6] * 8, match_source=True), s).x
        space = tuple(range(2, s.ndim))
        torch.testing.assert_close(end.mean(space), s.mean(space), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(end.std(space), s.std(space), rtol=1e-4, atol=1e-5)


def test_one_noise_for_all_levels_or_one_for_each():
    shared, own = (KeyedLevels([4, 4], SHAPE, shared=value) for value in (True, False))
    assert torch.equal(shared(0, 0), shared(0, 3)) and not torch.equal(own(0, 0), own(0, 3))
    assert not torch.equal(shared(0, 0), shared(1, 0))
    assert torch.equal(own(1, 2)[0], own(1, 2)[1])
    stream = StreamLevels(7, SHAPE, [9, 4])
    later = stream(1, 2)
    generator = torch.Generator().manual_seed(7)
    drawn = [torch.randn(n, *SHAPE, generator=generator) for n in (9, 4)]
    assert torch.equal(stream(0, 8), drawn[0][8]) and torch.equal(later, drawn[1][2])


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize("n", [1, 2, 12])
def test_weights_rise_to_what_they_are_clamped_to(curve, n):
    c = blending_weights(curve, n)
    assert c == sorted(c) and all(0 <= value <= 1 for value in c)
    assert blending_weights(curve, n, stop=0)  # no division by 0
    early = blending_weights(curve, n, stop=n // 2)
    assert early[n // 2 + 1 :] == [1.0] * (n - n // 2 - 1)
    clamped = blending_weights(curve, n, clamp=0.5, least=0.1, most=0.8)
    assert clamped[math.floor(n / 2) :] == pytest.approx([0.8] * math.ceil(n / 2))
    assert clamped[: n // 2] == pytest.approx([0.1 + 0.7 * value for value in c[: n // 2]])


def test_weights_against_closed_forms():
    rise = [(0.5 - 0.5 * math.cos(math.pi * t / 4)) ** 2 for t in range(4)]
    assert blending_weights("cosine", 4, alpha_1=2.0) == pytest.approx(rise)
    assert blending_weights("linear", 4, start=2) == [0, 0, 0.5, 0.75]
    assert blending_weights("logistic", 5, alpha_1=1.0)[2] == pytest.approx(1 / (1 + math.exp(-5 * (0.5 - 5 / 8))))
    assert blending_weights("linear", 4, stop=8) == [0, 0.125, 0.25, 0.375]  # a stop after the end


@pytest.mark.parametrize("blend", BLENDS)
def test_blends_at_their_ends(blend):
    z, x = source(), source(seed=6) * 2
    assert torch.equal(BLENDS[blend](z, x, 0.0), z)
    end = BLENDS[blend](z, x, 1.0)
    norm = lambda t: t.flatten(1).norm(dim=1)  # noqa: E731
    torch.testing.assert_close(end, x * (norm(z) / norm(x)).reshape(-1, 1, 1, 1) if blend == "norm_only" else x)
    same = BLENDS[blend](z, z, 0.3)  # parallel: no 0/0
    torch.testing.assert_close(same, z)
    assert torch.isfinite(BLENDS[blend](z, x * 0, 0.3)).all()


def test_slerp_keeps_the_size_and_the_angle():
    z, x = source().double(), source(seed=6).double()
    norm = lambda t: t.flatten(1).norm(dim=1)  # noqa: E731
    z, x = (t / norm(t).reshape(-1, 1, 1, 1) for t in (z, x))
    out = slerp(z, x, 0.3)
    torch.testing.assert_close(norm(out), torch.ones(2, dtype=torch.float64))
    angle = lambda a, b: (a * b).flatten(1).sum(1).arccos()  # noqa: E731
    torch.testing.assert_close(angle(z, out), 0.3 * angle(z, x))


def test_perlin_masks():
    a = perlin_masks(3, (20, 30), 5)
    assert a.shape == (3, 20, 30) and float(a.min()) == 0 and float(a.max()) == 1
    assert torch.equal(a, perlin_masks(3, (20, 30), 5)) and not torch.equal(a, perlin_masks(3, (20, 30), 6))
    assert not torch.allclose(a[0], a[1])
    smooth, fine = (perlin_masks(1, (32, 32), 5, scale=scale, octaves=1)[0] for scale in (16.0, 3.0))
    assert smooth.diff().abs().mean() < fine.diff().abs().mean() / 2
    assert torch.isfinite(perlin_masks(1, (4, 4), 5, scale=0.1)).all()  # more cells than the permutation is long
    with pytest.raises(ValueError, match="scale must be above 0; got 0"):
        perlin_masks(1, (4, 4), 5, scale=0.0)


def test_improved_noise_is_0_at_corners_and_continuous():
    table = torch.randperm(256, generator=torch.Generator().manual_seed(1))
    y, x = torch.arange(6.0)[:, None], torch.arange(7.0)[None]
    assert torch.equal(improved_noise(x, y, torch.tensor(2.0), table), torch.zeros(6, 7))
    at = torch.linspace(0, 5, 2001)
    assert improved_noise(at, torch.tensor(0.3), torch.tensor(0.6), table).diff().abs().max() < 0.01
    edge = [improved_noise(torch.tensor(v), torch.tensor(0.3), torch.tensor(0.6), table) for v in (2.99999, 3.0)]
    assert float((edge[0] - edge[1]).abs()) < 1e-4


def test_mask_generator():
    assert masks("perlin", 2, 64, 128, 3).shape == (2, 1, 16, 8)
    assert torch.equal(masks("random", 2, 64, 128, 3), masks("random", 2, 64, 128, 3))


SD, FORM = family("SD15").sampling(), formats()["SD15"]
LATENT = source((1, 4, 6, 8)) / FORM.scale


def soft(x, sigma, ctx):
    return Mixture()(x, sigma)


def test_the_nodes_sampler_takes_any_name():
    sigmas = ksampler_sigmas(SD.levels, "euler", "normal", 6)

    def mixed(mask=None, **settings):
        return mixing_sampler(soft, SD, FORM, sigmas, LATENT, MixingSampler(**settings), seed=3, mask=mask)

    for name, nfe in {"euler": 6, "euler_perlin": 11, "heun": 11, "distance": 14, "dpmpp_2m_sde": 6}.items():
        out = mixed(sampler=name)
        assert out.nfe == nfe and torch.isfinite(out.samples).all()
        assert torch.equal(out.samples, mixed(sampler=name).samples)
    mean = mixed(normalize_on_mean=True).samples.mean((2, 3))
    torch.testing.assert_close(mean, LATENT.mean((2, 3)), rtol=1e-4, atol=1e-4)
    masked = mixed(torch.eye(6)[:, :6].repeat(1, 2)[:, :8])
    assert torch.isfinite(masked.samples).all()


def test_batch_unsampler():
    sigmas = ksampler_sigmas(SD.levels, "euler", "normal", 12)
    batch = batch_unsample(SD, FORM, LATENT, seed=3, steps=12, start_step=2)
    assert len(batch) == 10
    deviations = ((batch - LATENT) * FORM.scale).flatten(1).std(1)
    assert deviations.tolist() == pytest.approx(sigmas[2:12].flip(0).tolist(), rel=0.25)
    centred = batch_unsample(SD, FORM, LATENT, seed=3, steps=12, normalize=True)
    assert float(centred[0].mean()) == pytest.approx(0, abs=1e-5)
    with pytest.raises(ValueError, match="unsampling takes a batch of 1"):
        batch_unsample(SD, FORM, LATENT.repeat(2, 1, 1, 1), seed=3)


def test_the_mixing_ksamplers_and_their_repair():
    """With c = 1 the repaired one is a plain run from the noisiest latent; the other never finishes its run."""
    batch = batch_unsample(SD, FORM, LATENT, seed=3, steps=6)
    ones = {"start_blending_at_pct": 0.0, "clamp_blending_at_pct": 0.0}  # from the first step on, c = 1
    whole = mixing_ksampler_advanced(soft, SD, FORM, batch, seed=5, renoise=False, **ones)
    sigmas = ksampler_sigmas(SD.levels, "euler", "normal", 6)
    plain = finish(Run(soft, SAMPLERS["euler"], Grid(sigmas, VE())), FORM.to_network(batch[-1:])).x
    torch.testing.assert_close(whole.mixed[-1:], FORM.to_vae(plain))
    assert len(whole.mixed) == len(whole.intermediates) == 7 and whole.nfe == 6
    assert torch.equal(whole.noised, batch.flip(0)) and torch.equal(whole.mixed[0], batch[-1])
    grainy = mixing_ksampler_advanced(soft, SD, FORM, batch, seed=5)
    assert grainy.nfe == 5  # the first has no step
    first = (grainy.intermediates[1] - batch[-1]) * FORM.scale
    assert float(first.std()) == pytest.approx(float((1 + sigmas[0] ** 2).sqrt()), rel=0.2)
    knows = lambda x, sigma, ctx: Pred(FORM.to_network(LATENT))  # noqa: E731
    ends = [mixing_ksampler(knows, SD, FORM, LATENT, seed=5, steps=6, renoise=value).samples for value in (True, False)]
    grain, repaired = (float((end - LATENT).std()) for end in ends)
    assert repaired < grain / 3


def test_refusals():
    run = run_of("euler", guided(VE()), grid(VE()), source())
    noise, c = KeyedLevels([1, 2], SHAPE), [1.0] * 8
    for call, message in {
        lambda: Mixing(run, noise, c[:-1]): "weights must be one per step: got 7 for 8 steps",
        lambda: Mixing(run, noise, c, blend=slerp, of="variance"): "blends by addition: give no other blend",
        lambda: Mixing(run, noise, c, align="before", of="denoised"): "cannot be blended before the step",
        lambda: Mixing(run, noise, c, rewind=(0.9, 0.2)): "0 ≤ least < most ≤ 1; got 0.9 and 0.2",
        lambda: Mixing(
            replace(run, sampler=SAMPLERS["dpm_adaptive"], noise=noise_of(run)), noise, c
        ): "chooses its own",
        lambda: blending_weights("cosin", 8): "unknown blending schedule 'cosin'; did you mean cosine",
        lambda: blending_weights("cosine", 8, stop=-1): "stop must be ≥ 0; got -1",
        lambda: KeyedLevels([1], SHAPE): "one per sample: got 1 for a batch of 2",
    }.items():
        with pytest.raises(ValueError, match=message):
            call()
    assert torch.equal(addition(source(), source() * 2, 1.0), source() * 2)
    assert torch.isfinite(matched(source(), source(seed=9))).all()


def noise_of(run):
    return run_of("euler_ancestral", run.denoise, run.grid, source()).noise
