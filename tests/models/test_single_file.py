"""Single files in the layouts that models were published in, against the modules whose weights they hold."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import original_models
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.testing import assert_close

from command_line import run
from resident import give_back
from sigmafield import generate
from sigmafield.models.load import load
from sigmafield.models.load_parts import load_network
from sigmafield.models.scheduler_config import sampling_of
from sigmafield.parameterization.prediction import PREDICTIONS

pytest.importorskip("diffusers")
from sigmafield.models.diffusers.flux import packed
from sigmafield.models.diffusers.transformer import plain
from sigmafield.models.diffusers.unet import forward
from sigmafield.models.single_file.checkpoint import open_single_file

WHOLE = ["flux", "sd1"]  # the tests that follow are of these
SD2 = pytest.param("sd2", marks=pytest.mark.slow)  # sd1's network, and the text encoder that is sdxl's second
FAMILIES = ["sdxl", "sd3", SD2, *WHOLE]
REFINER = pytest.param("sdxl_refiner", marks=pytest.mark.slow)  # its parts are SDXL's; test_layouts.py has its names
PROMPTS = ["a photo of a cat", ""]
SIZE = (64, 64)
LDM = original_models.names.LDM
Parts = tuple[dict[str, Any], dict[str, Tensor]]


@pytest.fixture(scope="module", params=[REFINER, *FAMILIES])
def family(request: pytest.FixtureRequest, parts_of: Any, directory: Any, loaded: Any) -> Iterator[str]:
    """Tests of the same family follow each other, because few models are held at a time."""
    if request.param in WHOLE:
        directory(request.param)  # while its parts are held
    yield request.param
    parts_of.cache_clear()
    if request.param not in WHOLE:
        loaded.cache_clear()
    give_back()


@pytest.fixture(scope="module")
def parts_of() -> Callable[[str], Parts]:
    """family → the parts and the weights of a small model, the same ones each time; those of the last are kept."""

    @lru_cache(1)
    def draw(family: str) -> Parts:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return getattr(original_models, family)()

    return draw


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, parts_of: Callable[[str], Parts]) -> Any:
    """family → the file of a small model."""

    @cache
    def make(family: str) -> Path:
        path = tmp_path_factory.mktemp(family) / "model.safetensors"
        save_file({k: v.contiguous() for k, v in parts_of(family)[1].items()}, path)
        return path

    return make


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory, parts_of: Callable[[str], Parts]) -> Any:
    """family → a directory in diffusers' layout, of the same model."""

    @cache
    def make(family: str) -> Path:
        return original_models.save_directory(tmp_path_factory.mktemp(family) / "parts", parts_of(family)[0], family)

    return make


@pytest.fixture(scope="module")
def loaded(made: Any) -> Any:
    """family → the pipeline of the file."""
    return lru_cache(2)(lambda family: load(made(family)))


@pytest.fixture(scope="module")
def embeds(loaded: Any) -> Any:
    """family → what the file's text encoders say."""
    return cache(lambda family: loaded(family).text.encode(PROMPTS, SIZE).embeds)


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


close = partial(assert_close, atol=1e-4, rtol=1e-4)  # how weights lie in memory shows in the last bits


def test_weights_are_those_of_the_modules(family: str, parts_of: Any, loaded: Any) -> None:
    modules, (parts, _) = loaded(family).modules, parts_of(family)
    assert modules.keys() == parts.keys()
    for part, module in modules.items():
        want = parts[part].state_dict()
        assert module.state_dict().keys() == want.keys(), part
        assert all(torch.equal(value, want[name]) for name, value in module.state_dict().items()), part
        assert not module.training and not any(p.requires_grad for p in module.parameters())


