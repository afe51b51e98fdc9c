"""Sampling nodes give what the same run gives in Python, equal in every position."""

from collections.abc import Generator
from dataclasses import replace

import pytest
import torch

from sigmafield.comfyui.context import Context, Folders
from sigmafield.comfyui.declare import NODES
from sigmafield.comfyui.nodes import all_nodes
from sigmafield.comfyui.nodes.conditioning import conditioning_set_area, conditioning_set_mask
from sigmafield.comfyui.nodes.custom_sampling import (
    add_noise,
    basic_guider,
    cfg_guider,
    disable_noise,
    dual_cfg_guider,
    perp_neg_guider,
    random_noise,
    sampler_custom,
    sampler_custom_advanced,
)
from sigmafield.comfyui.nodes.guidance import apg, cfg_override, latent_apply_operation_cfg, perp_neg, rescale_cfg
from sigmafield.comfyui.nodes.ksampler import ksampler as ksampler_node
from sigmafield.comfyui.nodes.ksampler import ksampler_advanced
from sigmafield.comfyui.nodes.latents import empty_latent_image
from sigmafield.comfyui.nodes.loaders import checkpoint_loader_simple
from sigmafield.comfyui.nodes.model_patches import differential_diffusion, freeu
from sigmafield.comfyui.nodes.model_sampling import model_sampling_discrete
from sigmafield.comfyui.nodes.prompts import clip_set_last_layer, clip_text_encode
from sigmafield.comfyui.nodes.samplers import ksampler_select, sampler_dpmpp_2m_sde, sampler_lcm_upscale
from sigmafield.comfyui.nodes.schedules import basic_scheduler
from sigmafield.comfyui.nodes.sigma_field import (
    load_sampling_state,
    resume_sampling,
    sample_to_step,
    save_sampling_state,
)
from sigmafield.comfyui.nodes.sigmas import split_sigmas
from sigmafield.core.conditioning import Area
from sigmafield.guidance.guider import DualGuider, Guider, PerpNegGuider
from sigmafield.models import overrides
from sigmafield.recipes.ksampler import ksampler
from sigmafield.recipes.mods import parse_mods
from sigmafield.spatial.inpaint import differential
from small_network import few_channels

pytestmark = pytest.mark.typed_elsewhere

TEXTS = ("a red heart", "green", "")


@pytest.fixture(scope="module")
def tiny():
    """The shipped model's three values, its prompts as pairs, and the same as conditionings."""
    with few_channels():
        model, clip, vae = checkpoint_loader_simple("tiny")
    return model, clip, vae, [clip_text_encode(text, clip) for text in TEXTS], [
        clip.encode([text], (64, 64)) for text in TEXTS
    ]  # fmt: skip


def sampled(model, positive, negative, cfg=3.0, latent=None, steps=2, sampler="euler", denoise=1.0):
    latent = latent or empty_latent_image(64, 64)
    out = ksampler_node(
        model, 5, steps, cfg, sampler_name=sampler, scheduler="karras", positive=positive, negative=negative,
        latent_image=latent, denoise=denoise,
    )  # fmt: skip
    return out["samples"]


def in_python(guider, network, latent=None, steps=2, sampler="euler", denoise=1.0, **more):
    latent = torch.zeros(1, 4, 8, 8) if latent is None else latent
    return ksampler(
        guider, network.sampling, network.latent, latent, seed=5, steps=steps, sampler=sampler, schedule="karras",
        denoise=denoise, **more,
    ).samples  # fmt: skip


@pytest.mark.parametrize("sampler", ["euler", "ddim", "dpmpp_2m_sde", "euler_cfg_pp", "uni_pc"])
def test_ksampler(tiny, sampler):
    model, _, _, (positive, negative, _), (P, N, _) = tiny
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 32:] = 0.5
    latent = {"samples": torch.randn(2, 4, 8, 8), "noise_mask": mask, "batch_index": [3, 1]}
    out = ksampler_node(
        model, 5, 3, 3.0, sampler_name=sampler, scheduler="karras", positive=positive, negative=negative,
        latent_image=latent, denoise=0.8,
    )  # fmt: skip
    own = in_python(
        Guider(model.network, P, N, 3.0), model.network, latent["samples"], 3, sampler, 0.8, mask=mask,
        batch_index=[3, 1],
    )  # fmt: skip
    assert out["samples"].equal(own)
    assert out.get("noise_mask") is mask and out.get("batch_index") == [3, 1]


