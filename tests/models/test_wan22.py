"""Wan 2.2: two networks for different noise levels, and one that takes a level for each token."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from recent_names import in_published_names
from safetensors.torch import save_file
from small_models import randomise
from torch import Tensor
from torch.testing import assert_close

from sigmafield import sample
from sigmafield.core.conditioning import Cond
from sigmafield.core.process import Flow
from sigmafield.guidance.guider import Guider
from sigmafield.models.bundle import Pipeline
from sigmafield.models.load import load
from sigmafield.models.load_parts import load_network
from sigmafield.recipes.ksampler import open_run
from sigmafield.recipes.mods import parse_mods
from sigmafield.recipes.tiling import rule_of
from sigmafield.runs.run import finish
from sigmafield.spatial.field_denoiser import by_level, native

pytest.importorskip("diffusers")
Family = Callable[[str], tuple[Path, Any]]
Loaded = Callable[[str], Pipeline]
PROMPTS = ["a red heart", "the green horse"]


def latents(ours: Pipeline, batch: int) -> Tensor:
    side = 4 * ours.model.latent.factor
    return torch.randn(ours.model.latent.shape(batch, (side, side), 5), generator=torch.Generator().manual_seed(0))


def asked(ours: Pipeline, x: Tensor, sigma: Tensor, cond: Cond) -> Tensor:
    t = ours.model.sampling.levels.timestep(sigma.double()).float()
    return ours.model.network(x, t, cond)


def test_each_row_is_asked_of_the_network_for_its_level(loaded: Loaded, family: Family) -> None:
    ours, (_, pipe) = loaded("wan2.2"), family("wan2.2")
    x, cond = latents(ours, 2), ours.text.encode(PROMPTS, (0, 0))
    for levels in ([0.9, 0.95], [0.8, 0.3], [0.875, 0.874], [0.2, 0.99]):
        got = asked(ours, x, torch.tensor(levels), cond)
        for row, sigma in enumerate(levels):
            network = pipe.transformer if sigma >= 0.875 else pipe.transformer_2
            want = network(
                x[row : row + 1],
                timestep=torch.tensor([1000 * sigma]),
                encoder_hidden_states=cond.embeds[row : row + 1],
            ).sample
            assert_close(got[row : row + 1], want, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["wan2.2", "wan2.2 5b"])
def test_whole_run(name: str, loaded: Loaded, family: Family) -> None:
    """Euler's steps end where diffusers' pipeline ends, in both networks, or with one level for all tokens."""
    ours, (_, pipe) = loaded(name), family(name)
    x = latents(ours, 1)
    side = 4 * ours.model.latent.factor
    want = pipe(
        PROMPTS[0], negative_prompt="1999", height=side, width=side, num_frames=5, num_inference_steps=3, latents=x,
        guidance_scale=3.0, output_type="latent",
    )[0]  # fmt: skip
    positive, negative = (ours.text.encode([text], (side, side)) for text in (PROMPTS[0], "1999"))
    guider = Guider(ours.model, positive, negative, 3.0)
    got = sample(guider, x, pipe.scheduler.sigmas.double(), process=ours.model.sampling.process)
    assert_close(got, want, atol=1e-4 * float(want.abs().max()), rtol=0)


def test_a_level_for_each_token(loaded: Loaded, family: Family) -> None:
    """A σ-field costs one evaluation: each token is given the mean level of its positions."""
    ours, (_, pipe) = loaded("wan2.2 5b"), family("wan2.2 5b")
    model, x, cond = ours.model, latents(ours, 1), ours.text.encode(PROMPTS[:1], (0, 0))
    assert model.tokens == (1, 2, 2) and rule_of(None, model, x.shape[2:]) is native
    assert rule_of(None, loaded("wan2.2").model, x.shape[2:]) is by_level
    field = torch.full((1, 1, *x.shape[2:]), 0.6, dtype=torch.float64)
    field[:, :, 0], field[..., 0] = 0.2, 0.4
    seen = list[Tensor]()

    def watched(module: Any, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        seen.append(t)
        return model.forward(module, x, t, cond)

    process = model.sampling.process
    grid = torch.stack([field, torch.zeros_like(field)])
    guider = Guider(replace(model, forward=watched), cond, cond, 1.0)
    opened = open_run(guider, model.sampling, "euler", grid, x * 0, x, 0, rule=native)
    end = finish(opened.run, opened.start)
    means = field.unflatten(3, (-1, 2)).mean(4).unflatten(4, (-1, 2)).mean(5).flatten(1)
    assert len(seen) == 1
    assert_close(seen[0], (1000 * means).float(), atol=1e-3, rtol=0)
    start = x * field.float()  # the source is 0
    out = pipe.transformer(start, timestep=(1000 * means).float(), encoder_hidden_states=cond.embeds).sample
    assert isinstance(process, Flow)
    assert_close(end.x, start - field.float() * out, atol=1e-5, rtol=0)


def test_images_to_video_of_wan21(tmp_path: Path) -> None:
    """A network that is also given what a vision encoder sees, from a file: numbers are those of diffusers' class."""
    from diffusers import WanTransformer3DModel

    network = WanTransformer3DModel(
        num_attention_heads=1, attention_head_dim=24, in_channels=36, out_channels=16, text_dim=32, freq_dim=16,
        ffn_dim=32, num_layers=1, image_dim=20, added_kv_proj_dim=24,
    )  # fmt: skip
    network = randomise(network)
    tensors = {k: v.contiguous() for k, v in in_published_names(network).items()}
    assert "img_emb.proj.1.weight" in tensors and "blocks.0.cross_attn.k_img.weight" in tensors
    save_file(tensors, tmp_path / "i2v.safetensors")
    model = load_network(tmp_path / "i2v.safetensors")
    x, text, seen = torch.randn(1, 16, 2, 4, 4), torch.randn(1, 512, 32), torch.randn(1, 7, 20)
    shown = torch.randn(1, 20, 2, 4, 4)
    cond = Cond(text, {"encoder_hidden_states_image": seen}, concat=shown)
    model.check(cond)
    want = network(
        torch.cat([x, shown], 1), timestep=torch.tensor([700.0]), encoder_hidden_states=text,
        encoder_hidden_states_image=seen,
    ).sample  # fmt: skip
    assert_close(model.network(x, torch.tensor([700.0]), cond), want, atol=1e-5, rtol=0)


