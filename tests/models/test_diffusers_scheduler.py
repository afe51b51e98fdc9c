"""Every sampler as a diffusers scheduler: equal to our own loop, and at home in diffusers' pipelines."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

pytest.importorskip("diffusers")
import diffusers

from sigmafield import schedules
from sigmafield.core.grid import Grid
from sigmafield.core.linear import lincomb
from sigmafield.core.protocols import Pred
from sigmafield.diffusers_scheduler import SigmafieldScheduler
from sigmafield.models.scheduler_config import sampling_of
from sigmafield.noise.policy import default_noise
from sigmafield.noise.sources import Gaussian
from sigmafield.parameterization.prediction import flow_sampling
from sigmafield.recipes.execute import open_job
from sigmafield.recipes.recipe import Recipe
from sigmafield.runs.run import Run, finish, iterate
from sigmafield.samplers import SAMPLERS
from sigmafield.schedules import SCHEDULES

# diffusers' own schedulers, thousands of times
pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
EPS = diffusers.EulerDiscreteScheduler(**SD)
V = diffusers.EulerDiscreteScheduler(**SD, prediction_type="v_prediction", rescale_betas_zero_snr=True)
FLOW = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
MODELS = {"eps": EPS, "v": V, "flow": FLOW}
U = {"cfgpp": "doubled", "use_negative": True}  # these parameters ask for the unconditional prediction too
SERVED = [
    name
    for name, m in SAMPLERS.items()
    if not m.adaptive and not m.need_uncond and not any(m.defaults.get(key) == value for key, value in U.items())
]
STOCHASTIC = [name for name in SERVED if SAMPLERS[name].noise not in ("none", "churn")]
# each way in which a sampler asks, draws and remembers: the default suite runs these, the slow one all
QUICK = {
    "euler", "euler_ancestral", "heun", "dpm_2", "dpm_fast", "dpmpp_2m", "dpmpp_2m_sde", "dpmpp_2m_sde_gpu",
    "dpmpp_sde", "dpmpp_2s_ancestral", "seeds_3", "sa_solver_pece", "uni_pc", "er_sde", "distance_c3", "distance",
    "perp_step",
}  # fmt: skip
STEPS = 5


def cases(*products: Any) -> list[Any]:
    """pytest's cases; slow are those of samplers outside QUICK."""
    rows = [row for product in products for row in product]
    return [pytest.param(*row, marks=() if row[0] in QUICK else pytest.mark.slow) for row in rows]


def sampling(model: str) -> Any:
    """What our own code takes the model to be."""
    return flow_sampling(3.0) if model == "flow" else sampling_of(MODELS[model].config)


def network(x: Tensor, t: Tensor | float) -> Tensor:
    """Not linear in x, and not the same at different times."""
    return torch.tanh(x + 0.3 * x.roll(1, -1)) * (1 + torch.as_tensor(t).to(x.dtype) / 2000)


def start(model: str, batch: int = 2) -> Tensor:
    """Noise, as a pipeline would begin with."""
    return Gaussian(3, (batch, 4, 6, 5)).draw() * (1.0 if model == "flow" else 14.65)


def run_of(model: str, name: str, sigmas: Tensor, x: Tensor, noise: Any = None, **params: Any) -> Run:
    """The sampler on the network, by our own engine."""
    known = sampling(model)

    def denoise(x, sigma, ctx):
        pre = known.prediction(sigma)
        F = network(lincomb(pre.c_in, x), known.levels.timestep(sigma).float())
        return Pred(lincomb(pre.c_skip, x, pre.c_out, F))

    sampler, grid = SAMPLERS.lookup(name), Grid(sigmas, known.process, clock=known.clock)
    return Run(denoise, sampler, grid, noise or default_noise(sampler.noise, 7, grid, x), params)


def ours(run: Run, x: Tensor) -> Tensor:
    """The clean latent of a run."""
    return run.grid.process.finish(run.end, finish(run, x).x)


def scheduler(model: str, sampler: str, **settings: Any) -> SigmafieldScheduler:
    return SigmafieldScheduler.from_config(MODELS[model].config, sampler=sampler, seed=7, **settings)


