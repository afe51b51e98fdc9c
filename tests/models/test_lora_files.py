"""LoRA files that are broken, are for another model, or say what they are in their headers."""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor
from torch.testing import assert_close

import sigmafield as sf
from command_line import run
from sigmafield.cli.shared import Shared
from sigmafield.models.bundle import Pipeline
from sigmafield.models.lora.describe import describe, is_lora
from sigmafield.models.lora.keys import ROLES
from sigmafield.models.lora.merge import with_changes
from sigmafield.models.lora.read import Lora, read_lora
from sigmafield.models.lora.strengths import Strengths
from sigmafield.recipes.options import MachineOptions
from small_network import few_channels, shipped_model

ONES, NAN = torch.ones, torch.tensor(float("nan"))
Q = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
KQ = "lora_unet_" + Q.replace(".", "_")


@pytest.fixture(scope="module")
def tiny() -> Iterator[Pipeline]:
    """The shipped model, which needs no further packages, with few channels: so is what is loaded meanwhile."""
    with few_channels():
        yield shipped_model()


@pytest.fixture(scope="module")
def width(tiny: Pipeline) -> int:
    """The width of the layer that most files here change."""
    return len(weight_of(tiny))


def weight_of(pipe: Pipeline) -> Tensor:
    return pipe.modules["unet"].get_parameter(f"{Q}.weight")


def saved(path: Path, tensors: dict[str, Tensor], **header: str) -> Path:
    save_file({name: value.contiguous().clone() for name, value in tensors.items()}, path, metadata=header or None)
    return path


def pair(width: int, stem: str = f"unet.{Q}", rank: int = 2) -> dict[str, Tensor]:
    """Matrices of ones, whose product is the rank everywhere."""
    return {f"{stem}.lora_A.weight": ONES(rank, width), f"{stem}.lora_B.weight": ONES(width, rank)}


def kohya(width: int, rank: int = 2) -> dict[str, Tensor]:
    return {f"{KQ}.lora_down.weight": ONES(rank, width), f"{KQ}.lora_up.weight": ONES(width, rank)}


