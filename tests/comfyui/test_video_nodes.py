"""Nodes of LTX and Hunyuan: shapes of latents, masks of frames that are kept, levels."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from sigmafield.comfyui.nodes import hunyuan, ltx
from sigmafield.comfyui.values import LatentDict
from sigmafield.models.vae.vae import Vae


def vae_of(channels: int, factor: int, each: int) -> Vae:
    """A VAE whose latents are the means of an image's pixels, as many times as it has channels."""

    def encode(x: Tensor) -> Tensor:
        frames = torch.cat([x[:, :1, :1], x[:, :1, 1:].unflatten(2, (-1, each)).mean(3)], 2)
        means = frames.unflatten(4, (-1, factor)).mean(5).unflatten(3, (-1, factor)).mean(4)
        return means.repeat(1, channels, 1, 1, 1)

    return Vae(encode, encode, channels, factor, each)


def test_empty_latents() -> None:
    shapes = {
        (1, 128, 13, 16, 24): ltx.empty_ltxv_latent_video(),
        (2, 128, 2, 3, 2): ltx.empty_ltxv_latent_video(64, 96, 9, 2),
        (1, 64, 64, 64): hunyuan.empty_hunyuan_image_latent(),
        (2, 64, 3, 2): hunyuan.empty_hunyuan_image_latent(64, 96, 2),
        (1, 32, 7, 30, 53): hunyuan.empty_hunyuan_video15_latent(),
    }
    for shape, latent in shapes.items():
        assert latent["samples"].shape == shape and not latent["samples"].any()


def test_levels_of_ltx() -> None:
    """μ is linear in the number of positions, 0.95 at 1024 and 2.05 at 4096; the last level is the terminal one."""
    latent: LatentDict = {"samples": torch.zeros(1, 128, 4, 16, 32)}
    mu = 0.95 + (2048 - 1024) * (2.05 - 0.95) / (4096 - 1024)
    shifted = [math.exp(mu) / (math.exp(mu) + 1 / t - 1) for t in (1, 0.75, 0.5, 0.25)]
    sigmas = ltx.ltxv_scheduler(4, stretch=False, latent=latent)
    assert_close(sigmas, torch.tensor([*shifted, 0.0]).double(), rtol=1e-5, atol=1e-7)
    stretched = ltx.ltxv_scheduler(4, terminal=0.2, latent=latent)
    assert_close(stretched[3], torch.tensor(0.2).double(), rtol=1e-5, atol=0)
    scale = (1 - shifted[3]) / 0.8
    assert_close(stretched[1], torch.tensor(1 - (1 - shifted[1]) / scale).double(), rtol=1e-5, atol=0)
    assert torch.equal(ltx.ltxv_scheduler(4), ltx.ltxv_scheduler(4, latent={"samples": torch.zeros(1, 128, 1, 64, 64)}))


@pytest.mark.parametrize("inplace", [False, True])
def test_frames_that_a_video_of_ltx_begins_with(inplace: bool) -> None:
    image, vae = torch.rand(1, 64, 96, 3), vae_of(128, 32, 8)
    if inplace:
        given: LatentDict = {"samples": torch.rand(1, 128, 3, 2, 3), "noise_mask": torch.full((1, 1, 3, 2, 3), 0.7)}
        latent = ltx.ltxv_img_to_video_inplace(vae, image, given, 0.75)
        assert ltx.ltxv_img_to_video_inplace(vae, image, given, bypass=True) is given
        assert torch.equal(given.get("noise_mask", torch.empty(0)), torch.full((1, 1, 3, 2, 3), 0.7))
    else:
        _, _, latent = ltx.ltxv_img_to_video([], [], vae, image, 96, 64, 17, 1, 0.75)
    start = vae.encode(image.movedim(-1, 1))
    assert torch.equal(latent["samples"][:, :, :1], start) and latent["samples"].shape == (1, 128, 3, 2, 3)
    mask = latent.get("noise_mask")
    assert mask is not None
    assert (mask[:, :, 0] == 0.25).all() and (mask[:, :, 1:] == (0.7 if inplace else 1.0)).all()


def test_frame_rates() -> None:
    pair = [(torch.zeros(1, 2, 3), {"a": 1})]
    for made in ltx.ltxv_conditioning(pair, pair, 12.0):
        assert made[0][1] == {"a": 1, "frame_rate": 12.0}


def test_frames_that_hunyuan_is_shown() -> None:
    pair, image, vae = [(torch.zeros(1, 2, 3), {})], torch.rand(5, 32, 48, 3), vae_of(32, 16, 4)
    positive, negative, latent = hunyuan.hunyuan_video15_image_to_video(pair, pair, vae, 48, 32, 9, 2, image)
    assert latent["samples"].shape == (2, 32, 3, 2, 3)
    for (_, extra), *_ in (positive, negative):
        assert torch.equal(extra["concat_latent_image"][:, :, :2], vae.encode(image.permute(3, 0, 1, 2)[None]))
        assert not extra["concat_latent_image"][:, :, 2].any()
        assert extra["concat_mask"].squeeze(0)[0, :, 0, 0].tolist() == [0, 0, 1]
    plain, _, _ = hunyuan.hunyuan_video15_image_to_video(pair, pair, vae, 48, 32, 9)
    assert plain[0][1] == {}
