"""Sampling nodes give what the same run gives in Python, equal in every position."""

import pytest
import torch

from sigmafield.comfyui.nodes.ksampler import ksampler as ksampler_node
from sigmafield.comfyui.nodes.ksampler import ksampler_advanced
from sigmafield.comfyui.nodes.latents import empty_latent_image
from sigmafield.comfyui.nodes.loaders import checkpoint_loader_simple
from sigmafield.comfyui.nodes.prompts import clip_text_encode
from sigmafield.guidance.guider import Guider
from sigmafield.recipes.ksampler import ksampler


@pytest.fixture(scope="module")
def tiny():
    """The shipped model's three values, and a prompt with its negative one as pairs and as a guider."""
    model, clip, vae = checkpoint_loader_simple("tiny")
    pairs = [clip_text_encode(text, clip) for text in ("a red heart", "green")]
    conds = [clip.encode([text], (64, 64)) for text in ("a red heart", "green")]
    return model, clip, vae, pairs, Guider(model.network, *conds, 3.0)


@pytest.mark.parametrize("sampler", ["euler", "ddim", "dpmpp_2m_sde", "dpm_adaptive", "euler_cfg_pp", "uni_pc"])
def test_ksampler(tiny, sampler):
    model, _, _, (positive, negative), guider = tiny
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 32:] = 0.5
    latent = {"samples": torch.randn(2, 4, 8, 8), "noise_mask": mask, "batch_index": [3, 1]}
    out = ksampler_node(
        model, 5, 3, 3.0, sampler_name=sampler, scheduler="karras", positive=positive, negative=negative,
        latent_image=latent, denoise=0.8,
    )  # fmt: skip
    own = ksampler(
        guider, model.network.sampling, model.network.latent, latent["samples"], seed=5, steps=3, sampler=sampler,
        schedule="karras", denoise=0.8, mask=mask, batch_index=[3, 1],
    )  # fmt: skip
    assert out["samples"].equal(own.samples)
    assert out["noise_mask"] is mask and out["batch_index"] == [3, 1]


def test_two_parts_of_a_schedule_are_the_whole(tiny):
    model, _, _, (positive, negative), _ = tiny
    latent = empty_latent_image(64, 64)
    settings = {
        "model": model, "noise_seed": 3, "steps": 6, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal",
        "positive": positive, "negative": negative,
    }  # fmt: skip
    whole = ksampler_advanced(**settings, add_noise="enable", latent_image=latent, return_with_leftover_noise="disable")
    first = ksampler_advanced(
        **settings, add_noise="enable", latent_image=latent, end_at_step=3, return_with_leftover_noise="enable"
    )
    rest = ksampler_advanced(
        **settings, add_noise="disable", latent_image=first, start_at_step=3, return_with_leftover_noise="disable"
    )
    clean = ksampler_advanced(
        **settings, add_noise="enable", latent_image=latent, end_at_step=3, return_with_leftover_noise="disable"
    )
    assert (first["samples"] - clean["samples"]).abs().max() > 0.5
    torch.testing.assert_close(rest["samples"], whole["samples"], rtol=0, atol=1e-4)
    beyond = ksampler_advanced(
        **settings, add_noise="enable", latent_image=first, start_at_step=9, return_with_leftover_noise="disable"
    )
    assert beyond["samples"] is first["samples"]
