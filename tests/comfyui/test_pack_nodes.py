"""The nodes of Tiled Diffusion, Iterative Mixing and the distance sampler, and our own, are the same runs in Python."""

from dataclasses import replace

import pytest
import torch

from sigmafield.comfyui.iterative_mixing import mixing_ksampler, mixing_sampler
from sigmafield.comfyui.mixing_sampler import MixingSampler
from sigmafield.comfyui.nodes.any_sampler import any_sampler, any_schedule, mixed_sampler, sigma_field_sampler
from sigmafield.comfyui.nodes.custom_sampling import cfg_guider, disable_noise, random_noise, sampler_custom_advanced
from sigmafield.comfyui.nodes.distance_sampler import sampler_distance
from sigmafield.comfyui.nodes.ksampler import ksampler as ksampler_node
from sigmafield.comfyui.nodes.loaders import checkpoint_loader_simple
from sigmafield.comfyui.nodes.mixing import (
    batch_unsampler,
    iterative_mixing_ksampler,
    iterative_mixing_ksampler_advanced,
    iterative_mixing_sampler,
    latent_batch_comparison_plot,
    latent_batch_statistics_plot,
    mixing_mask_generator,
)
from sigmafield.comfyui.nodes.prompts import clip_text_encode
from sigmafield.comfyui.nodes.samplers import ksampler_select
from sigmafield.comfyui.nodes.schedules import basic_scheduler
from sigmafield.comfyui.nodes.sigma_field import sigma_field_from_mask, sigma_field_from_tiles, sigma_field_ksampler
from sigmafield.comfyui.nodes.tiled_diffusion import (
    quadtree_tiled_diffusion,
    quadtree_tiles,
    spot_diffusion_params,
    tiled_diffusion,
    vae_decode_tiled,
    vae_encode_tiled,
)
from sigmafield.core.geometry import mixture_gaussian, uniform
from sigmafield.guidance.guider import Guider
from sigmafield.recipes.ksampler import ksampler, open_run
from sigmafield.runs.mixing_spec import parse_mixing
from sigmafield.runs.run import finish
from sigmafield.schedules import SCHEDULES
from sigmafield.spatial.tiled_model import Spot, Tiled, grid_cover, spot_shifts
from small_network import few_channels

pytestmark = pytest.mark.typed_elsewhere


@pytest.fixture(scope="module")
def tiny():
    with few_channels():
        model, clip, vae = checkpoint_loader_simple("tiny")
    texts = ("a red heart", "green")
    conds = [clip.encode([text], (64, 64)) for text in texts]
    return model, vae, [clip_text_encode(text, clip) for text in texts], Guider(model.network, *conds, 3.0)


@pytest.fixture(scope="module")
def latent():
    return {"samples": torch.randn(1, 4, 8, 12, generator=torch.Generator().manual_seed(1))}


def sampled(model, pairs, latent, sampler="euler"):
    return ksampler_node(
        model, 5, 2, 3.0, sampler_name=sampler, scheduler="karras", positive=pairs[0], negative=pairs[1],
        latent_image=latent, denoise=0.8,
    )["samples"]  # fmt: skip


def in_python(guider, network, latent, sampler="euler", **more):
    return ksampler(
        guider, network.sampling, network.latent, latent["samples"], seed=5, steps=2, sampler=sampler,
        schedule="karras", denoise=0.8, **more,
    ).samples  # fmt: skip


@pytest.mark.parametrize("method, window", [("MultiDiffusion", uniform), ("Mixture of Diffusers", mixture_gaussian)])
def test_tiled_diffusion(tiny, latent, method, window):
    model, _, pairs, guider = tiny
    made = tiled_diffusion(model, method, 24, 24, 8, 3)  # the shipped VAE has a factor of 4
    own = Guider(Tiled(model.network, grid_cover((6, 6), 2), window, 3), guider.positive, guider.negative, 3.0)
    assert sampled(made, pairs, latent).equal(in_python(own, model.network, latent))
    one = tiled_diffusion(model, "MultiDiffusion", 768, 768, 64)
    torch.testing.assert_close(sampled(one, pairs, latent), sampled(model, pairs, latent), rtol=0, atol=1e-5)