def test_two_parts_of_a_schedule_are_the_whole(tiny):
    model, _, _, (positive, negative, _), _ = tiny
    latent = empty_latent_image(64, 64)
    settings = {
        "model": model, "noise_seed": 3, "steps": 4, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal",
        "positive": positive, "negative": negative,
    }  # fmt: skip
    on = {"add_noise": "enable", "return_with_leftover_noise": "disable"}
    whole = ksampler_advanced(**settings, **on, latent_image=latent)
    first = ksampler_advanced(
        **settings, add_noise="enable", latent_image=latent, end_at_step=2, return_with_leftover_noise="enable"
    )
    rest = ksampler_advanced(
        **settings, add_noise="disable", latent_image=first, start_at_step=2, return_with_leftover_noise="disable"
    )
    clean = ksampler_advanced(**settings, **on, latent_image=latent, end_at_step=2)
    assert (first["samples"] - clean["samples"]).abs().max() > 0.5
    torch.testing.assert_close(rest["samples"], whole["samples"], rtol=0, atol=1e-4)
    beyond = ksampler_advanced(**settings, **on, latent_image=first, start_at_step=9)
    assert beyond["samples"] is first["samples"]


def test_custom_sampling_is_ksampler(tiny):
    model, _, _, (positive, negative, _), _ = tiny
    sigmas = basic_scheduler(model, "karras", 3)
    latent = empty_latent_image(64, 64, 2)
    own = sampled(model, positive, negative, latent=latent, steps=3, sampler="dpmpp_2m_sde_gpu")
    guider, sampler = cfg_guider(model, positive, negative, 3.0), sampler_dpmpp_2m_sde("midpoint", noise_device="gpu")
    out, denoised = sampler_custom_advanced(random_noise(5), guider, sampler, sigmas, latent)
    assert out["samples"].equal(own)
    torch.testing.assert_close(denoised["samples"], own, rtol=0, atol=1e-4)
    also, _ = sampler_custom(
        model, True, 5, 3.0, positive=positive, negative=negative, sampler=sampler, sigmas=sigmas, latent_image=latent
    )
    assert also["samples"].equal(own)
    _, low = split_sigmas(sigmas, 3)
    same, _ = sampler_custom_advanced(random_noise(5), guider, sampler, low[:0], latent)
    assert same["samples"] is latent["samples"]


def test_guiders(tiny):
    model, _, _, (positive, negative, empty), (P, N, E) = tiny
    network, sigmas, latent = model.network, basic_scheduler(model, "karras", 2), empty_latent_image(64, 64)
    for node, own in (
        (basic_guider(model, positive), Guider(network, P, None, 1.0)),
        (dual_cfg_guider(model, positive, negative, empty, 3.0, 2.0, style="nested"),
         DualGuider(network, P, N, E, 3.0, 2.0, True)),
        (perp_neg_guider(model, positive, negative, empty, 4.0, 0.5), PerpNegGuider(network, P, N, E, 4.0, 0.5)),
    ):  # fmt: skip
        out, _ = sampler_custom_advanced(random_noise(5), node, ksampler_select("euler"), sigmas, latent)
        assert out["samples"].equal(in_python(own, network))


def test_a_node_that_changes_a_model_leaves_its_input(tiny):
    model, _, _, (positive, negative, empty), (P, N, E) = tiny
    plain = sampled(model, positive, negative)
    made = rescale_cfg(apg(freeu(model), eta=0.5), multiplier=0.6)
    own = Guider(model.network, P, N, 3.0, parse_mods("freeu+apg(eta=0.5)+rescale(multiplier=0.6)"))
    assert sampled(made, positive, negative).equal(in_python(own, model.network))
    assert sampled(model, positive, negative).equal(plain)
    again = rescale_cfg(made, multiplier=0.2)
    assert [str(spec.name) for spec in again.guidance] == ["freeu", "apg", "rescale"]
    assert again.guidance[-1].params == {"multiplier": 0.2}
    with pytest.raises(ValueError, match="freeu twice"):
        freeu(made)
    across = perp_neg(model, empty, 0.5)
    own = Guider(model.network, P, N, 3.0, parse_mods("perp_neg(neg_scale=0.5)"), E)
    assert sampled(across, positive, negative).equal(in_python(own, model.network))


def test_cfg_override_is_a_scale_in_a_part_of_the_run(tiny):
    model, _, _, (positive, negative, _), _ = tiny
    everywhere = cfg_override(model, 5.0)
    assert sampled(everywhere, positive, negative, cfg=3.0).equal(sampled(model, positive, negative, cfg=5.0))
    nowhere = cfg_override(model, 5.0, 0.99, 0.995)
    assert sampled(nowhere, positive, negative, cfg=3.0).equal(sampled(model, positive, negative, cfg=3.0))


def test_an_operation_acts_on_the_difference_of_the_predictions(tiny):
    model, _, _, (positive, negative, _), _ = tiny
    halved = latent_apply_operation_cfg(model, lambda z: z / 2)
    torch.testing.assert_close(
        sampled(halved, positive, negative, cfg=3.0), sampled(model, positive, negative, cfg=1.5), rtol=0, atol=1e-4
    )