def close(ours: Tensor, theirs: Tensor, tolerance: float = 2e-5) -> None:
    """Equal up to rounding, on the scale of the latent: these networks are random, and so are their latents."""
    assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()


def drive(s: Any, x: Tensor, **step: Any) -> Tensor:
    """The loop of a pipeline, over a schedule that is set."""
    for t in s.timesteps[s.begin_index or 0 :]:
        F = network(s.scale_model_input(x, t) if hasattr(s, "scale_model_input") else x, t)
        x = s.step(F, t, x, return_dict=False, **step)[0]
    return x


@pytest.mark.parametrize(
    "name, model", cases(product(SERVED, ["eps", "flow"]), product(["heun", "dpmpp_3m_sde"], ["v"]))
)
@pytest.mark.typed_elsewhere
def test_equals_iterate(name: str, model: str) -> None:
    sigmas, x = SCHEDULES.lookup("normal")(STEPS, sampling(model).levels), start(model)
    run = run_of(model, name, sigmas, x)
    s = scheduler(model, name)
    s.set_timesteps(STEPS)
    end = finish(run, x)
    assert torch.equal(drive(s, x), run.grid.process.finish(run.end, end.x))
    assert len(s.timesteps) == end.nfe == s.step_index
    assert s.order == (SAMPLERS.lookup(name).evals if name != "dpm_fast" else 1)
    with pytest.raises(ValueError, match=f"all {len(s.timesteps)} evaluations have been made: call set_timesteps"):
        s.step(x, s.timesteps[-1], x)


def test_serves_run_after_run() -> None:
    x, s = start("eps"), scheduler("eps", "dpmpp_2m_sde")
    for steps in (4, 6, 4):
        s.set_timesteps(steps)
        sigmas = SCHEDULES.lookup("normal")(steps, sampling("eps").levels)
        assert torch.equal(drive(s, x), ours(run_of("eps", "dpmpp_2m_sde", sigmas, x), x))


@pytest.mark.parametrize("name, model", cases(product(SERVED, ["eps"]), product(["uni_pc", "seeds_3"], ["flow"])))
@pytest.mark.typed_elsewhere
def test_begins_in_the_middle_as_on_the_rest_of_the_schedule(name: str, model: str) -> None:
    sigmas = SCHEDULES.lookup("simple")(STEPS, sampling(model).levels)
    s = scheduler(model, name, schedule="simple")
    s.set_timesteps(STEPS)
    if name in ("dpm_fast", "sa_solver_pece") or SAMPLERS.lookup(name).defaults.get("resample_end") == 1:
        with pytest.raises(ValueError, match=f"{name} cannot begin at evaluation {2 * s.order} of "):
            s.set_begin_index(2 * s.order)
        return
    s.set_begin_index(2 * s.order)
    clean, noise = start(model) * 0.1, Gaussian(4, (2, 4, 6, 5)).draw()
    x = sampling(model).process.start(sigmas[2], noise, clean)
    assert torch.equal(s.add_noise(clean, noise, s.timesteps[2 * s.order].repeat(2)), x)
    assert torch.equal(drive(s, x), ours(run_of(model, name, sigmas[2:], x), x))


@pytest.mark.parametrize("name", cases(product(STOCHASTIC)))
@pytest.mark.typed_elsewhere
def test_noise_of_a_sample_is_from_its_own_generator(name: str) -> None:
    eta = {"eta": 1.0} if SAMPLERS.lookup(name).defaults.get("eta") == 0 else {}

    def drawn(rows: list[int], together: bool = False) -> Tensor:
        s, generators = scheduler("eps", name, **eta), [torch.Generator().manual_seed(row) for row in rows]
        s.set_timesteps(3)
        return drive(s, start("eps")[: len(rows)], generator=generators[0] if together else generators)

    one, other = drawn([1]), drawn([2])
    assert not torch.allclose(one, other)
    assert torch.equal(drawn([1, 2])[:1], one)
    assert torch.equal(drawn([1], together=True), one)
    s = scheduler("eps", name, **eta)
    s.set_timesteps(3)
    with pytest.raises(ValueError, match="one generator, or one per sample: got 3 for 2 samples"):
        drive(s, start("eps"), generator=[torch.Generator() for _ in range(3)])