def test_answers_are_those_of_the_modules(family: str, parts_of: Any, loaded: Any, embeds: Any) -> None:
    ours, (parts, _) = loaded(family), parts_of(family)
    cond, text = ours.text.encode(PROMPTS, SIZE), replace(ours.text, modules={k: parts[k] for k in ours.text.modules})
    other = text.encode(PROMPTS, SIZE)
    close(embeds(family), other.embeds)
    close(dict(cond.extra), dict(other.extra))
    called = {"sd3": plain, "flux": packed}.get(family, forward)
    x, t = noise(2, ours.model.latent.channels, 8, 8), torch.tensor([0.9, 0.3])
    assert torch.equal(ours.model.network(x, t, cond), called(parts.get("unet") or parts["transformer"], x, t, cond))
    vae, images = parts["vae"], noise(1, 3, 64, 64).sigmoid()
    scale, shift = vae.config.scaling_factor, vae.config.shift_factor or 0.0
    assert torch.equal(ours.decode(x), (vae.decode(ours.model.latent.to_vae(x)).sample / 2 + 0.5).clamp(0, 1))
    close(ours.model.latent.to_vae(x), x / scale + shift)
    close(ours.encode(images), (vae.encode(images * 2 - 1).latent_dist.mean - shift) * scale)


BOTH = [*WHOLE, REFINER, SD2, *(pytest.param(family, marks=pytest.mark.slow) for family in ("sdxl", "sd3"))]
"""Directories are of the same modules: one with noise predicted and one flow, each with its text encoders."""


@pytest.mark.parametrize("family", BOTH)
def test_the_file_answers_as_the_directory(family: str, loaded: Any, directory: Any, tmp_path: Path) -> None:
    ours, theirs = loaded(family), load(directory(family))
    cond, other = (pipe.text.encode(PROMPTS, SIZE) for pipe in (ours, theirs))
    close(cond.embeds, other.embeds)
    close(dict(cond.extra), dict(other.extra))
    x, t = noise(2, ours.model.latent.channels, 8, 8), torch.tensor([0.9, 0.3])
    close(ours.model.network(x, t, cond), theirs.model.network(x, t, cond))
    assert (ours.model.latent, ours.model.name) == (theirs.model.latent, "model")
    assert torch.equal(ours.model.sampling.levels.sigmas, theirs.model.sampling.levels.sigmas)
    half = Image.fromarray(torch.arange(64).div(32, rounding_mode="floor").mul(255).byte().expand(64, 64).numpy())
    half.save(tmp_path / "half.png")
    image = {"image": str(tmp_path / "half.png"), "denoise": 0.6}
    masked = image | {"mask": str(tmp_path / "half.png")}
    settings = {"steps": 2, "width": 64, "height": 64, "sampler": "euler", "schedule": "simple"}
    a, b, c = (generate(ours, PROMPTS[0], **settings, **more)[0] for more in ({}, image, masked))
    assert len({each.tobytes() for each in (a, b, c)}) == 3
    d = generate(theirs, PROMPTS[0], **settings, **masked)[0]
    assert np.abs(np.asarray(c).astype(int) - np.asarray(d)).max() <= 1


def rewritten(model: Path, path: Path, change: Callable[[dict[str, Tensor]], Any], only: str = "") -> Path:
    """The file of a model with other weights; only: beginning of the names of those that are kept."""
    with safe_open(model, "pt") as file:
        weights = {name: file.get_tensor(name) for name in file.keys() if name.startswith(only)}  # noqa: SIM118
    change(weights)
    save_file({name: value.contiguous() for name, value in weights.items()}, path)
    return path


def test_inpainting_networks_have_their_channels(made: Any, loaded: Any, tmp_path: Path) -> None:
    """Five channels more that weigh nothing: a concat is asked for, and the answer is the plain network's."""
    name = "model.diffusion_model.input_blocks.0.0.weight"

    def widened(weights: dict[str, Tensor]) -> None:
        weights[name] = torch.nn.functional.pad(weights[name], (0, 0, 0, 0, 0, 5))

    plain, wide = loaded("sd1"), load_network(rewritten(made("sd1"), tmp_path / "wide.safetensors", widened, LDM))
    assert (plain.model.concat, wide.concat) == (0, 5)
    cond, x, t = plain.text.encode(PROMPTS, SIZE), noise(2, 4, 8, 8), torch.tensor([0.9, 0.3])
    told = replace(cond, concat=noise(2, 5, 8, 8))
    close(wide.network(x, t, told), plain.model.network(x, t, cond))


def without(beginning: str) -> Callable[[dict[str, Tensor]], Any]:
    """A change that leaves weights out."""
    return lambda weights: [weights.pop(name) for name in list(weights) if name.startswith(beginning)]