def test_spot_diffusion(tiny, latent):
    model, _, pairs, guider = tiny
    sigmas = basic_scheduler(model, "karras", 2, 0.8)
    for made, seed in (
        (tiled_diffusion(model, "SpotDiffusion", 24, 24, 0), 5),
        (spot_diffusion_params(tiled_diffusion(model, "SpotDiffusion", 24, 24, 0), "random", 9), 9),
    ):
        spot = Spot(model.network, (6, 6), sigmas, spot_shifts(2, (6, 6), seed))
        own = Guider(spot, guider.positive, guider.negative, 3.0)
        assert sampled(made, pairs, latent).equal(in_python(own, model.network, latent))


def test_quadtree(tiny):
    model, _, pairs, _ = tiny
    network = model.network
    model = replace(model, network=replace(network, latent=replace(network.latent, factor=8)))
    latent = {"samples": torch.randn(1, 4, 12, 16, generator=torch.Generator().manual_seed(1))}
    image = torch.full((1, 96, 128, 3), 0.5)
    image[:, :48, :64] = torch.rand(1, 48, 64, 3)
    tree, mask, overlay = quadtree_tiles(image, min_tile_size=64, max_depth=3)
    areas = [leaf.width * leaf.height for leaf in tree.leaves]
    assert sum(areas) == 96 * 128 and mask.shape == (1, 96, 128) and overlay.shape == image.shape
    assert list(tree.strengths) == pytest.approx([0.2 + 0.6 * (1 - area / max(areas)) for area in areas])
    fine, _, _ = quadtree_tiles(image, min_tile_size=64, max_depth=3, root="square_pow2", strengths_from="content")
    assert len(fine.leaves) > 1 and max(fine.strengths) == 0.8 and min(fine.strengths) == 0.2
    tiled = quadtree_tiled_diffusion(model, fine, 16)
    out = sampled(tiled, pairs, latent)
    assert out.isfinite().all() and not out.equal(sampled(model, pairs, latent))
    sigmas = basic_scheduler(model, "karras", 4)
    field = sigma_field_from_tiles(sigmas, fine, latent)
    assert field.shape == (5, 1, 1, 12, 16) and field[-1].eq(0).all()


def test_sigma_fields(tiny, latent):
    model, _, pairs, _ = tiny
    settings = {
        "model": model, "seed": 5, "steps": 2, "cfg": 3.0, "sampler_name": "euler", "scheduler": "karras",
        "positive": pairs[0], "negative": pairs[1], "latent_image": latent,
    }  # fmt: skip
    all_new = sigma_field_ksampler(**settings, strengths=torch.ones(1, 64, 96))["samples"]
    assert all_new.equal(ksampler_node(**settings)["samples"])
    half = torch.ones(1, 8, 12)
    half[:, :, :6] = 0
    kept = sigma_field_ksampler(**settings, strengths=half)["samples"]
    torch.testing.assert_close(kept[..., :6], latent["samples"][..., :6], rtol=0, atol=1e-4)
    assert not kept[..., 6:].equal(latent["samples"][..., 6:])
    field = sigma_field_from_mask(model, basic_scheduler(model, "karras", 2), half, latent)
    guider = cfg_guider(model, *pairs, 3.0)
    out, _ = sampler_custom_advanced(random_noise(5), guider, ksampler_select("euler"), field, latent)
    assert out["samples"].equal(kept)
    sampler = sigma_field_sampler(any_sampler("euler"), half)
    out, _ = sampler_custom_advanced(random_noise(5), guider, sampler, any_schedule(model, "karras", 2), latent)
    assert out["samples"].equal(kept)


