"""Our nodes inside ComfyUI: the same runs as in our engine, through its interfaces alone."""

import json
import re
import sys
from functools import cache
from pathlib import Path

import comfyui_host as comfyui
import pytest
import torch

from sigmafield.comfyui.pack.model import sampling_of
from sigmafield.core.protocols import Pred
from sigmafield.core.registry import Spec
from sigmafield.noise.sources import generator_of, initial_noise
from sigmafield.parameterization.latent_format import latent_format
from sigmafield.parameterization.prediction import discrete_sampling, flow_sampling
from sigmafield.parameterization.timesteps import betas
from sigmafield.recipes.ksampler import open_run
from sigmafield.runs.mixing_spec import parse_mixing
from sigmafield.runs.run import finish, iterate
from sigmafield.samplers import SAMPLERS
from sigmafield.schedules import SCHEDULES
from sigmafield.spatial.field_denoiser import by_level, native
from sigmafield.spatial.inpaint import differential
from sigmafield.spatial.sigma_field import by_timestep, delayed, field_from_mask

ROOT = Path(__file__).parents[2]
SEED, CFG, STEPS = 7, 3.0, 4
SAMPLINGS = {
    "eps": (comfyui.Eps, discrete_sampling("eps", betas()), comfyui.SD15, latent_format("SD15")),
    "flow": (comfyui.Const, flow_sampling(3.0), comfyui.Wan21, None),
}


def network(x, level, prompt):
    """The mean of a Gaussian around the prompt, pulled by tanh: no two levels, positions or prompts look alike."""
    level = level.reshape(-1, *[1] * (x.ndim - 1))
    return (x + prompt * level**2) / (1 + level**2) + 0.1 * torch.tanh(x)


class Own:
    """The same guided network as our engine has denoisers, on levels of float32."""

    def __init__(self, cfg=CFG):
        self.cfg = cfg

    def __call__(self, x, sigma, ctx):
        level = sigma.float().reshape(-1)[:1] if not sigma.ndim else sigma.flatten(1)[:, 0].float()
        level = level.expand(len(x))
        C, U = network(x, level, 0.7), network(x, level, -0.2)
        if self.cfg == 1 and not ctx.need_uncond:
            return Pred(C, C)
        return Pred(U + (C - U) * self.cfg, C, U)


@pytest.fixture
def told(monkeypatch, tmp_path):
    return comfyui.install(monkeypatch, tmp_path)


@cache
def loaded():
    """The pack's classes, which look for ComfyUI's modules when they are called."""
    return comfyui.load_pack(ROOT / "pack").NODE_CLASS_MAPPINGS


@pytest.fixture
def nodes(told):
    return loaded()


def model_of(kind, **options):
    sampling, _, form, _ = SAMPLINGS[kind]
    return comfyui.Patcher(comfyui.InnerModel(sampling(), form(), network), options)


def guider_of(model, cfg=CFG, negative=-0.2):
    return comfyui.Guider(model, 0.7, negative, cfg)


def latent_of(batch=1, empty=False, shape=(4, 6, 8)):
    x = torch.zeros(batch, *shape) if empty else torch.randn(batch, *shape, generator=generator_of(3))
    return {"samples": x}


def sampler_of(nodes, text):
    spec = Spec.parse(text)
    [made] = comfyui.run_node(
        nodes["AnySampler"], sampler_name=spec.name, parameters=text.partition("(")[2].removesuffix(")")
    )
    return made


def sigmas_of(nodes, model, scheduler="karras", steps=STEPS, **more):
    [made] = comfyui.run_node(nodes["AnySchedule"], model=model, scheduler=scheduler, steps=steps, **more)
    return made


