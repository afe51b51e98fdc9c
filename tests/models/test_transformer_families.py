"""Families whose network is a transformer, loaded from directories that diffusers wrote, against its own pipelines."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from sigmafield import generate, sample
from sigmafield.guidance.guider import Guider
from sigmafield.models import load
from sigmafield.models.pipeline import Pipeline
from sigmafield.recipe import Recipe, Region, open_job, sampling_of, told
from sigmafield.run import finish
from sigmafield.types import Cond

pytest.importorskip("diffusers")
CPU = torch.device("cpu")
NAMES = ["sd3", "sd3 without T5", "flux dev", "flux schnell", "auraflow", "lumina2", "wan"]
PROMPTS = ["a red heart", "the green horse"]
NEGATIVES = ["", "1999"]

Family = Callable[[str], tuple[Path, Any]]


@pytest.fixture(scope="session")
def loaded(family: Family) -> Callable[[str], Pipeline]:
    """A family as loaded here, once."""
    known: dict[str, Pipeline] = {}

    def pipeline(name: str) -> Pipeline:
        if name not in known:
            known[name] = load(family(name)[0])
        return known[name]

    return pipeline


@pytest.fixture(params=NAMES)
def both(request: pytest.FixtureRequest, family: Family, loaded: Callable[[str], Pipeline]) -> tuple[Pipeline, Any]:
    """A model as loaded here, and diffusers' pipeline of it."""
    return loaded(request.param), family(request.param)[1]


def kind(pipe: Any) -> str:
    return type(pipe).__name__.removesuffix("Pipeline")


def size_of(ours: Pipeline) -> tuple[int, int]:
    """A small (height, width)."""
    return 4 * ours.latent.factor, 6 * ours.latent.factor


