"""Qwen-Image 2.1 against diffusers' pipeline and module, its split files, and its node."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import recent_models
import torch
from PIL import Image
from recent_files import shipped_words
from recent_names import in_published_names, wan_name
from safetensors.torch import save_file
from torch import Tensor
from torch.testing import assert_close
from transformers import AutoTokenizer

from sigmafield import sample
from sigmafield.comfyui.conditioning import conds_of
from sigmafield.comfyui.model import NodeModel
from sigmafield.comfyui.nodes.ksampler import ksampler
from sigmafield.comfyui.nodes.latents import empty_latent_image
from sigmafield.comfyui.nodes.qwen21 import qwen_image21_cache, text_encode_qwen_image21
from sigmafield.comfyui.nodes.vae import vae_decode
from sigmafield.core.conditioning import Cond
from sigmafield.core.process import Flow
from sigmafield.guidance.guider import Guider
from sigmafield.models.bundle import Pipeline
from sigmafield.models.load_parts import load_network, load_text, load_vae
from sigmafield.models.lora.read import read_lora
from sigmafield.models.references import with_references

pytest.importorskip("diffusers")
Family = Callable[[str], tuple[Path, Any]]
Loaded = Callable[[str], Pipeline]
NAME = "qwen-image 2.1"
PROMPTS = ["a red heart", "the green horse"]


def latents(batch: int, height: int = 4, width: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(batch, 64, height, width, generator=torch.Generator().manual_seed(seed))


def image(height: int, width: int, seed: int = 0) -> Tensor:
    """A random image [1, 3, H, W] of 8 bits."""
    return torch.randint(0, 256, (1, 3, height, width), generator=torch.Generator().manual_seed(seed)) / 255


def asked(ours: Pipeline, x: Tensor, cond: Cond) -> Tensor:
    return ours.model.network(x, torch.full((len(x),), 0.6), cond)


def test_text(loaded: Loaded, family: Family) -> None:
    """Prompts get their own embeddings, whatever is encoded with them: states before the last norm."""
    ours, (_, pipe) = loaded(NAME), family(NAME)
    cond = ours.text.encode([*PROMPTS, ""], (0, 0))
    for row, prompt in enumerate([*PROMPTS, ""]):
        want = pipe.encode_prompt([prompt], device=torch.device("cpu"))[0]
        assert_close(cond.embeds[row : row + 1, : want.shape[1]], want, atol=1e-5, rtol=0)
        assert int(cond.extra["encoder_attention_mask"][row].sum()) == want.shape[1]
    assert not cond.extra["image_slots"].any()


def test_text_with_images(loaded: Loaded, family: Family) -> None:
    """Images are seen as the processor of Qwen 3 VL cuts them, and their tokens are known."""
    ours, (_, pipe) = loaded(NAME), family(NAME)
    images = [image(64, 96), image(96, 64, seed=1)]
    as_pil = [Image.fromarray((each[0] * 255).round().byte().movedim(0, -1).numpy()) for each in images]
    want, _, slots = pipe.encode_prompt(PROMPTS[:1], as_pil, device=torch.device("cpu"))
    cond = ours.text.encode_edit(PROMPTS[:1], images)
    assert int(slots.sum()) == 12
    assert_close(cond.embeds, want, atol=1e-5, rtol=0)
    assert torch.equal(cond.extra["image_slots"].bool(), slots.bool())


@pytest.mark.parametrize("shown", [False, True])
def test_whole_run(shown: bool, loaded: Loaded, family: Family) -> None:
    """Euler's steps at the noise levels of diffusers' scheduler end where its pipeline ends, keys kept or not."""
    ours, (_, pipe) = loaded(NAME), family(NAME)
    x, picture = latents(1), image(64, 64)
    pil = Image.fromarray((picture[0] * 255).round().byte().movedim(0, -1).numpy())
    want = pipe(
        PROMPTS[0], image=pil if shown else None, negative_prompt="1999", true_cfg_scale=3.0, height=64, width=96,
        num_inference_steps=3, latents=x.flatten(2).transpose(1, 2), output_type="latent", output_resolution=64,
    )[0]  # fmt: skip
    want = want.transpose(1, 2).reshape(x.shape)
    conds = [
        with_references(ours.text.encode_edit([text], [picture]), [ours.encode(picture)])
        if shown
        else ours.text.encode([text], (0, 0))
        for text in (PROMPTS[0], "1999")
    ]
    got = sample(
        Guider(ours.model, *conds, 3.0), x, pipe.scheduler.sigmas.double(), process=ours.model.sampling.process
    )
    assert_close(got, want, atol=1e-4 * float(want.abs().max()), rtol=0)


def test_rows_of_a_call_do_not_see_each_other(loaded: Loaded, family: Family) -> None:
    """A prompt that is padded to another's length gives what the module gives for it alone."""
    ours, (_, pipe) = loaded(NAME), family(NAME)
    x = latents(2)
    got = asked(ours, x, ours.text.encode(PROMPTS, (0, 0)))
    for row, prompt in enumerate(PROMPTS):
        embeds = ours.text.encode([prompt], (0, 0)).embeds
        want = pipe.transformer(
            x[row : row + 1].flatten(2).transpose(1, 2), encoder_hidden_states=embeds, timestep=torch.tensor([0.6]),
            img_shapes=[[(1, 4, 6)]],
            img_mask=torch.cat([torch.zeros(1, embeds.shape[1]), torch.ones(1, 6)], 1).bool(),
        ).sample  # fmt: skip
        assert_close(got[row], want[0, -24:].T.reshape(64, 4, 6), atol=1e-5, rtol=0)