def in_our_engine(kind, sampler, sigmas, latent, seed=SEED, cfg=CFG, noise=None, **options):
    _, sampling, form, ours = SAMPLINGS[kind]
    ours = ours or latent_format("Wan21")
    generator = generator_of(seed)
    x = latent["samples"]
    if noise is None:
        noise = initial_noise(generator, x.shape, latent.get("batch_index"), x.dtype)
    spec = Spec.parse(sampler)
    source = form().process_in(x) if x.any() else x
    opened = open_run(
        Own(cfg), sampling, spec.name, sigmas, source, noise, generator, mask=latent.get("noise_mask"),
        random_inpaint=spec.name == "ddim", **spec.params, **options,
    )  # fmt: skip
    return form().process_out(opened.run.result(finish(opened.run, opened.start)).float())


@pytest.mark.parametrize("kind", SAMPLINGS)
def test_levels_and_process_are_those_of_the_model(kind):
    host, own, _, _ = SAMPLINGS[kind]
    made = sampling_of(host())
    assert made.process == own.process
    assert made.levels.sigmas.equal(own.levels.sigmas)
    some = torch.tensor([0.05, 0.5, 0.9], dtype=torch.float64)
    assert made.levels.timestep(some).float().equal(own.levels.timestep(some).float())
    assert made.levels.sigma(some * 900).float().allclose(own.levels.sigma(some * 900).float(), rtol=1e-6)
    for percent in (0, 0.3, 1):
        assert made.levels.sigma_at(percent) == pytest.approx(own.levels.sigma_at(percent), rel=1e-6)


def test_a_model_with_another_noise_process_is_refused():
    class Odd(comfyui.Eps):
        def noise_scaling(self, sigma, noise, latent, max_denoise=False):
            return 0.25 * latent + sigma * noise

    with pytest.raises(ValueError, match="at σ = 0.5 its latent counts 0.25"):
        sampling_of(Odd())


def test_a_model_that_never_starts_from_pure_noise():
    class Rflow(comfyui.Eps):
        def noise_scaling(self, sigma, noise, latent, max_denoise=False):
            return super().noise_scaling(sigma, noise, latent, False)

    assert sampling_of(Rflow()).process.sigma_max == float("inf")
    assert sampling_of(comfyui.Eps()).process.sigma_max == float(comfyui.Eps().sigmas[-1])


OF_BOTH = ("euler", "euler_ancestral", "dpmpp_2m_sde", "uni_pc", "ddim")
OWN = {(sampler.step, sampler.noise): name for name, sampler in reversed([*SAMPLERS.items()])}
"""The first sampler of each function and kind of noise."""
RUNS = [
    pytest.param(name, kind, marks=() if name in OWN.values() or name in OF_BOTH else pytest.mark.slow)
    for name in SAMPLERS
    for kind in (("eps", "flow") if name in OF_BOTH else ("eps",))
]


@pytest.mark.parametrize("name, kind", RUNS)
def test_every_sampler_gives_what_our_engine_gives(nodes, name, kind):
    model, latent = model_of(kind), latent_of()
    sigmas = sigmas_of(nodes, model, "normal" if kind == "flow" else "karras")
    out, denoised, seen = comfyui.sampler_custom_advanced(
        comfyui.RandomNoise(SEED), guider_of(model), sampler_of(nodes, name), sigmas, latent
    )
    assert out["samples"].equal(in_our_engine(kind, name, sigmas, latent))
    assert [step for step, *_ in seen] == list(range(len(seen))) and seen[-1][3] == len(seen)
    assert SAMPLERS[name].adaptive or {total for *_, total in seen} == {len(seen)}
    assert denoised["samples"].equal(model.model.process_latent_out(seen[-1][1]))


@pytest.mark.parametrize("text", ["uni_pc(end=0, precise=true)", "euler(s_churn=4, s_noise=1.1)", "dpmpp_sde(eta=0.3)"])
def test_parameters_and_corrections(nodes, text):
    model, latent = model_of("eps"), latent_of()
    sigmas = sigmas_of(nodes, model)
    sampler = sampler_of(nodes, text)
    out, *_ = comfyui.sampler_custom_advanced(comfyui.RandomNoise(SEED), guider_of(model), sampler, sigmas, latent)
    assert out["samples"].equal(in_our_engine("eps", text, sigmas, latent))
    plain, *_ = comfyui.sampler_custom_advanced(
        comfyui.RandomNoise(SEED), guider_of(model), sampler_of(nodes, text.partition("(")[0]), sigmas, latent
    )
    assert not out["samples"].equal(plain["samples"])


