"""Single files in the layouts that models were published in, against the modules whose weights they hold."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import original_models
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.testing import assert_close

from command_line import run
from sigmafield import generate
from sigmafield.models.bundle import Pipeline
from sigmafield.models.load import load
from sigmafield.models.load_parts import load_network
from sigmafield.models.scheduler_config import sampling_of
from sigmafield.parameterization.prediction import PREDICTIONS

pytest.importorskip("diffusers")
from sigmafield.models.diffusers.flux import packed
from sigmafield.models.diffusers.transformer import plain
from sigmafield.models.diffusers.unet import forward
from sigmafield.models.single_file.checkpoint import open_single_file

FAMILIES = ["sdxl", "sd3", "sd2", "flux", "sd1"]  # the last two have most of the tests that follow
REFINER = pytest.param("sdxl_refiner", marks=pytest.mark.slow)  # its parts are SDXL's; test_layouts.py has its names
PROMPTS = ["a photo of a cat", ""]
SIZE = (64, 64)
Parts = tuple[dict[str, Any], dict[str, Tensor]]


@pytest.fixture(scope="module", params=[REFINER, *FAMILIES])
def family(request: pytest.FixtureRequest) -> str:
    """Tests of the same family follow each other, because few models are held at a time."""
    return request.param


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
    """family → the file of a small model, and a directory in diffusers' layout."""

    @cache
    def make(family: str) -> tuple[Path, Path]:
        folder = tmp_path_factory.mktemp(family)
        parts, weights = parts_of(family)
        save_file({k: v.contiguous() for k, v in weights.items()}, folder / "model.safetensors")
        directory = original_models.save_directory(folder / "parts", parts, family)
        return folder / "model.safetensors", directory

    return make


@pytest.fixture(scope="module")
def loaded(made: Any) -> Any:
    """family → pipelines of the file and of the directory."""

    @lru_cache(2)
    def pipelines(family: str) -> tuple[Pipeline, Pipeline]:
        path, directory = made(family)
        return load(path), load(directory)

    return pipelines


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def test_weights_are_those_of_the_modules(family: str, parts_of: Any, loaded: Any) -> None:
    modules, (parts, _) = loaded(family)[0].modules, parts_of(family)
    assert modules.keys() == parts.keys()
    for part, module in modules.items():
        want = parts[part].state_dict()
        assert module.state_dict().keys() == want.keys(), part
        assert all(torch.equal(value, want[name]) for name, value in module.state_dict().items()), part
        assert not module.training and not any(p.requires_grad for p in module.parameters())


def test_the_file_answers_as_the_directory(family: str, loaded: Any) -> None:
    ours, theirs = loaded(family)
    cond, other = (pipe.text.encode(PROMPTS, SIZE) for pipe in (ours, theirs))
    close = partial(assert_close, atol=1e-4, rtol=1e-4)  # how weights lie in memory shows in the last bits
    close(cond.embeds, other.embeds)
    close(dict(cond.extra), dict(other.extra))
    x, t = noise(2, ours.model.latent.channels, 8, 8), torch.tensor([0.9, 0.3])
    close(ours.model.network(x, t, cond), theirs.model.network(x, t, cond))
    images = noise(1, 3, 64, 64).sigmoid()
    close(ours.encode(images), theirs.encode(images))
    close(ours.decode(x), theirs.decode(x))
    assert (ours.model.latent, ours.model.name) == (theirs.model.latent, "model")
    assert torch.equal(ours.model.sampling.levels.sigmas, theirs.model.sampling.levels.sigmas)


def test_network_is_the_module_bit_for_bit(family: str, parts_of: Any, loaded: Any) -> None:
    ours, (parts, _) = loaded(family)[0], parts_of(family)
    called = {"sd3": plain, "flux": packed}.get(family, forward)
    cond = ours.text.encode(PROMPTS, SIZE)
    x, t = noise(2, ours.model.latent.channels, 8, 8), torch.tensor([0.9, 0.3])
    want = called(parts.get("unet") or parts["transformer"], x, t, cond)
    assert torch.equal(ours.model.network(x, t, cond), want)
    assert torch.equal(ours.decode(x), (parts["vae"].decode(ours.model.latent.to_vae(x)).sample / 2 + 0.5).clamp(0, 1))