def test_any_run_is_mixed(tiny, latent):
    model, _, pairs, guider = tiny
    network, text = model.network, "cosine(alpha_1=0.3, align=next)"
    sampler = mixed_sampler(any_sampler("heun", "s_noise=1"), text)
    out, _ = sampler_custom_advanced(
        random_noise(5), cfg_guider(model, *pairs, 3.0), sampler, any_schedule(model, "karras", 2, "rho=5"), latent
    )
    sigmas = SCHEDULES["karras"](2, network.sampling.levels, rho=5.0)
    source = network.latent.to_network(latent["samples"])
    run = open_run(guider, network.sampling, "heun", sigmas, source, torch.zeros_like(source), 5).run
    mixing = parse_mixing(text).mixing(run, source, 5)
    assert out["samples"].equal(network.latent.to_vae(mixing.result(finish(mixing, mixing.start(source)))))


def test_iterative_mixing_sampler(tiny, latent):
    model, _, pairs, guider = tiny
    network, sigmas = model.network, basic_scheduler(model, "karras", 3)
    sampler = iterative_mixing_sampler(model, "dpmpp_2m", 2.0, blending_function="slerp", rewind=True)
    guiding = cfg_guider(model, *pairs, 3.0)
    out, _ = sampler_custom_advanced(disable_noise(), guiding, sampler, sigmas, latent)
    own = mixing_sampler(
        guider, network.sampling, network.latent, sigmas, latent["samples"],
        MixingSampler("dpmpp_2m", alpha_1=2.0, blending_function="slerp", rewind=True), seed=0,
    )  # fmt: skip
    assert out["samples"].equal(own.samples)


def test_mixing_ksamplers(tiny, latent):
    model, _, pairs, guider = tiny
    network = model.network
    settings = {"sampler_name": "euler", "scheduler": "normal", "positive": pairs[0], "negative": pairs[1]}
    out = iterative_mixing_ksampler(model, 7, 3, 3.0, latent_image=latent, **settings)
    own = mixing_ksampler(guider, network.sampling, network.latent, latent["samples"], seed=7, steps=3)
    assert out["samples"].equal(own.samples)
    batch = batch_unsampler(model, "euler", "normal", 3, 0, 3, latent_image=latent, seed=7)
    assert batch["samples"].shape == (3, 4, 8, 12)
    mixed, noised, given, plot = iterative_mixing_ksampler_advanced(model, 7, 3.0, latent_image_batch=batch, **settings)
    assert mixed["samples"][-1:].equal(own.samples) and noised["samples"].equal(batch["samples"].flip(0))
    assert len(given["samples"]) == 4 and plot.shape[-1] == 3
    assert latent_batch_statistics_plot(batch).shape[1:] == (600, 640, 3)
    similar = latent_batch_comparison_plot(batch, batch)
    assert similar[0, 0, 0, 0] == 1 and similar.shape[1] == similar.shape[2]


def test_mixing_masks():
    perlin = mixing_mask_generator("perlin", seed=3, width=64, height=32, batch_size=2)
    assert perlin.shape == (2, 4, 8) and perlin.min() == 0 and perlin.max() == 1
    assert not mixing_mask_generator("random", seed=3, width=64, height=32).equal(perlin[:1])


def test_distance_samplers(tiny, latent):
    model, _, pairs, guider = tiny
    network = model.network
    for name, own in (("Distance_n", "distance_n"), ("heun_cfg_pp", "heun_cfg_pp")):
        assert sampled(model, pairs, latent, name).equal(in_python(guider, network, latent, own))
    sigmas, params = basic_scheduler(model, "karras", 2, 0.8), {"resample": 2, "resample_end": 1, "cfgpp": "doubled"}
    out, _ = sampler_custom_advanced(
        random_noise(5), cfg_guider(model, *pairs, 3.0), sampler_distance(2, 1), sigmas, latent
    )
    assert out["samples"].equal(in_python(guider, network, latent, "distance_c3", params=params))


def test_tiled_vae(tiny):
    _, vae, _, _ = tiny
    image = torch.rand(1, 64, 64, 3)
    for fast in (True, False):
        latent = vae_encode_tiled(image, vae, 256, fast)
        torch.testing.assert_close(latent["samples"], vae.encode(image.movedim(-1, 1)), rtol=1e-4, atol=1e-4)
        decoded = vae_decode_tiled(latent, vae, 384, fast)
        torch.testing.assert_close(decoded, vae.decode(latent["samples"]).movedim(1, -1), rtol=1e-4, atol=1e-4)
