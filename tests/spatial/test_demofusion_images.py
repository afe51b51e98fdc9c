"""DemoFusion on a recipe: its phases, their ends, resumption in the middle of any, and what it refuses."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

import sigmafield as sf
from sigmafield.core.geometry import Box
from sigmafield.core.resize import resize
from sigmafield.core.statistics import moments
from sigmafield.parameterization.prediction import flow_sampling
from sigmafield.recipes.output import save_image
from small_network import small_model

RECIPE = sf.Recipe("red heart", steps=3, cfg=3.0, seed=5)


def opened(recipe, pipe, *how, **parameters):
    return sf.open_job(replace(recipe, demofusion=sf.DemoFusion(*how, **parameters)), pipe)


@pytest.fixture(scope="module")
def pipe():
    return small_model()


@pytest.fixture(scope="module")
def heart(pipe, tmp_path_factory):
    path = tmp_path_factory.mktemp("demo") / "heart.png"
    save_image(sf.generate(pipe, "red heart", steps=6, cfg=3.0, seed=1)[0], path)
    return str(path)


def test_phases_of_a_recipe(pipe):
    """The first is plain sampling; every other one has a size more, and each sample the first's mean and deviation."""
    recipe = replace(RECIPE, batch=2, steps=2, cfg=1.0)
    demo = opened(recipe, pipe, 3, stride=16, vae_tile=64)
    ends = list(demo.run.walk(demo.start))
    plain = sf.open_job(recipe, pipe)
    assert torch.equal(ends[0][1].x, sf.finish(plain.run, plain.start).x)
    mean, std = moments(ends[0][1].x)
    for k, (phase, state) in enumerate(ends, 1):
        assert (phase.scale, phase.size, phase.n, state.i, state.nfe) == (k, (64 * k, 64 * k), 2, 2 * k, 2 * k)
        if k != 2:
            shown = demo.images(state) if k == 3 else demo.preview(state)
            assert [image.size for image in shown] == [(64 * k, 64 * k)] * 2
        for ours, first in zip(moments(state.x), (mean, std)):
            torch.testing.assert_close(ours, first, rtol=1e-4, atol=1e-4)
        assert demo.run.progress(state) == pytest.approx(sum(q * q for q in range(1, k + 1)) / 14)
    again = opened(recipe, pipe, 2, stride=16)
    assert torch.equal(sf.finish(again.run, again.start).x, ends[1][1].x)


@pytest.mark.parametrize(
    "sampler, guidance, flow",
    [
        ("heun", "", True),
        ("dpmpp_2m", "apg(momentum=-0.5)", False),
        pytest.param("euler", "", True, marks=pytest.mark.slow),
        pytest.param("dpmpp_2m_sde", "", False, marks=pytest.mark.slow),
    ],
)
def test_resume_in_the_middle_of_any_phase(pipe, tmp_path, sampler, guidance, flow):
    """From every cut, with everything rebuilt, to the same next latent."""
    pipe = replace(pipe, model=replace(pipe.model, sampling=flow_sampling(3.0))) if flow else pipe
    recipe = replace(RECIPE, sampler=sampler, guidance=guidance, schedule="simple", steps=2)

    def made():
        return opened(recipe, pipe, 2, stride=12)

    demo = made()
    states = list(sf.iterate(demo.run, demo.start))
    assert [st.i for st in states] == list(range(1, 5)) and torch.isfinite(states[-1].x).all()
    for state, following in pairwise(states):
        sf.save_state(state, tmp_path / "cut.safetensors")
        loaded, _ = sf.load_state(tmp_path / "cut.safetensors")
        end = made().run.step(loaded)
        assert torch.equal(end.x, following.x) and end.nfe == following.nfe
    assert [state.i for _, state in made().run.walk(states[1])] == [4]


