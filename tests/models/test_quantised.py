"""Models with quantised weights, against the same models with the numbers that the weights stand for."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import original_models
import original_names
import pytest
import quantise
import small_models
import torch
import true_layouts
from safetensors.torch import load_file
from torch import Tensor, nn

from command_line import run
from sigmafield.models.load import load
from sigmafield.models.load_parts import load_control
from sigmafield.models.module_view import view_of
from sigmafield.models.vae.vae import Vae
from sigmafield.parameterization.families import family
from sigmafield.parameterization.latent_format import latent_format

pytest.importorskip("diffusers")
from diffusers import FluxTransformer2DModel, UNet2DConditionModel

from sigmafield.models.diffusers.preview import load_preview
from sigmafield.models.diffusers.source import Source, pretrained
from sigmafield.models.diffusers.vae import load_vae
from sigmafield.models.single_file.checkpoint import open_single_file
from sigmafield.models.single_file.ema import ema_names
from sigmafield.models.weights.layers import PackedLayer, PackedLinear, change_weight, dense_weight, packed_layer
from sigmafield.models.weights.packed import Packed

Weights = dict[str, Tensor]
SIZE = (16, 16)


def index(folder: Path, family: str) -> Path:
    """A directory that has the other parts of a family, as far as its index says."""
    folder.mkdir()
    (folder / "model_index.json").write_bytes((true_layouts.CONFIGS / family / "model_index.json").read_bytes())
    return folder


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> tuple[Weights, Path]:
    """The weights of Flux's transformer by their published names, and a directory for the other parts."""
    module = FluxTransformer2DModel(
        num_layers=1, num_single_layers=1, num_attention_heads=2, attention_head_dim=32, joint_attention_dim=48,
        pooled_projection_dim=64, guidance_embeds=True, axes_dims_rope=(4, 14, 14),
    )  # fmt: skip
    weights = original_names.flux(small_models.randomise(module), original_names.LDM)
    return weights, index(tmp_path_factory.mktemp("flux") / "parts", "flux")


@pytest.fixture(scope="module")
def ldm(tmp_path_factory: pytest.TempPathFactory) -> tuple[UNet2DConditionModel, Weights, Path]:
    """A UNet, its weights by their published names, and a directory for the other parts."""
    module = original_models.unet(
        (32, 32, 32, 32), (1, 1, 1, 0), 1, cross_attention_dim=64, attention_head_dim=8, sample_size=64
    )
    names = original_names.unet((1, 1, 1, 0), 1)
    weights = original_names.renamed(module, names, original_names.LDM)
    return module, weights, index(tmp_path_factory.mktemp("sd1") / "parts", "sd1")


def part_of(kind: Any, part: str, path: Path, parts: Path, dtype: torch.dtype = torch.float32) -> Any:
    """A part of the model in a file."""
    where = open_single_file(path, parts, path.parent / "scratch")
    return Source(where, "m", torch.device("cpu"), dtype).module(kind, part)


transformer = partial(part_of, FluxTransformer2DModel, "transformer")
unet = partial(part_of, UNet2DConditionModel, "unet")


def answer(module: Any, dtype: torch.dtype = torch.float32) -> Tensor:
    """Flux's answer to random tokens."""
    noise = partial(torch.randn, generator=torch.Generator().manual_seed(1), dtype=dtype)
    with torch.no_grad():
        return module(
            noise(1, 4, 64), noise(1, 3, 48), noise(1, 64), torch.tensor([0.5]), torch.zeros(4, 3), torch.zeros(3, 3),
            torch.tensor([3.5], dtype=dtype),
        ).sample  # fmt: skip


def same(module: nn.Module, other: nn.Module) -> None:
    """Asserts that two modules have the same weights, and that some of the first one's are quantised."""
    ours, theirs = module.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert any(isinstance(layer, PackedLayer) for layer in module.modules())


def size(module: nn.Module) -> int:
    """Bytes of a module's weights in memory."""
    return sum(value.nbytes for value in [*module.parameters(), *module.buffers()])


SCALED = {
    "old, tensor": (quantise.old, False, torch.float32),
    "old, row": (quantise.old, True, torch.bfloat16),
    "new, tensor": (quantise.new, False, torch.float16),
    "new, row": (quantise.new, True, torch.float32),
    "marked, row": (quantise.marked, True, torch.bfloat16),
}


