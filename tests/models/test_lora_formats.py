"""LoRA files of every trainer and kind, for every family, against the merge by hand."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lora_files as files
import original_names as names
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.testing import assert_close

from sigmafield.models.bundle import Pipeline

Loaded = Callable[[str], Pipeline]


def check(got: dict[str, Tensor], base: dict[str, Tensor], want: dict[str, Tensor]) -> None:
    """All weights are the base's, except those that are wanted."""
    assert want.keys() <= base.keys() == got.keys()
    for name, value in base.items():
        if name in want:
            assert_close(got[name].double(), want[name], atol=2e-5, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
        else:
            assert torch.equal(got[name], value), name


AGAIN = {
    "attention processors without unet.", "Flux, ComfyUI with lora_down", "SD3, diffusers", "SD3, OneTrainer",
    "Lumina 2, diffusers", "Wan, diffusers without prefix",
}  # fmt: skip
"""Formats whose names are read as those of another one: by the same table, or with the same prefix."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in AGAIN else name for name in files.FORMATS]
)
def test_formats(name: str, loaded: Loaded, tmp_path: Path) -> None:
    family, published, _, _ = files.FORMATS[name]
    base = loaded(family)
    state = files.weights(family, base.model.module, published)
    tensors, want = files.file_of_format(name, state)
    assert len(want) >= 6
    save_file(tensors, tmp_path / "a.safetensors")
    pipe = base.with_loras([tmp_path / "a.safetensors"])
    check(files.weights(family, pipe.model.module, published), state, want)


@pytest.mark.parametrize("strength", [pytest.param(1.0, marks=pytest.mark.slow), -0.3])  # a factor, for every kind
@pytest.mark.parametrize(
    "kind, target",
    [(kind, on) for kind, (_, on) in files.KINDS.items()]
    + [(kind, "cut") for kind, (_, on) in files.KINDS.items() if on == "any"],
)
def test_kinds(kind: str, target: str, strength: float, loaded: Loaded, tmp_path: Path) -> None:
    family, published, _ = files.TARGETS[target]
    base = loaded(family)
    state = files.weights(family, base.model.module, published)
    tensors, want = files.file_of_kind(kind, target, strength, state)
    assert want
    save_file(tensors, tmp_path / "a.safetensors")
    pipe = base.with_loras({tmp_path / "a.safetensors": strength})
    check(files.weights(family, pipe.model.module, published), state, want)


TEXT: dict[str, list[tuple[str, str]]] = {
    "sdxl": [("text_encoder", "lora_te1_"), ("text_encoder_2", "lora_te2_")],
    "sd1": [("text_encoder", "lora_te_")],
    "sd3": [
        ("text_encoder", "lora_te1_"),
        ("text_encoder_2", "text_encoders.clip_g.transformer."),
        ("text_encoder_3", "lora_te3_"),
    ],
    "flux dev": [("text_encoder", "text_encoders.clip_l.transformer."), ("text_encoder_2", "lora_te3_")],
    "wan": [("text_encoder", "text_encoders.umt5xxl.transformer.")],
}
"""Text encoders of each family, and how the keys of a file for them begin."""


@pytest.mark.parametrize("model", TEXT)
def test_text_encoders(model: str, loaded: Loaded, tmp_path: Path) -> None:
    base, generator = loaded(model), torch.Generator().manual_seed(2)
    tensors: dict[str, Tensor] = {}
    wanted: dict[str, dict[str, Tensor]] = {}
    for part, prefix in TEXT[model]:
        for layer, weight in files.layers(dict(base.modules[part].state_dict())):
            if not re.search(r"self_attn|mlp|SelfAttention\.[qkvo]|DenseReluDense", layer):
                continue
            made = files.lora(weight, generator)
            written = layer if layer.startswith(("encoder.block", "text_model.")) else f"text_model.{layer}"
            spelling = files.kohya(prefix) if prefix.startswith("lora") else files.dotted(prefix)
            tensors |= {spelling(written, end): value for end, value in made.tensors.items()}
            wanted.setdefault(part, {})[f"{layer}.weight"] = made.new(weight.double())
    save_file(tensors, tmp_path / "a.safetensors")
    pipe = base.with_loras({tmp_path / "a.safetensors": (0.0, 1.0)})
    assert len(wanted) == len(TEXT[model])
    for part, module in base.modules.items():
        check(pipe.modules[part].state_dict(), module.state_dict(), wanted.get(part, {}))


@pytest.mark.parametrize("model", ["lumina2", "wan"])
def test_published_names_are_those_of_diffusers_converters(model: str, loaded: Loaded) -> None:
    """The names that the formats above are written with: diffusers leads them back to its own."""
    from diffusers.loaders import single_file_utils as converters

    state = files.original(model, loaded(model).model.module)
    convert: Any = converters.convert_wan_transformer_to_diffusers
    if model == "lumina2":  # whose converter knows one width only
        convert = converters.convert_lumina2_to_diffusers
        state = {key: torch.zeros(3840, 1) if key.endswith("qkv.weight") else value for key, value in state.items()}
    assert convert(dict(state)).keys() == loaded(model).model.module.state_dict().keys()
    assert names.LDM not in min(state)


def test_wan_files_with_modulation_and_norms(loaded: Loaded, tmp_path: Path) -> None:
    """Files that were cut out of a whole model: diff, diff_b and diff_m as well as pairs."""
    base = loaded("wan")
    state = files.original("wan", base.model.module)
    changes = {
        "blocks.0.modulation": "blocks.0.diff_m", "head.modulation": "head.diff_m",
        "blocks.1.norm3.weight": "blocks.1.norm3.diff", "blocks.1.norm3.bias": "blocks.1.norm3.diff_b",
        "blocks.1.self_attn.norm_q.weight": "blocks.1.self_attn.norm_q.diff",
        "blocks.0.ffn.0.bias": "blocks.0.ffn.0.diff_b", "patch_embedding.weight": "patch_embedding.diff",
    }  # fmt: skip
    deltas = {name: torch.randn(state[name].shape, generator=torch.Generator().manual_seed(3)) for name in changes}
    save_file({f"diffusion_model.{key}": deltas[name] for name, key in changes.items()}, tmp_path / "a.safetensors")
    pipe = base.with_loras([tmp_path / "a.safetensors"])
    want = {name: state[name].double() + delta for name, delta in deltas.items()}
    check(files.original("wan", pipe.model.module), state, want)