@pytest.mark.parametrize(
    "name, inputs, message",
    [
        ("AnySampler", {"sampler_name": "euler", "parameters": "eta=1"}, "euler has no parameter"),
        ("AnySampler", {"sampler_name": "euler", "parameters": "s_churn 1"}, r"such as euler\(eta=0.5"),
        ("AnySampler", {"sampler_name": "lms", "parameters": "order=0"}, "order"),
        ("AnySchedule", {"scheduler": "karras", "parameters": "roh=3"}, "rho"),
        ("MixedSampler", {"mixing": "cosin"}, "did you mean cosine"),
        ("MixedSampler", {"mixing": ""}, "must begin with a curve"),
        ("SaveSamplingState", {"filename_prefix": "../out"}, "must stay in the output folder"),
    ],
)
def test_mistakes_are_found_before_anything_runs(nodes, name, inputs, message):
    found = comfyui.validated(nodes[name], **inputs)
    assert isinstance(found, str) and re.search(message, found), found
    assert comfyui.validated(nodes[name], **dict.fromkeys(inputs)) is True  # links are not known yet


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_is_that_of_our_engine(nodes, name):
    kind = "flow" if SCHEDULES[name].network == "flow" else "eps"
    made = sigmas_of(nodes, model_of(kind), name, 5)
    own = SCHEDULES[name](5, SAMPLINGS[kind][1].levels)
    assert made.dtype == torch.float32 and made.ndim == 1
    assert made.allclose(own.float(), rtol=1e-6)


def advanced(guider, sampler, sigmas, latent, noise=None):
    out, *_ = comfyui.sampler_custom_advanced(noise or comfyui.RandomNoise(SEED), guider, sampler, sigmas, latent)
    return out["samples"]


@pytest.mark.parametrize("name", ["euler", "euler_ancestral", "dpmpp_2m_sde", "heun"])
def test_batches_and_seeds(nodes, name):
    model, guider = model_of("eps"), guider_of(model_of("eps"))
    sigmas, sampler = sigmas_of(nodes, model), sampler_of(nodes, name)
    latent = latent_of(2, empty=True)
    for seed in (0, 2**64 - 1):
        out = advanced(guider, sampler, sigmas, latent, comfyui.RandomNoise(seed))
        assert out.equal(in_our_engine("eps", name, sigmas, latent, seed))
    indexed = {**latent, "batch_index": [3, 3]}
    out = advanced(guider, sampler, sigmas, indexed)
    own = in_our_engine("eps", name, sigmas, indexed)
    assert out.equal(own) and out[0].equal(out[1]) is (SAMPLERS[name].noise in ("none", "churn"))
    still = advanced(guider, sampler, sigmas, latent_of(2), comfyui.NoNoise())
    assert still.equal(in_our_engine("eps", name, sigmas, latent_of(2), 0, noise=torch.zeros(2, 4, 6, 8)))


def test_the_samplers_own_stream_follows_the_initial_noise(nodes):
    model, latent = model_of("eps"), latent_of(2)
    sigmas, text = sigmas_of(nodes, model), "euler(s_churn=4)"
    sampler = sampler_of(nodes, text)
    first = advanced(guider_of(model), sampler, sigmas, latent)
    assert first.equal(in_our_engine("eps", text, sigmas, latent))
    torch.randn(5)  # the global generator has no part in it
    assert advanced(guider_of(model), sampler, sigmas, latent).equal(first)


