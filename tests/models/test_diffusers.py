"""Models loaded from directories that diffusers wrote, against diffusers' own pipelines."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from sigmafield.core.conditioning import Cond
from sigmafield.core.process import Span
from sigmafield.core.protocols import Ctx
from sigmafield.models.bundle import Pipeline
from sigmafield.models.load import load
from sigmafield.models.tiny import load_tiny

pytest.importorskip("diffusers")
CPU = torch.device("cpu")
PROMPTS = ["a red heart", ""]
SIZE = (16, 24)


@pytest.fixture(params=["sd1", "sd2", "sdxl"])
def both(request: pytest.FixtureRequest, loaded: Callable[[str], Pipeline]) -> tuple[Pipeline, Any]:
    """A model as loaded here, and diffusers' pipeline of it."""
    return loaded(request.param), request.getfixturevalue(request.param)[1]


def theirs(pipe: Any, x: torch.Tensor, t: torch.Tensor, cond: Cond) -> torch.Tensor:
    """The network called as diffusers' pipelines call it."""
    return pipe.unet(x, t, encoder_hidden_states=cond.embeds, added_cond_kwargs=cond.extra).sample


def test_network(both: tuple[Pipeline, Any]) -> None:
    ours, pipe = both
    cond = ours.text.encode(PROMPTS, SIZE)
    x, t = torch.randn(2, 4, 8, 12), torch.tensor([999.0, 3.0])
    assert torch.equal(ours.model.network(x, t, cond), theirs(pipe, x, t, cond))


