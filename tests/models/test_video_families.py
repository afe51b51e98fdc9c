"""LTX and Hunyuan against diffusers' pipelines and modules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.testing import assert_close

from sigmafield import generate, sample
from sigmafield.core.conditioning import Cond
from sigmafield.guidance.guider import Guider
from sigmafield.models.bundle import Pipeline
from sigmafield.recipes.ksampler import open_run
from sigmafield.runs.run import finish
from sigmafield.spatial.field_denoiser import native

pytest.importorskip("diffusers")
Family = Callable[[str], tuple[Path, Any]]
Loaded = Callable[[str], Pipeline]
PROMPTS = ["a red heart", "the green horse"]


def frames_of(ours: Pipeline) -> int:
    """Frames of a video of three latent frames."""
    return 1 + 2 * ours.model.latent.frame_factor


def size_of(ours: Pipeline) -> tuple[int, int]:
    """A small (height, width)."""
    return 2 * ours.model.latent.factor, 4 * ours.model.latent.factor


def latents(ours: Pipeline, batch: int = 1) -> Tensor:
    shape = ours.model.latent.shape(batch, size_of(ours), frames_of(ours))
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def asked(ours: Pipeline, x: Tensor, sigma: float | Tensor, cond: Cond) -> Tensor:
    """The network at a noise level, or at one for each token."""
    level = torch.as_tensor(sigma, dtype=torch.float64)
    t = ours.model.sampling.levels.timestep(level).float()
    return ours.model.network(x, t if t.ndim else t.expand(len(x)), cond)


@pytest.mark.parametrize("name", ["ltx 0.9", "ltx 0.9.5"])
def test_whole_run_of_ltx(name: str, loaded: Loaded, family: Family) -> None:
    """Euler's steps at the noise levels of diffusers' scheduler end where its pipeline ends."""
    ours, (_, pipe) = loaded(name), family(name)
    (height, width), x = size_of(ours), latents(ours)
    want = pipe(
        prompt=PROMPTS[0], negative_prompt="1999", height=height, width=width, num_frames=frames_of(ours),
        num_inference_steps=3, latents=None if name == "ltx 0.9.5" else pipe._pack_latents(x), guidance_scale=3.0,
        frame_rate=25, output_type="latent", generator=torch.Generator().manual_seed(0),
    )[0]  # fmt: skip
    positive, negative = (ours.text.encode([text], (height, width)) for text in (PROMPTS[0], "1999"))
    assert float(positive.extra["frame_rate"]) == 25
    sigmas = pipe.scheduler.sigmas.double()
    got = sample(Guider(ours.model, positive, negative, 3.0), x, sigmas, process=ours.model.sampling.process)
    want = want if want.ndim == 5 else pipe._unpack_latents(want, *x.shape[2:])
    assert_close(got, want, atol=1e-4 * float(want.abs().max()), rtol=0)


def test_images_to_videos_of_ltx(loaded: Loaded, family: Family) -> None:
    """A first frame that is kept is shown with level 0, as diffusers' pipeline of images to videos does."""
    from diffusers import LTXImageToVideoPipeline

    ours, (_, pipe) = loaded("ltx 0.9"), family("ltx 0.9")
    other = LTXImageToVideoPipeline(**pipe.components)
    other.set_progress_bar_config(disable=True)
    (height, width), x = size_of(ours), latents(ours)
    image = torch.rand(1, 3, height, width)
    x[:, :, :1] = ours.encode(image)
    want = other(
        image=image, prompt=PROMPTS[0], height=height, width=width, num_frames=frames_of(ours), num_inference_steps=3,
        latents=pipe._pack_latents(x), guidance_scale=1.0, output_type="latent",
    )[0]  # fmt: skip
    cond = ours.text.encode(PROMPTS[:1], (height, width))
    mask = torch.ones(1, 1, *x.shape[2:], dtype=torch.float64)
    mask[:, :, 0] = 0
    grid = torch.stack([sigma * mask for sigma in other.scheduler.sigmas.double()])
    opened = open_run(
        Guider(ours.model, cond, cond, 1.0), ours.model.sampling, "euler", grid, x * (1 - mask.float()), x, 0,
        rule=native,
    )  # fmt: skip
    got = finish(opened.run, opened.start).x
    assert_close(got, other._unpack_latents(want, *x.shape[2:]), atol=1e-4 * float(want.abs().max()), rtol=0)
    assert_close(got[:, :, :1], x[:, :, :1])