@pytest.mark.parametrize("name", ["euler", "ddim", "dpmpp_2m", "euler_ancestral"])
def test_masks(nodes, name):
    model, latent = model_of("eps"), latent_of(2)
    mask = torch.rand(1, 1, 12, 16, generator=generator_of(5)).round()
    latent["noise_mask"] = mask
    sigmas = sigmas_of(nodes, model)
    out = advanced(guider_of(model), sampler_of(nodes, name), sigmas, latent)
    assert out.equal(in_our_engine("eps", name, sigmas, latent))
    kept = comfyui.fitted(mask, latent["samples"]) == 0
    torch.testing.assert_close(out[kept], latent["samples"][kept], rtol=0, atol=1e-4)


def test_a_mask_that_changes_during_the_run(nodes):
    levels = SAMPLINGS["eps"][1].levels
    model, latent = model_of("eps"), latent_of()
    latent["noise_mask"] = torch.rand(1, 1, 6, 8, generator=generator_of(5))
    sigmas = sigmas_of(nodes, model)
    own_mask = differential(levels, sigmas)
    asked = []

    def mask_function(sigma, mask, extra_options):
        assert sigma.shape == (1,) and extra_options["sigmas"].equal(sigmas)
        asked.append(extra_options["model"])
        return own_mask(sigma[0].double(), mask)

    guider = guider_of(model.with_options(denoise_mask_function=mask_function))
    out = advanced(guider, sampler_of(nodes, "euler"), sigmas, latent)
    assert out.equal(in_our_engine("eps", "euler", sigmas, latent, mask_of=own_mask))
    assert asked and all(each is guider for each in asked)


def test_videos(nodes):
    model, latent = model_of("flow"), latent_of(shape=(4, 3, 6, 8))
    latent["noise_mask"] = torch.ones(3, 6, 8)
    latent["noise_mask"][0] = 0
    sigmas = sigmas_of(nodes, model, "simple")
    out = advanced(guider_of(model), sampler_of(nodes, "dpmpp_2m"), sigmas, latent)
    assert out.equal(in_our_engine("flow", "dpmpp_2m", sigmas, latent)) and out.shape == (1, 4, 3, 6, 8)
    torch.testing.assert_close(out[:, :, 0], latent["samples"][:, :, 0], rtol=0, atol=1e-4)