@pytest.mark.parametrize(  # one variance-exploding family and one flow: all families' answers are compared above
    "family", [REFINER, *(pytest.param(f, marks=() if f in ("sd1", "flux") else pytest.mark.slow) for f in FAMILIES)]
)
def test_images_from_words_images_and_masks(family: str, loaded: Any, tmp_path: Path) -> None:
    half = Image.fromarray(torch.arange(64).div(32, rounding_mode="floor").mul(255).byte().expand(64, 64).numpy())
    half.save(tmp_path / "half.png")
    image = {"image": str(tmp_path / "half.png"), "denoise": 0.6}
    settings = {"steps": 2, "width": 64, "height": 64, "sampler": "euler", "schedule": "simple"}
    seen = set()
    for more in ({}, image, image | {"mask": str(tmp_path / "half.png")}):
        ours, theirs = (generate(pipe, PROMPTS[0], **settings, **more)[0] for pipe in loaded(family))
        assert np.abs(np.asarray(ours).astype(int) - np.asarray(theirs)).max() <= 1
        seen.add(ours.tobytes())
    assert len(seen) == 3


def rewritten(made: tuple[Path, Path], path: Path, change: Callable[[dict[str, Tensor]], Any]) -> Path:
    """The file of a model with other weights."""
    weights = load_file(made[0])
    change(weights)
    save_file({name: value.contiguous() for name, value in weights.items()}, path)
    return path


def test_inpainting_networks_have_their_channels(made: Any, loaded: Any, tmp_path: Path) -> None:
    """Five channels more that weigh nothing: a concat is asked for, and the answer is the plain network's."""
    name = "model.diffusion_model.input_blocks.0.0.weight"

    def widened(weights: dict[str, Tensor]) -> None:
        weights[name] = torch.nn.functional.pad(weights[name], (0, 0, 0, 0, 0, 5))

    plain, wide = loaded("sd1")[0], load_network(rewritten(made("sd1"), tmp_path / "wide.safetensors", widened))
    assert (plain.model.concat, wide.concat) == (0, 5)
    cond, x, t = plain.text.encode(PROMPTS, SIZE), noise(2, 4, 8, 8), torch.tensor([0.9, 0.3])
    told = replace(cond, concat=noise(2, 5, 8, 8))
    assert_close(wide.network(x, t, told), plain.model.network(x, t, cond), atol=1e-4, rtol=1e-4)


def without(beginning: str) -> Callable[[dict[str, Tensor]], Any]:
    """A change that leaves weights out."""
    return lambda weights: [weights.pop(name) for name in list(weights) if name.startswith(beginning)]


LDM = "model.diffusion_model."
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
    path = rewritten(made(family), tmp_path / "m.safetensors", lambda weights: weights.update(signs))
    sampling = sampling_of(open_single_file(path, None, tmp_path).scheduler())
    assert sampling.prediction is PREDICTIONS[prediction]
    assert (sampling.levels.sigma_max > 1000) == zsnr


def test_names_without_the_wrapping_of_the_text_model(made: Any, loaded: Any, tmp_path: Path) -> None:
    def unwrap(weights: dict[str, Tensor]) -> None:
        for name in [name for name in weights if name.startswith("cond_stage")]:
            weights[name.replace("text_model.", "")] = weights.pop(name)

    pipe = load(rewritten(made("sd1"), tmp_path / "m.safetensors", unwrap))
    assert torch.equal(pipe.text.encode(PROMPTS, SIZE).embeds, loaded("sd1")[0].text.encode(PROMPTS, SIZE).embeds)


BITS = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float8": torch.float8_e4m3fn}


@pytest.mark.parametrize("bits", BITS)
def test_weights_of_few_bits_are_cast(bits: str, made: Any, loaded: Any, tmp_path: Path) -> None:
    def cast(weights: dict[str, Tensor]) -> None:
        weights.update({name: value.to(BITS[bits]) for name, value in weights.items() if value.is_floating_point()})

    path = rewritten(made("sd1"), tmp_path / "m.safetensors", cast)
    want = loaded("sd1")[0].modules["unet"].state_dict()
    for name, value in load_network(path).module.state_dict().items():
        assert value.dtype == torch.float32 and torch.equal(value, want[name].to(BITS[bits]).float())