def test_rows_of_ltx_have_frame_rates_of_their_own(loaded: Loaded, family: Family) -> None:
    ours, (_, pipe) = loaded("ltx 0.9"), family("ltx 0.9")
    x, cond = latents(ours, 2), ours.text.encode(PROMPTS, (0, 0))
    cond = replace(cond, extra={**cond.extra, "frame_rate": torch.tensor([12.0, 30.0])})
    levels = torch.rand(2, x[0, 0].numel()).double()
    got = asked(ours, x, levels, cond)
    for row, rate in enumerate((12.0, 30.0)):
        one = slice(row, row + 1)
        want = pipe.transformer(
            pipe._pack_latents(x[one]), cond.embeds[one], 1000 * levels[one].float(),
            cond.extra["encoder_attention_mask"][one], *x.shape[2:],
            rope_interpolation_scale=(8 / rate, 32, 32),
        ).sample  # fmt: skip
        assert_close(got[one], pipe._unpack_latents(want, *x.shape[2:]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["ltx 0.9.5", "ltx2"])
def test_normalised_latents(name: str, loaded: Loaded, family: Family) -> None:
    """The VAE's latents are normalised by the numbers that lie with its weights, as ComfyUI's are."""
    ours, (_, pipe) = loaded(name), family(name)
    video = torch.rand(1, 3, 1 + ours.model.latent.frame_factor, *size_of(ours))
    z = pipe._normalize_latents(
        pipe.vae.encode(video * 2 - 1).latent_dist.mean, pipe.vae.latents_mean, pipe.vae.latents_std
    )
    got = ours.encode(video)
    assert_close(got, z, atol=1e-5, rtol=1e-5)
    assert torch.equal(got, ours.vae.encode(video))
    raw = pipe._denormalize_latents(z, pipe.vae.latents_mean, pipe.vae.latents_std)
    at = (torch.tensor([0.05]),) if pipe.vae.config.timestep_conditioning else ()
    want = (pipe.vae.decode(raw, *at).sample / 2 + 0.5).clamp(0, 1)
    again = ours.decode(z)
    assert_close(again, want, atol=1e-5, rtol=0)
    assert again.shape == video.shape


def test_whole_run_of_ltx2(loaded: Loaded, family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """As diffusers' pipeline with the attention between video and sound turned off, whatever sound it draws."""
    ours, (_, pipe) = loaded("ltx2"), family("ltx2")
    (height, width), x, forward = size_of(ours), latents(ours), pipe.transformer.forward
    monkeypatch.setattr(pipe.transformer, "forward", lambda **all: forward(**all | {"isolate_modalities": True}))
    want = pipe(
        prompt=PROMPTS[0], negative_prompt="1999", height=height, width=width, num_frames=frames_of(ours),
        num_inference_steps=3, guidance_scale=1.5, output_type="latent", frame_rate=24.0,
        latents=pipe._denormalize_latents(x, pipe.vae.latents_mean, pipe.vae.latents_std),
    )[0]  # fmt: skip
    want = pipe._normalize_latents(want, pipe.vae.latents_mean, pipe.vae.latents_std)
    positive, negative = (ours.text.encode([text], (height, width)) for text in (PROMPTS[0], "1999"))
    sigmas = pipe.scheduler.sigmas.double()
    got = sample(Guider(ours.model, positive, negative, 1.5), x, sigmas, process=ours.model.sampling.process)
    assert_close(got, want, atol=1e-4 * float(want.abs().max()), rtol=0)


def test_tokens_of_ltx2_have_levels_of_their_own(loaded: Loaded, family: Family) -> None:
    """As the module called by hand; what the sound is given does not matter."""
    ours, (_, pipe) = loaded("ltx2"), family("ltx2")
    x, cond = latents(ours, 2), ours.text.encode(PROMPTS, (0, 0))
    levels = torch.rand(2, x[0, 0].numel()).double()
    mask = cond.extra["encoder_attention_mask"]
    want = pipe.transformer(
        pipe._pack_latents(x), torch.randn(2, 5, 4), cond.embeds, torch.randn(2, 7, 32),
        timestep=1000 * levels.float(), audio_timestep=torch.rand(2), encoder_attention_mask=mask,
        num_frames=x.shape[2], height=x.shape[3], width=x.shape[4], fps=24.0, audio_num_frames=5,
        isolate_modalities=True,
    ).sample  # fmt: skip
    got = asked(ours, x, levels, cond)
    assert_close(got, pipe._unpack_latents(want, *x.shape[2:]), atol=1e-5, rtol=0)


HUNYUAN = ["hunyuan-video", "hunyuan-video 1.5", "hunyuan-image"]


@pytest.mark.parametrize("name", HUNYUAN)
def test_whole_run_of_hunyuan(name: str, loaded: Loaded, family: Family) -> None:
    """Euler's steps end where diffusers' pipeline ends, with guidance as an input or not, and with texts in quotes."""
    ours, (_, pipe) = loaded(name), family(name)
    (height, width), x = size_of(ours), latents(ours)
    prompt, options = 'a red heart that says "Grüße"', dict[str, Any]()
    if name != "hunyuan-image":
        options = {"num_frames": frames_of(ours), "negative_prompt": "1999"}
    if name == "hunyuan-video":
        options |= {"guidance_scale": 2.5, "true_cfg_scale": 3.0}
    want = pipe(
        prompt=prompt, height=height, width=width, num_inference_steps=2, latents=x, output_type="latent", **options
    )[0]  # fmt: skip
    positive, negative = (ours.text.encode([text], (height, width)) for text in (prompt, "1999"))
    if name == "hunyuan-video":
        assert float(positive.extra["guidance"]) == 6 and ours.model.cfg == 1
        positive, negative = (
            replace(cond, extra={**cond.extra, "guidance": torch.tensor([2.5])}) for cond in (positive, negative)
        )
    cfg = 1.0 if name == "hunyuan-image" else 3.0
    sigmas = pipe.scheduler.sigmas.double()
    got = sample(Guider(ours.model, positive, negative, cfg), x, sigmas, process=ours.model.sampling.process)
    assert_close(got, want, atol=1e-4 * float(want.abs().max()), rtol=0)


@pytest.mark.parametrize("name", HUNYUAN)
def test_rows_of_hunyuan_do_not_see_each_other(name: str, loaded: Loaded) -> None:
    """A prompt that is padded to another's length, or has no texts in quotes where another has, gives the same."""
    ours, prompts = loaded(name), ['a red heart that says "Hello"', "the green horse"]
    x = latents(ours, 2)
    together = asked(ours, x, 0.7, ours.text.encode(prompts, size_of(ours)))
    alone = [asked(ours, x[i : i + 1], 0.7, ours.text.encode([p], size_of(ours))) for i, p in enumerate(prompts)]
    assert_close(together, torch.cat(alone), atol=1e-5, rtol=0)
    other = ours.text.encode(["a red heart that says 'Hello'", prompts[1]], size_of(ours))
    assert not torch.allclose(asked(ours, x, 0.7, other)[:1], together[:1], atol=1e-4)


def test_images_to_videos_of_hunyuan(loaded: Loaded, family: Family) -> None:
    """The network is shown a first frame, where it is, and what a vision encoder sees in it."""
    ours, (_, pipe) = loaded("hunyuan-video 1.5"), family("hunyuan-video 1.5")
    x, cond = latents(ours), ours.text.encode(PROMPTS[:1], size_of(ours))
    shown, seen = torch.randn(1, 5, *x.shape[2:]), torch.randn(1, 6, 20)
    extra = cond.extra
    want = pipe.transformer(
        torch.cat([x, shown], 1), torch.tensor([600.0]), cond.embeds, extra["encoder_attention_mask"],
        encoder_hidden_states_2=extra["encoder_hidden_states_2"],
        encoder_attention_mask_2=extra["encoder_attention_mask_2"], image_embeds=seen,
    ).sample  # fmt: skip
    video = replace(cond, extra={**extra, "image_embeds": seen}, concat=shown)
    ours.model.check(video)
    ours.model.check(cond)
    assert_close(asked(ours, x, 0.6, video), want, atol=1e-5, rtol=0)
    assert not torch.allclose(asked(ours, x, 0.6, cond), want, atol=1e-3)
    with pytest.raises(ValueError, match="takes 5 channels of concat in addition to the latent's 4; got 4"):
        ours.model.check(replace(cond, concat=shown[:, :4]))


@pytest.mark.parametrize("name", HUNYUAN)
def test_images_and_latents_of_hunyuan(name: str, loaded: Loaded, family: Family) -> None:
    ours, vae = loaded(name), family(name)[1].vae
    video = name != "hunyuan-image"
    images = torch.rand(1, 3, *([frames_of(ours)] if video else []), *size_of(ours))
    z = vae.encode(images * 2 - 1).latent_dist.mean * vae.config.scaling_factor
    assert_close(ours.encode(images), z, atol=1e-5, rtol=1e-5)
    want = (vae.decode(z / vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)
    assert_close(ours.decode(z), want, atol=1e-5, rtol=0)
    assert want.shape == images.shape


@pytest.mark.parametrize("name", ["ltx 0.9", "hunyuan-video 1.5", "hunyuan-image"])
def test_recipes(name: str, loaded: Loaded) -> None:
    """A recipe draws from text and from an image; sizes and frames are those that the model can draw."""
    ours = loaded(name)
    height, width = size_of(ours)
    video: dict[str, Any] = {} if name == "hunyuan-image" else {"frames": frames_of(ours)}
    image = Image.effect_noise((width, height), 90).convert("RGB")
    settings: dict[str, Any] = {"steps": 1, "sampler": "euler", "width": width, "height": height, **video}
    drawn = generate(ours, "a red heart", **settings)
    again = generate(ours, "a red heart", image=image, denoise=0.5, **settings)
    for images in (drawn, again):
        assert len(images) == video.get("frames", 1) and images[0].size == (width, height)
    assert drawn[0].tobytes() != again[0].tobytes()
