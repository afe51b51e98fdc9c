"""The shipped flow transformer: numbers of diffusers, a timestep per token, and what any other model can do."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.testing import assert_close

import sigmafield as sf
from command_line import run
from sigmafield.core.conditioning import Cond
from sigmafield.core.grid import Grid
from sigmafield.core.process import Flow
from sigmafield.core.protocols import Ctx
from sigmafield.models.bundle import Pipeline
from sigmafield.models.load import load
from sigmafield.models.tiny.flow import shift_at
from sigmafield.models.tiny.transformer import WanTransformer3DModel
from sigmafield.recipes.build import model_of
from sigmafield.recipes.recipe import Recipe
from small_network import shipped_model

SMALL: dict[str, Any] = {
    "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 4, "out_channels": 4, "text_dim": 16,
    "freq_dim": 16, "ffn_dim": 32, "num_layers": 2, "rope_max_seq_len": 32, "patch_size": (1, 2, 2),
}  # fmt: skip


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    return load("tiny-flow", device="cpu")


@pytest.fixture(scope="module")
def tiny() -> Pipeline:
    return shipped_model()


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def context(sigma: float, process: Flow) -> Ctx:
    return Ctx(Grid(torch.tensor([sigma, 0.0]), process).span(0), {})


def test_the_network_is_diffusers(small: Any) -> None:
    """With one timestep per sample, and with one per token; sides may differ."""
    diffusers = pytest.importorskip("diffusers")
    theirs = small.randomise(diffusers.WanTransformer3DModel(**SMALL))
    ours = WanTransformer3DModel(dict(theirs.config)).eval()
    ours.load_state_dict(theirs.state_dict())
    x, text = drawn(2, 4, 8, 6), drawn(2, 5, 16, seed=1)
    for t in (torch.tensor([100.0, 900.0]), 1000 * torch.rand(2, 12)):
        with torch.no_grad():
            assert_close(ours(x, t, text), theirs(x[:, :, None], t, text).sample[:, :, 0], rtol=1e-5, atol=1e-5)


def test_configs_of_other_networks_are_refused() -> None:
    with pytest.raises(ValueError, match="image_dim = 5 is not supported"):
        WanTransformer3DModel({**SMALL, "image_dim": 5})


def test_it_is_a_flow_with_the_parts_of_tiny(pipe: Pipeline, tiny: Pipeline) -> None:
    """D = x − σ F(x, 1000 σ), and the same text encoder and VAE."""
    model, x = pipe.model, drawn(2, 4, 16, 16)
    assert isinstance(model.sampling.process, Flow) and model.latent == tiny.model.latent
    (cond,) = [pipe.text.encode(["a red heart"], model.size)]
    assert_close(cond.embeds, tiny.text.encode(["a red heart"], model.size).embeds, rtol=0, atol=0)
    image = torch.rand(1, 3, 64, 64)
    assert torch.equal(pipe.encode(image), tiny.encode(image))
    sigma = torch.tensor(0.3, dtype=torch.float64)
    with torch.no_grad():
        (D,) = model(x, sigma, [cond], context(0.3, model.sampling.process))
        F = model.module(x, torch.full((2,), 300.0), cond.embeds.expand(2, -1, -1))
    assert_close(D, x - 0.3 * F, rtol=1e-5, atol=1e-5)


def test_a_constant_field_is_a_number(pipe: Pipeline) -> None:
    x, sigma = drawn(2, 4, 16, 16), torch.tensor(0.4, dtype=torch.float64)
    conds, ctx = [Cond(drawn(1, 7, 160)), Cond(drawn(1, 7, 160, seed=1))], context(0.4, pipe.model.sampling.process)
    with torch.no_grad():
        number = pipe.model(torch.cat([x, x]), sigma, conds, ctx)
        for field in (sigma.expand(1, 1, 16, 16), sigma.expand(2, 1, 16, 16)):
            for a, b in zip(number, pipe.model(torch.cat([x, x]), field, conds, ctx)):
                assert torch.equal(a, b)


def test_a_token_has_the_mean_level_of_its_positions(pipe: Pipeline) -> None:
    """Each sample of a field has its own, and the levels of the positions are those of the step."""
    x, cond = drawn(2, 4, 16, 16), Cond(drawn(1, 7, 160))
    field = torch.rand(2, 1, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        (D,) = pipe.model(x, field, [cond], context(0.5, pipe.model.sampling.process))
        t = 1000 * torch.nn.functional.avg_pool2d(field, 2).flatten(1).float()
        F = pipe.model.module(x, t, cond.embeds.expand(2, -1, -1))
    assert_close(D, x - field.float() * F, rtol=1e-5, atol=1e-5)


def test_a_denoise_map_costs_one_evaluation_a_step(pipe: Pipeline, tmp_path: Path) -> None:
    """Where the map is 0 the image stays; the network is asked once per step, although levels differ."""
    rising = np.linspace(-60, 315, 64).clip(0, 255).astype(np.uint8)[:, None].repeat(64, 1)
    Image.fromarray(rising).save(tmp_path / "map.png")
    Image.new("RGB", (64, 64), (200, 40, 40)).save(tmp_path / "red.png")
    calls: list[Any] = []
    handle = pipe.model.module.register_forward_pre_hook(lambda module, args: calls.append(args[1].shape))
    recipe = Recipe(
        prompt="a heart", image=str(tmp_path / "red.png"), denoise_map=str(tmp_path / "map.png"), steps=4, cfg=3.0,
        sampler="euler",
    )  # fmt: skip
    job = sf.open_job(recipe, pipe)
    end = sf.finish(job.run, job.start)
    handle.remove()
    assert len(calls) == end.nfe == 4 and calls[0] == (2, 64)
    source = pipe.encode(torch.tensor([200, 40, 40]).reshape(1, 3, 1, 1).expand(1, 3, 64, 64) / 255)
    result = job.run.result(end)
    assert_close(result[:, :, 0], source[:, :, 0], rtol=1e-4, atol=1e-4)
    assert (result - source)[:, :, 12:].abs().mean() > 0.05


def end_of(pipe: Pipeline, **changes: Any) -> Tensor:
    """The latent at the end of a short run."""
    recipe = Recipe("a heart", width=32, height=32, steps=2, cfg=3.0, sampler="euler", seed=1, **changes)
    job = sf.open_job(recipe, pipe)
    return job.run.result(sf.finish(job.run, job.start))


@pytest.fixture(scope="module")
def plain(pipe: Pipeline) -> Tensor:
    """That of a run in which nothing is changed."""
    return end_of(pipe)


@pytest.mark.parametrize(
    "changes",
    [
        {"guidance": "pag(scale=2)"},
        {"guidance": "seg"},
        {"guidance": 'slg(double="3", single="", start_percent=0, end_percent=1)'},
        {"guidance": "nag"},
        {"model_sampling": "shifted_flow(shift=3)"},
        {"shift": 2.0},
    ],
    ids=str,
)
def test_patches_and_shifts_change_the_image(pipe: Pipeline, plain: Tensor, changes: dict[str, Any]) -> None:
    changed = end_of(pipe, **changes)
    assert changed.isfinite().all() and not torch.equal(changed, plain)


def test_the_shift_grows_with_the_side(pipe: Pipeline) -> None:
    assert shift_at((64, 64)) == 1 and shift_at((128, 128)) == 2 and shift_at((256, 64)) == 2
    model = model_of(Recipe("", shift="size"), pipe.model, (128, 128))
    assert float(model.sampling.levels.sigma(0.5 * 1000 * torch.ones(()))) == pytest.approx(2 * 0.5 / (1 + 0.5))


def test_loras_change_it(pipe: Pipeline, tmp_path: Path) -> None:
    up, down = drawn(192, 4), drawn(4, 192, seed=1)
    key = "transformer.blocks.3.attn1.to_q"
    save_file({f"{key}.lora_A.weight": down, f"{key}.lora_B.weight": up}, tmp_path / "a.safetensors")
    changed = pipe.with_loras({str(tmp_path / "a.safetensors"): 0.5})
    before, after = (each.model.module.blocks[3].attn1.to_q.weight for each in (pipe, changed))
    assert_close(after, before + 0.5 * up @ down, rtol=1e-5, atol=1e-5)
    assert changed.model.module.blocks[2].attn1.to_q.weight is pipe.model.module.blocks[2].attn1.to_q.weight


def test_from_the_command_line_and_in_workflows(tmp_path: Path) -> None:
    made = run(
        "sample", "a heart", "--model", "tiny-flow", "--steps", 1, "--sampler", "euler", "-o", tmp_path / "a.png"
    )
    assert made.exit_code == 0 and Image.open(tmp_path / "a.png").size == (64, 64), made.output
    wrong = run("sample", "a heart", "--model", "tiny-flo", "-o", tmp_path / "b.png")
    assert wrong.exit_code == 2 and "tiny-flow" in wrong.stderr
    prompt = {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "tiny-flow"}},
        "2": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": "a heart"}},
        "3": {"class_type": "EmptyLatentImage", "inputs": {"width": 128, "height": 128, "batch_size": 1}},
        "4": {"class_type": "KSampler", "inputs": {
            "model": ["1", 0], "positive": ["2", 0], "negative": ["2", 0], "latent_image": ["3", 0], "seed": 1,
            "steps": 1, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}},
        "5": {"class_type": "VAEDecode", "inputs": {"samples": ["4", 0], "vae": ["1", 2]}},
        "6": {"class_type": "SaveImage", "inputs": {"images": ["5", 0], "filename_prefix": "x"}},
    }  # fmt: skip
    (tmp_path / "flow.json").write_text(json.dumps(prompt))
    done = run("run", tmp_path / "flow.json", "-o", tmp_path)
    assert done.exit_code == 0 and Image.open(tmp_path / "x_00001_.png").size == (64, 64), done.output


def test_it_is_sent_to_other_processes_as_a_name(pipe: Pipeline) -> None:
    again, (call, arguments) = pipe.__reduce__()[0], pipe.__reduce__()
    assert again.args == ("tiny-flow",) and arguments == () and call is again
    assert replace(pipe.model, name="x").tokens == (2, 2)
