"""Laws that every guidance mod obeys: neutral values, cfg = 1, batches, shapes, fields, memory, declared needs."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from laws import LEVELS, on, run_of, same

from sigmafield.core.conditioning import Cond
from sigmafield.core.process import VE, Flow, Span
from sigmafield.core.protocols import Ctx
from sigmafield.guidance.autoguidance import Perturbed
from sigmafield.guidance.guider import DualGuider, Guider, PerpNegGuider
from sigmafield.guidance.hooks import Asked, Mods
from sigmafield.models.analytic import Mixture
from sigmafield.recipes.mods import MODS, parse_mods
from sigmafield.runs.checkpoint import load_state, save_state
from sigmafield.runs.run import finish, iterate
from sigmafield.schedules import karras

CFG = 6.0
SIGMA = torch.tensor(0.8, dtype=torch.float64)
NEUTRAL = {
    "rescale": "multiplier=0", "renorm": "renorm_cfg=0", "apg": "norm_threshold=0, form=paper",
    "fresca": "scale_high=1", "sharpen": "alpha=0", "raag": "alpha=0", "epsilon_scaling": "scaling_factor=1",
    "tsr": "tsr_k=1", "linear_frames": "min_cfg=6", "triangle_frames": "min_cfg=6", "perp_neg": "neg_scale=0",
    "interval": "", "sigma_interval": "", "cfg_below": "sigma=0",
    "ramp": "start=1, end=1", "cosine_ramp": "start=1, end=1",
    "lazycache": "reuse_threshold=0", "context": "length=64",
}  # fmt: skip
ALWAYS_ACT = {"cfg_norm", "zero_star", "mahiro", "tcfg", "tonemap"}
# D at cfg = 1, in units of C, for mods that change it
AT_ONE = {"cfg_norm(strength=0.8)": 0.8, "renorm(renorm_cfg=0.5)": 0.5, "apg(norm_threshold=0)": 2.0}
BY_SAMPLE = {"mahiro": "mahiro(over=sample)", "perp_neg": "perp_neg(over=sample)"}
ON_PREDICTIONS = [name for name, mod in MODS.items() if mod.fits is None and mod.stage != "network"]
SHAPES = {3: (2, 4, 24), 4: (2, 4, 12, 14), 5: (2, 4, 3, 12, 14)}


def cond(value):
    return Cond(torch.full((1, 1, 1), value))


class Model:
    """The exact denoiser of a mixture whose means a conditioning shifts; it counts calls and rows."""

    def __init__(self, process=VE(), spread=0.35):
        self.process, self.spread, self.calls, self.rows = process, spread, 0, 0

    def __call__(self, x, sigma, conds, ctx):
        self.calls, self.rows = self.calls + 1, self.rows + len(x)
        out = []
        for part, c in zip(x.chunk(len(conds)), conds):
            shift = float(c.embeds.mean())
            means = [m + shift for m in (-1.0, 0.2, 1.1)]
            out.append(Mixture(means, tau=self.spread, process=self.process)(part, sigma).x0)
        return out


def guider(text="", cfg=CFG, model=None, **rest):
    mods = parse_mods(text) if isinstance(text, str) else text
    return Guider(model or Model(), cond(0.5), cond(-0.3), cfg, mods, empty=rest.pop("empty", cond(-0.3)), **rest)


def ctx(sigma=SIGMA, process=VE(), **rest):
    return Ctx(Span(sigma, sigma / 2, process, clock=LEVELS[type(process)].sigma_at), {}, **rest)


def noisy(shape=SHAPES[4], seed=0):
    return 1.3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def plain_and(text, x=None, cfg=CFG, process=VE(), **rest):
    """(C, U, D of plain guidance, D of a guider with these mods)."""
    x = noisy() if x is None else x
    base = guider(cfg=cfg, model=Model(process))(x, SIGMA, ctx(process=process, need_uncond=True))
    with_mods = guider(text, cfg=cfg, model=Model(process), **rest)(x, SIGMA, ctx(process=process))
    return base.cond, base.uncond, base.x0, with_mods.x0


@pytest.mark.parametrize("name", ON_PREDICTIONS)
@pytest.mark.parametrize("process", [VE(), Flow(3.0)])
def test_neutral_parameters_are_plain_guidance(name, process):
    if name in ALWAYS_ACT:
        _, _, plain, D = plain_and(name, process=process)
        assert not torch.allclose(D, plain, rtol=1e-3)
    else:
        _, _, plain, D = plain_and(f"{name}({NEUTRAL[name]})", process=process)
        torch.testing.assert_close(D, plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "name", [name for name in ON_PREDICTIONS if name not in ("epsilon_scaling", "tsr", "sharpen", "tonemap")]
)
def test_without_guidance_nothing_is_changed(name):
    """At cfg = 1 the negative prompt is not evaluated, and D = C, except for mods that scale D itself."""
    text = "apg(form=paper)" if name == "apg" else name
    model = Model()
    C, _, _, D = plain_and(text, cfg=1.0)
    torch.testing.assert_close(D, C, rtol=1e-6, atol=1e-6)
    guider(text, cfg=1.0, model=model)(noisy(), SIGMA, ctx())
    assert (model.calls, model.rows) == (1, 2)


@pytest.mark.parametrize("name", ON_PREDICTIONS)
def test_without_a_negative_cfg_is_1(name):
    one, none = guider(name, cfg=1.0), replace(guider(name, cfg=7.0), negative=None)
    assert torch.equal(none(noisy(), SIGMA, ctx()).x0, one(noisy(), SIGMA, ctx()).x0)


@pytest.mark.parametrize("text", AT_ONE)
def test_what_mods_do_to_the_positive_alone(text):
    """As in ComfyUI, whose APG takes the missing prediction as 0 and doubles D."""
    C, _, _, D = plain_and(text, cfg=1.0)
    torch.testing.assert_close(D, AT_ONE[text] * C, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("text", ["epsilon_scaling(scaling_factor=1.2)", "tsr(tsr_k=2)"])
def test_scalings_of_the_noise_act_at_cfg_1_as_well(text):
    C, _, _, D = plain_and(text, cfg=1.0)
    assert not torch.allclose(D, C, rtol=1e-3)


@pytest.mark.parametrize("name", ON_PREDICTIONS)
def test_a_batch_is_its_samples(name):
    text = BY_SAMPLE.get(name, name)
    for ndim in (5,) if name.endswith("_frames") else SHAPES:  # of images these make frames of the batch
        x = noisy((3, *SHAPES[ndim][1:]))
        together = guider(text)(x, SIGMA, ctx()).x0
        alone = torch.cat([guider(text)(one[None], SIGMA, ctx()).x0 for one in x])
        torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5, msg=lambda said, n=ndim: f"{n} axes: {said}")


@pytest.mark.parametrize("name", ON_PREDICTIONS)
def test_any_shape_and_precision(name):
    for ndim, shape in SHAPES.items():
        exact = guider(name)(noisy(shape).double(), SIGMA, ctx()).x0
        for dtype, tolerance in {torch.float64: 0.0, torch.float32: 1e-4, torch.bfloat16: 0.25}.items():
            x = noisy(shape).to(dtype)
            kept = x.clone()
            D = guider(name)(x, SIGMA, ctx()).x0
            assert D.dtype == dtype and D.shape == x.shape
            assert torch.equal(x, kept), f"the latent that was given, of {ndim} axes, is changed"
            assert float((D.double() - exact).abs().max() / exact.abs().max()) <= tolerance, f"{ndim} axes, {dtype}"


@pytest.mark.parametrize("name", [name for name in ON_PREDICTIONS if name != "lazycache"])
def test_no_mod_reads_latents(name):
    """Reading a latent on the meta device raises. Only the caches read one number of it, to decide."""
    one = guider("apg(momentum=-0.5)" + f"+{name}" * (name != "apg"), model=halved)  # operations there are slow
    c, x = ctx(), torch.empty(SHAPES[4], device="meta")
    for _ in range(2):  # with memory of the first
        assert one(x, SIGMA, c).x0.is_meta


def halved(x, sigma, conds, ctx):
    """A model whose predictions are half of what it is given."""
    return list((0.5 * x).chunk(len(conds)))


@pytest.mark.parametrize("name", ON_PREDICTIONS)
def test_a_constant_field_is_its_level(name):
    field = SIGMA.expand(2, 1, 12, 14)
    for process in (VE(), Flow(3.0)):
        D = guider(name, model=Model(process))(noisy(), field, ctx(field, process)).x0
        scalar = guider(name, model=Model(process))(noisy(), SIGMA, ctx(process=process)).x0
        torch.testing.assert_close(D, scalar, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ON_PREDICTIONS)
def test_declared_evaluations(name):
    model = Model()
    guider(name, model=model)(noisy(), SIGMA, ctx())
    assert model.calls == 1 + MODS[name].evals


@pytest.mark.parametrize("sampler", ["heun", "dpmpp_2m_sde", "euler_cfg_pp"])
@pytest.mark.parametrize("text", ["apg(momentum=-0.6)", "interval(start=0.1)+apg(momentum=0.3, eta=0.2)+cfg_norm"])
def test_a_checkpoint_at_every_cut_is_the_uninterrupted_run(sampler, text, tmp_path):
    grid, x = on(karras(6, 0.03, 14.6), VE(14.6)), 14.6 * noisy()
    run = run_of(sampler, guider(text), grid, x)
    states = [run.start(x), *iterate(run, x)]
    assert "apg" in states[-1].aux
    for state, following in pairwise(states):
        save_state(state, tmp_path / "cut.safetensors")
        again = run_of(sampler, guider(text), grid, x)
        assert same(again.step(load_state(tmp_path / "cut.safetensors")[0]), following)


def test_runs_share_no_memory():
    """One guider in two runs, stepped in turn, gives what each run gives alone."""
    grid, one = on(karras(5, 0.03, 14.6), VE(14.6)), guider("apg(momentum=-0.6)")
    starts = [14.6 * noisy(seed=seed) for seed in (1, 2)]
    alone = [finish(run_of("euler", one, grid, x), x).x for x in starts]
    turns = zip(*(iterate(run_of("euler", one, grid, x), x) for x in starts))
    for states in turns:
        last = states
    assert all(torch.equal(state.x, x) for state, x in zip(last, alone))


def test_mods_of_a_stage_act_in_the_order_of_the_line():
    fresca, tcfg = MODS["fresca"](freq_cutoff=2, scale_low=0.5), MODS["tcfg"]()
    one, other = "fresca(freq_cutoff=2, scale_low=0.5)", "tcfg"
    D = {line: guider(line)(noisy(), SIGMA, ctx()).x0 for line in (f"{one}+{other}", f"{other}+{one}")}
    by_hand = {f"{one}+{other}": (fresca, tcfg), f"{other}+{one}": (tcfg, fresca)}
    for line, before in by_hand.items():
        assert torch.equal(D[line], guider(Mods(before=before))(noisy(), SIGMA, ctx()).x0)
    assert not torch.equal(*D.values())
    stages = ["epsilon_scaling(scaling_factor=1.2)", "rescale", "tcfg", "ramp"]
    lines = ["+".join(stages), "+".join(reversed(stages))]
    assert torch.equal(*(guider(line)(noisy(), SIGMA, ctx()).x0 for line in lines))


def test_methods_see_the_predictions_that_mods_left():
    """CFG++ is given the U that TCFG has changed, whatever acts later."""
    _, U, _, _ = plain_and("")
    pred = guider("tcfg+cfg_norm")(noisy(), SIGMA, ctx())
    assert not torch.equal(pred.uncond, U)
    assert torch.equal(pred.uncond, guider("tcfg")(noisy(), SIGMA, ctx()).uncond)


def test_outside_of_an_interval_the_negative_is_not_evaluated():
    process = VE(14.6)
    for level, rows in {
        LEVELS[type(process)].sigma_at(0.1): 2,
        LEVELS[type(process)].sigma_at(0.5): 4,
        LEVELS[type(process)].sigma_at(0.9): 2,
    }.items():
        model, sigma = Model(), torch.tensor(level, dtype=torch.float64)
        one = guider("interval(start=0.3, end=0.7)+apg", model=model)
        C = guider(cfg=1.0)(noisy(), sigma, ctx(sigma, process)).x0
        D = one(noisy(), sigma, ctx(sigma, process)).x0
        assert model.rows == rows
        assert torch.equal(D, C) == (rows == 2)


def test_an_interval_over_a_field_acts_where_the_level_is_in_it():
    field = torch.full((2, 1, 12, 14), 0.5, dtype=torch.float64)
    field[..., 7:] = 3.0
    D = guider("sigma_interval(low=1.0)+rescale")(noisy(), field, ctx(field)).x0
    plain = guider(cfg=1.0)(noisy(), field, ctx(field)).x0
    assert torch.equal(D[..., :7], plain[..., :7])
    assert not torch.isclose(D[..., 7:], plain[..., 7:]).any()


@pytest.mark.parametrize("name", ["ramp", "cosine_ramp"])
def test_ramps_go_from_start_to_end(name):
    ramp, cfg, seen = MODS[name](start=0.5, end=3.0), torch.tensor(5.0, dtype=torch.float64), []
    for sigma in torch.linspace(1, 0, 9, dtype=torch.float64):
        seen.append(float(ramp(Asked(noisy(), sigma, cfg, ctx(sigma, Flow()), Model(), []))))
    assert seen == sorted(seen)
    assert (seen[0], seen[4], seen[-1]) == pytest.approx((1 + 0.5 * 4, 1 + 1.75 * 4, 1 + 3.0 * 4))


def test_autoguidance_leads_away_from_the_worse_model():
    worse, model = Model(spread=0.8), Model()
    mods = Mods(after=(Perturbed(worse, 1.5),))
    D = guider(mods, cfg=1.0, model=model)(noisy(), SIGMA, ctx()).x0
    C, W = (m(noisy(), SIGMA, [cond(0.5)], None)[0] for m in (Model(), Model(spread=0.8)))
    torch.testing.assert_close(D, W + 2.5 * (C - W))
    assert (model.rows, worse.rows) == (2, 2)
    for off in (Perturbed(worse, 0.0), Perturbed(worse, 1.5, window=(0.99, 1.0))):
        assert torch.equal(guider(Mods(after=(off,)), cfg=1.0)(noisy(), SIGMA, ctx(process=VE(14.6))).x0, C)
    assert worse.calls == 1


def test_mods_of_the_guiders_of_three_prompts():
    """They act within the guided pair: M against N in dual guidance, P against M when nested."""
    P, M, N = cond(0.5), cond(0.1), cond(-0.3)
    mods = parse_mods("tcfg+rescale")
    p, m, n = (Model()(noisy(), SIGMA, [c], None)[0] for c in (P, M, N))
    inner = Guider(Model(), M, N, 3.0, mods)(noisy(), SIGMA, ctx()).x0
    D = DualGuider(Model(), P, M, N, 2.0, 3.0, mods=mods)(noisy(), SIGMA, ctx()).x0
    torch.testing.assert_close(D, inner + 2.0 * (p - m))
    inner = Guider(Model(), P, M, 2.0, mods)(noisy(), SIGMA, ctx()).x0
    D = DualGuider(Model(), P, M, N, 2.0, 3.0, nested=True, mods=mods)(noisy(), SIGMA, ctx()).x0
    torch.testing.assert_close(D, n + 3.0 * (inner - n))
    empty = cond(0.0)
    after = parse_mods("cfg_norm")
    D = PerpNegGuider(Model(), P, N, empty, CFG, 0.7, "sample", after)(noisy(), SIGMA, ctx()).x0
    as_mod = guider("perp_neg(neg_scale=0.7, over=sample)+cfg_norm", empty=empty)(noisy(), SIGMA, ctx()).x0
    torch.testing.assert_close(D, as_mod)
    with pytest.raises(ValueError, match="combines by its own rule"):
        PerpNegGuider(Model(), P, N, empty, mods=mods)
    with pytest.raises(ValueError, match="perp_neg needs an empty prompt"):
        replace(guider("perp_neg"), empty=None)(noisy(), SIGMA, ctx())