def test_from_a_image(pipe, heart):
    """It begins with the image, whose size it draws first; less of the schedule keeps more of it."""
    recipe = replace(RECIPE, image=heart, prompt="green apple", sampler="euler")
    gaps = []
    for denoise in (1.0, 0.3):
        demo = opened(replace(recipe, denoise=denoise), pipe, 2, stride=16)
        ends = list(demo.run.walk(demo.start))
        assert [(phase.scale, state.x.shape[-1]) for phase, state in ends] == [(1, 16), (2, 32)]
        gaps.append(float((ends[0][1].x - demo.start.x).square().mean()))
        torch.testing.assert_close(moments(ends[-1][1].x)[1], moments(demo.start.x)[1])
    assert gaps[1] < gaps[0] / 2


@pytest.mark.slow
def test_parameters_change_what_they_say(pipe):
    """α₁ = 0 leaves nothing but the noised first phase before a step; each other one changes the image."""

    def end(**options):
        demo = opened(RECIPE, pipe, 2, **options)
        return sf.finish(demo.run, demo.start).x

    base = end()
    for option in (
        {"stride": 16}, {"cosine_scale_1": 1.0}, {"cosine_scale_2": 3.0}, {"cosine_scale_3": 3.0}, {"sigma": 0.5},
    ):  # fmt: skip
        assert not torch.allclose(end(**option), base), option
    torch.testing.assert_close(end(batch=1), base, rtol=1e-3, atol=1e-4)
    held = opened(RECIPE, pipe, 2, cosine_scale_1=0.0)
    assert held.run.phases[1].run.weights == [0.0] * 3
    (_, small), (_, large) = held.run.walk(held.start)
    source = resize(small.x, 32, 32, "bicubic")
    assert (large.x - source).square().mean() < (base - source).square().mean() / 3


def test_regions_and_prompts_grow_along(pipe):
    region = sf.Region("green apple", 32, 0, 32, 64)
    demo = opened(replace(RECIPE, regions=(region,), width=64, height=128), pipe, 3)
    runs = [demo.run.phases[0].run, *(phase.run.run for phase in demo.run.phases[1:])]
    areas = [run.denoise.positive[1].area for run in runs]
    assert areas == [Box(0, 8 * q, 16 * q, 8 * q) for q in (1, 2, 3)]
    assert [phase.size for phase in demo.run.phases] == [(128 * q, 64 * q) for q in (1, 2, 3)]
    two = opened(replace(RECIPE, regions=(region,), steps=2), pipe, 2)
    assert torch.isfinite(sf.finish(two.run, two.start).x).all()


def test_refusals(pipe, heart):
    large = replace(RECIPE, demofusion=sf.DemoFusion(2))
    for call, message in {
        lambda: sf.DemoFusion(0): "demofusion needs 1 ≤ scale ≤ 64; got 0",
        lambda: sf.DemoFusion(2, stride=0): "demofusion needs stride ≥ 1; got 0",
        lambda: sf.DemoFusion(2, cosine_scale_1=-1.0): "demofusion needs cosine_scale_1 ≥ 0; got -1",
        lambda: sf.DemoFusion(2, sigma=0.0): "demofusion needs sigma > 0; got 0",
        lambda: sf.DemoFusion(2, batch=0): "demofusion needs batch ≥ 1; got 0",
        lambda: opened(RECIPE, pipe, 2, stride=17): "stride must be at most 16, .* got 17",
        lambda: sf.DemoFusion(2, vae_tile=-1): "demofusion needs vae_tile ≥ 0; got -1",
        lambda: opened(RECIPE, pipe, 2, vae_tile=30): "vae_tile must be a multiple of 4, .* got 30: try 28 or 32",
        lambda: replace(large, start_step=1): "leave start_step out",
        lambda: replace(large, last_step=2): "leave last_step out",
        lambda: replace(large, image=heart, mask=heart): "leave mask out",
        lambda: replace(large, image=heart, denoise_map=heart): "leave denoise_map out",
        lambda: replace(large, image=heart, mixing="cosine"): "leave mixing out",
        lambda: replace(large, tiling=sf.Tiling()): "leave tiling out",
        lambda: replace(large, sampler="dpm_adaptive"): "chooses its own steps",
    }.items():
        with pytest.raises(ValueError, match=message):
            call()