def test_gaussian_noise_is_the_generators_next() -> None:
    x = start("eps")
    s = scheduler("eps", "dpmpp_2s_ancestral", eta=0.7)
    s.set_timesteps(STEPS)
    sigmas = SCHEDULES.lookup("normal")(STEPS, sampling("eps").levels)
    run = run_of("eps", "dpmpp_2s_ancestral", sigmas, x, Gaussian(5, x.shape), eta=0.7)
    assert torch.equal(drive(s, x, generator=torch.Generator().manual_seed(5)), ours(run, x))


def test_what_a_pipeline_changes_between_steps_counts() -> None:
    """Inpainting puts the known part of the image back after each step."""
    keep, x = torch.rand(2, 1, 6, 5) > 0.5, start("eps")
    sigmas = SCHEDULES.lookup("normal")(STEPS, sampling("eps").levels)
    run = run_of("eps", "dpmpp_2m", sigmas, x)
    state = run.start(x)
    while not run.done(state):
        state = run.step(state)
        state = replace(state, x=torch.where(keep, x, state.x))
    s, y = scheduler("eps", "dpmpp_2m"), x
    s.set_timesteps(STEPS)
    for t in s.timesteps:
        y = s.step(network(s.scale_model_input(y, t), t), t, y).prev_sample
        y = torch.where(keep, x, y)
    assert torch.equal(y, state.x)


@pytest.mark.parametrize("name, theirs", [("euler", "Euler"), ("heun", "Heun"), ("lms", "LMS"), ("dpm_2", "KDPM2")])
def test_diffusers_own_on_the_same_levels(name: str, theirs: str) -> None:
    """With a network that does not look at the time: diffusers lets it lie between two, we take the nearest."""
    peer = getattr(diffusers, theirs + "DiscreteScheduler")(**SD, use_karras_sigmas=True)
    peer.set_timesteps(6)
    x = start("eps")
    s = SigmafieldScheduler.from_config(peer.config, sampler=name)
    s.set_timesteps(sigmas=[*dict.fromkeys(peer.sigmas.tolist())])  # some list a level twice
    assert len(s.timesteps) == len(peer.timesteps)

    def timeless(x: Tensor, t: Tensor) -> Tensor:
        return network(x, 0.0)

    y = x
    for t, t_peer in zip(s.timesteps, peer.timesteps):
        x = s.step(timeless(s.scale_model_input(x, t), t), t, x).prev_sample
        y = peer.step(timeless(peer.scale_model_input(y, t_peer), t_peer), t_peer, y).prev_sample
    close(x, y, 1e-6 if name != "lms" else 1e-4)  # whose polynomials diffusers integrates to 1e-4


def test_levels_that_are_given() -> None:
    s = scheduler("eps", "euler")
    s.set_timesteps(sigmas=[5.0, 1.0, 0.1])
    assert s.sigmas.tolist() == pytest.approx([5.0, 1.0, 0.1]) and len(s.timesteps) == 2
    s.set_timesteps(timesteps=[900, 400, 20])
    assert s.timesteps.tolist() == [900, 400, 20] and s.sigmas[-1] == 0
    f = scheduler("flow", "euler")
    f.set_timesteps(sigmas=[1.0, 0.5])
    FLOW.set_timesteps(sigmas=[1.0, 0.5])
    assert_close(f.sigmas, FLOW.sigmas)
    assert_close(f.timesteps, FLOW.timesteps)
    f = scheduler("flow", "euler", schedule="beta")
    f.set_timesteps(sigmas=[1.0, 0.6, 0.3])  # Flux's pipeline always passes some
    assert_close(f.sigmas, schedules.beta(3, flow_sampling(3.0).levels).float())