def test_a_boundary_is_needed(tmp_path: Path, family: Family) -> None:
    shutil.copytree(family("wan2.2")[0], tmp_path / "m")
    index = tmp_path / "m" / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"boundary_ratio": None}))
    with pytest.raises(ValueError, match="transformer_2 needs a boundary_ratio; got None"):
        load(tmp_path / "m")


def test_a_scale_for_each_network(loaded: Loaded, family: Family) -> None:
    """`cfg_below` is diffusers' guidance_scale_2."""
    ours, (_, pipe) = loaded("wan2.2"), family("wan2.2")
    x = latents(ours, 1)
    want = pipe(
        PROMPTS[0], negative_prompt="1999", height=32, width=32, num_frames=5, num_inference_steps=4, latents=x,
        guidance_scale=3.0, guidance_scale_2=1.5, output_type="latent",
    )[0]  # fmt: skip
    positive, negative = (ours.text.encode([text], (32, 32)) for text in (PROMPTS[0], "1999"))
    ends = list[Tensor]()
    for mods in ("cfg_below(cfg=1.5, sigma=0.875)", ""):
        guider = Guider(ours.model, positive, negative, 3.0, parse_mods(mods))
        ends.append(sample(guider, x, pipe.scheduler.sigmas.double(), process=ours.model.sampling.process))
    assert_close(ends[0], want, atol=1e-4 * float(want.abs().max()), rtol=0)
    assert not torch.allclose(ends[1], want, atol=1e-3)


LORAS = {
    "ink": {"transformer", "transformer_2"},
    "wan2.2_t2v_lightx2v_4steps_lora_v1.1_high_noise": {"transformer"},
    "Wan22-I2V-LOW": {"transformer_2"},
    "style_low": {"transformer_2"},
    "high_contrast_slow_shallow": {"transformer", "transformer_2"},
}


@pytest.mark.parametrize("name, parts", LORAS.items())
def test_loras_of_two_networks(name: str, parts: set[str], tmp_path: Path, loaded: Loaded, family: Family) -> None:
    """A LoRA changes both networks, or the one that its file's name says, loaded with the model or later."""
    folder, pipe = family("wan2.2")
    down, up = torch.ones(1, 24), torch.ones(24, 1)
    key, path = "diffusion_model.blocks.0.self_attn.q", tmp_path / f"{name}.safetensors"
    save_file({f"{key}.lora_A.weight": down, f"{key}.lora_B.weight": up}, path)
    for made in (load(folder, loras={path: 0.5}), loaded("wan2.2").with_loras({path: 0.5})):
        for part in ("transformer", "transformer_2"):
            own = made.adaptable[part].blocks[0].attn1.to_q.weight
            plain = getattr(pipe, part).blocks[0].attn1.to_q.weight
            assert_close(own, plain + 0.5 if part in parts else plain, atol=1e-6, rtol=0)


def test_a_lora_that_names_its_network(tmp_path: Path, loaded: Loaded) -> None:
    """diffusers' own names say which network a layer is in, and then the file's name does not matter."""
    ours = loaded("wan2.2")
    path = tmp_path / "a_high_noise.safetensors"
    save_file({"transformer_2.blocks.0.attn1.to_q.diff": torch.ones(24, 24)}, path)
    made = ours.with_loras([path])
    assert made.adaptable["transformer"] is ours.adaptable["transformer"]
    x, cond = latents(ours, 1), ours.text.encode(PROMPTS[:1], (0, 0))
    high, low = torch.tensor([0.95]), torch.tensor([0.2])
    assert torch.equal(asked(made, x, high, cond), asked(ours, x, high, cond))
    assert not torch.allclose(asked(made, x, low, cond), asked(ours, x, low, cond), atol=1e-4)
