"""Single files in the layouts that models were published in, against the modules whose weights they hold."""

from __future__ import annotations

import json
import lzma
from importlib.resources import files
from pathlib import Path
from typing import Any

import original_models
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.testing import assert_close

from sigmafield import generate
from sigmafield.models import load
from sigmafield.models.original.layouts import recognise
from sigmafield.models.original.shapes import derived
from sigmafield.models.pipeline import Pipeline

pytest.importorskip("diffusers")
FAMILIES = ["sd1", "sd2", "sdxl"]
PROMPTS = ["a photo of a cat", ""]
SIZE = (64, 64)
Made = tuple[Path, Path, dict[str, Any], dict[str, Tensor]]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """family → the file, a directory in diffusers' layout, the parts and the weights of a small model."""
    ready: dict[str, Made] = {}

    def make(family: str) -> Made:
        if family not in ready:
            folder = tmp_path_factory.mktemp(family)
            parts, weights = getattr(original_models, family)()
            save_file({k: v.contiguous() for k, v in weights.items()}, folder / "model.safetensors")
            directory = original_models.save_directory(folder / "parts", parts, family)
            ready[family] = folder / "model.safetensors", directory, parts, weights
        return ready[family]

    return make


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_file_is_the_directory(family: str, made: Any) -> None:
    path, directory, parts, _ = made(family)
    ours, theirs = load(path), load(directory)
    assert ours.modules.keys() == theirs.modules.keys() == parts.keys()
    for part, module in ours.modules.items():
        want = parts[part].state_dict()
        assert module.state_dict().keys() == want.keys(), part
        assert all(torch.equal(v, want[k]) for k, v in module.state_dict().items()), part
    cond = ours.encode_text(PROMPTS, SIZE)
    other = theirs.encode_text(PROMPTS, SIZE)
    assert torch.equal(cond.embeds, other.embeds) and cond.extra.keys() == other.extra.keys()
    assert all(torch.equal(cond.extra[k], other.extra[k]) for k in cond.extra)
    x, t = noise(2, 4, 8, 8), torch.tensor([999.0, 3.0])
    direct = parts["unet"](x, t, encoder_hidden_states=cond.embeds, added_cond_kwargs=cond.extra).sample
    assert torch.equal(ours.network(x, t, cond), direct)
    images = noise(1, 3, 64, 64).sigmoid()
    assert torch.equal(ours.encode(images), theirs.encode(images))
    assert torch.equal(ours.decode(x), theirs.decode(x))
    assert (ours.latent, ours.name) == (theirs.latent, "model")


@pytest.mark.parametrize("family", FAMILIES)
def test_pictures_from_words_pictures_and_masks(family: str, made: Any, tmp_path: Path) -> None:
    path, directory, _, _ = made(family)
    half = Image.fromarray(torch.arange(64).div(32, rounding_mode="floor").mul(255).byte().expand(64, 64).numpy())
    half.save(tmp_path / "half.png")
    picture = {"image": str(tmp_path / "half.png"), "denoise": 0.6}
    settings = {"steps": 2, "width": 64, "height": 64, "sampler": "euler"}
    for more in ({}, picture, picture | {"mask": str(tmp_path / "half.png")}):
        ours, theirs = (generate(load(p), "a photo of a cat", **settings, **more)[0] for p in (path, directory))
        assert ours.size == (64, 64)
        assert ours.tobytes() == theirs.tobytes()


def rewritten(made: Made, path: Path, change: Callable[[dict[str, Tensor]], Any]) -> Path:
    """The file of a model with other weights."""
    weights = dict(made[3])
    change(weights)
    save_file({name: value.contiguous() for name, value in weights.items()}, path)
    return path


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
    path = rewritten(made(family), tmp_path / "m.safetensors", lambda weights: weights.update(signs))
    sampling = sampling_of(open_single_file(path, None, tmp_path).scheduler())
    assert sampling.prediction is PREDICTIONS[prediction]
    assert (sampling.levels.sigma_max > 1000) == zsnr


def test_schnell_has_no_shift(tmp_path: Path) -> None:
    for guided, shift in ((True, 3.0), (False, 1.0)):
        module = true_layouts.empty("flux", "transformer", true_layouts.kinds("flux")["transformer"], **TINY_FLUX, guidance_embeds=guided)
        weights = names.flux(module.to_empty(device="cpu"))
        save_file({name: value.contiguous() for name, value in weights.items()}, tmp_path / "flux.safetensors")
        with pytest.raises(ValueError, match="is a flux network without vae, text_encoder, text_encoder_2; pass parts=DI"):
            open_single_file(tmp_path / "flux.safetensors", None, tmp_path)
        file = open_single_file(tmp_path / "flux.safetensors", made_parts(tmp_path), tmp_path)
        assert file.scheduler()["shift"] == shift


