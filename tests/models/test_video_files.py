"""Files of LTX-Video and HunyuanVideo as ComfyUI has them, in published names, and LoRAs for them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import true_layouts
from recent_names import in_published_names
from safetensors.torch import save_file
from small_models import t5
from torch import Tensor
from torch.testing import assert_close
from video_names import ltx_checkpoint, ltx_vae_name, published

from sigmafield.models.bundle import Pipeline
from sigmafield.models.load import load
from sigmafield.models.load_parts import load_network, load_text
from sigmafield.models.lora.read import read_lora
from sigmafield.models.single_file.convert import converted
from sigmafield.models.single_file.layouts import recognise
from sigmafield.models.single_file.shapes import derived

pytest.importorskip("diffusers")
Family = Callable[[str], tuple[Path, Any]]
Loaded = Callable[[str], Pipeline]
NETWORKS = {"ltx 0.9.5": "ltxv", "hunyuan-video": "hunyuan_video"}


def written(path: Path, tensors: dict[str, Tensor]) -> Path:
    save_file({name: value.detach().clone().contiguous() for name, value in tensors.items()}, path)
    return path


@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name: str, tmp_path: Path, family: Family, loaded: Loaded) -> None:
    """A network in a file of its own has the directory's weights, and its family's levels and latents."""
    theirs = family(name)[1].transformer
    tensors = published(theirs)
    assert tensors.keys() != theirs.state_dict().keys()
    ours, model = loaded(name).model, load_network(written(tmp_path / "a.safetensors", tensors))
    assert model.module is not None and ours.module is not None
    own, want = model.module.state_dict(), ours.module.state_dict()
    assert own.keys() == want.keys() and all(torch.equal(value, want[key]) for key, value in own.items())
    assert (model.family, model.patch, model.tokens) == (ours.family, ours.patch, ours.tokens)
    x, cond = torch.randn(1, ours.latent.channels, 2, 4, 6), loaded(name).text.encode(["a red heart"], (0, 0))
    args = x, model.sampling.levels.timestep(torch.tensor(0.5).double()).float().expand(1), cond
    assert_close(model.network(*args), ours.network(*args), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", NETWORKS)
def test_loras(name: str, tmp_path: Path, loaded: Loaded) -> None:
    """A LoRA in the published names, or as ComfyUI spells them, changes the layers that they mean."""
    module = loaded(name).model.module
    assert module is not None
    layers = in_published_names(module)
    for key in [k for k in layers if re.search(r"(qkv|attn1\.to_q|linear1|patchify_proj)\.weight$", k)]:
        up, down = torch.randn(layers[key].shape[0], 2), torch.randn(2, layers[key][0].numel())
        stem = f"diffusion_model.{key.removesuffix('.weight')}"
        path = written(tmp_path / "l.safetensors", {f"{stem}.lora_A.weight": down, f"{stem}.lora_B.weight": up})
        assert not read_lora(path, {"transformer": module}).unused
        made = loaded(name).with_loras([path]).model.module
        assert made is not None
        assert_close(in_published_names(made)[key], layers[key] + up @ down, atol=1e-4, rtol=1e-4)


def test_a_checkpoint_of_ltx(tmp_path: Path, family: Family, loaded: Loaded) -> None:
    """It holds network and VAE; the text encoder is in a file of its own."""
    tensors, ours = ltx_checkpoint(family("ltx 0.9.5")[1]), loaded("ltx 0.9.5")
    assert "vae.encoder.down_blocks.1.conv.conv.weight" in tensors
    assert "vae.per_channel_statistics.mean-of-means" in tensors
    read = load(written(tmp_path / "ltx.safetensors", tensors))
    assert (read.vae.factor, read.vae.frame_factor, read.vae.channels) == (32, 8, 128)
    own, want = read.vae.module.state_dict(), ours.vae.module.state_dict()
    assert own.keys() == want.keys() and all(torch.equal(value, want[key]) for key, value in own.items())
    latents = torch.randn(1, 128, 2, 2, 2)
    assert_close(read.decode(latents), ours.decode(latents), atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="there is no text encoder"):
        read.text.encode([""], (64, 64))
    encoder = t5("T5", 32128)
    names = {name: value for name, value in encoder.state_dict().items() if "embed_tokens" not in name}
    cond = load_text([written(tmp_path / "t5xxl.safetensors", names)], "ltxv").encode(["a red heart"], (0, 0))
    assert cond.embeds.shape == (1, 128, 32) and cond.extra["encoder_attention_mask"].sum() == 5


@pytest.mark.slow
@pytest.mark.parametrize("family", NETWORKS.values())
def test_networks_at_their_true_size(family: str) -> None:
    """The config of a network of the published size is read off the shapes of its weights."""
    kind = true_layouts.kinds(family)["transformer"]
    module = true_layouts.empty(family, "transformer", kind)
    shapes = {key: tuple(value.shape) for key, value in published(module).items()}
    layout = recognise(shapes)
    assert layout.family == family
    told = true_layouts.empty(family, "transformer", kind, **derived(layout, shapes)["transformer"])
    told, want = (
        {k: list(v) if isinstance(v, tuple) else v for k, v in each.config.items() if not k.startswith("_")}
        for each in (told, module)
    )
    assert told == want


@pytest.mark.slow
def test_the_vae_of_ltx_at_its_true_size() -> None:
    from diffusers import AutoencoderKLLTXVideo

    module = true_layouts.empty("ltxv", "vae", AutoencoderKLLTXVideo)
    tensors = {f"vae.{ltx_vae_name(k)}": v for k, v in module.state_dict().items()}
    shapes = {k: tuple(v.shape) for k, v in tensors.items()} | {"patchify_proj.weight": (2048, 128)}
    layout = recognise(shapes)
    config = derived(layout.__class__("ltxv", {"vae": "vae."}), shapes)["vae"]
    assert all(list(getattr(module.config, k)) == v if isinstance(v, list) else getattr(module.config, k) == v
               for k, v in config.items())  # fmt: skip
    made = converted("AutoencoderKLLTXVideo", {k.removeprefix("vae."): v for k, v in tensors.items()}, {}, "ltxv")
    assert made.keys() == module.state_dict().keys()