def test_video_models_see_what_a_mask_keeps_without_noise(nodes):
    class HunyuanVideo(comfyui.SD15):
        pass

    seen = []

    def watched(x, level, prompt):
        seen.append(x)
        return network(x, level, prompt)

    model = comfyui.Patcher(comfyui.InnerModel(comfyui.Const(7.0), HunyuanVideo(), watched))
    latent = latent_of(shape=(4, 3, 6, 8))
    latent["noise_mask"] = torch.ones(3, 6, 8)
    latent["noise_mask"][0] = 0
    sigmas = sigmas_of(nodes, model, "simple")
    out = advanced(guider_of(model), sampler_of(nodes, "euler"), sigmas, latent)
    first = latent["samples"][:, :, 0] * comfyui.SD15.scale
    assert all(x[:, :, 0].equal(first) and not x[:, :, 1].equal(latent["samples"][:, :, 1]) for x in seen)
    torch.testing.assert_close(out[:, :, 0], latent["samples"][:, :, 0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_the_unconditional_prediction_of_cfg_pp(nodes, cfg):
    model, latent, name = model_of("eps"), latent_of(), "euler_cfg_pp"
    sigmas = sigmas_of(nodes, model)
    guider = guider_of(model, cfg)
    out = advanced(guider, sampler_of(nodes, name), sigmas, latent)
    assert out.equal(in_our_engine("eps", name, sigmas, latent, cfg=cfg))
    with pytest.raises(ValueError, match="needs a negative prompt: use CFGGuider"):
        advanced(guider_of(model, negative=None), sampler_of(nodes, name), sigmas, latent)


def test_hooks_of_other_nodes_stay(nodes):
    model, latent = model_of("eps"), latent_of()
    sigmas, seen = sigmas_of(nodes, model), []

    def hook(args):
        seen.append(args["cond_scale"])
        return args["denoised"] * 0.5

    guider = guider_of(model.with_options(sampler_post_cfg_function=[hook]))
    out = advanced(guider, sampler_of(nodes, "euler_cfg_pp"), sigmas, latent)
    assert seen == [CFG] * STEPS
    assert not out.equal(in_our_engine("eps", "euler_cfg_pp", sigmas, latent))


@pytest.mark.parametrize("name", ["euler", "dpmpp_2m", "euler_ancestral"])
@pytest.mark.parametrize("join", ["steps", "timesteps"])
def test_a_strength_for_every_position(nodes, name, join):
    model, latent = model_of("eps"), latent_of(2)
    sigmas = sigmas_of(nodes, model)
    strengths = torch.ones(1, 6, 8)
    strengths[:, :, :3], strengths[:, :, 3:6] = 0, 0.5
    own_join = by_timestep(SAMPLINGS["eps"][1].levels, sigmas) if join == "timesteps" else None
    field = field_from_mask(delayed(sigmas, own_join), strengths, (6, 8))
    own = in_our_engine("eps", name, field, latent)
    [sampler] = comfyui.run_node(
        nodes["SigmaFieldSampler"], sampler=sampler_of(nodes, name), strengths=strengths, join=join
    )
    guider = guider_of(model)
    assert advanced(guider, sampler, sigmas, latent).equal(own)
    assert own[..., :3].allclose(latent["samples"][..., :3], atol=1e-5)
    levels = {tuple(each.tolist()) for each in guider.calls}
    assert len(levels) == len(guider.calls)  # each level once: positions that wait cost no call
    [from_mask] = comfyui.run_node(
        nodes["SigmaFieldFromMask"], model=model, sigmas=sigmas, mask=strengths, latent=latent, join=join
    )
    assert advanced(guider_of(model), sampler_of(nodes, name), from_mask, latent).equal(own)


def test_a_field_that_is_one_level_is_a_plain_run_and_is_served_alike_by_each_rule(nodes):
    model, latent = model_of("eps"), latent_of()
    sigmas = sigmas_of(nodes, model)
    [sampler] = comfyui.run_node(
        nodes["SigmaFieldSampler"], sampler=sampler_of(nodes, "dpmpp_2m"), strengths=torch.ones(1, 3, 4)
    )
    out = advanced(guider_of(model), sampler, sigmas, latent)
    assert out.equal(advanced(guider_of(model), sampler_of(nodes, "dpmpp_2m"), sigmas, latent))
    for rule in (by_level, native):
        assert out.equal(in_our_engine("eps", "dpmpp_2m", sigmas.reshape(-1, 1, 1, 1, 1), latent, rule=rule))


def test_a_strength_for_every_tile(nodes):
    model, latent = model_of("eps"), latent_of(shape=(4, 32, 32))
    image = torch.full((1, 256, 256, 3), 0.5)
    image[:, :128, :128] = torch.rand(1, 128, 128, 3, generator=generator_of(2))
    tree, strengths, _ = comfyui.run_node(nodes["QuadtreeTiles"], image=image, min_tile_size=64)
    sigmas = sigmas_of(nodes, model)
    [sampler] = comfyui.run_node(nodes["SigmaFieldSampler"], sampler=sampler_of(nodes, "euler"), strengths=strengths)
    [field] = comfyui.run_node(nodes["SigmaFieldFromTiles"], sigmas=sigmas, quadtree=tree, latent=latent)
    out = advanced(guider_of(model), sampler, sigmas, latent)
    assert out.equal(advanced(guider_of(model), sampler_of(nodes, "euler"), field, latent))
    assert len(set(tree.strengths)) == 2


@pytest.mark.parametrize("name", ["euler", "dpmpp_2m", "distance"])
@pytest.mark.parametrize("text", ["cosine(alpha_1=0.3, align=next)", "linear(shared=true)+rewind(least=0.5)"])
def test_mixing_with_any_sampler(nodes, name, text):
    model, latent = model_of("eps"), latent_of()
    sigmas, (_, sampling, form, _) = sigmas_of(nodes, model), SAMPLINGS["eps"]
    [sampler] = comfyui.run_node(nodes["MixedSampler"], sampler=sampler_of(nodes, name), mixing=text)
    source = form().process_in(latent["samples"])
    noise = torch.zeros_like(source)
    run = open_run(Own(), sampling, name, sigmas, source, noise, 0).run
    mixing = parse_mixing(text).mixing(run, source, 0)
    own = form().process_out(mixing.result(finish(mixing, mixing.start(source))))
    assert advanced(guider_of(model), sampler, sigmas, latent, comfyui.NoNoise()).equal(own)


@pytest.mark.parametrize("name", ["SigmaFieldSampler", "MixedSampler"])
def test_what_cannot_be_wrapped(nodes, name):
    more = {"strengths": torch.ones(1, 2, 2)} if name == "SigmaFieldSampler" else {}
    with pytest.raises(ValueError, match="dpm_adaptive chooses its own steps"):
        comfyui.run_node(nodes[name], sampler=sampler_of(nodes, "dpm_adaptive"), **more)
    with pytest.raises(ValueError, match="needs a sampler of sigmafield, such as Any Sampler gives; got object"):
        comfyui.run_node(nodes[name], sampler=object(), **more)
    [wrapped] = comfyui.run_node(nodes["MixedSampler"], sampler=sampler_of(nodes, "euler"))
    with pytest.raises(ValueError, match=f"{name} needs a sampler of the table"):
        comfyui.run_node(nodes[name], sampler=wrapped, **more)


@pytest.mark.parametrize("text", ["dpmpp_2m", "euler_ancestral", "dpmpp_2m_sde", "euler(s_churn=4)"])
def test_a_run_that_stops_and_goes_on(nodes, told, text, tmp_path):
    model, latent = model_of("eps"), latent_of(2)
    latent["noise_mask"] = torch.ones(1, 1, 6, 8)
    latent["noise_mask"][..., :3] = 0
    sampler, sigmas, guider = sampler_of(nodes, text), sigmas_of(nodes, model), guider_of(model)
    whole, clean, seen = comfyui.sampler_custom_advanced(comfyui.RandomNoise(SEED), guider, sampler, sigmas, latent)
    given = {
        "noise": comfyui.RandomNoise(SEED), "guider": guider, "sampler": sampler, "sigmas": sigmas,
        "latent_image": latent,
    }  # fmt: skip
    for step in (0, 1, 3, STEPS):
        state, at_step = comfyui.run_node(nodes["SampleToStep"], **given, step=step)
        if step:
            assert at_step["samples"].equal(model.model.process_latent_out(seen[step - 1][1]))
        out, denoised = comfyui.run_node(nodes["ResumeSampling"], **given, state=state)
        assert out["samples"].equal(whole["samples"])
        assert step == STEPS or denoised["samples"].equal(clean["samples"])
    saved = comfyui.run_node(nodes["SaveSamplingState"], state=state)
    [file] = saved["ui"]["states"]
    assert (tmp_path / "output" / file["subfolder"] / file["filename"]).is_file()
    [loaded] = comfyui.run_node(nodes["LoadSamplingState"], file=f"{file['subfolder']}/{file['filename']} [output]")
    out, _ = comfyui.run_node(nodes["ResumeSampling"], **given, state=loaded)
    assert out["samples"].equal(whole["samples"])
    with pytest.raises(ValueError, match=r"that of a latent \(2, 4, 6, 8\), and latent_image is \(1, 4, 6, 8\) here"):
        comfyui.run_node(nodes["ResumeSampling"], **{**given, "latent_image": latent_of()}, state=loaded)


def test_progress_previews_and_interrupts_of_the_nodes_that_sample(nodes, told):
    model, (shown, bar) = model_of("eps"), told
    given = {
        "noise": comfyui.RandomNoise(SEED), "guider": guider_of(model), "sampler": sampler_of(nodes, "euler"),
        "sigmas": sigmas_of(nodes, model), "latent_image": latent_of(shape=(16, 6, 8), empty=True),
    }  # fmt: skip
    state, latent = comfyui.run_node(nodes["SampleToStep"], **given, step=2)
    assert latent["samples"].shape == (1, 4, 6, 8)  # an empty latent gets the network's channels
    assert [(value, total) for value, total, _ in shown] == [(1, STEPS), (2, STEPS)]
    kind, image, size = shown[0][2]
    assert (kind, size) == ("JPEG", 512) and image.size == (512, 384)
    bar.stop_at = 3
    with pytest.raises(comfyui.Interrupted):
        comfyui.run_node(nodes["ResumeSampling"], **given, state=state)
    assert [value for value, *_ in shown] == [1, 2, 3]


def test_an_interrupt_in_the_callback_ends_the_run(nodes):
    model, steps = model_of("eps"), []

    def callback(step, x0, x, total_steps):
        steps.append(step)
        if step == 1:
            raise comfyui.Interrupted

    guider = guider_of(model)
    noise, sigmas = torch.randn(1, 4, 6, 8), sigmas_of(nodes, model)
    with pytest.raises(comfyui.Interrupted):
        guider.sample(noise, torch.zeros_like(noise), sampler_of(nodes, "heun"), sigmas, callback=callback, seed=1)
    assert steps == [0, 1] and len(guider.calls) == 4
    without = guider.sample(noise, torch.zeros_like(noise), sampler_of(nodes, "heun"), sigmas, seed=1)
    assert without.isfinite().all()


def test_the_callback_sees_each_step_of_our_engine(nodes):
    model, latent = model_of("eps"), latent_of()
    sigmas = sigmas_of(nodes, model)
    *_, seen = comfyui.sampler_custom_advanced(
        comfyui.RandomNoise(SEED), guider_of(model), sampler_of(nodes, "heun"), sigmas, latent
    )
    _, sampling, form, _ = SAMPLINGS["eps"]
    source, generator = form().process_in(latent["samples"]), generator_of(SEED)
    run, start, _ = open_run(Own(), sampling, "heun", sigmas, source, initial_noise(generator, source.shape), generator)
    before = start.x
    for (step, x0, x, total), state in zip(seen, iterate(run, start), strict=True):
        assert (step, total) == (state.i - 1, STEPS) and x0.equal(state.pred.x0) and x.equal(before)
        before = state.x


def test_short_schedules(nodes):
    model, latent = model_of("eps"), latent_of()
    sigmas, sampler = sigmas_of(nodes, model), sampler_of(nodes, "euler")
    assert advanced(guider_of(model), sampler, sigmas[:0], latent) is latent["samples"]
    guider = guider_of(model)
    out = advanced(guider, sampler, sigmas[:1], latent)
    assert not guider.calls and out.equal(in_our_engine("eps", "euler", sigmas[:1], latent))
    two_parts = advanced(guider_of(model), sampler, sigmas[:3], latent)
    two_parts = advanced(guider_of(model), sampler, sigmas[2:], {"samples": two_parts}, comfyui.NoNoise())
    torch.testing.assert_close(two_parts, advanced(guider_of(model), sampler, sigmas, latent), rtol=1e-4, atol=1e-4)
    assert sampler.max_denoise(guider, sigmas) and not sampler.max_denoise(guider, sigmas[1:])


def test_the_ksampler_with_strengths_becomes_a_graph_of_comfyuis_own_nodes(nodes):
    model, latent = model_of("eps"), latent_of()
    strengths = torch.ones(1, 6, 8)
    strengths[..., :4] = 0.25
    made = comfyui.run_node(
        nodes["SigmaFieldKSampler"], model=model, seed=SEED, steps=STEPS, cfg=CFG, sampler_name="dpmpp_2m",
        scheduler="karras", positive=[[torch.zeros(1, 2, 3), {}]], negative=[[torch.zeros(1, 2, 3), {}]],
        latent_image=latent, strengths=strengths, denoise=0.8,
    )  # fmt: skip
    [(name, node)] = made["expand"].items()
    assert made["result"] == ([name, 0],) and node["class_type"] == "SamplerCustom"
    inputs = node["inputs"]
    assert inputs["noise_seed"] == SEED and inputs["cfg"] == CFG and inputs["model"] is model
    whole = sigmas_of(nodes, model, steps=STEPS + 1)
    assert inputs["sigmas"].equal(whole[-(STEPS + 1) :])
    out = advanced(guider_of(model), inputs["sampler"], inputs["sigmas"], latent)
    field = field_from_mask(delayed(inputs["sigmas"]), strengths, (6, 8))
    assert out.equal(in_our_engine("eps", "dpmpp_2m", field, latent))


def test_the_plot_of_a_sampler(nodes):
    pytest.importorskip("matplotlib")
    [image] = comfyui.run_node(nodes["MethodPlot"], sampler=sampler_of(nodes, "heun"), plot_of="stability")
    assert image.ndim == 4 and image.shape[-1] == 3


def test_the_pack_has_no_name_of_comfyuis_own_and_a_tooltip_everywhere(told):
    pack = comfyui.load_pack(ROOT / "pack")
    core = {name for name, node in classes().items()}
    assert len(core) > 290 and not core & set(pack.NODE_CLASS_MAPPINGS)
    assert set(pack.NODE_DISPLAY_NAME_MAPPINGS) == set(pack.NODE_CLASS_MAPPINGS)
    assert not hasattr(pack, "comfy_entrypoint")
    for name, cls in pack.NODE_CLASS_MAPPINGS.items():
        types = cls.INPUT_TYPES()
        assert cls.DESCRIPTION and cls.CATEGORY and len(cls.RETURN_NAMES) == len(cls.RETURN_TYPES), name
        for key, (kind, options) in {**types["required"], **types.get("optional", {})}.items():
            assert options["tooltip"], f"{name}.{key}"
            assert isinstance(kind, (str, list)), f"{name}.{key}"
        json.dumps(types)


def classes():
    return json.loads((ROOT / "src/sigmafield/data/comfyui_classes.json").read_text("utf-8"))


def test_without_comfyui_the_pack_says_where_it_belongs():
    with pytest.raises(ImportError, match=r"from its folder custom_nodes; here is no module folder_paths \(No module"):
        comfyui.load_pack(ROOT / "pack")


def test_a_file_in_custom_nodes_does_the_same(told, tmp_path):
    page = (ROOT / "docs" / "comfyui-pack.md").read_text("utf-8")
    [file] = re.findall(r"```text\n(from .*?)```", page, re.DOTALL)
    (tmp_path / "__init__.py").write_text(file, "utf-8")
    assert (
        comfyui.load_pack(tmp_path).NODE_CLASS_MAPPINGS.keys()
        == comfyui.load_pack(ROOT / "pack").NODE_CLASS_MAPPINGS.keys()
    )


def test_what_the_registry_reads():
    tomllib = pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")
    own, package = (tomllib.loads((ROOT / path / "pyproject.toml").read_text("utf-8")) for path in ("pack", "."))
    project = own["project"]
    assert re.fullmatch(r"[a-z][a-z0-9._-]{0,98}", project["name"]) and "comfyui" not in project["name"]
    assert project["version"] == package["project"]["version"] and re.fullmatch(r"\d+\.\d+\.\d+", project["version"])
    assert project["license"].keys() <= {"file", "text"} and project["urls"]["Repository"].startswith("https://")
    assert own["tool"]["comfy"].keys() == {"PublisherId", "DisplayName", "requires-comfyui", "includes"}
    [needed] = project["dependencies"]
    assert re.fullmatch(r"sigmafield\[lab\]>=0\.\d+", needed)  # torch is ComfyUI's