def test_dtypes(made: Any) -> None:
    half = load(made("sd1")[0], dtype="bfloat16")
    assert half.modules["unet"].dtype == torch.bfloat16 and half.modules["vae"].dtype == torch.float32
    long = load(made("flux")[0], dtype="float16").modules["text_encoder_2"]
    block = long.encoder.block[0].layer
    assert block[1].DenseReluDense.wo.weight.dtype == torch.float32  # which overflows float16
    assert block[0].SelfAttention.q.weight.dtype == torch.float16


@pytest.mark.parametrize("family, beginning", [("sd1", "first_stage"), ("flux", "text_enc")])
def test_parts_come_from_a_directory(family: str, beginning: str, made: Any, loaded: Any, tmp_path: Path) -> None:
    directory = made(family)[1]
    bare = rewritten(made(family), tmp_path / "bare.safetensors", without(beginning))
    for given, message in ((None, "pass parts=DIRECTORY, one in"), (made("sd2")[1], "nor has")):
        if given and beginning == "first_stage":
            continue  # that directory has one
        with pytest.raises(ValueError, match=f"is a {family} network without .*; {message}") as caught:
            load(bare, parts=given)
        assert "\n" not in str(caught.value)
    shutil.copytree(directory, tmp_path / "parts", ignore=shutil.ignore_patterns("unet", "transformer", "scheduler"))
    ours, whole = load(bare, parts=tmp_path / "parts"), loaded(family)[0]
    a, b = (pipe.text.encode(PROMPTS, SIZE) for pipe in (ours, whole))
    assert_close(a.embeds, b.embeds, atol=1e-4, rtol=1e-4)
    z = noise(1, ours.model.latent.channels, 8, 8)
    assert_close(ours.decode(z), whole.decode(z), atol=1e-4, rtol=1e-4)


def test_sd3_without_t5(made: Any, loaded: Any, tmp_path: Path) -> None:
    pipe = load(rewritten(made("sd3"), tmp_path / "m.safetensors", without("text_encoders.t5xxl")))
    assert "text_encoder_3" not in pipe.modules
    short, long = (p.text.encode(PROMPTS, SIZE).embeds for p in (pipe, loaded("sd3")[0]))
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
    path = rewritten(made("sd1"), tmp_path / "m.safetensors", change)
    read = load if message.startswith("text_encoder") else load_network
    with pytest.raises(ValueError, match=f"{path}.*{message}") as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_files_that_are_broken(made: Any, tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_bytes(made("sd1")[0].read_bytes()[:100])
    with pytest.raises(ValueError, match="is not a safetensors file .*; was it downloaded in full"):
        load(tmp_path / "m.safetensors")
    save_file({"a.lora_A.weight": torch.ones(1)}, tmp_path / "lora.safetensors")
    with pytest.raises(ValueError, match="lora.safetensors: no diffusion network found; looks like a LoRA"):
        load(tmp_path / "lora.safetensors")


def test_parts_go_with_files_alone(made: Any) -> None:
    for model in (made("sd1")[1], "tiny"):
        with pytest.raises(ValueError, match="parts belongs to a single file"):
            load(model, parts=made("sd1")[1])


def test_command_line_with_a_file_and_parts(made: Any, tmp_path: Path) -> None:
    bare = rewritten(made("sd1"), tmp_path / "bare.safetensors", without("first_stage"))
    options = ["--model", str(bare), "--parts", str(made("sd1")[1]), "--steps", "1", "--size", "64x64"]
    image = str(tmp_path / "x.png")
    for arguments in (["sample", "a cat", "-o", image, *options], ["replay", image]):
        result = run(*arguments, "--device", "cpu")
        assert result.exit_code == 0, result.output
    assert "every pixel is the same" in result.output


def test_schnell_as_published(made: Any, loaded: Any, tmp_path: Path) -> None:
    """The network alone, without a prefix of its names and without guidance, has levels without a shift."""
    own = original_models.names.flux(original_models.flux_network(guided=False), "")
    save_file({name: value.contiguous() for name, value in own.items()}, tmp_path / "schnell.safetensors")
    schnell, dev = load(tmp_path / "schnell.safetensors", parts=made("flux")[1]), loaded("flux")[0]
    assert not schnell.model.module.config.guidance_embeds
    assert (schnell.model.shift_at is None) and dev.model.shift_at is not None
    half = torch.tensor(0.5, dtype=torch.float64)
    one, other = (float(pipe.model.sampling.levels.sigma(half)) for pipe in (schnell, dev))
    assert one == pytest.approx(0.5) and other > 0.7
