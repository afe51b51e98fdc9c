"""Models with other noise levels: the network stays, and what it is told follows the levels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from sigmafield import generate, load
from sigmafield.core.grid import Grid
from sigmafield.core.protocols import Ctx
from sigmafield.guidance.guider import Guider
from sigmafield.models.diffusion_model import DiffusionModel
from sigmafield.models.overrides import (
    MODEL_SAMPLINGS,
    continuous_edm,
    continuous_v,
    discrete,
    flux,
    shifted_flow,
    stable_cascade,
)
from sigmafield.parameterization.prediction import flow_sampling, flux_sampling
from sigmafield.recipes.recipe import Recipe

PIPE = load("tiny", device="cpu")
TINY = PIPE.model


def flow_model(multiplier: float) -> DiffusionModel:
    """The tiny network, used as a flow's."""
    return replace(TINY, sampling=flow_sampling(3.0, multiplier))


def denoised(model: DiffusionModel, sigma: float) -> torch.Tensor:
    x = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    s = torch.tensor(sigma, dtype=torch.float64)
    cond = PIPE.text.encode(["red heart"], (64, 64))
    [D] = model(
        x,
        s,
        [cond],
        Ctx(Grid(torch.stack([s, s / 2]), model.sampling.process, clock=model.sampling.clock).span(0), {}),
    )
    return D


def test_its_own_levels_change_nothing() -> None:
    again = discrete(TINY, prediction="v")
    assert torch.equal(again.sampling.levels.sigmas, TINY.sampling.levels.sigmas)
    assert torch.equal(denoised(again, 3.0), denoised(TINY, 3.0))
    [ours], [theirs] = (generate(replace(PIPE, model=m), "red heart", steps=3, seed=1) for m in (again, TINY))
    assert ours.tobytes() == theirs.tobytes()


def test_zero_terminal_snr_both_ways() -> None:
    zsnr = discrete(TINY, prediction="v", zsnr=True)
    assert zsnr.sampling.levels.sigma_max > 4000 > 20 > TINY.sampling.levels.sigma_max
    back = discrete(zsnr, prediction="v")
    assert torch.equal(back.sampling.levels.sigmas, TINY.sampling.levels.sigmas)


def test_another_prediction_of_the_same_network() -> None:
    """v and eps of one answer F: D_eps = x − σ F, D_v = x/(1 + σ²) − σ F/√(1 + σ²)."""
    sigma, x = 2.0, torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    as_v, as_eps = denoised(TINY, sigma), denoised(discrete(TINY, prediction="eps"), sigma)
    F_v = (x / (1 + sigma**2) - as_v) * (1 + sigma**2) ** 0.5 / sigma
    torch.testing.assert_close(as_eps, x - sigma * F_v, rtol=1e-4, atol=1e-4)


def test_lcm_has_50_levels() -> None:
    assert len(discrete(TINY, prediction="lcm").sampling.levels.sigmas) == 50


@pytest.mark.parametrize("multiplier", [1.0, 1000.0])
def test_a_flow_keeps_its_clock(multiplier: float) -> None:
    shifted = shifted_flow(flow_model(multiplier), shift=5.0).sampling
    half = torch.tensor(0.5, dtype=torch.float64)
    assert float(shifted.levels.timestep(half)) == pytest.approx(0.5 * multiplier)
    assert float(shifted.levels.sigmas[499]) == pytest.approx(5 * 0.5 / (1 + 4 * 0.5), rel=1e-5)


def test_flux_levels_follow_the_size() -> None:
    model = replace(TINY, sampling=flux_sampling())
    levels = [flux(model, width=w, height=w).sampling.levels.sigmas for w in (512, 1024, 2048)]
    assert torch.equal(levels[1], flux_sampling(1.15).levels.sigmas)
    assert (levels[0][:-1] < levels[1][:-1]).all() and (levels[1][:-1] < levels[2][:-1]).all()


