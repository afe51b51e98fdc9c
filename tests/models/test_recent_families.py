"""Families whose prompts a language model reads, and Chroma, against diffusers' pipelines and modules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from sigmafield import sample
from sigmafield.core.conditioning import Cond
from sigmafield.core.process import Flow
from sigmafield.guidance.guider import Guider
from sigmafield.models.bundle import Pipeline
from sigmafield.models.references import at_zero, with_references

pytest.importorskip("diffusers")
CPU = torch.device("cpu")
NAMES = ["qwen-image", "z-image", "flux2 dev", "flux2 klein", "chroma"]
LONG = ("flux2 dev", "flux2 klein")
"""Families whose prompts are padded to 512 tokens, and read in 27 layers or more."""
PROMPTS = ["a red heart", "the green horse"]

Family = Callable[[str], tuple[Path, Any]]
Loaded = Callable[[str], Pipeline]


@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in NAMES])
def both(request: pytest.FixtureRequest, family: Family, loaded: Loaded) -> tuple[Pipeline, Any]:
    """A model as loaded here, and diffusers' pipeline of it."""
    return loaded(request.param), family(request.param)[1]


def size_of(ours: Pipeline) -> tuple[int, int]:
    """A small (height, width)."""
    return 4 * ours.model.latent.factor, 6 * ours.model.latent.factor


def latents(ours: Pipeline, batch: int, seed: int = 0) -> Tensor:
    return torch.randn(ours.model.latent.shape(batch, size_of(ours)), generator=torch.Generator().manual_seed(seed))


def kind(pipe: Any) -> str:
    return type(pipe).__name__.removesuffix("Pipeline")


def texts(pipe: Any) -> list[Tensor]:
    """The embeddings of each prompt as diffusers' pipeline encodes it alone, without padding that is masked."""
    found = list[Tensor]()
    for prompt in PROMPTS:
        if kind(pipe) == "Chroma":
            embeds, _, mask, *_ = pipe.encode_prompt(prompt, do_classifier_free_guidance=False, device=CPU)
            found.append(embeds[:, : int(mask.sum())])
        else:
            given = pipe.encode_prompt([prompt], device=CPU)[0]
            found.append(given[0][None] if isinstance(given, list) else given)
    return found


def test_text(both: tuple[Pipeline, Any]) -> None:
    """Prompts get their own embeddings, whatever is encoded with them; a mask tells padding."""
    ours, pipe = both
    cond = ours.text.encode(PROMPTS, size_of(ours))
    mask = cond.extra.get("encoder_attention_mask", torch.ones(2, cond.embeds.shape[1]))
    for row, want in enumerate(texts(pipe)):
        assert_close(cond.embeds[row : row + 1, : want.shape[1]], want.float(), atol=1e-5, rtol=0)
        assert int(mask[row].sum()) == want.shape[1] and bool(mask[row, : want.shape[1]].all())
    with pytest.raises(ValueError, match="clip_skip is for models whose prompts are read by CLIP"):
        ours.text.encode([""], size_of(ours), clip_skip=-2)


def run_of_theirs(pipe: Any, x: Tensor, size: tuple[int, int]) -> Tensor:
    """The latents that diffusers' pipeline ends with, from the noise x, without a negative prompt."""
    options: dict[str, Any] = {
        "QwenImage": {"true_cfg_scale": 1.0}, "ZImage": {"guidance_scale": 0.0}, "Flux2": {"guidance_scale": 2.5},
        "Flux2Klein": {"guidance_scale": 1.0}, "Chroma": {"guidance_scale": 1.0},
    }[kind(pipe)]  # fmt: skip
    start = pipe._pack_latents(x, *x.shape) if kind(pipe) in ("QwenImage", "Chroma") else x
    words: dict[str, Any] = {"prompt": PROMPTS[:1]}
    if kind(pipe) == "Chroma":  # its pipeline adds 1 to the attention between tokens that are not padding
        words = {"prompt_embeds": texts(pipe)[0], "prompt_attention_mask": torch.ones(texts(pipe)[0].shape[:2])}
    out = pipe(
        **words, height=size[0], width=size[1], num_inference_steps=2, latents=start, output_type="latent", **options
    )[0]
    if kind(pipe) == "QwenImage":
        return pipe._unpack_latents(out, *size, 8)[:, :, 0]
    if kind(pipe) == "Flux2":
        return out.transpose(1, 2).reshape(x.shape)
    if kind(pipe) == "Flux2Klein":  # it gives latents in the VAE's scale
        mean, std = norm_of(pipe.vae)
        return (pipe._patchify_latents(out) - mean) / std
    return pipe._unpack_latents(out, *size, 2) if kind(pipe) == "Chroma" else out