BROKEN: dict[str, tuple[Callable[[int], dict[str, Tensor]], dict[str, str], str]] = {
    "empty": (lambda _: {}, {}, "the file has no tensors"),
    "NaN": (
        lambda w: {**kohya(w), f"{KQ}.lora_up.weight": NAN.expand(w, 2)},
        {},
        f"{KQ}.lora_up.weight has NaN or infinity; the file is broken",
    ),
    "NaN α": (lambda w: {**kohya(w), f"{KQ}.alpha": NAN}, {}, f"{KQ}.alpha has NaN or infinity"),
    "α that is not one number": (
        lambda w: {**kohya(w), f"{KQ}.alpha": ONES(2)},
        {},
        rf"alpha is not one number: {KQ}.alpha \(2\)",
    ),
    "not JSON": (pair, {"lora_adapter_metadata": "{bad"}, r"lora_adapter_metadata is not JSON \(Expecting"),
    "not an object": (pair, {"lora_adapter_metadata": "[1]"}, r"lora_adapter_metadata must be an object; got \[1\]"),
    "α in words": (pair, {"lora_adapter_metadata": '{"unet.lora_alpha": "8"}'}, "lora_alpha must be a finite number"),
    "infinite α": (
        pair,
        {"lora_adapter_metadata": '{"unet.lora_alpha": Infinity}'},
        "a finite number; got inf",
    ),
    "patterns": (pair, {"lora_adapter_metadata": '{"unet.alpha_pattern": {"(": 1}}'}, "is not a pattern"),
    "patterns that are none": (
        pair,
        {"lora_adapter_metadata": '{"unet.alpha_pattern": 7}'},
        "must be an object; got 7",
    ),
    "kohya's α": (kohya, {"ss_network_alpha": "much"}, "ss_network_alpha must be a finite number; got 'much'"),
    "no pair": (lambda w: {f"{KQ}.lora_down.weight": ONES(1, w)}, {}, "lora_up is missing: lora_unet_mid"),
    "part of a LoHa": (lambda w: {f"{KQ}.hada_w1_a": ONES(w, 2)}, {}, "hada_w1_b is missing: "),
    "α alone": (lambda _: {f"{KQ}.alpha": ONES(1)}, {}, "alpha without matrices: "),
    "two kinds": (lambda w: {**kohya(w), f"{KQ}.hada_w1_a": ONES(w, 2)}, {}, "LoRA and LoHa of one layer: "),
    "a vector": (
        lambda w: {**kohya(w), f"{KQ}.lora_down.weight": ONES(w)},
        {},
        r"lora_down is not a matrix: .*\(shape \(\d+,\)\)",
    ),
    "another width": (
        lambda w: {f"{KQ}.lora_down.weight": ONES(2, 5), f"{KQ}.lora_up.weight": ONES(w, 2)},
        {},
        r"changes of another shape than the weights: lora_unet_.* \(\d+×5 for \d+×\d+\)",
    ),
    "ranks": (
        lambda w: {f"{KQ}.lora_down.weight": ONES(3, w), f"{KQ}.lora_up.weight": ONES(w, 2)},
        {},
        r"matrices whose ranks differ: lora_unet_.* \(3×\d+, \d+×2\)",
    ),
    "no such layer": (lambda w: pair(w, "unet.nowhere.to_q"), {}, "no such layers in unet: unet.nowhere.to_q.lora_A"),
    "no such block": (lambda w: pair(w, "lora_unet_input_blocks_x_1"), {}, "no such layers in unet: lora_unet_input"),
    "another part": (
        lambda w: pair(w, "transformer.a"),
        {},
        "for transformer, while this model has unet, text_encoder: transformer.a.lora_A.weight; nothing of it is for",
    ),
    "no bias": (lambda w: {f"{KQ}.diff_b": ONES(w)}, {}, "a bias for layers without one: "),
    "magnitudes": (
        lambda w: {**kohya(w), f"{KQ}.dora_scale": ONES(3)},
        {},
        r"another number of magnitudes than rows: .*\(3 for \d+\)",
    ),
    "another spelling of a matrix": (
        lambda w: {**pair(w), f"unet.{Q}.lora_A.default.weight": 2 * ONES(2, w)},
        {},
        r"given twice, .*: unet\.mid_block.*\.lora_A.*weight",
    ),
    "two spellings of a pair": (
        lambda w: {**kohya(w), **{f"{KQ}.{e}": 2 * v for e, v in zip(("lora_A", "lora_B"), kohya(w).values())}},
        {},
        rf"1 entry cannot be used: given twice, .*: {KQ}\.",
    ),
    "two prefixes": (
        lambda w: {**pair(w, f"diffusion_model.{Q}"), f"model.diffusion_model.{Q}.lora_A.weight": 2 * ONES(2, w)},
        {},
        "given twice, .*: (model.)?diffusion_model",
    ),
    "integers": (
        lambda w: {name: value.to(torch.int8) for name, value in kohya(w).items()},
        {},
        f"2 entries cannot be used: integers, quantised without a scale: {KQ}.lora_down.weight",
    ),
    "a factor of LoKr that is given whole too": (
        lambda w: {f"{KQ}.{name}": ONES(w, w) for name in ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2")},
        {},
        f"lokr_w1 and lokr_w1_a of one layer: {KQ}",
    ),
    "a core of LoKr without factors": (
        lambda w: {f"{KQ}.{name}": ONES(w, w) for name in ("lokr_w1", "lokr_w2", "lokr_t2")},
        {},
        f"lokr_w2 and lokr_t2 of one layer: {KQ}",
    ),
    "unknown names": (lambda w: {f"{KQ}.oft_blocks": ONES(w)}, {}, f"unknown names: {KQ}.oft_blocks; nothing of it"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_refusals(case: str, tiny: Pipeline, width: int, tmp_path: Path) -> None:
    make, header, message = BROKEN[case]
    path = saved(tmp_path / "a.safetensors", make(width), **header)
    with pytest.raises(ValueError, match=message) as caught:
        tiny.with_loras([path])
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=message):  # what is left is nothing
        tiny.with_loras([path], lora_partial=True)


def test_files_that_are_not_read(tiny: Pipeline, width: int, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="b.safetensors': no such file"):
        tiny.with_loras([tmp_path / "b.safetensors"])
    for name in ("a.pt", "a.ckpt", "a"):
        (tmp_path / name).write_bytes(pickle.dumps({"a": 1}))
        with pytest.raises(ValueError, match="a LoRA must be a .safetensors file; a pickle can run any code"):
            tiny.with_loras([tmp_path / name])
    with pytest.raises(ValueError, match="strength must be a finite number; got inf"):
        tiny.with_loras({tmp_path / "a": float("inf")})
    for name in ("a.sft", "a.SAFETENSORS"):
        assert tiny.with_loras([saved(tmp_path / name, pair(width))]).loras


def test_the_rest_of_a_file_if_asked(tiny: Pipeline, width: int, tmp_path: Path) -> None:
    """What cannot be used is listed; the rest is as if it were the whole file."""
    whole = saved(tmp_path / "whole.safetensors", pair(width))
    foreign = {"bundle_emb.my style.clip_l": ONES(2, 24), "unet.conv_in.magic": ONES(1), **pair(5, "unet.nowhere")}
    path = saved(tmp_path / "part.safetensors", {**pair(width), **foreign})
    with pytest.raises(
        ValueError, match=r"3 entries cannot be used: .*; lora_partial=True \(--lora-partial\)"
    ) as error:
        tiny.with_loras([path])
    for listed in ("bundle_emb.my style.clip_l", "unet.conv_in.magic", "unet.nowhere.lora_A.weight"):
        assert listed in str(error.value)
    with pytest.raises(ValueError, match="3 entries cannot be used"):
        sf.load("tiny", device="cpu", loras=[path])
    want = weight_of(tiny.with_loras([whole]))
    loaded = sf.load("tiny", device="cpu", loras=[path], lora_partial=True)
    kept = tiny.with_loras([path], lora_partial=True)
    for pipe in (loaded, kept, pickle.loads(pickle.dumps(kept))):
        assert torch.equal(weight_of(pipe), want)
        [note] = pipe.notes
        assert note.startswith(f"LoRA {path}: 3 entries cannot be used: vectors of textual inversions of another width")
    assert tiny.with_loras([whole]).notes == () == kept.with_loras(()).notes
    with pytest.raises(ValueError, match="3 entries cannot be used"):  # of a file that was read before
        kept.with_loras({path: 0.5})


def test_a_recipe_that_asks_for_the_rest(tiny: Pipeline, width: int, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.safetensors", {**pair(width), "unet.conv_in.magic": ONES(1)})
    recipe = sf.Recipe("x", steps=1, loras=(sf.Lora(str(path)),), lora_partial=True)
    assert sf.Recipe.from_json(recipe.to_json()) == recipe
    job = sf.open_job(recipe, tiny)
    assert torch.equal(weight_of(job.pipe), weight_of(tiny.with_loras([path], lora_partial=True)))
    assert ["unknown names: unet.conv_in.magic" in note for note in job.notes] == [True]
    with pytest.warns(UserWarning, match="1 entry cannot be used: unknown names"):
        [image] = sf.generate(tiny, "x", steps=1, loras=[sf.Lora(str(path))], lora_partial=True)
    out, name = tmp_path / "a.png", f"{path}:0.7:0.4"
    refused = run("sample", "x", "--steps", 1, "-o", out, "--lora", name)
    assert refused.exit_code == 2 and "1 entry cannot be used" in refused.stderr and not out.exists()
    done = run("sample", "x", "--steps", 1, "-o", out, "--lora", name, "--lora-partial")
    assert done.exit_code == 0 and "1 entry cannot be used" in done.output + done.stderr
    assert run("replay", out).exit_code == 0 and image.size == (64, 64)


def test_a_batch_of_different_loras_reads_the_model_twice_at_most(tiny: Pipeline, width: int, tmp_path: Path) -> None:
    """Each recipe has the weights that it has alone; from the second set of LoRAs on, all others are shared."""
    path = saved(tmp_path / "a.safetensors", pair(width))
    plain = sf.Recipe("x", steps=1)
    recipes = [replace(plain, loras=(sf.Lora(str(path), strength),)) for strength in (1.0, 0.5, -1.0)]
    shared = Shared(MachineOptions(device="cpu"))
    pipes = [shared.pipe(recipe) for recipe in (*recipes, plain, recipes[0])]
    for recipe, pipe in zip((*recipes, plain, recipes[0]), pipes):
        assert torch.equal(weight_of(pipe), weight_of(tiny.with_loras([lora.pair for lora in recipe.loras])))
    assert shared.pipe(recipes[0]) is pipes[-1]
    assert len({id(pipe.vae.module) for pipe in pipes}) == 2
    assert pipes[1].vae.module is pipes[4].vae.module is not pipes[0].vae.module


def test_layers_that_were_not_trained_are_no_loss(tiny: Pipeline, width: int, tmp_path: Path) -> None:
    """Trainers write zeros for layers that some models lack."""
    zeros = {f"lora_te_text_projection.{end}": torch.zeros(3, 3) for end in ("lora_down.weight", "lora_up.weight")}
    path = saved(tmp_path / "a.safetensors", {**kohya(width), **zeros, "lora_te_text_projection.alpha": ONES(())})
    assert torch.equal(weight_of(tiny.with_loras([path])), weight_of(tiny) + 2)


@pytest.mark.parametrize("alpha, strength", [(3e38, 2.0), (2.0, 1e39), (3e38, -1e39)])
def test_weights_stay_finite(alpha: float, strength: float, tiny: Pipeline, width: int, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.safetensors", {**kohya(width), f"{KQ}.alpha": ONES(()) * alpha})
    up = saved(tmp_path / "b.safetensors", {**kohya(width), f"{KQ}.lora_up.weight": 9 * ONES(width, 2)})
    with pytest.raises(ValueError, match=rf"a.safetensors at strength .*: unet.{Q}.weight becomes infinite or NaN"):
        tiny.with_loras({path: strength, up: strength})


def test_what_is_given_twice(tiny: Pipeline, width: int, tmp_path: Path) -> None:
    """Equal numbers are used once; one weight by two names of its layer is the first one's, if asked."""
    alphas = {f"{KQ}.alpha": torch.tensor(6), f"{KQ}.lora.alpha": ONES(1).half() * 6}
    path = saved(tmp_path / "a.safetensors", {**kohya(width), **alphas})
    assert_close(weight_of(tiny.with_loras([path])), weight_of(tiny) + 6)
    path = saved(tmp_path / "b.safetensors", {**kohya(width), **pair(width)})
    with pytest.raises(ValueError, match="1 entry cannot be used: given twice"):
        tiny.with_loras([path])
    assert_close(weight_of(tiny.with_loras([path], lora_partial=True)), weight_of(tiny) + 2)


ALPHAS: dict[str, tuple[bool, dict[str, Tensor], dict[str, str], float]] = {
    "none": (True, {}, {}, 1.0),
    "a tensor": (True, {f"{KQ}.alpha": ONES(()) * 6}, {}, 3.0),
    "kohya's header": (True, {}, {"ss_network_alpha": "8.0"}, 4.0),
    "kohya's header says none": (True, {}, {"ss_network_alpha": "None"}, 1.0),
    "a tensor and kohya's header": (True, {f"{KQ}.alpha": ONES(()) * 6}, {"ss_network_alpha": "8.0"}, 3.0),
    "kohya's header of a converted file": (False, {}, {"ss_network_alpha": "8.0"}, 1.0),
    "peft's header": (False, {}, {"lora_adapter_metadata": '{"unet.r": 2, "unet.lora_alpha": 4}'}, 2.0),
    "a tensor and peft's header": (
        False,
        {f"unet.{Q}.alpha": ONES(1) * 4},
        {"lora_adapter_metadata": '{"unet.r": 2, "unet.lora_alpha": 4}'},
        2.0,
    ),
    "peft's patterns": (
        False,
        {},
        {"lora_adapter_metadata": '{"unet.lora_alpha": 4, "unet.alpha_pattern": {"attn1.to_q": 10}}'},
        5.0,
    ),
    "peft's header for another part": (False, {}, {"lora_adapter_metadata": '{"text_encoder.lora_alpha": 4}'}, 1.0),
    "rsLoRA": (False, {}, {"lora_adapter_metadata": '{"unet.lora_alpha": 4, "unet.use_rslora": true}'}, 4 / 2**0.5),
}


@pytest.mark.parametrize("case", ALPHAS)
def test_alpha_counts_once(case: str, tiny: Pipeline, width: int, tmp_path: Path) -> None:
    by_kohya, more, header, scale = ALPHAS[case]
    path = saved(tmp_path / "a.safetensors", {**(kohya if by_kohya else pair)(width), **more}, **header)
    assert_close(weight_of(tiny.with_loras([path])), weight_of(tiny) + 2 * scale)


def test_the_file_that_peft_writes_next_to_its_own(tiny: Pipeline, width: int, tmp_path: Path) -> None:
    path = saved(tmp_path / "adapter_model.safetensors", pair(width, f"base_model.model.{Q}"))
    assert_close(weight_of(tiny.with_loras([path])), weight_of(tiny) + 2)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 8, "peft_type": "LORA"}))
    assert_close(weight_of(tiny.with_loras([path])), weight_of(tiny) + 8)
    for name, value, refused in (
        ("fan_in_fan_out", True, "fan_in_fan_out is not supported; got True"),
        ("layer_replication", [[0, 4], [2, 5]], r"layer_replication is not supported; got \[\[0, 4\]"),
        ("peft_type", "ADALORA", "peft_type must be one of LORA, LOHA, LOKR; got 'ADALORA'"),
    ):
        (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 8, name: value}))
        with pytest.raises(ValueError, match=f"adapter_config.json: {refused}"):
            tiny.with_loras([path])
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(ValueError, match="adapter_config.json is not JSON"):
        tiny.with_loras([path])