def test_other_clocks() -> None:
    edm = continuous_edm(TINY, prediction="edm", sigma_max=80.0).sampling
    assert edm.levels.sigma_max == pytest.approx(80, rel=1e-5)
    assert float(edm.levels.timestep(torch.tensor(1.0, dtype=torch.float64))) == 0
    assert continuous_v(TINY).sampling.levels.sigma_max == pytest.approx(500, rel=1e-5)
    assert stable_cascade(TINY).sampling.levels.sigma_max > 50
    assert continuous_edm(TINY, prediction="playground").latent.shift != TINY.latent.shift
    assert continuous_edm(TINY, prediction="cosmos_rflow").sampling.levels.sigma_max == pytest.approx(120, rel=1e-5)


@torch.no_grad()
def test_images_follow_the_latent_format() -> None:
    """An override that changes the format of the latents changes how they are encoded and decoded, not the VAE."""
    pipe = replace(PIPE, model=continuous_edm(TINY, prediction="playground"))
    images = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    own, z = PIPE.vae.encode(images), pipe.encode(images)
    assert torch.equal(z, pipe.model.latent.to_network(own)) and not torch.allclose(z, PIPE.encode(images), atol=0.1)
    torch.testing.assert_close(pipe.decode(z), PIPE.vae.decode(own))


def test_a_guider_keeps_its_sampling() -> None:
    """Changing the pipeline's model leaves a guider as it was."""
    cond, other = PIPE.text.encode(["red heart"], (64, 64)), replace(PIPE, model=flow_model(1.0))
    guider, s = Guider(PIPE.model, cond, cond, 1.0), torch.tensor(0.5, dtype=torch.float64)
    x, ctx = torch.randn(1, 4, 16, 16), Ctx(Grid(torch.stack([s, s / 2]), TINY.sampling.process).span(0), {})
    assert not torch.allclose(guider(x, s, ctx).x0, replace(guider, model=other.model)(x, s, ctx).x0)
    assert torch.equal(guider(x, s, ctx).x0, TINY(x, s, [cond], ctx)[0])


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: discrete(flow_model(1.0)), "tiny has no discrete noise levels"),
        (
            lambda: discrete(TINY, prediction="esp"),
            "prediction = eps or v or x0 or img_to_img or lcm; got 'esp'",
        ),
        (lambda: shifted_flow(TINY), "this one's noise levels have no time shift"),
        (lambda: shifted_flow(flow_model(1.0), shift=0.0), "shifted_flow needs shift > 0; got 0"),
        (lambda: stable_cascade(TINY, shift=-1.0), "stable_cascade needs shift > 0; got -1"),
        (lambda: flux(flow_model(1000.0)), "trained on 1000 σ"),
        (
            lambda: continuous_edm(TINY, sigma_min=2.0, sigma_max=1.0),
            "0 < sigma_min < sigma_max; got 2 and",
        ),
        (lambda: continuous_v(TINY, sigma_min=0.0), "needs 0 < sigma_min < sigma_max; got 0"),
    ],
)
def test_refusals(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_a_recipe_says_it_in_a_line() -> None:
    plain, same, other = (
        generate(PIPE, "red heart", steps=3, seed=1, model_sampling=line)[0].tobytes()
        for line in ("", "discrete(prediction=v)", "continuous_v(sigma_max=20, sigma_min=0.03)")
    )
    assert plain == same != other


@pytest.mark.parametrize(
    "line, message",
    [
        ("discreet", "unknown model_sampling 'discreet'; did you mean discrete"),
        ("discrete(predict=v)", "discrete has no parameter 'predict'; did you mean prediction"),
        ("discrete(zsnr=2)", "discrete needs zsnr to be true or false; got 2"),
        ("flux+discrete", "model_sampling takes one name with parameters; got 2: .flux"),
        ("flux(", r"must be names with parameters, such as discrete\(prediction=v, zsnr=true\); got 'flux\('"),
    ],
)
def test_wrong_lines_are_refused_with_the_recipe(line: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recipe("red heart", model_sampling=line)


def test_all_have_names() -> None:
    assert set(MODEL_SAMPLINGS) == {
        "discrete", "continuous_edm", "continuous_v", "stable_cascade", "shifted_flow", "flux",
    }  # fmt: skip