def test_images_that_the_prompt_does_not_know(loaded: Loaded) -> None:
    ours = loaded(NAME)
    cond = ours.text.encode_edit(PROMPTS[:1], [image(64, 64)])
    alone = asked(ours, latents(1), cond)
    assert torch.isfinite(alone).all()  # the text encoder alone sees it
    with pytest.raises(ValueError, match="with images of 16 latent positions, and the network is shown 24"):
        asked(ours, latents(1), with_references(cond, [latents(1)]))


def test_images_and_levels(loaded: Loaded, family: Family) -> None:
    """Images are opaque to the VAE; the shift is the config's, by the tokens of an image."""
    ours, vae = loaded(NAME), family(NAME)[1].vae
    images = image(64, 96)
    mean, std = (torch.tensor(v).reshape(1, -1, 1, 1) for v in (vae.config.latents_mean, vae.config.latents_std))
    opaque = torch.cat([images * 2 - 1, torch.ones(1, 1, 64, 96)], 1)[:, :, None]
    z = (vae.encode(opaque).latent_dist.mean[:, :, 0] - mean) / std
    assert_close(ours.encode(images), z, atol=1e-5, rtol=1e-5)
    want = vae.decode((z * std + mean)[:, :, None]).sample[:, :3, 0]
    assert_close(ours.decode(z), (want / 2 + 0.5).clamp(0, 1), atol=1e-5, rtol=0)
    model = ours.model
    assert isinstance(model.sampling.process, Flow) and model.sampling.process.shift == pytest.approx(3.158193)
    assert model.shift_at is not None and model.shift_at((1024, 1024)) == pytest.approx(3.158193)
    assert (model.cfg, model.patch, model.latent.factor, model.size) == (1.0, 2, 16, (1024, 1024))


def written(path: Path, tensors: dict[str, Tensor]) -> Path:
    save_file({name: value.detach().clone().contiguous() for name, value in tensors.items()}, path)
    return path


