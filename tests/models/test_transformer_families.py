"""Families whose network is a transformer, loaded from directories that diffusers wrote, against its own pipelines."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from sigmafield import sample
from sigmafield.core.conditioning import Cond
from sigmafield.core.process import Flow
from sigmafield.guidance.guider import Guider
from sigmafield.models.bundle import Pipeline
from sigmafield.models.load import load
from sigmafield.recipes.build import model_of
from sigmafield.recipes.conditionings import distilled
from sigmafield.recipes.recipe import Recipe

pytest.importorskip("diffusers")
CPU = torch.device("cpu")
NAMES = ["sd3", "sd3 without T5", "flux dev", "flux schnell", "auraflow", "lumina2", "wan"]
PROMPTS = ["a red heart", "the green horse"]
NEGATIVES = ["", "1999"]

Family = Callable[[str], tuple[Path, Any]]


@pytest.fixture(params=NAMES)
def both(request: pytest.FixtureRequest, family: Family, loaded: Callable[[str], Pipeline]) -> tuple[Pipeline, Any]:
    """A model as loaded here, and diffusers' pipeline of it."""
    return loaded(request.param), family(request.param)[1]


def kind(pipe: Any) -> str:
    return type(pipe).__name__.removesuffix("Pipeline")


def size_of(ours: Pipeline) -> tuple[int, int]:
    """A small (height, width)."""
    return 4 * ours.model.latent.factor, 6 * ours.model.latent.factor


def latents(ours: Pipeline, batch: int) -> torch.Tensor:
    """Noise for videos of 9 frames, or for images."""
    return torch.randn(ours.model.latent.shape(batch, size_of(ours), 9), generator=torch.Generator().manual_seed(0))


