"""Workflows that draw and edit with the recent families, from split files, as ComfyUI's templates do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from sigmafield.comfyui.conditioning import conds_of
from sigmafield.comfyui.nodes.conditioning import conditioning_concat
from sigmafield.comfyui.nodes.editing import (
    reference_latent,
    reference_method,
    text_encode_qwen_image_edit,
    text_encode_qwen_image_edit_plus,
)
from sigmafield.comfyui.nodes.ksampler import ksampler as ksampler_node
from sigmafield.comfyui.nodes.latents import empty_flux2_latent_image, empty_sd3_latent_image
from sigmafield.comfyui.nodes.loaders import parts
from sigmafield.comfyui.nodes.prompts import clip_text_encode, t5_tokenizer_options
from sigmafield.comfyui.nodes.vae import vae_decode, vae_encode
from sigmafield.comfyui.nodes.wan import (
    wan22_image_to_video_latent,
    wan_first_last_frame_to_video,
    wan_fun_inpaint_to_video,
    wan_image_to_video,
)
from sigmafield.models.bundle import Pipeline
from sigmafield.recipes.generate import generate
from sigmafield.recipes.image_io import to_images

Family = Callable[[str], tuple[Path, Any]]
Loaded = Callable[[str], Pipeline]


def opened(loaded: Loaded, name: str) -> tuple[Any, Any, Any]:
    """The three values of a model as a loader gives them."""
    return parts(loaded(name))


def sampled(model: Any, positive: Any, latent: Any, **more: Any) -> Tensor:
    return ksampler_node(
        model, 5, 2, more.pop("cfg", 1.0), sampler_name="euler", scheduler="simple", positive=positive,
        negative=more.pop("negative", positive), latent_image=latent, **more,
    )["samples"]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen-image", "z-image", "flux2 klein", "chroma"])
def test_text_to_image_is_generate(name: str, loaded: Loaded) -> None:
    model, clip, vae = opened(loaded, name)
    positive, negative = clip_text_encode("a red heart", clip), clip_text_encode("1999", clip)
    form = model.network.latent
    height, width = 4 * form.factor, 6 * form.factor
    empty = {"samples": torch.zeros(form.shape(1, (height, width)))}
    drawn = {"samples": sampled(model, positive, empty, negative=negative, cfg=3.0)}
    made = to_images(vae_decode(drawn, vae).movedim(-1, 1))
    own = generate(
        loaded(name), "a red heart", negative="1999", seed=5, steps=2, cfg=3.0, sampler="euler", schedule="simple",
        width=width, height=height,
    )  # fmt: skip
    assert [image.tobytes() for image in made] == [image.tobytes() for image in own]


@pytest.mark.slow
def test_an_image_is_edited(loaded: Loaded) -> None:
    """The prompt, the image that the text encoder sees and the one that the network sees change what is drawn."""
    model, clip, vae = opened(loaded, "qwen-image")
    image, other = torch.rand(1, 40, 56, 3), torch.rand(1, 40, 56, 3)
    empty = empty_sd3_latent_image(48, 32)
    seen = {
        "edited": text_encode_qwen_image_edit_plus(clip, "make it red", vae, image),
        "two": text_encode_qwen_image_edit_plus(clip, "make it red", vae, image, other),
        "text alone": text_encode_qwen_image_edit_plus(clip, "make it red", None, image),
        "no image": text_encode_qwen_image_edit_plus(clip, "make it red"),
        "one": text_encode_qwen_image_edit(clip, "make it red", vae, image),
    }
    assert [len(each[0][1].get("reference_latents", ())) for each in seen.values()] == [1, 2, 0, 0, 1]
    latent = seen["edited"][0][1]["reference_latents"][0]
    assert latent.ndim == 4 and abs(latent.shape[2] * latent.shape[3] * 64 / 1024**2 - 1) < 0.02
    small = {name: [(embeds, {**extra, **shrunk(extra)})] for name, ((embeds, extra),) in seen.items()}
    drawn = {name: sampled(model, each, empty) for name, each in small.items()}
    assert all(torch.isfinite(each).all() and each.shape == (1, 16, 4, 6) for each in drawn.values())
    names = list(drawn)
    assert not any(torch.equal(drawn[a], drawn[b]) for a in names for b in names if a < b)
    by_hand = seen["text alone"]
    by_hand = reference_latent(by_hand, {"samples": shrunk(seen["edited"][0][1])["reference_latents"][0]})
    assert torch.equal(sampled(model, by_hand, empty), drawn["edited"])
    again = sampled(model, by_hand, {"samples": drawn["edited"], "noise_mask": torch.zeros(1, 1, 4, 6)}, denoise=0.5)
    assert_close(again, drawn["edited"], atol=1e-4, rtol=1e-4)


def shrunk(extra: dict[str, Any]) -> dict[str, Any]:
    """Reference latents so small that the test is fast."""
    return {"reference_latents": [latent[..., :4, :6] for latent in extra.get("reference_latents", ())]}


@pytest.mark.slow
def test_images_of_flux2_and_kontext(loaded: Loaded) -> None:
    empties = {"flux2 klein": empty_flux2_latent_image(96, 64), "flux dev": empty_sd3_latent_image(96, 64)}
    for name, empty in empties.items():
        model, clip, vae = opened(loaded, name)
        positive = clip_text_encode("make it red", clip)
        encoded = vae_encode(torch.rand(1, 4 * vae.factor, 6 * vae.factor, 3), vae)
        shown = reference_latent(positive, encoded)
        plain, edited = (sampled(model, each, empty) for each in (positive, shown))
        assert not torch.allclose(plain, edited, atol=1e-3)
        assert torch.equal(sampled(model, reference_latent(positive), empty), plain)
        for method in ("offset", "index"):
            assert torch.equal(sampled(model, reference_method(shown, method), empty), edited)
        with pytest.raises(ValueError, match="reference_latents_method uxo/uno of 1 images is not supported"):
            sampled(model, reference_method(shown, "uxo/uno"), empty)
        with pytest.raises(ValueError, match="reference_latents_method offset of 2 images is not supported"):
            sampled(model, reference_method(reference_latent(shown, encoded), "offset"), empty)
    model, clip, vae = opened(loaded, "z-image")
    shown = reference_latent(clip_text_encode("", clip), vae_encode(torch.rand(1, 16, 24, 3), vae))
    with pytest.raises(ValueError, match="cannot be shown images"):
        sampled(model, shown, empty_sd3_latent_image(96, 64))


def test_masks_of_tokens_follow_the_tokens(loaded: Loaded) -> None:
    model, clip, _ = opened(loaded, "z-image")
    one, other = (clip_text_encode(text, clip) for text in ("a red heart", "the green horse, the red heart"))
    both = conditioning_concat(one, other)
    assert both[0][1]["attention_mask"].shape == both[0][0].shape[:2]
    assert torch.isfinite(sampled(model, both, empty_sd3_latent_image(64, 64))).all()


def test_an_image_is_a_video_of_one_frame(loaded: Loaded) -> None:
    """A VAE of videos, as that of Qwen-Image in a file of its own is read, goes with a network of images."""
    model, clip, vae = opened(loaded, "qwen-image")
    _, _, video = opened(loaded, "wan")
    latent = vae_encode(torch.rand(1, 32, 48, 3), video)
    assert latent["samples"].shape == (1, 16, 1, 4, 6)
    positive = clip_text_encode("a red heart", clip)
    samples = sampled(model, positive, latent, denoise=0.5)
    assert samples.shape == (1, 16, 4, 6)
    assert torch.equal(samples, sampled(model, positive, {"samples": latent["samples"][:, :, 0]}, denoise=0.5))
    assert vae_decode({"samples": samples}, video).shape == (1, 32, 48, 3)
    assert vae_decode({"samples": samples[:, :, None]}, vae).shape == (1, 32, 48, 3)


def test_videos_of_images(loaded: Loaded) -> None:
    """A network of images to video is shown the first frames, or the first and the last ones, and a mask of them."""
    model, clip, vae = opened(loaded, "wan2.2 i2v")
    text = clip_text_encode("a red heart", clip)
    image = torch.rand(1, 40, 40, 3)
    made = {
        "none": wan_image_to_video(text, text, vae, 32, 32, 9),
        "first": wan_image_to_video(text, text, vae, 32, 32, 9, start_image=image),
        "both": wan_first_last_frame_to_video(text, text, vae, 32, 32, 9, start_image=image, end_image=image),
        "fun": wan_fun_inpaint_to_video(text, text, vae, 32, 32, 9, start_image=image, end_image=image),
    }
    drawn = {name: sampled(model, positive, latent) for name, (positive, _, latent) in made.items()}
    assert all(each.shape == (1, 16, 3, 4, 4) for each in drawn.values())
    assert torch.equal(drawn["both"], drawn["fun"])
    assert not torch.equal(drawn["none"], drawn["first"]) and not torch.equal(drawn["first"], drawn["both"])
    shown = conds_of(made["both"][0], model.network, torch.zeros(1, 16, 3, 4, 4))[0].concat
    assert shown is not None and shown.shape == (1, 20, 3, 4, 4)
    assert shown[0, :4, :, 0, 0].T.tolist() == [[1.0] * 4, [0.0] * 4, [0.0, 0.0, 0.0, 1.0]]
    first = conds_of(made["first"][0], model.network, torch.zeros(1, 16, 3, 4, 4))[0].concat
    assert first is not None and first[0, :4, :, 0, 0].T.tolist() == [[1.0] * 4, [0.0] * 4, [0.0] * 4]
    video = torch.full((1, 3, 9, 32, 32), 0.5)
    video[:, :, 0] = torch.nn.functional.interpolate(image.movedim(-1, 1), (32, 32), mode="bilinear")
    assert_close(first[:, 4:], model.network.latent.to_network(vae.encode(video)), atol=1e-4, rtol=0)


def test_a_video_keeps_its_first_frames(loaded: Loaded) -> None:
    """A network with a level for each token is given 0 for the frames that a mask keeps, and keeps them."""
    model, clip, vae = opened(loaded, "wan2.2 5b")
    latent = wan22_image_to_video_latent(vae, 64, 64, 9, start_image=torch.rand(1, 64, 64, 3))
    kept = latent.get("noise_mask")
    assert (
        kept is not None and latent["samples"].shape == (1, 48, 3, 4, 4) and kept[0, 0, :, 0, 0].tolist() == [0, 1, 1]
    )
    seen = list[Tensor]()

    def watched(module: Any, x: Tensor, t: Tensor, cond: Any) -> Tensor:
        seen.append(t)
        return model.network.forward(module, x, t, cond)

    positive = clip_text_encode("a red heart", clip)
    spied = replace(model, network=replace(model.network, forward=watched))
    samples = sampled(spied, positive, latent)
    assert_close(samples[:, :, 0], latent["samples"][:, :, 0], atol=1e-5, rtol=0)
    assert (
        all(t.shape == (1, 12) and not t[:, :4].any() and bool((t[:, 4:] > 0).all()) for t in seen) and len(seen) == 2
    )
    assert wan22_image_to_video_latent(vae, 64, 64, 9)["samples"].shape == (1, 48, 3, 4, 4)


def test_padding_of_chroma(loaded: Loaded) -> None:
    _, clip, _ = opened(loaded, "chroma")
    assert t5_tokenizer_options(clip, 1, 0) is clip
    embeds, extra = clip_text_encode("a red heart", clip)[0]
    assert embeds.shape[1] == int(extra["attention_mask"].sum())
    with pytest.raises(ValueError, match="min_padding 0 and min_length 512 of T5EncoderModel are not supported"):
        t5_tokenizer_options(clip, 0, 512)