@pytest.mark.parametrize("kind, mu, shift", [("exponential", 1.2, 3.3201169), ("linear", 2.5, 2.5)])
def test_shift_that_follows_from_the_image(kind: Any, mu: float, shift: float) -> None:
    peer = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, time_shift_type=kind)
    s = SigmafieldScheduler.from_config(peer.config, sampler="euler")
    with pytest.raises(ValueError, match="mu must be given: the config says use_dynamic_shifting"):
        s.set_timesteps(4)
    line = [1.0, 0.75, 0.5, 0.25]
    s.set_timesteps(sigmas=line, mu=mu)
    peer.set_timesteps(sigmas=line, mu=mu)
    assert_close(s.sigmas, peer.sigmas)
    fixed = SigmafieldScheduler.from_config(peer.config, sampler="euler", use_dynamic_shifting=False, shift=shift)
    fixed.set_timesteps(sigmas=line, mu=9.0)  # ignored, as by diffusers
    assert_close(fixed.sigmas, peer.sigmas)


def test_first_x_is_of_the_schedules_level() -> None:
    """seeds_2 evaluates a flow's pure noise as if at a little less than σ = 1, but pure noise it is."""
    s = scheduler("flow", "seeds_2")
    s.set_timesteps(3)
    clean, noise = Gaussian(4, (2, 2, 4, 6, 5)).draw()
    assert s.timesteps[0] < 1000 and s.init_noise_sigma == 1
    assert torch.equal(s.scale_noise(clean, s.timesteps[:1].repeat(2), noise), noise)


def test_first_step_that_has_a_timestep() -> None:
    """Pipelines that do not say where they begin: heun's second evaluation has the time of the next step's first."""
    s, sigmas = scheduler("eps", "heun"), SCHEDULES.lookup("normal")(STEPS, sampling("eps").levels)
    s.set_timesteps(STEPS)
    assert s.timesteps[3] == s.timesteps[4] and s.index_for_timestep(s.timesteps[3]) == 4
    x = start("eps") / 8
    y = x
    for t in s.timesteps[4:]:
        y = s.step(network(s.scale_model_input(y, t), t), t, y, return_dict=False)[0]
    assert torch.equal(y, ours(run_of("eps", "heun", sigmas[2:], x), x))


def test_defaults_of_another_scheduler_count() -> None:
    """diffusers leaves out of a config what it has by default, and another class's defaults are others."""
    s = SigmafieldScheduler.from_config(diffusers.EulerDiscreteScheduler().config, sampler="euler")
    assert (s.config.beta_schedule, s.config.beta_start, s.config.beta_end) == ("linear", 0.0001, 0.02)


def test_half_precision() -> None:
    x, results = start("eps"), {}
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        s = scheduler("eps", "dpmpp_2m")
        s.set_timesteps(STEPS)
        results[dtype] = drive(s, x.to(dtype))
        assert results[dtype].dtype == dtype
    assert_close(results[torch.float32].double(), results[torch.float64], rtol=0, atol=1e-5)
    assert (results[torch.bfloat16].double() - results[torch.float64]).norm() < 0.03 * results[torch.float64].norm()


# -- whole pipelines

CALL = {"num_inference_steps": 4, "guidance_scale": 3.0, "output_type": "latent", "height": 16, "width": 16}


@pytest.fixture
def restored(sd1: tuple[Path, Any], sd2: tuple[Path, Any]) -> Any:
    """The pipelines' own schedulers come back after a test."""
    before = [(pipe, pipe.scheduler) for _, pipe in (sd1, sd2)]
    yield
    for pipe, own in before:
        pipe.scheduler = own


def image(pipe: Any, **changes: Any) -> Tensor:
    """A latent that a pipeline draws, always the same."""
    return pipe("a red heart", generator=torch.Generator().manual_seed(11), **CALL | changes).images


@pytest.mark.parametrize(  # another prediction is another network to any sampler
    "name, model",
    [
        ("heun", "sd1"),
        ("dpmpp_sde", "sd1"),
        ("dpmpp_2m", "sd2"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [("dpmpp_2m", "sd1"), ("heun", "sd2"), ("dpmpp_sde", "sd2")]
        ),
    ],
)
def test_stable_diffusion(name: str, model: str, request: Any, restored: None, loaded: Any) -> None:
    """diffusers' pipeline with our scheduler is our own pipeline."""
    pipe = request.getfixturevalue(model)[1]
    pipe.scheduler = SigmafieldScheduler.from_config(pipe.scheduler.config, sampler=name, schedule="karras", seed=11)
    latents = Gaussian(11, (1, 4, 8, 8)).draw()
    theirs = pipe("a red heart", latents=latents, **CALL).images  # no generator: noise is ours
    recipe = Recipe("a red heart", sampler=name, schedule="karras", steps=4, cfg=3.0, seed=11)
    job = open_job(recipe, loaded(model))
    noise = default_noise(job.run.sampler.noise, 11, job.run.grid, job.start.x)
    end = finish(replace(job.run, noise=noise), job.run.start(job.start.x)).x
    close(theirs, end, tolerance=1e-4)


