"""What files of weights are said to be, from headers of published shapes; no weights are read."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import headers
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import sigmafield as sf
from command_line import run
from sigmafield.models.inspection.folder import listed

SD1, SDXL = headers.published("sd1"), headers.published("sdxl")
LDM = "model.diffusion_model."


def of(shapes: Mapping[str, tuple[int, ...]], beginning: str, instead: str = "") -> dict[str, tuple[int, ...]]:
    """The weights of a part, by names without its prefix, or with another."""
    return {instead + name.removeprefix(beginning): s for name, s in shapes.items() if name.startswith(beginning)}


def flux(**more: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """The weights of Flux that say what it is."""
    first = "double_blocks.0.img_attn."
    return {
        f"{first}qkv.weight": (9216, 3072), f"{first}norm.key_norm.scale": (128,), "img_in.weight": (3072, 64),
        "txt_in.weight": (3072, 4096), "final_layer.linear.weight": (64, 3072),
        "vector_in.in_layer.weight": (3072, 768), **more,
    }  # fmt: skip


def control(text: int, prefix: str = "control_model.") -> dict[str, tuple[int, ...]]:
    return {
        f"{prefix}zero_convs.0.0.weight": (320, 320, 1, 1),
        f"{prefix}input_hint_block.0.weight": (16, 3, 3, 3),
        f"{prefix}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, text),
    }


UNION = {
    "task_embedding": (6, 320), "controlnet_cond_embedding.conv_in.weight": (16, 3, 3, 3),
    "controlnet_down_blocks.0.weight": (320, 320, 1, 1), "add_embedding.linear_1.weight": (1280, 2816),
}  # fmt: skip
LAYER = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
LORA = {f"{LAYER}.lora_down.weight": (8, 2048), f"{LAYER}.lora_up.weight": (640, 8), f"{LAYER}.alpha": ()}
T5 = {"shared.weight": (32128, 4096), "encoder.block.0.layer.0.SelfAttention.q.weight": (4096, 4096)}

FILES: dict[str, tuple[Mapping[str, tuple[int, ...]], str, dict[str, Any]]] = {
    "sd1": (SD1, "Stable Diffusion 1 checkpoint", {"missing": ()}),
    "sdxl": (SDXL, "Stable Diffusion XL checkpoint", {"missing": ()}),
    "network": (of(SD1, LDM, LDM), "Stable Diffusion 1 network", {"missing": ("vae", "text_encoder")}),
    "v": (SDXL | {"v_pred": (0,)}, "Stable Diffusion XL checkpoint", {"facts": {"prediction": "v"}}),
    "flux dev": (
        flux(**{"guidance_in.in_layer.weight": (3072, 256)}),
        "Flux network",
        {"facts": {"variant": "dev, with a guidance input"}, "missing": ("vae", "text_encoder", "text_encoder_2")},
    ),
    "video": ({"audio_patchify_proj.x": (1,)}, "LTX-2 network", {"problem": "this is LTX-2, which is not sup"}),
    "half": (
        {f"{LDM}input_blocks.0.0.weight": (320, 4, 3, 3), f"{LDM}output_blocks.0.0.in_layers.2.weight": (1, 1)},
        "Stable Diffusion 1 network",
        {"problem": "weights are missing or have sizes"},
    ),
    "vae": (of(SD1, "first_stage_model."), "VAE for Stable Diffusion 1 or", {"facts": {"latents": "4 channels"}}),
    "decoder": (
        {"decoder.conv_in.weight": (512, 16, 3, 3)},
        "VAE for Stable Diffusion 3 or Flux",
        {"facts": {"encoder": "missing: it decodes only"}},
    ),
    "clip": (of(SD1, "cond_stage_model.transformer."), "text encoder for Sta", {"facts": {"model": "CLIP-L"}}),
    "t5": (T5, "text encoder for Stable Diffusion 3 or Flux", {"facts": {"model": "T5-XXL"}, "use": None}),
    "umt5": ({"shared.weight": (256384, 4096)}, "text encoder for Wan", {"facts": {"model": "UMT5-XXL"}}),
    "gemma": ({"model.embed_tokens.weight": (256000, 2304)}, "text encoder for Lumina 2", {}),
    "lora": (LORA, "LoRA for Stable Diffusion XL", {"words": ("ink style", "cat"), "missing": ("a model",)}),
    "half a pair": (
        {**LORA, "lora_unet_x.lora_down.weight": (8, 4)},
        "LoRA for Stable Diffusion XL",
        {"problem": "^1 of 2 layers cannot be used: lora_up is missing in x; --lora-partial loads the rest$"},
    ),
    "ranks": (
        {**LORA, f"{LAYER}.lora_up.weight": (640, 9)},
        "LoRA for Sta",
        {"problem": "^1 of 1 layers cannot be used: matrices whose ranks differ in down_blocks_1_"},
    ),
    "alpha alone": ({**LORA, "lora_unet_x.alpha": ()}, "LoRA for Sta", {"problem": "alpha without matrices in x"}),
    "control": (control(768), "control net for Stable Diffusion 1", {"facts": {"names": "ldm"}}),
    "control 2": (control(1024, ""), "control net for Stable Diffusion 2", {}),
    "control and model": (SD1 | control(768), "control net for Sta", {"facts": {"also in the file": "the model that"}}),
    "union": (UNION, "control net for Stable Diffusion XL", {"facts": {"kinds": "openpose, depth, scribble, canny"}}),
    "control-lora": ({"lora_controlnet": ()}, "control net", {"problem": "a Control-LoRA, which is not supported"}),
    "adapter": (
        {"body.0.block1.weight": (320, 320, 3, 3), "conv_in.weight": (320, 768, 3, 3)},
        "control net for St",
        {},
    ),
    "inversion": ({"emb_params": (4, 1024)}, "textual inversion for Stable Diffusion 2", {}),
    "xl inversion": ({"clip_l": (4, 768), "clip_g": (4, 1280)}, "textual inversion for Stable Diffusion XL", {}),
    "taesd": ({"1.weight": (64, 4, 3, 3), "3.conv.0.weight": (64, 64, 3, 3)}, "preview decoder for Stable", {}),
    "ip-adapter": (
        {"image_proj.latents": (1, 16, 768), "ip_adapter.1.to_k_ip.weight": (640, 2048)},
        "IP-Adapter for Stable Diffusion XL",
        {"facts": {"sort": "plus"}, "missing": ("a model", "a vision encoder", "an image")},
    ),
    "faceid": (
        {
            "image_proj.proj.0.weight": (1024, 512),
            "image_proj.norm.weight": (768,),
            "ip_adapter.0.to_k_lora.up.weight": (),
        },
        "IP-Adapter",
        {"problem": "needs a face recogniser"},
    ),
    "z-image control": (
        {"control_layers.0.after_proj.weight": (3840, 3840)},
        "control net for Z-Image",
        {},
    ),
    "esrgan": ({"model.0.weight": (64, 3, 3, 3)}, "upscaler", {"problem": "are not supported"}),
    "diffusers": ({"down_blocks.0.resnets.0.conv1.weight": (1,)}, "network", {"problem": "put it in a directory"}),
    "bitsandbytes": (flux(**{"img_in.weight.absmax": (3,)}), "Flux network", {"problem": "quantised by bitsandbytes"}),
    "other": ({"b": (1,), "a": (2,)}, "unknown", {"problem": "its weights begin with a, b"}),
    "empty": ({}, "unknown", {"problem": "the file has no tensors"}),
}
METADATA = {
    "ss_tag_frequency": json.dumps({"10_ink": {"ink style": 40, "cat": 3}}), "ss_network_dim": "8", "format": "pt",
    "modelspec.title": "Ink",
}  # fmt: skip


@pytest.mark.parametrize("shapes, about, more", FILES.values(), ids=FILES)
def test_every_kind_is_told(
    shapes: Mapping[str, tuple[int, ...]], about: str, more: dict[str, Any], tmp_path: Path
) -> None:
    found = sf.inspect(headers.write(tmp_path / "x.safetensors", shapes, metadata=METADATA))
    assert found.about.startswith(about)
    assert found.training == {"ss_network_dim": "8", "modelspec.title": "Ink"}
    for name, want in more.items():
        got = getattr(found, name)
        if name == "facts":
            assert all(got[key].startswith(value) for key, value in want.items())
        elif name == "problem":
            assert re.search(want, got) and found.use is None
        else:
            assert got == want
    if "problem" not in more and found.kind not in ("VAE", "text encoder"):
        assert found.problem is None and found.use is not None
    json.dumps(found.to_dict())


def test_sizes_are_those_published(tmp_path: Path) -> None:
    """Stable Diffusion XL in half precision, and its network in 8 bits with the rest in 16."""
    path = headers.write(tmp_path / "xl.safetensors", SDXL)
    found = sf.inspect(path)
    parts = {part.name: part.parameters for part in found.parts}
    assert parts == {
        "unet": 2_567_463_684, "text_encoder": 123_060_557, "text_encoder_2": 694_659_841, "vae": 83_653_863,
    }  # fmt: skip
    assert found.weights == "F16" and not found.quantised and found.size == path.stat().st_size
    assert found.memory["float32"] == 2 * found.memory["half"] == 4 * found.parameters
    eight = {name: "F8_E4M3" for name, shape in SDXL.items() if name.startswith(LDM) and len(shape) > 1}
    small = sf.inspect(headers.write(tmp_path / "8.safetensors", SDXL, dtypes=eight))
    assert small.quantised and small.weights == "float8_e4m3fn, F16"
    kept = sum(headers.numbers(SDXL[name]) for name in eight)
    assert small.memory == {
        "half": kept + 2 * (found.parameters - kept),
        "float32": kept + 4 * (found.parameters - kept),
    }


def test_a_lora_is_described(tmp_path: Path) -> None:
    found = sf.inspect(headers.write(tmp_path / "ink.safetensors", LORA, metadata=METADATA))
    assert found.lora is not None
    assert (found.lora.trainer, found.lora.kinds, dict(found.lora.ranks)) == ("kohya", ["LoRA"], {8: 1})
    assert found.use == f"--lora {tmp_path / 'ink.safetensors'}"


def test_one_file_of_several_is_not_a_model(tmp_path: Path) -> None:
    found = sf.inspect(headers.write(tmp_path / "model-00001-of-00003.safetensors", T5))
    assert found.problem == "number 1 of 3 files of one model: give the directory that has them all"


def test_gguf(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    import numpy as np

    writer = gguf.GGUFWriter(tmp_path / "t5.gguf", "t5encoder")
    block = gguf.quantize(np.ones((64, 64), np.float32), gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("token_embd.weight", np.ones((100, 64), np.float16))
    writer.add_tensor("enc.blk.0.attn_q.weight", block, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = sf.inspect(tmp_path / "t5.gguf")
    assert (found.container, found.kind, found.quantised) == ("gguf", "text encoder", True)
    assert found.weights == "F16, Q8_0" and found.facts["model"] == "T5"
    bytes_of_q8 = 64 * 64 // 32 * 34
    assert sum(part.size for part in found.parts) == 2 * 6400 + bytes_of_q8
    assert found.memory == {"half": 2 * 6400 + bytes_of_q8, "float32": 4 * 6400 + bytes_of_q8}
    whole = (tmp_path / "t5.gguf").read_bytes()
    for end in (30, len(whole) // 2):
        (tmp_path / "t5.gguf").write_bytes(whole[:end])
        with pytest.raises(ValueError, match=r"is not a GGUF file \(it ends .*\); was it downloaded in full\?$"):
            sf.inspect(tmp_path / "t5.gguf")
    (tmp_path / "t5.gguf").write_bytes(whole[:4] + b"\1" + whole[5:])
    with pytest.raises(ValueError, match=r"is not a GGUF file \(ValueError: it is of version 1\)$"):
        sf.inspect(tmp_path / "t5.gguf")


def cut(path: Path, end: int | None, more: bytes = b"") -> None:
    """Writes the beginning of a file of weights, and more bytes after it."""
    whole = safetensors.torch.save({"a": torch.ones(3)})
    path.write_bytes(whole[:end] + more)


REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a.ckpt": (lambda path: path.write_bytes(b"\x80\x04."), "a pickle can run any code and is not opened"),
    "a.txt": (lambda path: path.write_text("x"), r"must be \.safetensors"),
    "a.safetensors": (lambda path: path.write_bytes(b"abc"), "is not a safetensors file .*; was it downloaded in full"),
    "cut.safetensors": (lambda path: cut(path, -1), r"is not a safetensors file .*; was it downloaded in full\?$"),
    "header.safetensors": (lambda path: cut(path, 20), r"is not a safetensors file .*; was it downloaded in full\?$"),
    "long.safetensors": (lambda path: cut(path, None, b"x"), r"is not a safetensors file \([^;]*\)$"),
    "json.safetensors": (lambda path: path.write_bytes(b"\3\0\0\0\0\0\0\0{a}"), r"not a safetensors file \([^;]*\)$"),
    "b.safetensors": (lambda path: None, "No such file"),
    "c.safetensors": (lambda path: path.mkdir(), "is a directory: sigmafield models lists"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_a_file_of_weights_is_refused(name: str, tmp_path: Path) -> None:
    make, message = REFUSED[name]
    make(tmp_path / name)
    with pytest.raises((ValueError, OSError), match=message):
        sf.inspect(tmp_path / name)


def test_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    for name in ("a.safetensors", "a.gguf"):
        os.mkfifo(tmp_path / name)
        result = run("inspect", tmp_path / name)
        assert result.exit_code == 2 and "must be a regular file" in " ".join(result.stderr.split())


def test_control_characters_of_a_file_are_escaped(tmp_path: Path) -> None:
    title = "Ink\nuse  rm\x1b[2J\u202e\x9b ü 墨"
    metadata = {"modelspec.title": title, "modelspec.\x1b]0;x\x07": "y", "modelspec.trigger_phrase": "a\rb"}
    text = run("inspect", headers.write(tmp_path / "x.safetensors", LORA, metadata=metadata)).stdout
    assert r"Ink\nuse  rm\x1b[2J\u202e\x9b ü 墨" in text and r"modelspec.\x1b]0;x\x07: y" in text and r"a\rb" in text
    assert not {"\x1b", "\r", "\x07", "\u202e", "\x9b"} & set(text)


def test_control_characters_of_names_are_escaped(tmp_path: Path) -> None:
    name = "[red]a\x1b[2J\u202e\n墨.safetensors"
    headers.write(tmp_path / name, LORA)
    (tmp_path / os.fsdecode(b"b\xff.ckpt")).touch()
    for columns in (300, 40):
        table = run("models", tmp_path, columns=columns).stdout
        assert r"[red]a\x1b[2J\u202e\n墨.safetensors" in table and r"b\udcff.ckpt" in table
        assert not {"\x1b", "\u202e"} & set(table)
    listing, one = (run(*words, "--json").stdout for words in (("models", tmp_path), ("inspect", tmp_path / name)))
    for text in (listing, one):
        assert not {"\x1b", "\u202e"} & set(text) and "墨" in text and text.count("\n") == 1
    assert json.loads(listing)[0]["path"] == name and json.loads(one)["path"] == str(tmp_path / name)


def described(path: Path) -> sf.Inspected | None:
    """What a file is; None where it is refused, as only broken files, and GGUF without its package, may be."""
    try:
        return sf.inspect(path)
    except (ValueError, OSError, ImportError) as error:
        if str(path) not in str(error):
            raise
    return None


NAMES = sorted({name for shapes, _, _ in FILES.values() if len(shapes) < 20 for name in shapes} | set(list(SD1)[::40]))
SHAPES = st.lists(st.integers(0, 5), max_size=4).map(tuple)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shapes=st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=12), SHAPES, max_size=8),
    dtype=st.sampled_from(sorted(headers.BYTES)),
    metadata=st.dictionaries(st.sampled_from([*METADATA, "_quantization_metadata"]), st.text() | st.just("[[1]]")),
)
def test_any_header_is_described_or_refused(
    shapes: dict[str, tuple[int, ...]], dtype: str, metadata: dict[str, str], tmp_path: Path
) -> None:
    found = described(headers.write(tmp_path / "x.safetensors", shapes, dtype, metadata))
    if found is not None:
        json.dumps(found.to_dict())
        assert found.parameters == sum(map(headers.numbers, shapes.values())) or found.quantised


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=80), gguf=st.booleans())
def test_any_bytes_are_described_or_refused(data: bytes, gguf: bool, tmp_path: Path) -> None:
    path = tmp_path / ("y.gguf" if gguf else "y.safetensors")
    path.write_bytes(b"GGUF" + data if gguf else data)
    described(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in ComfyUI's layout."""
    top = tmp_path_factory.mktemp("models")
    headers.write(top / "checkpoints" / "a.safetensors", SD1)
    (top / "checkpoints" / "old.ckpt").write_bytes(b"\x80\x04.")
    (top / "checkpoints" / "put_checkpoints_here").touch()
    headers.write(top / "loras" / "people" / "ink.safetensors", LORA, metadata=METADATA)
    headers.write(top / "loras" / "lost.safetensors", control(768))
    (top / "loras" / "broken.safetensors").write_bytes(b"abc")
    headers.write(top / "diffusers" / "sd" / "unet" / "diffusion_pytorch_model.safetensors", {"x": (1,)})
    (top / "diffusers" / "sd" / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    headers.write(top / "controlnet" / "canny" / "diffusion_pytorch_model.safetensors", UNION)
    (top / "controlnet" / "canny" / "config.json").write_text('{"_class_name": "ControlNetModel"}')
    headers.write(top / "controlnet" / "bad" / "diffusion_pytorch_model.safetensors", UNION)
    (top / "controlnet" / "bad" / "config.json").write_text("[]")
    return top


def test_a_folder_is_listed(folder: Path) -> None:
    rows = {entry.path: entry for entry in listed(folder)}
    assert list(rows) == [
        "checkpoints/a.safetensors", "checkpoints/old.ckpt", "controlnet/bad", "controlnet/canny", "diffusers/sd",
        "loras/broken.safetensors", "loras/lost.safetensors", "loras/people/ink.safetensors",
    ]  # fmt: skip
    notes = {path: entry.note for path, entry in rows.items()}
    assert notes["checkpoints/a.safetensors"] == notes["loras/people/ink.safetensors"] == ""
    assert "is not opened" in notes["checkpoints/old.ckpt"]
    assert notes["controlnet/canny"] == "ControlNetModel, a part in diffusers' layout"
    assert notes["diffusers/sd"] == "StableDiffusionPipeline, a model in diffusers' layout"
    assert notes["controlnet/bad"].startswith("config.json is JSON, but not an object")
    assert notes["loras/lost.safetensors"] == "in a folder for files of another kind: LoRA"
    assert notes["loras/broken.safetensors"].startswith("is not a safetensors file")
    with pytest.raises(NotADirectoryError, match="nowhere: no such directory of models"):
        list(listed(folder / "nowhere"))


def test_the_command_line_says_it(folder: Path, tmp_path: Path) -> None:
    ink = folder / "loras" / "people" / "ink.safetensors"
    text = run("inspect", ink).stdout
    for line in ("LoRA for Stable Diffusion XL", "8 in 1 layer", "ink style, cat", f"--lora {ink}"):
        assert line in text
    said = json.loads(run("inspect", ink, "--json").stdout)
    assert said["about"] == "LoRA for Stable Diffusion XL" and said["lora"]["ranks"] == {"8": 1}
    table = run("models", folder, columns=300).stdout
    assert "Stable Diffusion 1 checkpoint" in table and "rank 8" in table and "8 models, " in table
    rows = json.loads(run("models", folder, "--json").stdout)
    assert len(rows) == 8 and rows[0]["found"]["kind"] == "checkpoint"
    for arguments, message in (
        (("inspect", folder / "checkpoints" / "old.ckpt"), "a pickle can run any code"),
        (("inspect", folder), "is a directory: sigmafield models lists what is in it"),
        (("models", tmp_path), "holds no models"),
    ):
        result = run(*arguments)
        assert result.exit_code == 2 and message in result.stderr