NO_LEVELS = torch.zeros(0)
SPREAD = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"
SIGNS = {
    "sdxl": ("sdxl", {}, "eps", False),
    "v": ("sdxl", {"v_pred": NO_LEVELS}, "v", False),
    "v and zsnr": ("sdxl", {"v_pred": NO_LEVELS, "ztsnr": NO_LEVELS}, "v", True),
    "zsnr alone": ("sdxl", {"ztsnr": NO_LEVELS}, "eps", False),
    "sd2 base": ("sd2", {SPREAD: torch.tensor([0.08, -0.08] * 32)}, "eps", False),
    "sd2 v": ("sd2", {SPREAD: torch.tensor([1.1, 0.9] * 32)}, "v", False),
}


@pytest.mark.parametrize("family, signs, prediction, zsnr", SIGNS.values(), ids=SIGNS)
def test_prediction(
    family: str, signs: dict[str, Tensor], prediction: str, zsnr: bool, made: Any, tmp_path: Path
) -> None:
    path = rewritten(made(family), tmp_path / "m.safetensors", lambda weights: weights.update(signs), LDM)
    sampling = sampling_of(open_single_file(path, None, tmp_path, alone=True).scheduler())
    assert sampling.prediction is PREDICTIONS[prediction]
    assert (sampling.levels.sigma_max > 1000) == zsnr


def test_names_without_the_wrapping_of_the_text_model(made: Any, embeds: Any, tmp_path: Path) -> None:
    def unwrap(weights: dict[str, Tensor]) -> None:
        for name in [name for name in weights if name.startswith("cond_stage")]:
            weights[name.replace("text_model.", "")] = weights.pop(name)

    pipe = load(rewritten(made("sd1"), tmp_path / "m.safetensors", unwrap))
    assert torch.equal(pipe.text.encode(PROMPTS, SIZE).embeds, embeds("sd1"))


BITS = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float8": torch.float8_e4m3fn}


@pytest.mark.parametrize("bits", ["float16", pytest.param("bfloat16", marks=pytest.mark.slow), "float8"])
def test_weights_of_few_bits_are_cast(bits: str, made: Any, loaded: Any, tmp_path: Path) -> None:
    def cast(weights: dict[str, Tensor]) -> None:
        weights.update({name: value.to(BITS[bits]) for name, value in weights.items() if value.is_floating_point()})

    path = rewritten(made("sd1"), tmp_path / "m.safetensors", cast, LDM)
    want = loaded("sd1").modules["unet"].state_dict()
    for name, value in load_network(path).module.state_dict().items():
        assert value.dtype == torch.float32 and torch.equal(value, want[name].to(BITS[bits]).float())


def test_dtypes(made: Any) -> None:
    half = load(made("sd1"), dtype="bfloat16")
    assert half.modules["unet"].dtype == torch.bfloat16 and half.modules["vae"].dtype == torch.float32
    long = load(made("flux"), dtype="float16").modules["text_encoder_2"]
    block = long.encoder.block[0].layer
    assert block[1].DenseReluDense.wo.weight.dtype == torch.float32  # which overflows float16
    assert block[0].SelfAttention.q.weight.dtype == torch.float16


@pytest.mark.parametrize("family, beginning", [("sd1", "first_stage"), ("flux", "text_enc")])
def test_parts_come_from_a_directory(
    family: str, beginning: str, made: Any, directory: Any, loaded: Any, embeds: Any, tmp_path: Path
) -> None:
    bare = rewritten(made(family), tmp_path / "bare.safetensors", without(beginning))
    for given, message in ((None, "pass parts=DIRECTORY, one in"), (directory("sd1"), "nor has")):
        if given and beginning == "first_stage":
            continue  # that directory has one
        with pytest.raises(ValueError, match=f"is a {family} network without .*; {message}") as caught:
            load(bare, parts=given)
        assert "\n" not in str(caught.value)
    shutil.copytree(
        directory(family), tmp_path / "parts", ignore=shutil.ignore_patterns("unet", "transformer", "scheduler")
    )
    ours, whole = load(bare, parts=tmp_path / "parts"), loaded(family)
    close(ours.text.encode(PROMPTS, SIZE).embeds, embeds(family))
    z = noise(1, ours.model.latent.channels, 8, 8)
    close(ours.decode(z), whole.decode(z))


