"""Laws of every schedule, of the functions that cut and reverse schedules, and of the families' noise levels."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sigmafield import schedules
from sigmafield.core.process import Flow
from sigmafield.parameterization.families import families, family
from sigmafield.parameterization.prediction import discrete_sampling
from sigmafield.parameterization.timesteps import betas, resolution_shift
from sigmafield.schedules import SCHEDULES

NETWORKS = {"ve": family("SD15").sampling().levels, "flow": family("SD3").sampling().levels}
FITTING = [
    pytest.param(name, kind, id=f"{name}-{kind}")
    for name, schedule in SCHEDULES.items()
    for kind in NETWORKS
    if schedule.network in ("any", kind)
]
OF_ENDS = [name for name, schedule in SCHEDULES.items() if "sigma_min" in schedule.defaults]
ENDS_ABOVE_ZERO = {"laplace"}
BEGIN_ELSEWHERE = {"ddim_uniform", "vp", "optimal_steps"}
OTHER_LENGTHS = {"ddim_uniform", "beta", "sd_turbo", "laplace"}


@pytest.mark.parametrize("name, kind", FITTING)
def test_levels_descend_to_zero(name, kind):
    for steps in (2, 7, 20, 41):
        sigmas = SCHEDULES[name](steps, NETWORKS[kind])
        assert sigmas.dtype == torch.float64
        assert (sigmas.diff() < 0).all()
        assert float(sigmas[-1]) == 0 or name in ENDS_ABOVE_ZERO
        assert float(sigmas[0]) == pytest.approx(NETWORKS[kind].sigma_max, rel=1e-5) or name in BEGIN_ELSEWHERE
        assert len(sigmas) == steps + 1 or name in OTHER_LENGTHS
        assert torch.equal(sigmas, sigmas.float().double()), "levels are float32 numbers"


@pytest.mark.parametrize("name", OF_ENDS)
def test_constant_field_of_ends_is_the_scalar(name):
    low, high = 0.03, 14.6
    field = torch.full((2, 1, 3, 4), high, dtype=torch.float64)
    scalar = SCHEDULES[name].make(6, low, high)
    over = SCHEDULES[name].make(6, low, field)
    assert torch.equal(over, scalar.reshape(-1, 1, 1, 1, 1).expand_as(over))


@pytest.mark.parametrize("name", OF_ENDS)
def test_a_field_of_ends_is_each_pixels_own_schedule(name):
    low, high = torch.tensor([0.03, 0.1], dtype=torch.float64), torch.tensor([14.6, 2.0], dtype=torch.float64)
    over = SCHEDULES[name].make(6, low.reshape(1, 1, 1, 2), high.reshape(1, 1, 1, 2))
    for k in range(2):
        assert torch.equal(over[..., k].flatten(), SCHEDULES[name].make(6, float(low[k]), float(high[k])))


def test_special_cases():
    ends = (0.03, 14.6)
    torch.testing.assert_close(schedules.polyexponential(9, *ends), schedules.exponential(9, *ends), rtol=2e-6, atol=0)
    edm = family("SDXL_EDM_V").sampling().levels
    ours, exponential = SCHEDULES["normal"](9, edm), SCHEDULES["exponential"](9, edm)
    torch.testing.assert_close(ours, exponential, rtol=2e-6, atol=0)  # its clock is the logarithm
    assert torch.equal(schedules.align_your_steps(10)[:-1].float(), torch.tensor([
        14.6146412293, 6.4745760956, 3.8636745985, 2.694615152, 1.8841921177, 1.3943805092, 0.9642583904,
        0.6523686016, 0.3977456272, 0.1515232662,
    ]))  # fmt: skip
    mu = resolution_shift(4096.0, (256.0, 0.5), (4096.0, 1.15))
    assert mu == pytest.approx(1.15)


LEVELS = st.lists(st.floats(0.001, 100.0), min_size=0, max_size=12, unique=True).map(
    lambda v: torch.tensor([*sorted(v, reverse=True), 0.0], dtype=torch.float64)
)


@given(LEVELS, st.integers(0, 14))
def test_the_parts_of_a_split_make_the_whole(sigmas, step):
    high, low = schedules.split(sigmas, step)
    assert torch.equal(torch.cat([high, low[1:]]), sigmas) or step >= len(sigmas)
    assert not len(low) or float(high[-1]) == float(low[0])


@given(LEVELS, st.floats(0, 1))
def test_split_denoise_keeps_that_share_of_the_steps(sigmas, denoise):
    high, low = schedules.split_denoise(sigmas, denoise)
    steps = len(sigmas) - 1
    assert len(low) - 1 == round(steps * denoise)
    assert not len(high) or torch.equal(torch.cat([high, low[1:]]), sigmas)


@given(LEVELS)
def test_flipping_twice_is_the_identity_but_for_zero(sigmas):
    kept = sigmas.clone()
    twice = schedules.flip(schedules.flip(sigmas))
    assert torch.equal(twice[:-1], sigmas[:-1])
    assert float(twice[-1]) == 1e-4
    assert torch.equal(sigmas, kept)


@given(LEVELS, st.integers(1, 5), st.sampled_from(sorted(schedules.SPACINGS)))
def test_extending_keeps_every_level(sigmas, steps, spacing):
    out = schedules.extend_intermediate(sigmas, steps, math.inf, 0.0, spacing)
    assert len(out) == (len(sigmas) - 1) * steps + 1
    torch.testing.assert_close(out[::steps], sigmas)
    assert (out.diff() <= 1e-15).all()


def test_tools_take_fields():
    field = schedules.karras(4, 0.1, torch.rand(1, 1, 2, 3, dtype=torch.float64) + 5)
    high, low = schedules.split(field, 2)
    assert torch.equal(torch.cat([high, low[1:]]), field)
    assert torch.equal(schedules.flip(field)[1:], field.flip(0)[1:])
    assert (schedules.set_first(field, 136.0)[0] == 136).all()


@pytest.mark.parametrize("name", sorted(families()))
def test_every_family_has_levels_that_ascend_and_a_process(name):
    sampling = families()[name].sampling()
    levels = sampling.levels
    assert (levels.sigmas.diff() >= 0).all()  # Stable Cascade's are clamped at both ends
    assert isinstance(sampling.process, Flow) == (sampling.levels.sigma_max <= 1)
    ends = torch.tensor([levels.sigma_min, levels.sigma_max], dtype=torch.float64)
    assert (levels.timestep(ends).diff() > 0).all()
    at = [levels.sigma_at(p / 10) for p in range(11)]
    assert at == sorted(at, reverse=True)
    assert at[-1] == 0.0
    assert schedules.sigma_at(levels, 0.0) == levels.sigma_max
    assert schedules.sigma_at(levels, 1.0) == levels.sigma_min


def test_a_perfect_network_of_any_prediction_denoises():
    """For every prediction, D = c_skip x + c_out F can be solved for F."""
    sigma = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    for name, row in families().items():
        _, c_skip, c_out = row.sampling().prediction(sigma)
        x, D = torch.randn(2, 3, dtype=torch.float64)
        assert torch.allclose(c_skip * x + c_out * ((D - c_skip * x) / c_out), D, rtol=1e-7, atol=1e-7), name


def test_a_consistency_models_levels_are_every_twentieth():
    full = discrete_sampling("eps", betas()).levels.sigmas
    some = discrete_sampling("lcm", betas()).levels
    assert torch.equal(some.sigmas, full[19::20])
    assert some.timestep(some.sigmas.double()).tolist() == list(range(19, 1000, 20))


def test_a_consistency_model_is_bound_to_x_at_the_end():
    """D = c_skip x + c_out (x − σ F) with τ = 10 t: at t = 19, τ = 190."""
    sampling = discrete_sampling("lcm", betas())
    _, c_skip, c_out = sampling.prediction(torch.tensor(sampling.levels.sigma_min, dtype=torch.float64))
    skip, out = 0.25 / (190**2 + 0.25), 190 / (190**2 + 0.25) ** 0.5
    assert float(c_skip) == pytest.approx(skip + out, rel=1e-12)
    assert float(c_out) == pytest.approx(-sampling.levels.sigma_min * out, rel=1e-12)


ERRORS = {
    "unknown": (lambda: SCHEDULES.lookup("kerras"), "unknown schedule 'kerras'; did you mean karras?"),
    "steps": (lambda: SCHEDULES["karras"](0, NETWORKS["ve"]), "steps must be ≥ 1; got 0"),
    "parameter": (lambda: SCHEDULES["karras"](5, NETWORKS["ve"], rh=1.0), "no parameter 'rh'; did you mean rho"),
    "network": (lambda: SCHEDULES["flux2"](5, NETWORKS["ve"]), "flux2 is for flows, whose noise levels end at 1"),
    "other network": (lambda: SCHEDULES["gits"](5, NETWORKS["flow"]), "gits is for variance exploding networks"),
    "ends": (lambda: schedules.karras(5, 15.0, 14.6), "needs sigma_max ≥ sigma_min; got 14.6 and sigma_min = 15"),
    "zero": (lambda: schedules.exponential(5, 0.0, 14.6), "exponential needs sigma_min > 0; got 0"),
    "field": (lambda: schedules.karras(5, 0.1, -torch.ones(1).double()), "sigma_min must be above 0 and at"),
    "rho": (lambda: schedules.karras(5, 0.1, 14.6, rho=0.0), "karras needs rho > 0; got 0"),
    "model": (lambda: schedules.align_your_steps(5, model="SD2"), "needs model = SD1 or SDXL or SVD; got 'SD2'"),
    "vp": (lambda: schedules.vp(5, 0.0, 0.0), "beta_d and beta_min must not both be 0"),
    "threshold": (
        lambda: SCHEDULES["linear_quadratic"](9, NETWORKS["ve"], threshold=0.9, linear_steps=3),
        "threshold must be at most 0.5 with 3 of 9 steps linear; got 0.9",
    ),
    "coeff": (lambda: schedules.gits(5, coeff=1.22), "coeff must be one of 0.8, 0.85"),
    "gits": (lambda: schedules.gits(1), "gits needs at least 2 steps; got 1"),
    "spacing": (lambda: schedules.extend_intermediate(torch.ones(3).double(), spacing="sin"), "did you mean sine"),
    "denoise": (lambda: schedules.split_denoise(torch.ones(3).double(), 1.5), "denoise must be 0 … 1; got 1.5"),
    "first": (lambda: schedules.set_first(torch.empty(0).double(), 1.0), "sigmas must have a first level"),
    "manual": (lambda: schedules.manual("1..5"), "sigmas must be numbers"),
    "family": (lambda: family("SD1"), "unknown model family 'SD1'; did you mean SD15"),
    "setting": (lambda: family("SD3").sampling(shft=2.0), "no setting 'shft'; did you mean shift"),
    "shift": (lambda: family("SD3").sampling(shift=0.0), "shift must be above 0; got 0.0"),
}  # fmt: skip


@pytest.mark.parametrize("case", ERRORS)
def test_errors(case):
    call, message = ERRORS[case]
    with pytest.raises(ValueError, match=message):
        call()