def test_ancestral_noise_and_all_is_diffusers(sd1: tuple[Path, Any], restored: None) -> None:
    """The same generator draws the same image as with diffusers' scheduler."""
    pipe = sd1[1]
    config, steps = {**pipe.scheduler.config, "timestep_spacing": "linspace"}, {"num_inference_steps": 4}
    pipe.scheduler = diffusers.EulerAncestralDiscreteScheduler.from_config(config)
    theirs, levels = image(pipe, **steps), pipe.scheduler.sigmas.tolist()
    pipe.scheduler = SigmafieldScheduler.from_config(config, sampler="euler_ancestral")
    latents = torch.randn((1, 4, 8, 8), generator=(g := torch.Generator().manual_seed(11)))
    # our first x has √(σ² + 1) in place of their σ
    latents = latents * levels[0] / (levels[0] ** 2 + 1) ** 0.5
    close(pipe("a red heart", generator=g, latents=latents, **CALL | steps).images, theirs)


@pytest.mark.parametrize("name", ["heun", "dpmpp_2m_sde", "uni_pc"])
def test_image_to_image(name: str, sd1: tuple[Path, Any], restored: None, loaded: Any) -> None:
    pipe = sd1[1]
    image = diffusers.StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
    image.scheduler = SigmafieldScheduler.from_config(pipe.scheduler.config, sampler=name, schedule="karras", seed=11)
    clean = Gaussian(12, (1, 4, 8, 8)).draw()
    settings = {k: v for k, v in CALL.items() if k not in ("height", "width")} | {"num_inference_steps": 6}
    calls = []
    count = image.unet.register_forward_hook(lambda *_: calls.append(1))
    theirs = image("a red heart", clean, 0.5, generator=torch.Generator().manual_seed(13), **settings).images
    count.remove()

    ours_ = loaded("sd1")
    job = open_job(Recipe("a red heart", sampler=name, cfg=3.0), ours_)
    sigmas = SCHEDULES.lookup("karras")(6, ours_.model.sampling.levels)[3:]
    g = torch.Generator().manual_seed(13)
    x = ours_.model.sampling.process.start(sigmas[0], torch.randn(clean.shape, generator=g), clean)
    sampler, grid = SAMPLERS.lookup(name), Grid(sigmas, ours_.model.sampling.process)
    seed = int(torch.randint(2**63 - 1, (), generator=g))
    end = finish(Run(job.run.denoise, sampler, grid, default_noise(sampler.noise, seed, grid, x)), x)
    close(theirs, end.x, tolerance=1e-4)
    assert len(calls) == end.nfe