def test_sd3_without_t5(made: Any, embeds: Any, tmp_path: Path) -> None:
    pipe = load(rewritten(made("sd3"), tmp_path / "m.safetensors", without("text_encoders.t5xxl")))
    assert "text_encoder_3" not in pipe.modules
    short, long = pipe.text.encode(PROMPTS, SIZE).embeds, embeds("sd3")
    assert short.shape[1] == 77 and torch.equal(short, long[:, :77])  # CLIP's tokens alone


BROKEN = {
    "missing": (without(f"{LDM}middle_block.0.in_layers.0.bias"), "unet: .* missing"),
    "width": (without(f"{LDM}out.2.weight"), "unet: weight model.diffusion_model.out.2.weight is missing"),
    "unknown": (
        lambda w: w.update({f"{LDM}temporal.0.weight": torch.ones(1)}),
        "unet: 1 weights are unknown, the first is temporal.0.weight",
    ),
    "shape": (
        lambda w: w.update({f"{LDM}time_embed.0.bias": torch.ones(7)}),
        "unet: 1 weights are of another shape, the first is time_embedding.linear_1.bias",
    ),
    "text": (
        without("cond_stage_model.transformer.text_model.encoder.layers.3.mlp.fc2"),
        "text_encoder: 2 weights are missing, the first is .*encoder.layers.3.mlp.fc2.bias",
    ),
    "channels": (
        lambda w: w.update({f"{LDM}input_blocks.0.0.weight": torch.ones(32, 7, 3, 3)}),
        "unet: config: in_channels = 7 is not supported",
    ),
    "upscaler": (
        lambda w: w.update({f"{LDM}label_emb.weight": torch.ones(1000, 128)}),
        "num_class_embeds = 1000 is not supported",
    ),
}


@pytest.mark.parametrize("change, message", BROKEN.values(), ids=BROKEN)
def test_files_that_do_not_fit(change: Any, message: str, made: Any, tmp_path: Path) -> None:
    read, only = (load, "") if message.startswith("text_encoder") else (load_network, LDM)
    path = rewritten(made("sd1"), tmp_path / "m.safetensors", change, only)
    with pytest.raises(ValueError, match=f"{path}.*{message}") as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_files_that_are_broken(made: Any, tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_bytes(made("sd1").read_bytes()[:100])
    with pytest.raises(ValueError, match="is not a safetensors file .*; was it downloaded in full"):
        load(tmp_path / "m.safetensors")
    save_file({"a.lora_A.weight": torch.ones(1)}, tmp_path / "lora.safetensors")
    with pytest.raises(ValueError, match="lora.safetensors: no diffusion network found; looks like a LoRA"):
        load(tmp_path / "lora.safetensors")


def test_parts_go_with_files_alone(directory: Any) -> None:
    for model in (directory("sd1"), "tiny"):
        with pytest.raises(ValueError, match="parts belongs to a single file"):
            load(model, parts=directory("sd1"))


def test_command_line_with_a_file_and_parts(made: Any, directory: Any, tmp_path: Path) -> None:
    bare = rewritten(made("sd1"), tmp_path / "bare.safetensors", without("first_stage"))
    options = ["--model", str(bare), "--parts", str(directory("sd1")), "--steps", "1", "--size", "64x64"]
    image = str(tmp_path / "x.png")
    for arguments in (["sample", "a cat", "-o", image, *options], ["replay", image]):
        result = run(*arguments, "--device", "cpu")
        assert result.exit_code == 0, result.output
    assert "every pixel is the same" in result.output


def test_schnell_as_published(directory: Any, loaded: Any, tmp_path: Path) -> None:
    """The network alone, without a prefix of its names and without guidance, has levels without a shift."""
    own = original_models.names.flux(original_models.flux_network(guided=False), "")
    save_file({name: value.contiguous() for name, value in own.items()}, tmp_path / "schnell.safetensors")
    schnell, dev = load(tmp_path / "schnell.safetensors", parts=directory("flux")), loaded("flux")
    assert not schnell.model.module.config.guidance_embeds
    assert (schnell.model.shift_at is None) and dev.model.shift_at is not None
    half = torch.tensor(0.5, dtype=torch.float64)
    one, other = (float(pipe.model.sampling.levels.sigma(half)) for pipe in (schnell, dev))
    assert one == pytest.approx(0.5) and other > 0.7
