"""Nodes that turn images into latents and back, on the embedded VAE."""

import pytest
import torch
import torch.nn.functional as F

from sigmafield.comfyui.nodes import vae as nodes
from sigmafield.comfyui.nodes.image_conditioning import instruct_pix_to_pix_conditioning
from sigmafield.models.vae.vae import Vae
from small_network import shipped_model


@pytest.fixture(scope="module")
def vae():
    return shipped_model().vae


def image(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def test_images_go_to_latents_and_back(vae):
    f = vae.factor
    x = image(2, 4 * f + 3, 5 * f + 1, 4)
    latent = nodes.vae_encode(x, vae)
    # sides are cut to multiples of the factor: 3 // 2 rows and 1 // 2 columns at the upper left
    middle = x[:, 1 : 1 + 4 * f, : 5 * f, :3].permute(0, 3, 1, 2)
    assert latent["samples"].equal(vae.encode(middle)) and latent["samples"].shape[2:] == (4, 5)
    out = nodes.vae_decode(latent, vae)
    assert out.shape == (2, 4 * f, 5 * f, 3) and out.equal(vae.decode(latent["samples"]).permute(0, 2, 3, 1))


def test_tiles_give_the_whole(vae):
    f = vae.factor
    x = image(1, 12 * f, 20 * f, 3)
    latent = nodes.vae_encode(x, vae)
    tiled = nodes.vae_encode_tiled(x, vae, tile_size=64, overlap=32)
    assert torch.allclose(tiled["samples"], latent["samples"], atol=1e-4)
    assert torch.allclose(nodes.vae_decode_tiled(latent, vae, tile_size=64), nodes.vae_decode(latent, vae), atol=1e-4)


def test_frames_of_videos_follow_one_another():
    video = Vae(lambda x: x, lambda z: z[:, :3].repeat_interleave(2, -1).repeat_interleave(2, -2), 4, 2, frame_factor=4)
    z = image(2, 4, 3, 2, 5) - 0.5
    out = nodes.vae_decode({"samples": z}, video)
    assert out.shape == (6, 4, 10, 3)
    assert out[4, 2, 6].equal(z[1, :3, 1, 1, 3] / 2 + 0.5)  # frame 1 of the second video
    assert nodes.vae_decode_tiled({"samples": z}, video).equal(out)


def test_images_are_the_frames_of_a_video_to_a_vae_of_videos():
    video = Vae(lambda x: x[:, :, ::4, ::2, ::2], lambda z: z, 3, 2, frame_factor=4)
    x = image(7, 4, 6, 3)
    for encode in (nodes.vae_encode, nodes.vae_encode_tiled):
        out = encode(x, video)["samples"]  # frames 0 and 4 of the first 5; the last two are left out
        assert out.equal((x[[0, 4], ::2, ::2] * 2 - 1).permute(3, 0, 1, 2)[None])


def test_instructions_are_given_with_the_image(vae):
    """Sides are cut to multiples of 8, half of the rest at the upper left; the latent is empty."""
    x, texts = image(1, 8 * 4 + 5, 8 * 2 + 2, 4), [(torch.ones(1, 2, 3), {"strength": 0.5})]
    positive, negative, latent = instruct_pix_to_pix_conditioning(texts, [*texts, *texts], vae, x)
    shown = vae.encode(x[:, 2 : 2 + 32, 1 : 1 + 16, :3].permute(0, 3, 1, 2))
    assert len(positive) == 1 and len(negative) == 2 and latent["samples"].equal(torch.zeros_like(shown))
    for embeds, extra in [*positive, *negative]:
        assert extra["concat_latent_image"].equal(shown) and extra["strength"] == 0.5 and embeds is texts[0][0]


@pytest.mark.parametrize("grow", [0, 1, 2, 5, 6])
def test_inpainting_hides_what_is_drawn_and_widens_the_mask(vae, grow):
    f = vae.factor
    height, width = 4 * f + 2, 3 * f
    x, mask = image(1, height, width, 3), torch.zeros(height // 2, width // 2)
    mask[3:5, 4:7], mask[0, 0] = 0.9, 0.4
    out = nodes.vae_encode_for_inpaint(x, vae, mask, grow)
    m = F.interpolate(mask[None, None], (height, width), mode="bilinear")[:, :, 1 : 1 + 4 * f].round()
    pixels = x[:, 1 : 1 + 4 * f].permute(0, 3, 1, 2)
    assert torch.allclose(out["samples"], vae.encode((pixels - 0.5) * (1 - m) + 0.5), atol=1e-6)
    padding = -(-(grow - 1) // 2)
    widened = m if grow == 0 else F.conv2d(m, torch.ones(1, 1, grow, grow), padding=padding).clamp(0, 1).round()
    found = out.get("noise_mask")
    assert found is not None and found.equal(widened[..., : 4 * f, :width])
