"""LoRA files of every spelling against weights merged by hand, and against peft's own modules."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.testing import assert_close

import sigmafield
import sigmafield.models.load as models
from sigmafield.models.bundle import Pipeline
from sigmafield.models.load import load
from sigmafield.models.tiny import load_tiny

pytest.importorskip("peft")
CPU = torch.device("cpu")

BLOCK = "attentions.0.transformer_blocks.0"
LAYERS = {
    "unet": [
        f"down_blocks.0.{BLOCK}.attn1.to_q",
        f"up_blocks.1.{BLOCK}.attn2.to_out.0",
        f"mid_block.{BLOCK}.ff.net.0.proj",
        "down_blocks.0.attentions.0.proj_in",
        "down_blocks.1.resnets.0.conv1",
        "up_blocks.1.resnets.0.conv_shortcut",
        "mid_block.resnets.1.time_emb_proj",
    ],
    "text_encoder": [
        "text_model.encoder.layers.0.self_attn.q_proj",
        "text_model.encoder.layers.2.self_attn.out_proj",
        "text_model.encoder.layers.1.mlp.fc1",
    ],
}
LAYERS["text_encoder_2"] = LAYERS["text_encoder"]
SGM = {  # kohya's names of SDXL's layers, by the blocks of the original network
    f"down_blocks.0.{BLOCK}.attn1.to_q": "input_blocks_1_1_transformer_blocks_0_attn1_to_q",
    f"up_blocks.1.{BLOCK}.attn2.to_out.0": "output_blocks_2_1_transformer_blocks_0_attn2_to_out_0",
    f"mid_block.{BLOCK}.ff.net.0.proj": "middle_block_1_transformer_blocks_0_ff_net_0_proj",
    "down_blocks.0.attentions.0.proj_in": "input_blocks_1_1_proj_in",
    "down_blocks.1.resnets.0.conv1": "input_blocks_3_0_in_layers_2",
    "up_blocks.1.resnets.0.conv_shortcut": "output_blocks_2_0_skip_connection",
    "mid_block.resnets.1.time_emb_proj": "middle_block_2_emb_layers_1",
}
KOHYA = {"unet": "lora_unet", "text_encoder": "lora_te1", "text_encoder_2": "lora_te2"}


def weight_of(pipe: Pipeline, part: str, name: str) -> Tensor:
    module = pipe.modules[part]
    names = dict(module.named_modules())
    return names.get(name, names.get(name.removeprefix("text_model."))).weight


Matrices = dict[tuple[str, str], tuple[Tensor, Tensor, float]]
"""For (part, layer): A, B and α."""


def matrices(pipe: Pipeline, seed: int = 0) -> Matrices:
    """Random matrices for layers of every kind, each with a rank and an α of its own."""
    generator = torch.Generator().manual_seed(seed)
    out: Matrices = {}
    for part in LAYERS.keys() & pipe.modules.keys():
        for i, name in enumerate(LAYERS[part]):
            weight, rank = weight_of(pipe, part, name), 1 + (i + seed) % 3
            a = torch.randn(rank, *weight.shape[1:], generator=generator)
            b = torch.randn(len(weight), rank, *[1] * (weight.ndim - 2), generator=generator)
            out[part, name] = a, b, 0.5 + i
    return out


def kohya(pairs: Matrices, names: dict[str, str] | None = None) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for (part, name), (a, b, alpha) in pairs.items():
        stem = f"{KOHYA[part]}_{(names or {}).get(name, name.replace('.', '_'))}"
        tensors |= {f"{stem}.lora_down.weight": a, f"{stem}.lora_up.weight": b, f"{stem}.alpha": torch.tensor(alpha)}
    return tensors


def peft(pairs: Matrices) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for (part, name), (a, b, alpha) in pairs.items():
        stem = f"{part}.{name}"
        tensors |= {f"{stem}.lora_A.weight": a, f"{stem}.lora_B.weight": b, f"{stem}.alpha": torch.tensor(alpha)}
    return tensors


def diffusers(pairs: Matrices) -> dict[str, Tensor]:
    """The names of older files, with α in the second matrix."""
    tensors: dict[str, Tensor] = {}
    for (part, name), (a, b, alpha) in pairs.items():
        stem = f"{part}.{name}.lora" + "_linear_layer" * part.startswith("text")
        tensors |= {f"{stem}.down.weight": a, f"{stem}.up.weight": b * (alpha / len(a))}
    return tensors


SPELLINGS: dict[str, Callable[[Matrices], dict[str, Tensor]]] = {
    "kohya": kohya,
    "kohya, SGM's blocks": lambda pairs: kohya(pairs, SGM),
    "peft": peft,
    "diffusers": diffusers,
}


def delta(a: Tensor, b: Tensor, alpha: float) -> Tensor:
    """(α/r) B A, as one matrix over all that a row of the weight has."""
    return (alpha / len(a) * b.flatten(1).double() @ a.flatten(1).double()).reshape(len(b), *a.shape[1:])


def check(pipe: Pipeline, base: Pipeline, *added: tuple[Matrices, float]) -> None:
    """Every weight is the base's, and the named ones have s (α/r) B A besides."""
    for part in base.modules:
        state = base.modules[part].state_dict()
        want: dict[str, Tensor] = {}
        for pairs, strength in added:
            for (where, name), (a, b, alpha) in pairs.items():
                if where == part:
                    key = f"{name if f'{name}.weight' in state else name.removeprefix('text_model.')}.weight"
                    want[key] = want.get(key, state[key].double()) + strength * delta(a, b, alpha)
        got = pipe.modules[part].state_dict()
        assert got.keys() == state.keys()
        assert all(torch.equal(got[key], value) for key, value in state.items() if key not in want)
        for key, value in want.items():
            assert_close(got[key].double(), value, atol=1e-5, rtol=1e-5, msg=lambda m, k=f"{part}.{key}": f"{k}: {m}")
        assert not any(p.requires_grad for p in pipe.modules[part].parameters())


