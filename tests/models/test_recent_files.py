"""Split files of the recent families as ComfyUI has them: networks, text encoders and VAEs, in published names."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import recent_models
import torch
import true_layouts
from recent_names import flux2_vae, in_published_names, spiece, wan_name
from safetensors.torch import save_file
from small_models import randomise, t5
from torch import Tensor
from torch.testing import assert_close

from sigmafield.models.bundle import Pipeline
from sigmafield.models.load_parts import load_network, load_text, load_vae
from sigmafield.models.lora.read import read_lora
from sigmafield.models.single_file.layouts import recognise
from sigmafield.models.single_file.shapes import derived

pytest.importorskip("diffusers")
Family = Callable[[str], tuple[Path, Any]]
Loaded = Callable[[str], Pipeline]
DEV = pytest.param("flux2 dev", marks=pytest.mark.slow)
NETWORKS = ["qwen-image", "z-image", DEV, "flux2 klein", "chroma", "wan2.2 5b"]


def written(path: Path, tensors: dict[str, Tensor]) -> Path:
    save_file({name: value.detach().clone().contiguous() for name, value in tensors.items()}, path)
    return path


@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name: str, tmp_path: Path, family: Family, loaded: Loaded) -> None:
    """A network in a file of its own has the directory's weights, and its family's levels and latents."""
    theirs = family(name)[1].transformer
    tensors = in_published_names(theirs)
    assert name == "qwen-image" or tensors.keys() != theirs.state_dict().keys()
    ours, model = loaded(name).model, load_network(written(tmp_path / "a.safetensors", tensors))
    assert model.module is not None and ours.module is not None
    own, want = model.module.state_dict(), ours.module.state_dict()
    assert own.keys() == want.keys() and all(torch.equal(value, want[key]) for key, value in own.items())
    assert model.family == ours.family and model.latent.channels == ours.latent.channels
    assert (model.patch, model.references, model.tokens) == (ours.patch, ours.references, ours.tokens)
    if name != "wan2.2 5b":  # whose file does not tell the width of a head
        x = torch.randn(1, model.latent.channels, 4, 6)
        cond = loaded(name).text.encode(["a red heart"], (0, 0))
        args = x, model.sampling.levels.timestep(torch.tensor(0.5).double()).float().expand(1), cond
        assert_close(model.network(*args), ours.network(*args), atol=1e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["qwen_image", "qwen_image21", "hidream", "z_image", "flux2", "chroma", "wan", "wan_vace"]
)
def test_networks_at_their_true_size(name: str) -> None:
    """The config of a network of the published size is read off the shapes of its weights."""
    kind = true_layouts.kinds(name)["transformer"]
    module = true_layouts.empty(name, "transformer", kind)
    shapes = {key: tuple(value.shape) for key, value in in_published_names(module).items()}
    layout = recognise(shapes)
    assert layout.family == name
    told = true_layouts.empty(name, "transformer", kind, **derived(layout, shapes)["transformer"])
    told, want = (
        {k: list(v) if isinstance(v, tuple) else v for k, v in each.config.items() if not k.startswith("_")}
        for each in (told, module)
    )
    assert told == want


@pytest.mark.parametrize("name", ["z-image", DEV, "chroma", "qwen-image"])
def test_loras(name: str, tmp_path: Path, family: Family, loaded: Loaded) -> None:
    """A LoRA in the published names changes the layers that they mean."""
    module = loaded(name).model.module
    assert module is not None
    layers = {k.removesuffix(".weight"): v for k, v in in_published_names(module).items() if k.endswith("weight")}
    key, weight = next((k, v) for k, v in layers.items() if re.search(r"\.qkv$|to_q$", k))
    up, down = torch.randn(weight.shape[0], 2), torch.randn(2, weight.shape[1])
    path = written(
        tmp_path / "l.safetensors",
        {f"diffusion_model.{key}.lora_A.weight": down, f"diffusion_model.{key}.lora_B.weight": up},
    )
    lora = read_lora(path, {"transformer": module})
    assert not lora.unused
    made = loaded(name).with_loras([path]).model.module
    assert made is not None
    changed = in_published_names(made)[f"{key}.weight"]
    assert_close(changed, weight + up @ down, atol=1e-4, rtol=1e-4)


def test_text_encoders(tmp_path: Path) -> None:
    """A language model in a file reads prompts with the tokenizer that ships."""
    module = recent_models.qwen3(151936, layers=2, width=16)
    path = written(tmp_path / "qwen_3_4b.safetensors", module.state_dict())
    text = load_text([path], "lumina2")
    cond = text.encode(["a red heart", "Hello, world! Hello"], (0, 0))
    ids = torch.tensor([[151644, 872, 198, 9707, 11, 1879, 0, 21927, 151645, 198, 151644, 77091, 198]])
    states = module(ids, output_hidden_states=True).hidden_states[-2]
    assert cond.embeds.shape[1] == 13 and cond.extra["encoder_attention_mask"][1].all()
    assert_close(cond.embeds[1:], states, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="qwen_image needs 1 text encoders|weight .* is missing"):
        load_text([path], "qwen_image")


def test_the_text_encoder_of_wan_brings_its_tokenizer(tmp_path: Path) -> None:
    marks = [("<pad>", 0.0, 3), ("</s>", 0.0, 3), ("<s>", 0.0, 3), ("<unk>", 0.0, 2)]
    words = [("▁red", -1.0, 1), ("▁heart", -2.0, 1), ("▁", -3.0, 1), ("h", -4.0, 1), ("größe", -5.0, 1)]
    module = t5("UMT5", 16)
    names = {name: value for name, value in module.state_dict().items() if "embed_tokens" not in name}
    tensors = {"spiece_model": torch.tensor(list(spiece([*marks, *words])), dtype=torch.uint8)}
    text = load_text([written(tmp_path / "umt5_xxl.safetensors", names | tensors)], "wan")
    cond = text.encode(["red heart  größe"], (0, 0))
    ids = torch.tensor([[4, 5, 6, 8, 1]])
    assert cond.embeds.shape[1] == 512 and not cond.embeds[:, 5:].any()
    assert_close(cond.embeds[:, :5], module(ids).last_hidden_state, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="the text encoder has no tokenizer with it, neither in a tensor"):
        load_text([written(tmp_path / "bare.safetensors", names)], "wan")
    broken = {"spiece_model": torch.tensor([255, 1], dtype=torch.uint8)}
    with pytest.raises(ValueError, match="not a SentencePiece model of the unigram kind"):
        load_text([written(tmp_path / "broken.safetensors", names | broken)], "wan")


def test_vaes(tmp_path: Path, family: Family, loaded: Loaded) -> None:
    ours, vae = loaded("flux2 klein"), family("flux2 klein")[1].vae
    tensors = flux2_vae(vae)
    read = load_vae(written(tmp_path / "flux2-vae.safetensors", tensors))
    images = torch.rand(1, 3, 32, 64)
    assert torch.equal(read.encode(images), ours.vae.encode(images))
    latent = torch.randn(1, 128, 2, 4)
    assert torch.equal(read.decode(latent), ours.vae.decode(latent))


def test_wan_vae(tmp_path: Path) -> None:
    """The VAE of Wan 2.1 and Qwen-Image: an image is a video of one frame, with equal numbers in both classes."""
    from diffusers import AutoencoderKLWan

    vae = randomise(AutoencoderKLWan(base_dim=4))
    tensors = {wan_name(name): value for name, value in vae.state_dict().items()}
    assert len(tensors) == len(vae.state_dict()) and "decoder.middle.0.residual.0.gamma" in tensors
    read = load_vae(written(tmp_path / "qwen_image_vae.safetensors", tensors))
    image = torch.rand(1, 3, 16, 24)
    assert torch.equal(read.encode(image), vae.encode(image[:, :, None] * 2 - 1).latent_dist.mean)
    assert read.frame_factor == 4 and read.encode(image).shape == (1, 16, 1, 2, 3)


def test_wan_vae_of_5b(tmp_path: Path) -> None:
    from diffusers import AutoencoderKLWan

    vae = randomise(
        AutoencoderKLWan(
            base_dim=4, decoder_base_dim=8, z_dim=48, is_residual=True, in_channels=12, out_channels=12, patch_size=2,
            scale_factor_spatial=16, latents_mean=[0.0] * 48, latents_std=[1.0] * 48,
        )
    )  # fmt: skip
    tensors = {wan_name(name, nested=True): value for name, value in vae.state_dict().items()}
    assert "decoder.upsamples.0.upsamples.3.resample.1.weight" in tensors and len(tensors) == len(vae.state_dict())
    read = load_vae(written(tmp_path / "wan2.2_vae.safetensors", tensors))
    video = torch.rand(1, 3, 5, 32, 32)
    assert torch.equal(read.encode(video), vae.encode(video * 2 - 1).latent_dist.mean)
    assert (read.factor, read.frame_factor, read.channels) == (16, 4, 48)