def norm_of(vae: Any) -> tuple[Tensor, Tensor]:
    """Mean and deviation that Flux 2's latents are normalised by."""
    mean, variance = (v.reshape(1, -1, 1, 1) for v in (vae.bn.running_mean, vae.bn.running_var))
    return mean, (variance + vae.config.batch_norm_eps).sqrt()


def test_whole_run(both: tuple[Pipeline, Any]) -> None:
    """Euler's steps at the noise levels of diffusers' scheduler end where its pipeline ends."""
    ours, pipe = both
    size, x = size_of(ours), latents(ours, 1)
    want = run_of_theirs(pipe, x, size)
    cond = ours.text.encode(PROMPTS[:1], size)
    if "guidance" in cond.extra:
        assert float(cond.extra["guidance"]) == 4
        cond = replace(cond, extra={"guidance": torch.full((1,), 2.5)})
    got = sample(
        Guider(ours.model, cond, cond, 1.0), x, pipe.scheduler.sigmas.double(), process=ours.model.sampling.process
    )
    assert_close(got, want, atol=1e-4 * float(want.abs().max()), rtol=0)


def asked(ours: Pipeline, x: Tensor, sigma: float, cond: Cond) -> Tensor:
    """The network at a noise level."""
    t = ours.model.sampling.levels.timestep(torch.tensor(sigma, dtype=torch.float64)).float().expand(len(x))
    return ours.model.network(x, t, cond)


def test_rows_of_a_call_do_not_see_each_other(both: tuple[Pipeline, Any]) -> None:
    """A prompt that is padded to another's length gives what it gives alone."""
    ours, _ = both
    x = latents(ours, 2)
    together = asked(ours, x, 0.7, ours.text.encode(PROMPTS, size_of(ours)))
    alone = [asked(ours, x[i : i + 1], 0.7, ours.text.encode([p], size_of(ours))) for i, p in enumerate(PROMPTS)]
    assert_close(together, torch.cat(alone), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["qwen-image", "flux2 dev"])
def test_images_and_latents(name: str, family: Family, loaded: Loaded) -> None:
    """encode and decode are the VAE's own, with the numbers that its latents are scaled by."""
    ours, vae = loaded(name), family(name)[1].vae
    height, width = size_of(ours)
    images = torch.rand(2, 3, height, width)
    if name == "qwen-image":
        mean, std = (torch.tensor(v).reshape(1, -1, 1, 1, 1) for v in (vae.config.latents_mean, vae.config.latents_std))
        z = ((vae.encode(images[:, :, None] * 2 - 1).latent_dist.mean - mean) / std)[:, :, 0]
        want = vae.decode(z[:, :, None] * std + mean).sample[:, :, 0]
    else:
        pipe = family(name)[1]
        z = pipe._encode_vae_image(images * 2 - 1, torch.Generator())
        mean, std = norm_of(vae)
        want = vae.decode(pipe._unpatchify_latents(z * std + mean)).sample
    assert z.shape == ours.model.latent.shape(2, (height, width))
    assert_close(ours.encode(images), z, atol=1e-5, rtol=1e-5)
    assert_close(ours.decode(z), (want / 2 + 0.5).clamp(0, 1), atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="can work tile by tile"):
        ours.vae.tiled()