def test_inpainting(sd1: tuple[Path, Any], restored: None) -> None:
    """After each evaluation, what is kept is the image with one noise, at the level that is evaluated next."""
    pipe = sd1[1]
    paint = diffusers.StableDiffusionInpaintPipeline(**pipe.components, requires_safety_checker=False)
    paint.scheduler = SigmafieldScheduler.from_config(pipe.scheduler.config, sampler="heun", schedule="karras")
    image, mask, seen = torch.rand(1, 3, 16, 16) * 2 - 1, torch.zeros(1, 1, 16, 16), []
    mask[..., 8:] = 1

    def look(pipe: Any, i: int, t: Any, held: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.append(held["latents"][..., :4])
        return {}

    call = CALL | {
        "num_inference_steps": 5,
        "image": image,
        "mask_image": mask,
        "strength": 0.6,
        "callback_on_step_end": look,
    }
    end = paint("a red heart", **call, generator=torch.Generator().manual_seed(1)).images
    sigmas = paint.scheduler.sigmas[-len(seen) :]
    assert len(seen) == 5 and sigmas[-1] == 0 and torch.equal(end[..., :4], seen[-1])
    noises = [(x - seen[-1]) / sigma for x, sigma in zip(seen[:-1], sigmas)]
    for xi in noises[1:]:
        assert_close(xi, noises[0], rtol=0, atol=1e-4)
    assert 0.8 < noises[0].std() < 1.2


def test_round_trip_on_disk(tmp_path: Path, sd1: tuple[Path, Any], restored: None) -> None:
    pipe = sd1[1]
    pipe.scheduler = SigmafieldScheduler.from_config(
        pipe.scheduler.config, sampler="dpmpp_2m_sde", schedule="exponential", eta=0.4, s_noise=0.9
    )
    drawn = image(pipe)
    pipe.scheduler.save_pretrained(tmp_path)
    pipe.scheduler = SigmafieldScheduler.from_pretrained(tmp_path)
    assert torch.equal(image(pipe), drawn)
    pipe.scheduler = SigmafieldScheduler.from_pretrained(tmp_path, eta=0.8)
    assert pipe.scheduler.config.params == {"eta": 0.8, "s_noise": 0.9} and not torch.allclose(image(pipe), drawn)
    assert SigmafieldScheduler.from_config(pipe.scheduler.config, sampler="euler").config.params == {}
    back = diffusers.EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    assert back.config.beta_schedule == "scaled_linear" and back.config.timestep_spacing == "trailing"


def test_pipeline_saved_with_it(tmp_path: Path, sd1: tuple[Path, Any], restored: None) -> None:
    pipe = sd1[1]
    pipe.scheduler = SigmafieldScheduler.from_config(pipe.scheduler.config, sampler="seeds_2", schedule="beta")
    pipe.save_pretrained(tmp_path)
    again = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path, safety_checker=None, tokenizer=pipe.tokenizer)
    assert isinstance(again.scheduler, SigmafieldScheduler)
    assert torch.equal(image(again), image(pipe))


def sd3(small: Any) -> Any:
    """A pipeline like Stable Diffusion 3, without text encoders."""
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, num_layers=1, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=12, caption_projection_dim=16, pooled_projection_dim=10, out_channels=4,
    )  # fmt: skip
    texts = dict.fromkeys(f"{k}{i}" for k in ("text_encoder", "tokenizer") for i in ("", "_2", "_3"))
    return diffusers.StableDiffusion3Pipeline(small.randomise(transformer), FLOW, small.vae(shift_factor=0.1), **texts)


def test_stable_diffusion_3(small: Any) -> None:
    pipe, draw = sd3(small), Gaussian(1, (1, 5, 12)).draw
    call = CALL | {
        "prompt_embeds": draw(),
        "negative_prompt_embeds": draw(),
        "latents": Gaussian(2, (1, 4, 8, 8)).draw(),
    }
    call |= {"pooled_prompt_embeds": torch.ones(1, 10), "negative_pooled_prompt_embeds": torch.zeros(1, 10)}
    theirs = pipe(**call).images
    drawn = {}
    for name in ("euler", "heun", "dpmpp_2m_sde"):
        pipe.scheduler = SigmafieldScheduler.from_config(FLOW.config, sampler=name)
        drawn[name] = pipe(**call).images
    close(drawn["euler"], theirs)
    assert drawn["dpmpp_2m_sde"].isfinite().all()
    pipe.scheduler = diffusers.FlowMatchHeunDiscreteScheduler.from_config(FLOW.config)
    close(drawn["heun"], pipe(**call).images)


def test_flux(small: Any) -> None:
    transformer = diffusers.FluxTransformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=12, pooled_projection_dim=10, axes_dims_rope=(2, 2, 4), guidance_embeds=False,
    )  # fmt: skip
    levels = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    texts = dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    pipe = diffusers.FluxPipeline(levels, small.vae(), transformer=small.randomise(transformer), **texts)
    call = CALL | {"prompt_embeds": torch.ones(1, 3, 12), "pooled_prompt_embeds": torch.ones(1, 10)}
    theirs = pipe(**call, generator=torch.Generator().manual_seed(1)).images
    pipe.scheduler = SigmafieldScheduler.from_config(levels.config, sampler="euler")
    close(pipe(**call, generator=torch.Generator().manual_seed(1)).images, theirs)