def test_other_levels_and_differential_diffusion(tiny):
    model, _, _, (positive, negative, _), (P, N, _) = tiny
    made = model_sampling_discrete(model, "v_prediction", True)
    network = overrides.discrete(model.network, prediction="v", zsnr=True)
    assert sampled(made, positive, negative).equal(in_python(Guider(network, P, N, 3.0), network))
    mask = torch.linspace(0, 1, 64).repeat(1, 1, 64, 1)
    latent = {"samples": torch.randn(1, 4, 8, 8), "noise_mask": mask}
    sigmas = basic_scheduler(model, "karras", 3)
    own = in_python(
        Guider(model.network, P, N, 3.0), model.network, latent["samples"], 3, mask=mask,
        mask_of=differential(model.network.sampling.levels, sigmas),
    )  # fmt: skip
    assert sampled(differential_diffusion(model), positive, negative, latent=latent, steps=3).equal(own)


def test_regions_and_layers(tiny):
    model, clip, _, (positive, negative, _), (P, N, _) = tiny
    mask = torch.zeros(64, 64)
    mask[:, :32] = 1
    regions = [
        *conditioning_set_area(positive, 64, 64, 0, 0, 0.7),
        *conditioning_set_mask(negative, mask, 0.5, set_cond_area="default"),
    ]
    own = [
        replace(P, area=Area((8, 8), (0, 0)), strength=0.7),
        replace(N, mask=mask[None], mask_strength=0.5),
    ]
    assert sampled(model, regions, negative).equal(in_python(Guider(model.network, own, N, 3.0), model.network))
    first = clip_text_encode(TEXTS[0], clip_set_last_layer(clip, -2))
    assert first[0][0].equal(clip.encode([TEXTS[0]], (64, 64), -2).embeds)


def test_add_noise(tiny):
    model = tiny[0]
    latent = {"samples": torch.randn(1, 4, 8, 8)}
    noise = random_noise(7)
    out = add_noise(model, noise, torch.tensor([5.0, 2.0]), latent)
    scale = model.network.latent.scale
    expected = latent["samples"] + 3.0 * noise.generate_noise(latent) / scale
    torch.testing.assert_close(out["samples"], expected)
    assert add_noise(model, noise, torch.empty(0), latent) is latent


def test_a_run_is_stopped_saved_and_resumed_bit_exactly(tiny, tmp_path):
    model, _, _, (positive, negative, _), _ = tiny
    sigmas, latent = basic_scheduler(model, "karras", 4), empty_latent_image(64, 64)
    parts = (
        random_noise(5),
        cfg_guider(model, positive, negative, 3.0),
        ksampler_select("dpmpp_2m_sde"),
        sigmas,
        latent,
    )
    whole, _ = sampler_custom_advanced(*parts)
    state, _ = sample_to_step(*parts, 2)
    assert state.i == 2
    context = Context(Folders(output=tmp_path))
    shown = save_sampling_state(state, "run", context)
    name = shown.ui["states"][0]["filename"]
    out, _ = resume_sampling(*parts, load_sampling_state(f"{name} [output]", context))
    assert out["samples"].equal(whole["samples"])


def test_progress_has_states_from_which_any_process_goes_on(tiny):
    model, _, _, (positive, negative, _), _ = tiny
    inputs = {
        "model": model, "seed": 5, "steps": 3, "cfg": 3.0, "sampler_name": "euler", "scheduler": "karras",
        "positive": positive, "negative": negative, "latent_image": empty_latent_image(64, 64), "denoise": 1.0,
    }  # fmt: skip
    all_nodes()
    run = NODES["KSampler"].call(inputs, Context())
    assert isinstance(run, Generator)
    states = [each.state for each in run]
    assert [state and state.i for state in states] == [1, 2, 3]
    rest = NODES["KSampler"].call(inputs, Context(state=states[1]))
    assert isinstance(rest, Generator)
    assert next(rest).value == 3
    with pytest.raises(StopIteration) as end:
        next(rest)
    assert end.value.value.values[0]["samples"].equal(sampled(model, positive, negative, steps=3))


def test_lcm_upscale_grows_the_latent(tiny):
    model, _, _, (positive, _, _), _ = tiny
    sampler = sampler_lcm_upscale(2.0, upscale_method="bilinear")
    out, _ = sampler_custom_advanced(
        random_noise(1), basic_guider(model, positive), sampler, basic_scheduler(model, "karras", 3),
        empty_latent_image(64, 64),
    )  # fmt: skip
    assert out["samples"].shape == (1, 4, 16, 16)
    with pytest.raises(ValueError, match="without noise_mask"):
        latent = {**empty_latent_image(64, 64), "noise_mask": torch.ones(1, 1, 8, 8)}
        sampler_custom_advanced(
            disable_noise(), basic_guider(model, positive), sampler, basic_scheduler(model, "karras", 3), latent
        )


def test_files_named_tiny_come_first(tmp_path):
    (tmp_path / "tiny").mkdir()
    choices = NODES["CheckpointLoaderSimple"].slot("ckpt_name").choices
    assert list(choices.of(Folders())) == ["tiny", "tiny-flow"]
    with pytest.raises(ValueError, match="unknown file 'tinny' in checkpoints"):
        checkpoint_loader_simple("tinny")