KINDS = ["sd1", "sdxl", "tiny"]
"""Small models; the last one is run by the modules of this package."""

FEW = [pytest.param("sd1", marks=pytest.mark.slow), "sdxl", "tiny"]  # the first is like a part of the second


@pytest.fixture(scope="module")
def bases(sd1: tuple[Path, Any], sdxl: tuple[Path, Any]) -> dict[str, Pipeline]:
    """The models as they are."""
    return {"sd1": load(sd1[0]), "sdxl": load(sdxl[0]), "tiny": load_tiny(sd1[0], CPU, torch.float32)}


@pytest.fixture
def merged(sd1: tuple[Path, Any], sdxl: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Pipeline]:
    """A small model loaded with LoRAs."""

    def open_kind(kind: str, loras: Any) -> Pipeline:
        if kind != "tiny":
            return load({"sd1": sd1, "sdxl": sdxl}[kind][0], loras=loras)
        monkeypatch.setattr(models, "load_plain", lambda *_: load_tiny(sd1[0], CPU, torch.float32))
        return load("tiny", loras=loras)

    return open_kind


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_merged_weights(spelling: str, kind: str, bases: dict[str, Pipeline], tmp_path: Path) -> None:
    """What `load` merges is the same: see below."""
    base = bases[kind]
    pairs = matrices(base)
    assert len(pairs) >= 10
    save_file(SPELLINGS[spelling](pairs), tmp_path / "a.safetensors")
    check(base.with_loras({tmp_path / "a.safetensors": 0.7}), base, (pairs, 0.7))


@pytest.mark.parametrize("kind", FEW)
def test_two_loras_add(kind: str, bases: dict[str, Pipeline], tmp_path: Path) -> None:
    base = bases[kind]
    one, two = matrices(base, 1), matrices(base, 2)
    files = [(tmp_path / "1.safetensors", 0.5), (tmp_path / "2.safetensors", -1.0)]
    save_file(kohya(one), files[0][0])
    save_file(peft(two), files[1][0])
    pipe = base.with_loras([(str(path), strength) for path, strength in files])
    check(pipe, base, (one, 0.5), (two, -1.0))
    assert list(pipe.loras) == [(str(path), (strength, strength)) for path, strength in files]


@pytest.mark.parametrize("kind", FEW)
def test_strength_0_is_the_base(
    kind: str, bases: dict[str, Pipeline], merged: Callable[..., Pipeline], tmp_path: Path
) -> None:
    base = bases[kind]
    save_file(kohya(matrices(base)), tmp_path / "a.safetensors")
    loras = {str(tmp_path / "a.safetensors"): 0.0}
    assert equal(base, base.with_loras(loras)) and equal(base, merged(kind, loras))