# -- refusals


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"sampler": "dpmp_2m"}, "unknown sampler 'dpmp_2m'; did you mean dpmpp_2m"),
        ({"schedule": "kerras"}, "unknown schedule 'kerras'; did you mean karras"),
        ({"sampler": "dpmpp_2m_sde", "etta": 0.5}, "dpmpp_2m_sde has 'etta'; did you mean eta"),
        ({"scedule": "karras"}, "neither SigmafieldScheduler nor dpmpp_2m has 'scedule'; did you mean schedule"),
        ({"sampler": "deis", "max_order": 9}, "deis needs 1 ≤ max_order ≤ 4; got 9"),
        ({"sampler": "dpm_adaptive"}, "dpm_adaptive chooses its own steps, but a pipeline asks for all timesteps"),
        ({"sampler": "distance_n"}, "distance_n needs the unconditional prediction, but a pipeline combines"),
        ({"sampler": "euler_cfg_pp"}, "euler_cfg_pp needs the unconditional prediction, but a pipeline combines"),
        ({"sampler": "euler", "s_churn": 1.0}, "euler with .* moves x before it evaluates.* leave s_churn at 0"),
        ({"prediction_type": "sample"}, "unknown prediction_type 'sample'"),
        ({"seed": -1}, "seed must be 0 … 2\\*\\*64 - 1; got -1"),
        ({"time_shift_type": "cubic"}, "time_shift_type must be exponential or linear; got 'cubic'"),
    ],
)
def test_refused_at_construction(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SigmafieldScheduler.from_config(EPS.config, **settings)


@pytest.mark.parametrize("key", ["clip_sample", "thresholding", "shift_terminal", "invert_sigmas"])
def test_refused_configs(key: str) -> None:
    with pytest.raises(ValueError, match=f"scheduler: {key} = 0.5 is not supported"):
        SigmafieldScheduler.from_config({**EPS.config, key: 0.5})


def test_refused_calls() -> None:
    s = scheduler("eps", "heun", schedule="karras")
    x = start("eps")
    for early in (lambda: s.step(x, 1.0, x), lambda: s.init_noise_sigma, lambda: s.set_begin_index(0)):
        with pytest.raises(ValueError, match="there is no schedule yet: call set_timesteps"):
            early()
    with pytest.raises(ValueError, match="sigmas and the schedule 'karras' were given: leave one of them out"):
        s.set_timesteps(sigmas=[1.0, 0.0])
    with pytest.raises(ValueError, match="give one of num_inference_steps, sigmas, timesteps; got none"):
        s.set_timesteps()
    with pytest.raises(ValueError, match="got num_inference_steps and sigmas"):
        s.set_timesteps(3, sigmas=[1.0, 0.0])
    with pytest.raises(ValueError, match="at least one step"):
        scheduler("eps", "heun").set_timesteps(sigmas=[1.0])
    s.set_timesteps(STEPS)
    with pytest.raises(ValueError, match="heun cannot begin at evaluation 3 of 9"):
        s.set_begin_index(3)
    with pytest.raises(ValueError, match="timestep 998 is not in this run"):
        s.step(x, 998, x)


def test_config_without_levels() -> None:
    with pytest.raises(ValueError, match="has no beta_schedule; supported: schedulers of discrete diffusion"):
        SigmafieldScheduler.from_config({"sigma_data": 0.5}, sampler="euler")


def test_compatibles() -> None:
    s = scheduler("eps", "euler")
    assert diffusers.EulerDiscreteScheduler in s.compatibles and len(s) == 1000


def test_flow_of_another_schedulers_config() -> None:
    """UniPC's config of a flow says so in other words."""
    config = diffusers.UniPCMultistepScheduler(
        use_flow_sigmas=True, flow_shift=3.0, prediction_type="flow_prediction"
    ).config
    s = SigmafieldScheduler.from_config(config, sampler="uni_pc")
    s.set_timesteps(4)
    assert_close(s.sigmas[:-1], SCHEDULES.lookup("normal")(4, flow_sampling(3.0).levels).float()[:-1])
    assert [state.i for state in iterate(run_of("flow", "euler", s.sigmas, start("flow")), start("flow"))][-1] == 4