def test_denoised_is_what_their_scheduler_computes(both: tuple[Pipeline, Any]) -> None:
    ours, pipe = both
    cond = ours.text.encode(PROMPTS[:1], SIZE)
    pipe.scheduler.set_timesteps(4)
    for i, t in enumerate(pipe.scheduler.timesteps[1:], 1):  # the first level depends on zsnr's cap
        sigma = pipe.scheduler.sigmas[i]
        span = Span(sigma.double(), sigma.double(), ours.model.sampling.process)
        x = torch.randn(1, 4, 8, 12) * sigma
        F = theirs(pipe, pipe.scheduler.scale_model_input(x, t), t, cond)
        want = pipe.scheduler.step(F, t, x).pred_original_sample
        got = ours.model(x, span.sigma, [cond], Ctx(span, {}))[0]
        assert_close(got, want, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("both", ["sd1", "sd2"], indirect=True)
def test_text(both: tuple[Pipeline, Any]) -> None:
    ours, pipe = both
    want = pipe.encode_prompt(PROMPTS, CPU, 1, False)[0]
    cond = ours.text.encode(PROMPTS, SIZE)
    assert torch.equal(cond.embeds, want) and not cond.extra


def test_previews_are_of_the_latents_own_colours(loaded: Callable[[str], Pipeline]) -> None:
    pipe = loaded("sd1")
    assert pipe.preview is not None
    images = pipe.preview(torch.randn(2, 4, 8, 8))
    assert images.shape == (2, 3, 8, 8) and 0 <= images.min() <= images.max() <= 1


@pytest.mark.parametrize("both", ["sdxl"], indirect=True)
def test_text_of_xl(both: tuple[Pipeline, Any]) -> None:
    ours, pipe = both
    embeds, negative, pooled, negative_pooled = pipe.encode_prompt(["a red heart"], device=CPU, negative_prompt=[""])
    cond = ours.text.encode(PROMPTS, SIZE)
    assert_close(cond.embeds, torch.cat([embeds, negative]))
    assert_close(cond.extra["text_embeds"], torch.cat([pooled, negative_pooled]))
    sizes = pipe._get_add_time_ids(SIZE, (0, 0), SIZE, torch.float32, pipe.text_encoder_2.config.projection_dim)
    assert torch.equal(cond.extra["time_ids"], sizes.repeat(2, 1))


def test_images(both: tuple[Pipeline, Any]) -> None:
    ours, pipe = both
    c = pipe.vae.config
    images = torch.rand(2, 3, 16, 24)
    z = (pipe.vae.encode(images * 2 - 1).latent_dist.mean - (c.shift_factor or 0)) * c.scaling_factor
    assert_close(ours.encode(images), z)
    want = pipe.vae.decode(z / c.scaling_factor + (c.shift_factor or 0)).sample
    assert_close(ours.decode(z), (want / 2 + 0.5).clamp(0, 1))
    assert ours.model.size == (16, 16) and ours.model.latent.factor == 2 and ours.model.latent.channels == 4


def test_tiny_and_diffusers_agree(sd1: tuple[Path, Any], loaded: Callable[[str], Pipeline]) -> None:
    a, b = load_tiny(sd1[0], CPU, torch.float32), loaded("sd1")
    cond = a.text.encode(PROMPTS, SIZE)
    assert_close(cond.embeds, b.text.encode(PROMPTS, SIZE).embeds, atol=1e-5, rtol=0)
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([500.0, 7.0])
    assert_close(a.model.network(x, t, cond), b.model.network(x, t, cond), atol=1e-5, rtol=0)
    assert (a.model.name, a.model.size, a.model.latent) == (b.model.name, b.model.size, b.model.latent)


HALVES = [("float16", "sd1"), ("bfloat16", "sdxl")]
"""One with a VAE that stays in float32, and one whose VAE does not."""


@pytest.mark.parametrize(
    "dtype, both",
    HALVES
    + [
        pytest.param(dtype, model, marks=pytest.mark.slow)
        for dtype in ("float16", "bfloat16")
        for model in ("sd1", "sd2", "sdxl")
        if (dtype, model) not in HALVES
    ],
    indirect=["both"],
)
def test_half_precision(dtype: str, both: tuple[Pipeline, Any], request: pytest.FixtureRequest) -> None:
    full, pipe = both
    half = load(request.getfixturevalue(request.node.callspec.params["both"])[0], dtype=dtype)
    cond = full.text.encode(PROMPTS, SIZE)
    assert_close(half.text.encode(PROMPTS, SIZE).embeds, cond.embeds, atol=0.2, rtol=0)
    x, t = torch.randn(2, 4, 8, 12), torch.tensor([500.0, 7.0])
    assert_close(half.model.network(x, t, cond), full.model.network(x, t, cond), atol=0.2, rtol=0)
    images = torch.rand(1, 3, 16, 16)
    assert torch.equal(half.encode(images), full.encode(images)) == pipe.vae.config.force_upcast
    assert half.decode(half.encode(images)).dtype == torch.float32


def test_loading_draws_nothing(sd1: tuple[Path, Any]) -> None:
    before = torch.get_rng_state()
    load(sd1[0])
    assert torch.equal(before, torch.get_rng_state())


def test_half_precision_files_are_found(sd1: tuple[Path, Any], tmp_path: Path) -> None:
    shutil.copytree(sd1[0], tmp_path / "m")
    for name in ("unet", "vae"):
        file = tmp_path / "m" / name / "diffusion_pytorch_model.safetensors"
        file.rename(file.with_suffix(".fp16.safetensors"))
    assert load(tmp_path / "m").model.size == (16, 16)


def test_shards_are_found_and_missing_ones_named(sd1: tuple[Path, Any], tmp_path: Path) -> None:
    folder, pipe = sd1
    shutil.copytree(folder, tmp_path / "m")
    (tmp_path / "m" / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    pipe.unet.save_pretrained(tmp_path / "m" / "unet", max_shard_size="100KB")
    shards = sorted((tmp_path / "m" / "unet").glob("*.safetensors"))
    assert len(shards) > 1 and load(tmp_path / "m").model.size == (16, 16)
    shards[0].unlink()
    with pytest.raises(FileNotFoundError, match=f"unet: {shards[0].name} is missing; it has config.json"):
        load(tmp_path / "m")


def change(file: Path, **changes: Any) -> None:
    """A JSON file with some keys changed, and those that are None removed."""
    values = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


def test_latents_with_a_scale_for_each_channel(sd1: tuple[Path, Any], tmp_path: Path) -> None:
    """diffusers decodes z · std/scaling_factor + mean (Stable Diffusion XL's pipeline)."""
    shutil.copytree(sd1[0], tmp_path / "m")
    mean, std = [0.1, -0.2, 0.3, 1.0], [1.0, 2.0, 0.5, 3.0]
    change(tmp_path / "m" / "vae" / "config.json", latents_mean=mean, latents_std=std, scaling_factor=0.5)
    ours, z = load(tmp_path / "m"), torch.randn(1, 4, 8, 8)
    mine, vae = z * torch.tensor(std).reshape(-1, 1, 1) / 0.5 + torch.tensor(mean).reshape(-1, 1, 1), sd1[1].vae
    assert_close(ours.decode(z), (vae.decode(mine).sample / 2 + 0.5).clamp(0, 1))


CONFIGS = {
    "prediction": ("scheduler/scheduler_config", {"prediction_type": "epsilom"}, "'epsilom'; did you mean epsilon"),
    "schedule": ("scheduler/scheduler_config", {"beta_schedule": "cosine"}, "unknown beta_schedule 'cosine'; known"),
    "no betas": ("scheduler/scheduler_config", {"beta_start": None}, "EulerDiscreteScheduler has no beta_start"),
    "channels": ("unet/config", {"in_channels": 7}, "unet: config: in_channels = 7 is not supported; supported: 4, 5"),
    "classes": ("unet/config", {"class_embed_type": "timestep"}, "class_embed_type = 'timestep' is not supported"),
    "shape": ("unet/config", {"cross_attention_dim": 16}, "unet: .* shape"),
    "layers": ("text_encoder/config", {"num_hidden_layers": 4}, "text_encoder: 16 weights are missing, the first is "),
    "network": ("model_index", {"unet": ["diffusers", "UNet3DConditionModel"]}, "unet is UNet3DConditionModel; supp"),
    "transformer": (
        "model_index",
        {"unet": None, "transformer": ["diffusers", "DiTTransformer2DModel"]},
        "transformer is DiTTransformer2DModel; supported: UNet2DConditionModel, SD3",
    ),
    "vae": ("model_index", {"vae": ["diffusers", "AutoencoderTiny"]}, "vae is AutoencoderTiny; supported: Autoenc"),
    "encoder": ("model_index", {"text_encoder": [None, None]}, "text_encoder is missing; supported: CLIPTextModel"),
}


@pytest.mark.parametrize("name, changes, message", CONFIGS.values(), ids=CONFIGS)
def test_refusals(name: str, changes: dict[str, Any], message: str, sd1: tuple[Path, Any], tmp_path: Path) -> None:
    shutil.copytree(sd1[0], tmp_path / "m")
    change(tmp_path / "m" / f"{name}.json", **changes)
    with pytest.raises(ValueError, match=message) as caught:
        load(tmp_path / "m")
    assert "\n" not in str(caught.value)


MISSING = {
    "unet/diffusion_pytorch_model.safetensors": "weights are missing, expected diffusion_pytorch_model.safetensors or",
    "text_encoder/model.safetensors": "weights are missing, expected .* or a .gguf file; it has config.json",
    "text_encoder/config.json": "text_encoder: config.json is missing; it has model.safetensors",
    "scheduler/scheduler_config.json": "scheduler: scheduler_config.json is missing; it is empty",
    "tokenizer/merges.txt": "tokenizer: merges.txt is missing; it has ",
    "vae": "m: sub-folder vae is missing; it has model_index.json, scheduler/",
    "scheduler": "m: sub-folder scheduler is missing",
}


@pytest.mark.parametrize("name, message", MISSING.items(), ids=MISSING)
def test_missing(name: str, message: str, sd1: tuple[Path, Any], tmp_path: Path, small: ModuleType) -> None:
    shutil.copytree(sd1[0], tmp_path / "m")
    (tmp_path / "m" / "tokenizer" / "tokenizer.json").unlink(missing_ok=True)
    gone = tmp_path / "m" / name
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    with pytest.raises(FileNotFoundError, match=message) as caught:
        load(tmp_path / "m")
    assert "\n" not in str(caught.value)


def test_pickles_are_not_opened(sd1: tuple[Path, Any], tmp_path: Path) -> None:
    shutil.copytree(sd1[0], tmp_path / "m")
    file = tmp_path / "m" / "vae" / "diffusion_pytorch_model.safetensors"
    file.rename(file.with_suffix(".bin"))
    with pytest.raises(ValueError, match="diffusion_pytorch_model.bin is a pickle and is not opened; convert it"):
        load(tmp_path / "m")


@pytest.mark.parametrize("loader", ["tiny", "diffusers"])
def test_files_that_are_broken_are_named(loader: str, sd1: tuple[Path, Any], tmp_path: Path) -> None:
    shutil.copytree(sd1[0], tmp_path / "m")
    file = tmp_path / "m" / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(ValueError, match=f"{file} is not a safetensors file .*; was it downloaded in full") as caught:
        load_tiny(tmp_path / "m", CPU, torch.float32) if loader == "tiny" else load(tmp_path / "m")
    assert "\n" not in str(caught.value)


def test_hub_id_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers import DiffusionPipeline

    def offline(name: str, **options: Any) -> str:
        try:
            raise OSError("[Errno -2] Name or service not known\nmore")
        except OSError as error:
            raise RuntimeError("long story") from error

    monkeypatch.setattr(DiffusionPipeline, "download", offline)
    message = (
        r"model 'org/name': no such directory, and not available from the hub "
        r"\(\[Errno -2\] Name or service not known\); "
        r"to get the files by hand: hf download org/name --local-dir name, then load './name'"
    )
    with pytest.raises(ConnectionError, match=message) as caught:
        load("org/name")
    assert "\n" not in str(caught.value)


def test_hub_id(monkeypatch: pytest.MonkeyPatch, sd1: tuple[Path, Any]) -> None:
    from diffusers import DiffusionPipeline

    monkeypatch.setattr(DiffusionPipeline, "download", lambda name, **options: str(sd1[0]))
    assert load("org/name").model.name == "org/name"