def test_levels(loaded: Loaded) -> None:
    """Shifts are those of the scheduler's config, for Flux 2 that of its family; cfg is 1 for distilled networks."""
    shifts = {"qwen-image": 2.459603, "z-image": 3.0, "flux2 dev": 7.538325, "chroma": 1.0}
    for name, shift in shifts.items():
        process = loaded(name).model.sampling.process
        assert isinstance(process, Flow) and process.shift == pytest.approx(shift, abs=1e-5), name
        assert float(loaded(name).model.sampling.levels.timestep(torch.tensor(0.25).double())) == 0.25
    assert [loaded(name).model.cfg for name in NAMES] == [4.0, 5.0, 1.0, 1.0, 4.0]


def theirs_with_images(pipe: Any, x: Tensor, images: list[Tensor], sigma: float, cond: Cond) -> Tensor:
    """The network called as diffusers' editing pipelines call it."""
    (b, c, h, w), t = x.shape, torch.full((len(x),), sigma)
    if kind(pipe) == "QwenImage":
        tokens = torch.cat([pipe._pack_latents(i, b, c, *i.shape[2:]) for i in [x, *images]], dim=1)
        shapes = [[(1, i.shape[2] // 2, i.shape[3] // 2) for i in [x, *images]]] * b
        out = pipe.transformer(
            tokens, encoder_hidden_states=cond.embeds, timestep=t, img_shapes=shapes,
            encoder_hidden_states_mask=cond.extra["encoder_attention_mask"],
        ).sample  # fmt: skip
        return pipe._unpack_latents(out[:, : h * w // 4], 8 * h, 8 * w, 8)[:, :, 0]
    if kind(pipe) == "Flux":
        tokens = torch.cat([pipe._pack_latents(i, b, c, *i.shape[2:]) for i in [x, *images]], dim=1)
        ids = [pipe._prepare_latent_image_ids(b, i.shape[2] // 2, i.shape[3] // 2, CPU, x.dtype) for i in [x, *images]]
        for number, each in enumerate(ids):
            each[:, 0] = number
        out = pipe.transformer(
            tokens, encoder_hidden_states=cond.embeds, timestep=t, img_ids=torch.cat(ids), guidance=t * 0 + 3.5,
            txt_ids=torch.zeros(cond.embeds.shape[1], 3), pooled_projections=cond.extra["pooled_projections"],
        ).sample  # fmt: skip
        return pipe._unpack_latents(out[:, : h * w // 4], 2 * h, 2 * w, 2)
    tokens = torch.cat([pipe._pack_latents(i) for i in [x, *images]], dim=1)
    ids = torch.cat([pipe._prepare_latent_ids(x)[:1], pipe._prepare_image_ids([i[:1] for i in images])], dim=1)
    out = pipe.transformer(
        tokens, encoder_hidden_states=cond.embeds, timestep=t, img_ids=ids, guidance=t * 0 + 4,
        txt_ids=pipe._prepare_text_ids(cond.embeds),
    ).sample  # fmt: skip
    return out[:, : h * w].transpose(1, 2).reshape(x.shape)


@pytest.mark.parametrize("name", ["qwen-image", pytest.param("flux2 dev", marks=pytest.mark.slow), "flux dev"])
def test_images_to_edit(name: str, family: Family, loaded: Loaded) -> None:
    """An editing network is shown images of any size after the latent, one for all rows or one for each."""
    ours, (_, pipe) = loaded(name), family(name)
    x, cond = latents(ours, 2), ours.text.encode(PROMPTS, size_of(ours))
    images = [torch.randn(2, x.shape[1], 2, 4), torch.randn(2, x.shape[1], 4, 2)]
    got = asked(ours, x, 0.6, with_references(with_references(cond, images[:1]), images[1:]))
    assert_close(got, theirs_with_images(pipe, x, images, 0.6, cond), atol=1e-5, rtol=0)
    assert not torch.allclose(got, asked(ours, x, 0.6, cond), atol=1e-3)
    one = asked(ours, x, 0.6, with_references(cond, [images[0][:1]]))
    assert torch.equal(one, asked(ours, x, 0.6, with_references(cond, [images[0][:1].repeat(2, 1, 1, 1)])))


def test_images_for_a_network_that_edits_none(loaded: Loaded) -> None:
    ours = loaded("z-image")
    cond = with_references(ours.text.encode([""], size_of(ours)), [latents(ours, 1)])
    with pytest.raises(
        ValueError, match="cannot be shown images: these are for Qwen-Image, Flux 2, Flux Kontext and Wan"
    ):
        ours.model.check(cond)


@pytest.mark.parametrize("numbered", [False, True])
def test_prompts_with_images(numbered: bool, family: Family, loaded: Loaded) -> None:
    """Images are seen as the processor of Qwen 2.5 VL cuts them, at their places in the question."""
    from transformers import Qwen2VLImageProcessor

    ours, (_, pipe) = loaded("qwen-image"), family("qwen-image")
    images = [torch.randint(0, 256, (1, 3, *size)) for size in ((56, 84), (84, 56))]
    cut = Qwen2VLImageProcessor()(images=[image[0] for image in images], return_tensors="pt")
    pads = "<|image_pad|>" * 6
    shown = "".join(f"{f'Picture {k}: ' if numbered else ''}<|vision_start|>{pads}<|vision_end|>" for k in (1, 2))
    system = (
        "Describe the key features of the input image (color, shape, size, texture, objects, background), then explain "
        "how the user's text instruction should alter or modify the image. Generate a new image that meets the user's "
        "requirements while maintaining consistency with the original input where appropriate."
    )
    text = f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{shown}{PROMPTS[0]}<|im_end|>\n"
    text += "<|im_start|>assistant\n"
    ids = pipe.tokenizer(text, return_tensors="pt")
    seen = (ids.input_ids == pipe.text_encoder.config.image_token_id).int()
    want = pipe.text_encoder(**ids, **cut, mm_token_type_ids=seen, output_hidden_states=True).hidden_states[-1][:, 64:]
    cond = ours.text.encode_edit(PROMPTS[:1], [image / 255 for image in images], numbered)
    assert int(seen.sum()) == 12
    assert_close(cond.embeds, want, atol=1e-5, rtol=0)
    other = ours.text.encode_edit(PROMPTS[:1], [images[0] / 255, images[0] * 0.0], numbered)
    assert not torch.allclose(other.embeds[:, -8:], want[:, -8:], atol=1e-3)
    both = ours.text.encode_edit(PROMPTS, [image / 255 for image in images], numbered)
    assert_close(both.embeds[:1, : want.shape[1]], want, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="this text encoder sees no images: that of Qwen-Image-Edit does"):
        loaded("z-image").text.encode_edit(PROMPTS[:1], [images[0] / 255])


def test_images_at_timestep_zero(family: Family, loaded: Loaded) -> None:
    """As a network with `zero_cond_t`, which Qwen-Image-Edit-2511 has, with the same weights."""
    from diffusers import QwenImageTransformer2DModel

    ours, (_, pipe) = loaded("qwen-image"), family("qwen-image")
    x, cond = latents(ours, 2), ours.text.encode(PROMPTS, size_of(ours))
    images = [torch.randn(2, x.shape[1], 2, 4)]
    config = {name: value for name, value in pipe.transformer.config.items() if not name.startswith("_")}
    other = QwenImageTransformer2DModel(**config | {"zero_cond_t": True}).eval()
    other.load_state_dict(pipe.transformer.state_dict())
    kept, pipe.transformer = pipe.transformer, other
    try:
        want = theirs_with_images(pipe, x, images, 0.6, cond).detach()
    finally:
        pipe.transformer = kept
    edit = with_references(cond, images)
    plain, zero = (asked(ours, x, 0.6, each) for each in (edit, at_zero(edit)))
    assert_close(zero, want, atol=1e-5, rtol=0)
    assert not torch.allclose(plain, zero, atol=1e-4)
    assert torch.equal(asked(ours, x, 0.6, edit), plain)