def latents(ours: Pipeline, batch: int) -> torch.Tensor:
    """Noise for videos of 9 frames, or for pictures."""
    return torch.randn(ours.latent.shape(batch, size_of(ours), 9), generator=torch.Generator().manual_seed(0))


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
    cond, x, sigma = ours.encode_text(PROMPTS, size_of(ours)), latents(ours, 2), 0.7
    t = ours.sampling.levels.timestep(torch.tensor(sigma, dtype=torch.float64)).float().expand(2)
    assert_close(ours.network(x, t, cond), theirs(pipe, x, sigma, cond), atol=1e-6, rtol=0)


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
    encode = ours.encode_negative if negative and ours.encode_negative else ours.encode_text
    cond, want = encode(NEGATIVES if negative else PROMPTS, size_of(ours)), encoded(pipe, negative)
    assert_close(cond.embeds, want.embeds, atol=1e-6, rtol=0)
    assert cond.extra.keys() == want.extra.keys()
    for key, value in want.extra.items():
        assert_close(cond.extra[key], value, atol=1e-6, rtol=0)


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
    out = pipe(
        PROMPTS, negative_prompt=NEGATIVES, height=size[0], width=size[1], num_inference_steps=3, latents=start,
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
    recipe = Recipe("", guidance=2.5 if "guidance" in ours.encode_text([""], size).extra else None)
    positive = told(recipe, ours.encode_text(PROMPTS, size))
    negative = told(recipe, (ours.encode_negative or ours.encode_text)(NEGATIVES, size))
    got = sample(
        Guider(ours.model, positive, negative, 3.0), x, pipe.scheduler.sigmas.double(), process=ours.sampling.process
    )
    assert_close(got, want, atol=1e-4 * float(want.abs().max()), rtol=0)


def test_pictures_and_latents(both: tuple[Pipeline, Any]) -> None:
    """encode and decode are the VAE's own, with its shift and scale, of each channel where there are such."""
    ours, pipe = both
    c, (height, width) = pipe.vae.config, size_of(ours)
    images = torch.rand(2, 3, *((9,) if ours.latent.axes == 3 else ()), height, width)
    if kind(pipe) == "Wan":
        mean, std = (torch.tensor(v).reshape(-1, 1, 1, 1) for v in (c.latents_mean, c.latents_std))
        scale = 1.0
    else:
        mean, std, scale = c.shift_factor or 0.0, 1.0, c.scaling_factor
    z = (pipe.vae.encode(images * 2 - 1).latent_dist.mean - mean) / std * scale
    assert z.shape == ours.latent.shape(2, (height, width), 9)
    assert_close(ours.encode(images), z, atol=1e-5, rtol=1e-5)
    want = (pipe.vae.decode(z / scale * std + mean).sample / 2 + 0.5).clamp(0, 1)
    assert_close(ours.decode(z), want, atol=1e-5, rtol=0)
    assert ours.decode(z).shape == images.shape


SETTINGS: dict[str, Any] = {"steps": 2, "sampler": "euler", "scheduler": "simple", "cfg": 3.0, "negative": "1999"}


def drawn(ours: Pipeline, **settings: Any) -> list[Image.Image]:
    height, width = size_of(ours)
    settings = SETTINGS | {"width": width, "height": height, "frames": 5 if ours.latent.axes == 3 else None} | settings
    return generate(ours, **{"prompt": "a red heart", **settings})


def test_text_to_image(both: tuple[Pipeline, Any]) -> None:
    ours, _ = both
    pictures, (height, width) = drawn(ours, batch=2), size_of(ours)
    assert len(pictures) == (10 if ours.latent.axes == 3 else 2) and pictures[0].size == (width, height)
    assert pictures[0].tobytes() != pictures[-1].tobytes()
    region = Region("the green horse", 0, 0, 2 * ours.latent.factor, height)
    for other in ({"prompt": "the green horse"}, {"negative": ""}, {"cfg": 1.0}, {"seed": 1}, {"regions": (region,)}):
        assert drawn(ours, **other)[0].tobytes() != pictures[0].tobytes(), other


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    """A picture, and a mask that keeps its left half."""
    noise = torch.randint(0, 256, (32, 48, 3), generator=torch.Generator().manual_seed(0))
    Image.fromarray(noise.byte().numpy()).save(tmp_path / "in.png")
    mask = Image.new("L", (48, 32), 0)
    mask.paste(255, (24, 0, 48, 32))
    mask.save(tmp_path / "mask.png")
    return str(tmp_path / "in.png"), str(tmp_path / "mask.png")


@pytest.mark.parametrize("masked", [False, True])
def test_image_to_image_and_inpainting(masked: bool, files: tuple[str, str], both: tuple[Pipeline, Any]) -> None:
    """A run begins at the image, noised; what a mask keeps is the image's at the end, the rest is not."""
    ours, _ = both
    height, width = size_of(ours)
    video = ours.latent.axes == 3
    recipe = Recipe(
        "a red heart", image=files[0], mask=files[1] if masked else None, denoise=0.5, frames=5 if video else None,
        width=width, height=height, **SETTINGS,
    )  # fmt: skip
    job = open_job(recipe, ours)
    clean = open_job(replace(recipe, mask=None, denoise=1e-3, steps=1, scheduler="sgm_uniform"), ours).start.x
    sigma = float(job.run.grid.sigmas[0])
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    picture = Image.open(files[0]).resize((width, height), Image.Resampling.LANCZOS)
    pixels = torch.tensor(list(picture.tobytes()), dtype=torch.float32).reshape(1, height, width, 3) / 255
    pixels = pixels.permute(0, 3, 1, 2)
    source = ours.encode(pixels[:, :, None].expand(-1, -1, 5, -1, -1) if video else pixels)
    assert 0 < sigma < 1
    assert_close(job.start.x, (1 - sigma) * source + sigma * noise, atol=1e-5, rtol=0)
    end = finish(job.run, job.start).x
    left, right = slice(0, end.shape[-1] // 3), slice(-(end.shape[-1] // 3), None)
    assert torch.isfinite(end).all() and not torch.allclose(end[..., right], source[..., right], atol=1e-2)
    assert torch.allclose(end[..., left], source[..., left], atol=1e-5) == masked


def test_guidance(loaded: Callable[[str], Pipeline]) -> None:
    """A distilled network is told its guidance, and is asked once a step; others refuse to be told."""
    dev, schnell = loaded("flux dev"), loaded("flux schnell")
    assert dev.cfg == 1 == schnell.cfg
    plain = drawn(dev, cfg=None)[0].tobytes()
    assert drawn(dev, cfg=None, guidance=3.5)[0].tobytes() == plain
    assert drawn(dev, cfg=1.0)[0].tobytes() == plain
    assert drawn(dev, cfg=None, guidance=7.0)[0].tobytes() != plain
    with pytest.raises(ValueError, match="guidance is for networks that were distilled with it"):
        drawn(schnell, guidance=3.5)


def test_shift(loaded: Callable[[str], Pipeline], family: Family) -> None:
    """Flux's levels are those of its largest picture, or by recipe those of this size, as diffusers computes them."""
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    ours, (_, pipe) = loaded("flux dev"), family("flux dev")
    u = torch.arange(1, 10001) / 10000

    def levels(shift: Any, size: tuple[int, int]) -> torch.Tensor:
        return sampling_of(Recipe("", shift=shift), ours, size).levels.sigmas

    assert_close(levels(None, (16, 24)), pipe.scheduler.time_shift(1.15, 1.0, u))
    mu = calculate_shift(4 * 6)
    assert_close(levels("size", (16, 24)), pipe.scheduler.time_shift(mu, 1.0, u))
    assert_close(levels(math.exp(1.15), (16, 24)), levels(None, (16, 24)))
    sd3 = loaded("sd3")
    assert float(sampling_of(Recipe("", shift=2.0), sd3, (16, 24)).levels.timestep(torch.tensor(0.25).double())) == 250
    with pytest.raises(ValueError, match="shift 'size' needs a model whose time shift depends on the size"):
        drawn(sd3, shift="size")


def test_half_precision(both: tuple[Pipeline, Any], request: pytest.FixtureRequest, family: Family) -> None:
    full, _ = both
    half = load(family(request.node.callspec.params["both"])[0], dtype="bfloat16")
    cond, x, size = full.encode_text(PROMPTS, size_of(full)), latents(full, 2), size_of(full)
    if "guidance" in cond.extra:  # diffusers rounds 1000 times guidance and time to bfloat16: these stay as they are
        cond = told(Recipe("", guidance=4.096), cond)
    t = full.sampling.levels.timestep(torch.tensor(0.512).double()).float().expand(2)
    pairs = [
        (half.encode_text(PROMPTS, size).embeds, cond.embeds),
        (half.network(x, t, cond), full.network(x, t, cond)),
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
    "Fill": ("flux dev", "transformer/config", {"in_channels": 384}, "config: in_channels = 384 is not .*ported: 64"),
    "levels": ("flux dev", "scheduler/scheduler_config", {"_class_name": "DDIMScheduler"}, "DDIMScheduler is for disc"),
    "stretch": ("sd3", "scheduler/scheduler_config", {"shift_terminal": 0.1}, "shift_terminal = 0.1 is not supported"),
    "clip": ("sd3", "model_index", {"text_encoder_2": None}, "text_encoder_2 is missing; supported: CLIPTextModelWi"),
    "t5": ("flux dev", "model_index", {"text_encoder_2": [None, None]}, "text_encoder_2 is missing; supported: T5Enc"),
    "words": ("auraflow", "model_index", {"tokenizer": ["a", "Whisper"]}, "tokenizer is Whisper; supported: T5Token"),
    "umt5": ("wan", "model_index", {"text_encoder": ["a", "T5EncoderModel"]}, "text_encoder is T5.*ported: UMT5Enc"),
    "i2v": ("wan", "transformer/config", {"image_dim": 1280}, "image_dim = 1280 is not supported; supported: None"),
    "two": ("wan", "model_index", {"boundary_ratio": 0.9}, r"boundary_ratio \(Wan 2.2\) is not supported"),
    "vae": ("lumina2", "model_index", {"vae": ["a", "AutoencoderDC"]}, "vae is AutoencoderDC; supported: Autoenc"),
}


@pytest.mark.parametrize("name, file, changes, message", REFUSED.values(), ids=REFUSED)
def test_refused(
    name: str, file: str, changes: dict[str, Any], message: str, tmp_path: Path, family: Family
) -> None:
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


SIZES = {
    "patch": ("sd3", {"width": 18}, "width must be a multiple of 4, the VAE's factor of 2 times patches of 2; got 18"),
    "largest": ("sd3", {"width": 52}, "width must be at most 48, where the network's positions end; got 52"),
    "region": ("wan", {"regions": (Region("a", 0, 0, 8, 16),)}, "a region's width must be a multiple of 16, the VAE"),
    "frames": ("wan", {"frames": 8}, "frames must be 1 and a multiple of 4; got 8: try 5 or 9"),
    "no video": ("auraflow", {"frames": 5}, "frames must be 1, for model draws no videos; got 5"),
}


@pytest.mark.parametrize("name, settings, message", SIZES.values(), ids=SIZES)
def test_sizes(name: str, settings: dict[str, Any], message: str, loaded: Callable[[str], Pipeline]) -> None:
    with pytest.raises(ValueError, match=message):
        drawn(loaded(name), **settings)


def test_latents_that_patches_do_not_divide(both: tuple[Pipeline, Any]) -> None:
    ours, _ = both
    x = latents(ours, 1)[..., :3]
    with pytest.raises(ValueError, match="latents must have sides that are multiples of 2, the patches'; got 4x3"):
        ours.network(x, torch.ones(1), ours.encode_text([""], size_of(ours)))


def test_videos(tmp_path: Path, loaded: Callable[[str], Pipeline], family: Family) -> None:
    """A video is an animated PNG with its recipe and a sheet of frames beside it, can be replayed, and be begun from."""
    from typer.testing import CliRunner

    from sigmafield.cli import app
    from sigmafield.images import open_frames, recipe_of, to_tensor

    def run(*arguments: Any) -> None:
        result = CliRunner().invoke(app, [str(a) for a in arguments])
        assert result.exit_code == 0, result.output

    out, options = tmp_path / "a.png", ["--model", family("wan")[0], "--size", "32x16", "--steps", "2", "--frames", "5"]
    run("sample", "a red heart", "-o", out, *options)
    frames = open_frames(out)
    assert len(frames) == 5 and frames[0].size == (32, 16) and Image.open(out).info["duration"] == 62.5
    assert Image.open(tmp_path / "a-frames.png").size == (5 * 36 - 4, 16)
    run("replay", out, "-o", tmp_path / "b.png")
    assert json.loads(recipe_of(tmp_path / "b.png"))["recipe"]["frames"] == 5
    run("sample", "a red heart", "-o", tmp_path / "c.png", "--batch", 2, *options)
    assert [len(open_frames(tmp_path / f"c{end}.png")) for end in ("", "-1", "-2")] == [5, 5, 5]
    assert open_frames(tmp_path / "c.png")[0].size == (2 * 32 + 4, 16)
    run("sample", "a red heart", "-o", tmp_path / "d.png", *options[:-1], 1)
    assert len(open_frames(tmp_path / "d.png")) == 1 and not (tmp_path / "d-frames.png").exists()

    wan = loaded("wan")
    job = open_job(Recipe("", image=str(out), denoise=0.5, steps=2, sampler="euler", scheduler="simple"), wan)
    sigma = float(job.run.grid.sigmas[0])
    noise = torch.randn(job.start.x.shape, generator=torch.Generator().manual_seed(0))
    source = wan.encode(torch.stack([to_tensor(frame) for frame in frames], dim=2))
    assert_close(job.start.x, (1 - sigma) * source + sigma * noise, atol=1e-5, rtol=0)
    assert job.preview(job.run.step(job.start))[0].size == (4, 2)
    with pytest.raises(ValueError, match="frames must be at most those of .*a.png, which has 5; got 9"):
        open_job(Recipe("", image=str(out), frames=9), wan)