def test_split_files(tmp_path: Path, loaded: Loaded, family: Family) -> None:
    """Network and VAE in files of their own, and a LoRA in the network's published names."""
    ours, (_, pipe) = loaded(NAME), family(NAME)
    tensors = in_published_names(pipe.transformer)
    assert "transformer_blocks.0.img_mlp.gate_up.weight" in tensors
    model = load_network(written(tmp_path / "network.safetensors", tensors))
    x, cond = latents(1), ours.text.encode(PROMPTS[:1], (0, 0))
    args = x, torch.tensor([0.6]), cond
    assert torch.equal(model.network(*args), ours.model.network(*args)) and model.family == ours.model.family
    up, down = torch.ones(2 * 192, 1), torch.ones(1, 64)
    key = "diffusion_model.transformer_blocks.0.img_mlp.gate_up"
    lora = written(tmp_path / "lora.safetensors", {f"{key}.lora_A.weight": down, f"{key}.lora_B.weight": up})
    assert model.module is not None
    read = read_lora(lora, {"transformer": model.module})
    assert not read.unused and len(read.changes["transformer"]) == 2

    names = pipe.vae.state_dict()
    for name, file in {"a": names, "b": {wan_name(key, nested=True): value for key, value in names.items()}}.items():
        vae = load_vae(written(tmp_path / f"{name}.safetensors", file))
        assert (vae.channels, vae.factor) == (64, 16)
        assert torch.equal(vae.encode(image(32, 32)), ours.vae.encode(image(32, 32)))


@pytest.mark.slow
def test_text_encoder_in_a_file(tmp_path: Path) -> None:
    """Qwen 3 VL reads prompts with the tokenizer that ships, and images before them."""
    words = AutoTokenizer.from_pretrained(shipped_words())
    module = recent_models.qwen3_vl(151936, words)
    text = load_text([written(tmp_path / "qwen3vl.safetensors", module.state_dict())], "qwen_image")
    cond = text.encode_edit(["make it red"], [image(64, 64)])
    assert int(cond.extra["image_slots"].sum()) == 4 and cond.embeds.shape[2] == 32
    ids = words(
        "<|im_start|>user\n<image1><|vision_start|><|image_pad|><|image_pad|><|image_pad|><|image_pad|><|vision_end|>"
        "make it red<|im_end|>\n<|im_start|>assistant\n"
    ).input_ids
    assert cond.embeds.shape[1] == len(ids)


def test_the_node(loaded: Loaded) -> None:
    """Images are brought to a number of pixels, seen by the encoder and the network; a prompt without is text."""
    ours = loaded(NAME)
    model, vae = NodeModel(ours.model, text=ours.text), ours.vae
    images = {"image_1": image(50, 100).movedim(1, -1), "image_2": image(64, 64).movedim(1, -1)}
    positive, negative, latent = text_encode_qwen_image21(ours.text, "a heart", "1999", 64, images=images, vae=vae)
    assert latent["samples"].shape == (1, 64, 2, 6)  # 64² pixels of 1 : 2, to multiples of 32
    [first, second] = positive[0][1]["reference_latents"]
    assert first.shape == (1, 64, 2, 6) and second.shape == (1, 64, 4, 4)
    cond = conds_of(positive, ours.model, latent["samples"])[0]
    assert int(cond.extra["image_slots"].sum()) == 3 + 4
    kept = text_encode_qwen_image21(ours.text, "a heart", "", 0, images=images, vae=vae)[2]
    assert kept["samples"].shape == (1, 64, 4, 6)
    plain, no, empty = text_encode_qwen_image21(ours.text, "a heart", "1999", 64, images={})
    assert empty["samples"].shape == (1, 64, 4, 4) and "reference_latents" not in plain[0][1]
    wide = empty_latent_image(96, 64)
    assert wide["samples"].shape == (1, 4, 8, 12)  # positions of eight pixels, and the network's have sixteen
    cached = qwen_image21_cache(model, "auto", "default")
    drawing = {"sampler_name": "euler", "scheduler": "simple"}
    made = [
        ksampler(cached, 5, 2, 2.0, positive=p, negative=n, latent_image=latent, **drawing)
        for p, n in ((positive, negative), (plain, no))
    ]
    assert not torch.allclose(made[0]["samples"], made[1]["samples"], atol=1e-3)
    assert vae_decode(made[0], vae).shape == (1, 32, 96, 3)
    drawn = ksampler(cached, 5, 1, 1.0, positive=plain, negative=no, latent_image=wide, **drawing)
    assert drawn["samples"].shape == (1, 64, 4, 6) and "downscale_ratio_spacial" not in drawn