@pytest.mark.parametrize("rslora", [pytest.param(False, marks=pytest.mark.slow), True])  # test_lora_files.py has both
def test_what_diffusers_saves_of_peft(
    rslora: bool, sd1: tuple[Path, Any], bases: dict[str, Pipeline], tmp_path: Path
) -> None:
    """The merged network answers as peft's, whose settings are in the file's header alone."""
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel
    from peft import LoraConfig, get_peft_model_state_dict

    unet = UNet2DConditionModel.from_pretrained(sd1[0] / "unet")
    config = LoraConfig(
        r=4, lora_alpha=3, target_modules=["to_q", "conv1"], init_lora_weights=False, use_rslora=rslora,
        rank_pattern={"conv1": 2}, alpha_pattern={"mid_block.*.to_q": 7},
    )  # fmt: skip
    unet.add_adapter(config)
    StableDiffusionPipeline.save_lora_weights(
        tmp_path, get_peft_model_state_dict(unet), unet_lora_adapter_metadata=config.to_dict()
    )
    pipe = load(sd1[0], loras={str(tmp_path / "pytorch_lora_weights.safetensors"): 1.0})
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([500.0, 3.0])
    cond = pipe.text.encode(["a", "b"], (16, 16))
    want = unet(x, t, encoder_hidden_states=cond.embeds).sample
    assert_close(pipe.model.network(x, t, cond), want, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(bases["sd1"].model.network(x, t, cond), want, atol=1e-2)


def test_half_precision(sd1: tuple[Path, Any], bases: dict[str, Pipeline], tmp_path: Path) -> None:
    base = bases["sd1"]
    pairs = matrices(base)
    save_file(kohya(pairs), tmp_path / "a.safetensors")
    pipe = load(sd1[0], dtype="float16", loras={str(tmp_path / "a.safetensors"): 0.1})
    for (part, name), (a, b, alpha) in pairs.items():
        got, weight = weight_of(pipe, part, name), weight_of(base, part, name)
        assert got.dtype == torch.float16
        assert_close(got.double(), weight + 0.1 * delta(a, b, alpha), atol=2e-3, rtol=2e-3)


@pytest.mark.slow
def test_no_other_package_is_needed(tmp_path: Path) -> None:
    """A process in which neither diffusers nor peft can be imported has LoRAs all the same."""
    pair = {"conv_out.lora_A.weight": torch.ones(1, 48, 3, 3), "conv_out.lora_B.weight": torch.ones(4, 1, 1, 1)}
    save_file(pair, tmp_path / "a.safetensors")
    code = f"""
import sys
sys.modules["peft"] = sys.modules["diffusers"] = None
from sigmafield.models.load import load
print(load("tiny", loras=[{str(tmp_path / "a.safetensors")!r}]).loras[0][1])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "Strengths(network=1.0, text=1.0)", result.stderr


def addresses(pipe: Pipeline) -> dict[str, int]:
    """Where each weight of a pipeline is in memory."""
    return {f"{part}.{name}": p.data_ptr() for part, m in pipe.modules.items() for name, p in m.named_parameters()}


def equal(a: Pipeline, b: Pipeline) -> bool:
    """Whether all weights are bit-equal."""
    states = [{part: module.state_dict() for part, module in pipe.modules.items()} for pipe in (a, b)]
    return all(torch.equal(value, states[1][part][key]) for part in states[0] for key, value in states[0][part].items())


@pytest.mark.parametrize("kind", FEW)
def test_sets_of_loras_share_all_other_weights(
    kind: str, bases: dict[str, Pipeline], merged: Callable[..., Pipeline], tmp_path: Path
) -> None:
    """Several at a time, each bit-equal to what `load` merges, on the weights of a model that stays as it is."""
    base = bases[kind]
    one, two = tmp_path / "1.safetensors", tmp_path / "2.safetensors"
    save_file(kohya(matrices(base, 1)), one)
    save_file({k: v for k, v in peft(matrices(base, 2)).items() if "conv1" in k or "to_q" in k}, two)
    was = {part: {k: v.clone() for k, v in m.state_dict().items()} for part, m in base.modules.items()}
    sets: list[Any] = [{one: 0.7}, {two: -1.0}, [(one, 0.3), (two, (0.5, 2.0))], {one: (1.0, 0.0)}]
    pipes = [base.with_loras(loras) for loras in sets]
    touched = {f"{part}.{name}.weight".replace("text_model.", "") for part, name in matrices(base)}
    at_base = addresses(base)
    state = torch.get_rng_state()
    for loras, pipe in zip(sets[2:], pipes[2:]):
        loaded = merged(kind, loras)
        assert equal(pipe, loaded) and list(pipe.loras) == list(loaded.loras)
    assert torch.equal(state, torch.get_rng_state())
    for pipe in pipes:
        assert not equal(pipe, base)
        own = {name for name, at in addresses(pipe).items() if at != at_base[name]}
        assert own and {name.replace("text_model.", "") for name in own} <= touched
    assert all(torch.equal(v, was[part][k]) for part, m in base.modules.items() for k, v in m.state_dict().items())
    assert base.with_loras(()) is not base and addresses(pipes[0].with_loras(())) == at_base
    cond, x, t = base.text.encode(["a"], (16, 16)), torch.randn(1, 4, 8, 8), torch.tensor([500.0])
    answers = [pipe.model.network(x, t, cond) for pipe in (base, *pipes[:3])]
    assert all(not torch.equal(a, b) for i, a in enumerate(answers) for b in answers[:i])
    texts = [pipe.text.encode(["a heart"], (16, 16)).embeds for pipe in (base, pipes[0], pipes[3])]
    assert torch.equal(texts[0], texts[2]) and not torch.equal(texts[0], texts[1])


def test_strengths_change_without_the_file(bases: dict[str, Pipeline], tmp_path: Path) -> None:
    base, path = bases["sd1"], tmp_path / "a.safetensors"
    save_file(kohya(matrices(base)), path)
    want = base.with_loras({path: (0.25, 2.0)})
    first = base.with_loras([str(path)])
    path.unlink()
    second = first.with_loras({str(path): (0.25, 2.0)})
    assert equal(second, want) and second.loras == [(str(path), (0.25, 2.0))]
    assert equal(second.with_loras([str(path)]), first) and not equal(first, second)
    with pytest.raises(FileNotFoundError, match="a.safetensors': no such file"):
        base.with_loras([path])


def test_an_exchanged_network_is_kept(bases: dict[str, Pipeline], tmp_path: Path) -> None:
    base, path = bases["sd1"], tmp_path / "a.safetensors"
    save_file(kohya(matrices(base)), path)
    other = load_tiny(Path(sigmafield.__file__).parent / "data" / "tiny", CPU, torch.float32).model
    exchanged = replace(base.with_loras([path]), model=other)
    assert exchanged.with_loras(()).model.module is other.module
    assert exchanged.with_loras(()).modules["text_encoder"] is base.modules["text_encoder"]


@pytest.mark.parametrize("dtype", ["float16", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_half_precision_is_rounded_once(dtype: str, sd1: tuple[Path, Any], tmp_path: Path) -> None:
    """Many small changes count, each of which alone would be lost in rounding."""
    base = load(sd1[0], dtype=dtype)
    pairs = matrices(base)
    loras = [(tmp_path / f"{i}.safetensors", 1e-4) for i in range(12)]
    for path, _ in loras:
        save_file(kohya(pairs), path)
    pipe = base.with_loras(loras)
    for (part, name), (a, b, alpha) in pairs.items():
        got, weight = weight_of(pipe, part, name), weight_of(base, part, name)
        want = weight.double() + 12e-4 * delta(a, b, alpha)
        assert got.dtype == weight.dtype
        assert ((got.double() - want).abs() <= 0.501 * torch.finfo(got.dtype).eps * want.abs() + 1e-7).all()


@pytest.mark.typed_elsewhere
def test_pipelines_that_cannot_have_other_loras(
    sd1: tuple[Path, Any], bases: dict[str, Pipeline], tmp_path: Path
) -> None:
    path = tmp_path / "a.safetensors"
    save_file(kohya(matrices(bases["sd1"])), path)
    with pytest.raises(ValueError, match="model was loaded with LoRAs in its weights: load it without them, then"):
        load(sd1[0], loras=[path]).with_loras({path: 0.5})
    for loras, message in [
        (
            {path: "strong"},
            "a.safetensors': its strength must be a number, or two: the network's and the text",
        ),
        ({path: (1, 2, 3)}, "its strength must be a number, or two"),
        ([(path, 1, 2)], "an entry of loras must be a path, or a path and its strength; got"),
        (str(path), "loras must be a mapping of paths to strengths, or a list; got .*: put it in a list"),
    ]:
        with pytest.raises(TypeError, match=message):
            load(sd1[0], loras=loras)
    compiled = load(sd1[0])
    unet = compiled.modules["unet"]
    unet._compiled_call_impl = unet._call_impl  # what compile() sets, without seconds of imports
    with pytest.raises(ValueError, match="UNet2DConditionModel is compiled, and a compiled network cannot be"):
        compiled.with_loras([path])


def test_a_job_has_the_loras_of_its_recipe(bases: dict[str, Pipeline], tmp_path: Path) -> None:
    base, path = bases["sd1"], tmp_path / "a.safetensors"
    save_file(kohya(matrices(base)), path)
    lora = sigmafield.Lora(str(path), 0.5, text_strength=0.25)
    recipe = sigmafield.Recipe("a heart", steps=1, loras=(lora,))
    assert sigmafield.Recipe.from_json(recipe.to_json()).loras == (lora,)
    job = sigmafield.open_job(recipe, base)
    assert equal(job.pipe, base.with_loras({path: (0.5, 0.25)}))
    assert sigmafield.open_job(recipe, job.pipe).pipe.modules["unet"] is job.pipe.modules["unet"]