def theirs(pipe: Any, x: torch.Tensor, sigma: float, cond: Cond) -> torch.Tensor:
    """The network called as diffusers' own pipelines call it."""
    name, extra = kind(pipe), dict(cond.extra)
    if name == "Flux":
        b, c, h, w = x.shape
        tokens = pipe._pack_latents(x, b, c, h, w)
        img = pipe._prepare_latent_image_ids(b, h // 2, w // 2, CPU, torch.float32)
        txt = torch.zeros(cond.embeds.shape[1], 3)
        t = torch.full((b,), sigma)
        out = pipe.transformer(
            tokens, encoder_hidden_states=cond.embeds, timestep=t, img_ids=img, txt_ids=txt,
            guidance=extra.get("guidance"), pooled_projections=extra["pooled_projections"],
        ).sample  # fmt: skip
        return pipe._unpack_latents(out, 2 * h, 2 * w, 2)
    told_time = {"AuraFlow": sigma, "Lumina2": 1 - sigma}.get(name, 1000 * sigma)
    t = torch.full((len(x),), told_time)
    out = pipe.transformer(x, timestep=t, encoder_hidden_states=cond.embeds, **extra).sample
    return -out if name == "Lumina2" else out


def test_network(both: tuple[Pipeline, Any]) -> None:
    ours, pipe = both
    cond, x, sigma = ours.text.encode(PROMPTS, size_of(ours)), latents(ours, 2), 0.7
    t = ours.model.sampling.levels.timestep(torch.tensor(sigma, dtype=torch.float64)).float().expand(2)
    assert_close(ours.model.network(x, t, cond), theirs(pipe, x, sigma, cond), atol=1e-6, rtol=0)


def encoded(pipe: Any, negative: bool = False) -> Cond:
    """The prompts as diffusers' pipeline encodes them."""
    name, prompts = kind(pipe), NEGATIVES if negative else PROMPTS
    if name == "StableDiffusion3":
        embeds, _, pooled, _ = pipe.encode_prompt(prompts, None, None, CPU, do_classifier_free_guidance=False)
        return Cond(embeds, {"pooled_projections": pooled})
    if name == "Flux":
        guided = pipe.transformer.config.guidance_embeds
        embeds, pooled, _ = pipe.encode_prompt(prompts, None, CPU, max_sequence_length=512 if guided else 256)
        return Cond(embeds, {"pooled_projections": pooled} | ({"guidance": torch.full((2,), 3.5)} if guided else {}))
    if name == "Wan":
        return Cond(pipe.encode_prompt(PROMPTS, NEGATIVES, device=CPU, max_sequence_length=512)[negative])
    embeds, mask, other, other_mask = pipe.encode_prompt(PROMPTS, negative_prompt=NEGATIVES, device=CPU)
    mask = other_mask if negative else mask
    return Cond(other if negative else embeds, {"encoder_attention_mask": mask} if name == "Lumina2" else {})


@pytest.mark.parametrize("negative", [False, True])
def test_text(negative: bool, both: tuple[Pipeline, Any]) -> None:
    ours, pipe = both
    encode = ours.text.encode_negative if negative else ours.text.encode
    cond, want = encode(NEGATIVES if negative else PROMPTS, size_of(ours)), encoded(pipe, negative)
    if kind(pipe) == "StableDiffusion3":
        want = as_comfyui(pipe, want, NEGATIVES if negative else PROMPTS)
    assert_close(cond.embeds, want.embeds, atol=1e-6, rtol=0)
    assert cond.extra.keys() == want.extra.keys()
    for key, value in want.extra.items():
        assert_close(cond.extra[key], value, atol=1e-6, rtol=0)


def as_comfyui(pipe: Any, theirs: Cond, prompts: list[str]) -> Cond:
    """A prompt of Stable Diffusion 3 without the zeros in place of T5, and CLIP-L's pooled vector as it is.

    Where T5 is missing, the tokens are CLIP's alone.
    """
    n = pipe.tokenizer_max_length
    ids = pipe.tokenizer(prompts, padding="max_length", max_length=n, truncation=True, return_tensors="pt").input_ids
    with torch.no_grad():
        first = pipe.text_encoder.text_model(ids).pooler_output
    second = theirs.extra["pooled_projections"][:, first.shape[1] :]
    embeds = theirs.embeds if pipe.text_encoder_3 else theirs.embeds[:, :n]
    assert not torch.allclose(first, theirs.extra["pooled_projections"][:, : first.shape[1]], atol=1e-3)
    return Cond(embeds, {"pooled_projections": torch.cat([first, second], 1)})


def run_of_theirs(pipe: Any, x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """The latents that diffusers' pipeline ends with, from the noise x."""
    name, options = kind(pipe), {"guidance_scale": 3.0}
    if name == "Flux":
        options = {"true_cfg_scale": 3.0, "guidance_scale": 2.5}
        options |= {"max_sequence_length": 512 if pipe.transformer.config.guidance_embeds else 256}
    elif name == "Lumina2":
        options |= {"cfg_normalization": False}
    elif name == "Wan":
        options |= {"num_frames": 9}
        pipe.scheduler = type_of_flow()(shift=3.0)
    start = pipe._pack_latents(x, *x.shape) if name == "Flux" else x
    words: dict[str, Any] = {"prompt": PROMPTS, "negative_prompt": NEGATIVES}
    if name == "StableDiffusion3":
        conds = [as_comfyui(pipe, encoded(pipe, side), NEGATIVES if side else PROMPTS) for side in (False, True)]
        words = {
            f"{'negative_' * side}{key}": value
            for side, cond in enumerate(conds)
            for key, value in (
                ("prompt_embeds", cond.embeds),
                ("pooled_prompt_embeds", cond.extra["pooled_projections"]),
            )
        }
    out = pipe(
        **words, height=size[0], width=size[1], num_inference_steps=2, latents=start,
        output_type="latent", **options,
    )[0]  # fmt: skip
    return pipe._unpack_latents(out, *size, 2) if name == "Flux" else out


def type_of_flow() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler


def test_whole_run(both: tuple[Pipeline, Any]) -> None:
    """Euler's steps at the noise levels of diffusers' scheduler end where its pipeline ends, guidance and all."""
    ours, pipe = both
    size, x = size_of(ours), latents(ours, 2)
    want = run_of_theirs(pipe, x, size)
    recipe = Recipe("", distilled_guidance=2.5 if "guidance" in ours.text.encode([""], size).extra else None)
    positive = distilled(recipe, ours.text.encode(PROMPTS, size))
    negative = distilled(recipe, ours.text.encode_negative(NEGATIVES, size))
    got = sample(
        Guider(ours.model, positive, negative, 3.0),
        x,
        pipe.scheduler.sigmas.double(),
        process=ours.model.sampling.process,
    )
    assert_close(got, want, atol=1e-4 * float(want.abs().max()), rtol=0)


def test_images_and_latents(both: tuple[Pipeline, Any]) -> None:
    """encode and decode are the VAE's own, with its shift and scale, of each channel where there are such."""
    ours, pipe = both
    c, (height, width) = pipe.vae.config, size_of(ours)
    images = torch.rand(2, 3, *((9,) if ours.model.latent.axes == 3 else ()), height, width)
    if kind(pipe) == "Wan":
        mean, std = (torch.tensor(v).reshape(-1, 1, 1, 1) for v in (c.latents_mean, c.latents_std))
        scale = 1.0
    else:
        mean, std, scale = c.shift_factor or 0.0, 1.0, c.scaling_factor
    z = (pipe.vae.encode(images * 2 - 1).latent_dist.mean - mean) / std * scale
    assert z.shape == ours.model.latent.shape(2, (height, width), 9)
    assert_close(ours.encode(images), z, atol=1e-5, rtol=1e-5)
    want = (pipe.vae.decode(z / scale * std + mean).sample / 2 + 0.5).clamp(0, 1)
    assert_close(ours.decode(z), want, atol=1e-5, rtol=0)
    assert ours.decode(z).shape == images.shape


def test_shift(loaded: Callable[[str], Pipeline], family: Family) -> None:
    """Flux's levels are those of its largest image, or by recipe those of this size, as diffusers computes them."""
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    ours, (_, pipe) = loaded("flux dev"), family("flux dev")
    u = torch.arange(1, 10001) / 10000

    def levels(shift: Any, size: tuple[int, int]) -> torch.Tensor:
        return model_of(Recipe("", shift=shift), ours.model, size).sampling.levels.sigmas

    assert_close(levels(None, (16, 24)), pipe.scheduler.time_shift(1.15, 1.0, u))
    mu = calculate_shift(4 * 6)
    assert_close(levels("size", (16, 24)), pipe.scheduler.time_shift(mu, 1.0, u))
    assert_close(levels(math.exp(1.15), (16, 24)), levels(None, (16, 24)))
    for name, known in {"sd3": 3.0, "flux schnell": 1.0, "auraflow": 1.73, "lumina2": 6.0, "wan": 3.0}.items():
        u = torch.arange(1, 1001, dtype=torch.float64) / 1000
        want = known * u / (1 + (known - 1) * u)
        assert_close(loaded(name).model.sampling.levels.sigmas.double(), want, atol=1e-6, rtol=0)
        assert loaded(name).model.sampling.process == Flow(known)
    sd3 = loaded("sd3")
    shifted = model_of(Recipe("", shift=2.0), sd3.model, (16, 24)).sampling
    assert float(shifted.levels.timestep(torch.tensor(0.25).double())) == 250
    with pytest.raises(ValueError, match="shift 'size' needs a model whose time shift depends on the size"):
        model_of(Recipe("", shift="size"), sd3.model, (16, 24))


@pytest.mark.parametrize(  # the others are these networks with an input less
    "both", [name for name in NAMES if name not in ("sd3 without T5", "flux schnell")], indirect=True
)
def test_half_precision(both: tuple[Pipeline, Any], request: pytest.FixtureRequest, family: Family) -> None:
    full, _ = both
    half = load(family(request.node.callspec.params["both"])[0], dtype="bfloat16")
    cond, x, size = full.text.encode(PROMPTS, size_of(full)), latents(full, 2), size_of(full)
    if "guidance" in cond.extra:  # diffusers rounds 1000 times guidance and time to bfloat16: these stay as they are
        cond = distilled(Recipe("", distilled_guidance=4.096), cond)
    t = full.model.sampling.levels.timestep(torch.tensor(0.512).double()).float().expand(2)
    pairs = [
        (half.text.encode(PROMPTS, size).embeds, cond.embeds),
        (half.model.network(x, t, cond), full.model.network(x, t, cond)),
    ]
    for got, want in pairs:
        assert got.dtype == torch.float32
        assert torch.cosine_similarity(got.flatten(), want.flatten(), dim=0) > 0.97


def test_transformers_run_in_bfloat16_where_there_is_no_other_word() -> None:
    from sigmafield.models.diffusers import BUILDERS, usual_dtype

    for name in BUILDERS:
        half = torch.float16 if name.startswith("UNet") else torch.bfloat16
        assert usual_dtype(name, torch.device("cuda")) == half and usual_dtype(name, CPU) == torch.float32


def change(file: Path, **changes: Any) -> None:
    """A JSON file with some keys changed, and those that are None removed."""
    values = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


REFUSED = {
    "Fill": ("flux dev", "transformer/config", {"in_channels": 384}, "in_channels = 384 is not .*: 64, 128, 144"),
    "levels": ("flux dev", "scheduler/scheduler_config", {"_class_name": "DDIMScheduler"}, "DDIMScheduler is for disc"),
    "inverted": ("sd3", "scheduler/scheduler_config", {"invert_sigmas": True}, "invert_sigmas = True is not supported"),
    "clip": ("sd3", "model_index", {"text_encoder_2": None}, "text_encoder_2 is missing; supported: CLIPTextModelWi"),
    "t5": ("flux dev", "model_index", {"text_encoder_2": [None, None]}, "text_encoder_2 is missing; supported: T5Enc"),
    "words": ("auraflow", "model_index", {"tokenizer": ["a", "Whisper"]}, "tokenizer is Whisper; supported: T5Token"),
    "umt5": ("wan", "model_index", {"text_encoder": ["a", "T5EncoderModel"]}, "text_encoder is T5.*ported: UMT5Enc"),
    "vace": ("wan", "transformer/config", {"in_channels": 96}, "in_channels = 96 is not supported; supported: 16"),
    "vae": ("lumina2", "model_index", {"vae": ["a", "AutoencoderDC"]}, "vae is AutoencoderDC; supported: Autoenc"),
}


@pytest.mark.parametrize("name, file, changes, message", REFUSED.values(), ids=REFUSED)
def test_refused(name: str, file: str, changes: dict[str, Any], message: str, tmp_path: Path, family: Family) -> None:
    shutil.copytree(family(name)[0], tmp_path / "m")
    change(tmp_path / "m" / f"{file}.json", **changes)
    with pytest.raises(ValueError, match=message) as caught:
        load(tmp_path / "m")
    assert "\n" not in str(caught.value)


def test_missing_tokenizer(tmp_path: Path, family: Family) -> None:
    shutil.copytree(family("flux dev")[0], tmp_path / "m")
    (tmp_path / "m" / "tokenizer_2" / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"tokenizer_2: tokenizer.json is missing; it has tokenizer_config"):
        load(tmp_path / "m")


def test_latents_that_patches_do_not_divide(both: tuple[Pipeline, Any]) -> None:
    ours, _ = both
    x = latents(ours, 1)[..., :3]
    with pytest.raises(ValueError, match="latents must have sides that are multiples of 2, the patches'; got 4x3"):
        ours.model.network(x, torch.ones(1), ours.text.encode([""], size_of(ours)))