def test_biases_of_peft_are_scaled(tiny: Pipeline, tmp_path: Path) -> None:
    """lora_bias: the answer of B has a bias of its own, which α scales too."""
    stem, weight = "conv_out", tiny.modules["unet"].conv_out.weight
    tensors = {f"unet.{stem}.lora_A.weight": torch.zeros(2, *weight.shape[1:]), f"unet.{stem}.alpha": ONES(()) * 6}
    tensors |= {f"unet.{stem}.lora_B.weight": ONES(len(weight), 2, 1, 1), f"unet.{stem}.lora_B.bias": ONES(len(weight))}
    pipe = tiny.with_loras({saved(tmp_path / "a.safetensors", tensors): 0.5})
    assert torch.equal(pipe.modules["unet"].conv_out.weight, weight)
    assert_close(pipe.modules["unet"].conv_out.bias, tiny.modules["unet"].conv_out.bias + 1.5)


LAYER = st.sampled_from([f"unet.{Q}", KQ, "conv_out", "lora_te_text_model_encoder_layers_0_mlp_fc1", "blocks.0", ""])
END = st.sampled_from([*ROLES, "diff_m", "processor.to_q_lora.down.weight", "magic"])
SHAPE = st.lists(st.sampled_from([0, 1, 2, 3, 4, 32]), max_size=4)
DTYPE = st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.float8_e4m3fn])
SETTING = st.sampled_from(["unet.lora_alpha", "lora_alpha", "unet.alpha_pattern", "alpha_pattern", "unet.use_rslora"])
LEAF = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4)
JSON = LEAF | st.dictionaries(
    SETTING | st.text(max_size=4), LEAF | st.dictionaries(st.text(max_size=4), LEAF), max_size=3
)
HEADER = st.fixed_dictionaries(
    {},
    optional={
        "lora_adapter_metadata": st.text(max_size=8) | JSON.map(json.dumps),
        "ss_network_alpha": st.text(max_size=4) | st.floats().map(str),
        "ss_tag_frequency": JSON.map(json.dumps),
        "modelspec.trigger_phrase": st.text(max_size=8),
    },
)
QUICK = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def read_or_refused(path: Path, modules: dict[str, Any]) -> Lora | None:
    """What is read of a file, merged; None where it is refused in one line that names it."""
    try:
        lora = read_lora(path, modules)
        with_changes(modules, [(lora, Strengths(1.0, 1.0))])
    except ValueError as error:
        if "\n" in str(error) or str(path.parent) not in str(error):
            raise AssertionError("a refusal is one line that names the file") from error
        return None
    assert lora.left_out() is None or str(path) in str(lora.left_out())
    return lora