@pytest.mark.parametrize("spelling, per_row, dtype", SCALED.values(), ids=SCALED)
def test_scaled_8_bits(
    spelling: Any, per_row: bool, dtype: torch.dtype, flux: tuple[Weights, Path], tmp_path: Path
) -> None:
    """Queries, keys and values are one matrix in the file and three in the network, each with its rows' scales."""
    weights, parts = flux
    ours, theirs = dict(weights), dict(weights)
    for stem in quantise.layers_of(weights):
        data, scale, theirs[f"{stem}.weight"] = quantise.scaled(weights[f"{stem}.weight"], per_row)
        ours |= spelling(stem, data, scale)
    got = transformer(quantise.save(tmp_path / "a.safetensors", ours), parts, dtype)
    want = transformer(quantise.save(tmp_path / "b.safetensors", theirs), parts, dtype)
    same(got, want)
    assert torch.equal(answer(got, dtype), answer(want, dtype))
    assert size(got) < size(want) * (0.55 if dtype == torch.float32 else 0.8)
    assert got.dtype == dtype and isinstance(got.transformer_blocks[0].attn.to_k, PackedLinear)


def test_all_weights_8_bits_without_scales(flux: tuple[Weights, Path], tmp_path: Path) -> None:
    ours = {name: value.to(torch.float8_e5m2) for name, value in flux[0].items()}
    theirs = {name: value.float() for name, value in ours.items()}
    got, want = (
        transformer(quantise.save(tmp_path / f"{i}.safetensors", w), flux[1]) for i, w in enumerate([ours, theirs])
    )
    same(got, want)
    assert got.transformer_blocks[0].attn.to_k.kind == "float8_e5m2"


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q5_1"])
def test_gguf(kind: str, flux: tuple[Weights, Path], tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    weights, parts = flux
    ours, theirs, kinds = dict[str, Any](weights), dict(weights), dict[str, str]()
    for stem in quantise.layers_of(weights):
        name = f"{stem}.weight"
        if weights[name].shape[1] % 32 == 0:
            ours[name], kinds[name] = quantise.blocks(tuple(weights[name].shape), kind), kind
            theirs[name] = quantise.gguf_numbers(ours[name], kind)
    got = transformer(quantise.write_gguf(tmp_path / "A.GGUF", ours, kinds), parts)
    want = transformer(quantise.save(tmp_path / "b.safetensors", theirs), parts)
    same(got, want)
    assert torch.equal(answer(got), answer(want)) and size(got) < size(want) * 0.65


def test_gguf_of_a_unet_with_kernels_cut_into_rows(ldm: Any, tmp_path: Path) -> None:
    """As ComfyUI-GGUF writes Stable Diffusion 1 and XL, whose kernels would otherwise have too short rows."""
    pytest.importorskip("gguf")
    _, whole, folder = ldm
    weights = {name.removeprefix(original_names.LDM): value for name, value in whole.items()}
    ours, theirs, kinds, shapes = dict[str, Any](weights), dict(weights), dict[str, str](), dict[str, Any]()
    for stem in quantise.layers_of(weights, axes=(2, 4)):
        name, value = f"{stem}.weight", weights[f"{stem}.weight"]
        if value.numel() % 256 == 0:
            rows = (value.numel() // 256, 256)
            shapes |= {} if value.shape[-1] % 256 == 0 else {name: value.shape}
            ours[name], kinds[name] = quantise.blocks(rows if name in shapes else tuple(value.shape), "Q4_K"), "Q4_K"
            theirs[name] = quantise.gguf_numbers(ours[name], "Q4_K").reshape(value.shape)
    got = unet(quantise.write_gguf(tmp_path / "a.gguf", ours, kinds, shapes), folder)
    want = unet(quantise.save(tmp_path / "b.safetensors", theirs), folder)
    same(got, want)
    assert isinstance(got.down_blocks[0].resnets[0].conv1, PackedLayer)
    x, t, text = torch.randn(1, 4, 16, 16), torch.tensor([3.0]), torch.randn(1, 5, 64)
    with torch.no_grad():
        assert torch.equal(got(x, t, text).sample, want(x, t, text).sample)


def test_t5_by_the_names_of_llama_cpp(tmp_path: Path) -> None:
    """A file of any name in a part's folder."""
    gguf = pytest.importorskip("gguf")
    from transformers import T5Config, T5EncoderModel

    sizes = {"vocab_size": 32, "d_model": 64, "d_kv": 32, "d_ff": 64, "num_layers": 2, "num_heads": 2}
    config = T5Config(**sizes, feed_forward_proj="gated-gelu")
    small_models.randomise(T5EncoderModel(config)).save_pretrained(tmp_path)
    [file] = tmp_path.glob("*.safetensors")
    theirs = load_file(file)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.T5ENCODER, 2)
    ours, kinds = dict[str, Any](), dict[str, str]()
    for name, value in list(theirs.items()):
        short = names.get_name(name, try_suffixes=(".weight",))
        ours[short] = value
        if value.ndim == 2 and "relative" not in name:
            ours[short], kinds[short] = quantise.blocks(tuple(value.shape), "Q8_0"), "Q8_0"
            theirs[name] = quantise.gguf_numbers(ours[short], "Q8_0")
    quantise.save(file, theirs, {"format": "pt"})
    want = pretrained(T5EncoderModel, tmp_path, torch.float32)
    file.unlink()
    quantise.write_gguf(tmp_path / "t5-v1_1-Q8_0.gguf", ours, kinds)
    got = pretrained(T5EncoderModel, tmp_path, torch.float32)
    same(got, want)
    ids = torch.tensor([[3, 1, 4, 1]])
    assert torch.equal(got(ids).last_hidden_state, want(ids).last_hidden_state)
    half = pretrained(T5EncoderModel, tmp_path, torch.float16).encoder.block[0].layer
    assert half[1].DenseReluDense.wo.weight.dtype == torch.float32  # which overflows float16
    assert half[0].SelfAttention.q.weight.dtype == torch.float16
    shutil.copy(tmp_path / "t5-v1_1-Q8_0.gguf", tmp_path / "b.gguf")
    with pytest.raises(ValueError, match="has several .gguf files, b.gguf, t5-v1_1-Q8_0.gguf: leave one in it"):
        pretrained(T5EncoderModel, tmp_path, torch.float32)


def with_scales(folder: Path, to: Path, spelling: Any) -> tuple[Path, Path]:
    """Two copies of a module's folder: with 8-bit weights, and with the numbers that these stand for."""
    ours, theirs = to / "ours", to / "theirs"
    for copy in (ours, theirs):
        shutil.copytree(folder, copy)
    [file] = [path.name for path in folder.glob("*.safetensors")]
    weights = load_file(folder / file)
    small, plain = dict(weights), dict(weights)
    for stem in quantise.layers_of(weights):
        data, scale, plain[f"{stem}.weight"] = quantise.scaled(weights[f"{stem}.weight"], False)
        small |= spelling(stem, data, scale)
    quantise.save(ours / file, small, {"format": "pt"})
    quantise.save(theirs / file, plain, {"format": "pt"})
    return ours, theirs


@pytest.mark.parametrize(
    "part, spelling", [("unet", quantise.old), ("text_encoder", quantise.new), ("vae", quantise.new)]
)
def test_directories(part: str, spelling: Any, sd1: tuple[Path, Any], tmp_path: Path) -> None:
    ours, theirs = with_scales(sd1[0] / part, tmp_path, spelling)
    kind = type(getattr(sd1[1], part))
    got, want = (pretrained(kind, folder, torch.float32) for folder in (ours, theirs))
    if part == "vae":  # which has numbers only
        assert all(torch.equal(value, want.state_dict()[name]) for name, value in got.state_dict().items())
    else:
        same(got, want)


def test_control_networks(tmp_path: Path) -> None:
    small_models.control_net(small_models.unet()).save_pretrained(tmp_path / "net")
    ours, theirs = with_scales(tmp_path / "net", tmp_path, quantise.new)
    same(load_control(ours, device="cpu").module, load_control(theirs, device="cpu").module)


def test_unknown_weights_of_a_directory_are_refused(sd1: tuple[Path, Any], tmp_path: Path) -> None:
    """Of a model's parts, of a side network and of a small decoder."""
    from diffusers import AutoencoderTiny
    from transformers import CLIPTextModel

    small_models.control_net(sd1[1].unet).save_pretrained(tmp_path / "net")
    AutoencoderTiny(latent_channels=4).save_pretrained(tmp_path / "small")
    for part in ("unet", "text_encoder"):
        shutil.copytree(sd1[0] / part, tmp_path / part)
    calls = {
        "unet": lambda: pretrained(UNet2DConditionModel, tmp_path / "unet", torch.float32),
        "text_encoder": lambda: pretrained(CLIPTextModel, tmp_path / "text_encoder", torch.float32),
        "net": lambda: load_control(tmp_path / "net", device="cpu"),
        "small": lambda: load_preview(tmp_path / "small", latent_format("SD15"), torch.device("cpu")),
    }
    for folder, call in calls.items():
        [file] = (tmp_path / folder).glob("*.safetensors")
        before = load_file(file)
        older = {"embeddings.position_ids": torch.arange(3)} if folder == "text_encoder" else {}
        quantise.save(file, before | older, {"format": "pt"})
        call()
        quantise.save(file, before | {"more.weight": torch.ones(2, 2)}, {"format": "pt"})
        with pytest.raises(ValueError, match=f"{folder}: 1 weights are unknown, the first is more.weight"):
            call()


def test_directories_that_say_they_are_quantised(sd1: tuple[Path, Any], tmp_path: Path) -> None:
    shutil.copytree(sd1[0] / "unet", tmp_path / "unet")
    config = tmp_path / "unet" / "config.json"
    way = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
    config.write_text(json.dumps(json.loads(config.read_text()) | way))
    with pytest.raises(ValueError, match="unet is quantised, by bitsandbytes, which is not supported"):
        pretrained(UNet2DConditionModel, tmp_path / "unet", torch.float32)


def test_views_share_quantised_weights_and_changes_are_their_own() -> None:
    """A change keeps the weight quantised, and gives what the changed numbers give."""
    data, scale, want = quantise.scaled(torch.randn(6, 4), True)
    packed = Packed("float8_e4m3fn", data.view(torch.uint8), scale, data.shape)
    module = nn.Sequential(packed_layer(nn.Linear(4, 6), packed, torch.bfloat16), nn.Linear(6, 2).bfloat16())
    module[0].bias = nn.Parameter(torch.randn(6, dtype=torch.bfloat16))
    view, x = view_of(module), torch.randn(3, 4, dtype=torch.bfloat16)
    with torch.no_grad():
        before = module(x)
        delta, more = torch.randn(6, 4), torch.randn(2, 6)
        change_weight(view[0], lambda weight: weight.add_(delta))
        change_weight(view[0], lambda weight: weight.mul_(2))
        change_weight(view[1], lambda weight: weight.add_(more))
        assert torch.equal(module(x), before)
        assert torch.equal(dense_weight(module[0]), want) and torch.equal(dense_weight(view[0]), (want + delta) * 2)
        first = nn.functional.linear(x, ((want + delta) * 2).bfloat16(), module[0].bias)
        second = (module[1].weight.float() + more).bfloat16()
        assert torch.equal(view(x), nn.functional.linear(first, second, module[1].bias))
    assert view[0].packed.codes is module[0].packed.codes
    module.to(torch.device("meta"))
    assert view[0].packed.codes.is_meta  # it goes where the module goes


def test_loras_are_added_to_quantised_weights(sd1: tuple[Path, Any], tmp_path: Path) -> None:
    ours, theirs = with_scales(sd1[0] / "unet", tmp_path, quantise.new)
    models = []
    for name, folder in (("a", ours), ("b", theirs)):
        shutil.copytree(sd1[0], tmp_path / name, ignore=shutil.ignore_patterns("unet"))
        folder.rename(tmp_path / name / "unet")
        models.append(load(tmp_path / name, device="cpu"))
    stem = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    pair = {f"{stem}.lora_A.weight": torch.randn(2, 32), f"{stem}.lora_B.weight": torch.randn(32, 2)}
    path = quantise.save(tmp_path / "lora.safetensors", pair)
    got, want = (model.with_loras([path]) for model in models)
    x, t = torch.randn(1, 4, 8, 8), torch.tensor([0.5])
    cond = got.text.encode(["a"], SIZE)
    assert torch.equal(got.model.network(x, t, cond), want.model.network(x, t, cond))
    assert not torch.equal(got.model.network(x, t, cond), models[0].model.network(x, t, cond))
    assert isinstance(got.model.module.get_submodule(stem.removeprefix("unet.")), PackedLayer)


def test_names_of_means() -> None:
    """Every name of a UNet finds its dots again."""
    for levels in (((1, 1, 1, 0), 1), ((0, 2, 10), 10), ((0, 4, 4, 0), 4)):
        stems = [old for old, _ in original_names.unet(*levels)]
        names = [f"{original_names.LDM}{stem}.{kind}" for stem in stems for kind in ("weight", "bias")]
        joined = {"model_ema.diffusion_model" + n.removeprefix(original_names.LDM).replace(".", ""): n for n in names}
        assert len(joined) == len(names) and ema_names([*joined, "model_ema.decay", "first_stage_model.x"]) == joined
        assert ema_names([*joined, names[0]]) == {}
    assert ema_names(["model_ema.diffusion_modelcurious0weight", "model_ema.diffusion_modelinput_blocks00"]) == {}


def test_files_with_means_alone(ldm: Any, tmp_path: Path) -> None:
    module, weights, folder = ldm
    means = {f"model_ema.{name.removeprefix('model.').replace('.', '')}": value for name, value in weights.items()}
    got = unet(quantise.save(tmp_path / "a.safetensors", means), folder).state_dict()
    assert all(torch.equal(value, got[name]) for name, value in module.state_dict().items())


def check_decodes_only(vae: Vae, whole: Vae, path: Path) -> None:
    """Asserts that a VAE decodes as one with an encoder does, also tile by tile, and says why it does not encode."""
    z = torch.randn(1, 4, *([16 // vae.factor] * 2))
    assert torch.equal(vae.decode(z), whole.decode(z))
    assert torch.equal(vae.tiled(8).decode(z), whole.tiled(8).decode(z))
    for each in (vae, vae.tiled(8)):
        with pytest.raises(ValueError, match=f"{path}: its VAE has no encoder, so that it decodes latents but cannot"):
            each.encode(torch.rand(1, 3, 16, 16))


def test_a_directory_with_a_vae_without_an_encoder(sd1: tuple[Path, Any], tmp_path: Path) -> None:
    shutil.copytree(sd1[0], tmp_path / "model")
    [file] = (tmp_path / "model" / "vae").glob("*.safetensors")
    alone = {n: v for n, v in load_file(file).items() if not n.startswith(("encoder.", "quant_conv."))}
    quantise.save(file, alone, {"format": "pt"})
    check_decodes_only(*(load(path, device="cpu").vae for path in (tmp_path / "model", sd1[0])), tmp_path / "model")


def test_a_file_with_a_vae_without_an_encoder(ldm: Any, tmp_path: Path) -> None:
    weights = ldm[1] | original_names.autoencoder(original_models.vae())
    ends = ("first_stage_model.encoder.", "first_stage_model.quant_conv.")
    alone = {name: value for name, value in weights.items() if not name.startswith(ends)}
    paths = [quantise.save(tmp_path / f"{i}.safetensors", each) for i, each in enumerate((alone, weights))]
    files = [open_single_file(path, ldm[2], tmp_path) for path in paths]
    sources = [Source(file, "m", torch.device("cpu"), torch.float32) for file in files]
    check_decodes_only(*(load_vae(source, family("SD15"))[0] for source in sources), paths[0])


def test_a_tokenizer_in_a_file_is_left_out(flux: tuple[Weights, Path], tmp_path: Path) -> None:
    mark = {"text_encoders.t5xxl.transformer.spiece_model": torch.zeros(3, dtype=torch.uint8)}
    where = open_single_file(quantise.save(tmp_path / "a.safetensors", flux[0] | mark), flux[1], tmp_path)
    assert where.layout.prefixes.keys() == {"transformer"}


@pytest.mark.parametrize("name", ["m.sft", "M.SAFETENSORS", "m.Sft"])
def test_endings(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{name}: no diffusion network found; its 1 weights begin with a"):
        load(quantise.save(tmp_path / name, {"a": torch.ones(1)}), device="cpu")


@pytest.mark.slow
def test_a_quantised_model_draws(tmp_path: Path) -> None:
    """Flux in 8 bits, whole, with a tokenizer beside T5: from the command line, and again from the image's recipe."""
    _, weights = original_models.flux()
    ours = {**weights, "text_encoders.t5xxl.transformer.spiece_model": torch.zeros(3, dtype=torch.uint8)}
    for stem in quantise.layers_of(weights, original_names.LDM):
        data, scale, _ = quantise.scaled(weights[f"{stem}.weight"], False)
        ours |= quantise.new(stem, data, scale)
    model = str(quantise.save(tmp_path / "flux.sft", ours))
    image = str(tmp_path / "x.png")
    options = ["--model", model, "--steps", "1", "--size", "64x64", "--device", "cpu"]
    for arguments in (["sample", "a cat", "-o", image, *options], ["replay", image]):
        result = run(*arguments)
        assert result.exit_code == 0, result.output
    assert "every pixel is the same" in result.output
    odd = str(quantise.save(tmp_path / "odd.safetensors", {"a.weight": torch.ones(4, 4).byte()}))
    result = run("sample", "a cat", "-o", image, "--model", odd)
    assert result.exit_code == 2 and "odd.safetensors is quantised, by u8 (a.weight), which is not" in result.output