@QUICK
@given(data=st.binary(max_size=64) | st.builds(lambda head, body: struct.pack("<Q", len(head)) + head + body,
       JSON.map(lambda value: json.dumps(value).encode()), st.binary(max_size=16)))  # fmt: skip
def test_any_bytes(data: bytes, tiny: Pipeline, tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(data)
    lora = read_or_refused(tmp_path / "a.safetensors", dict(tiny.adaptable))
    assert lora is None or not lora.changes


@QUICK
@given(entries=st.lists(st.tuples(LAYER, END, SHAPE, DTYPE), max_size=6), header=HEADER, value=st.floats(width=16))
def test_any_tensors(entries: list[Any], header: dict[str, str], value: float, tiny: Pipeline, tmp_path: Path) -> None:
    tensors: dict[str, Tensor] = {}
    for layer, end, shape, dtype in entries:
        number = torch.tensor(value).nan_to_num(1, 1, 1) if dtype in (torch.int64, torch.bool) else torch.tensor(value)
        tensors[f"{layer}.{end}"] = number.to(dtype).expand(shape)
    path = saved(tmp_path / "a.safetensors", tensors, **header)
    read_or_refused(path, dict(tiny.adaptable))
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    assert set(describe(shapes, header).kinds) <= {"LoRA", "LoCon", "LoHa", "LoKr", "full", "DoRA"}


@QUICK
@given(cut=st.integers(0, 400), flip=st.integers(0, 400), to=st.integers(0, 255))
def test_damaged_files(cut: int, flip: int, to: int, tiny: Pipeline, width: int, tmp_path: Path) -> None:
    """A file that was cut, or has another byte somewhere, is refused or read, and nothing else happens."""
    whole = saved(tmp_path / "whole.safetensors", pair(width), lora_adapter_metadata='{"unet.lora_alpha": 4}')
    data = bytearray(whole.read_bytes())
    data[flip % len(data)] = to
    (tmp_path / "a.safetensors").write_bytes(bytes(data[: len(data) - cut]))
    lora = read_or_refused(tmp_path / "a.safetensors", dict(tiny.adaptable))
    assert lora is None or cut == 0


HEADERS: dict[str, tuple[dict[str, tuple[int, ...]], dict[str, str], dict[str, Any]]] = {
    "kohya": (
        {
            "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k.lora_down.weight": (8, 2048),
            "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k.alpha": (),
            "lora_unet_input_blocks_3_0_op.lora_down.weight": (4, 320, 3, 3),
            "lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": (8, 768),
            "bundle_emb.my.style 2.clip_l": (2, 768),
        },
        {
            "ss_tag_frequency": json.dumps({"a": {"ink": 3, "hat": 1}, "b": {"hat": 5, " ": 9}}),
            "modelspec.trigger_phrase": "ohwx man, ink",
            "ss_learning_rate": "0.0001",
            "ss_bucket_info": "x" * 500,
            "format": "pt",
        },
        {
            "trainer": "OneTrainer", "kinds": ["LoRA", "LoCon"], "ranks": {8: 2, 4: 1}, "family": "sdxl",
            "layers": {"network": 2, "text_encoder": 1}, "embeddings": ["my.style_2"], "unknown": [],
            "words": ["embedding:my.style_2", "ohwx man", "ink", "hat"],
            "training": {"ss_learning_rate": "0.0001", "modelspec.trigger_phrase": "ohwx man, ink"},
        },
    ),
    "Flux, XLabs": (
        {"double_blocks.0.processor.qkv_lora1.down.weight": (16, 3072), "magic": (1,)},
        {},
        {"trainer": "XLabs", "kinds": ["LoRA"], "ranks": {16: 1}, "family": "flux", "unknown": ["magic"]},
    ),
    "SD3, peft": (
        {"base_model.model.transformer_blocks.0.attn.add_k_proj.lora_A.weight": (4, 9),
         "base_model.model.transformer_blocks.0.attn.add_k_proj.lora_magnitude_vector": (9,)},
        {"ss_tag_frequency": "{bad"},
        {"trainer": "peft", "kinds": ["LoRA", "DoRA"], "family": "sd3", "words": []},
    ),
    "Wan, musubi": ({"lora_unet_blocks_0_cross_attn_k.lora_down.weight": (4, 9)}, {}, {"family": "wan"}),
    "Wan, cut out": (
        {"diffusion_model.blocks.0.diff_m": (1, 6, 9), "diffusion_model.blocks.0.ffn.0.diff_b": (9,)},
        {"ss_tag_frequency": "[1, {}]"},
        {"trainer": "ComfyUI", "kinds": ["full"], "ranks": {}, "family": "wan", "layers": {"network": 2}},
    ),
    "Lumina, LoKr": (
        {"lycoris_layers_0_attention_qkv.lokr_w1": (4, 4), "lycoris_layers_0_attention_qkv.lokr_w2_b": (6, 9)},
        {},
        {"trainer": "LyCORIS", "kinds": ["LoKr"], "ranks": {6: 1}, "family": "lumina2"},
    ),
    "text encoder alone": ({"lora_te_a.lora_down.weight": (4, 9)}, {}, {"family": None, "layers": {"text_encoder": 1}}),
}  # fmt: skip


@pytest.mark.parametrize("case", HEADERS)
def test_what_a_header_says(case: str) -> None:
    shapes, metadata, want = HEADERS[case]
    header = describe(shapes, metadata)
    assert {name: getattr(header, name) for name in want} == want
    assert is_lora(shapes) or "magic" in shapes
    assert not is_lora(["model.diffusion_model.input_blocks.0.0.weight", "first_stage_model.encoder.conv_in.weight"])
