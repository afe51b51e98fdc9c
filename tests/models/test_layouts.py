"""Published layouts at their true size: told apart, their configs read off the shapes, every weight in its place."""

from __future__ import annotations

import lzma
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("diffusers")
import true_layouts
from small_models import randomise

from sigmafield.models.single_file.convert import converted
from sigmafield.models.single_file.layouts import recognise
from sigmafield.models.single_file.shapes import derived
from sigmafield.models.single_file.transformer_shapes import TRANSFORMERS

STORED = Path(__file__).parents[1] / "data" / "layouts"

PUBLISHED = {
    "sd1": {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480},
    "sd2": {"unet": 865_910_724, "vae": 83_653_863},
    "sdxl": {"unet": 2_567_463_684, "vae": 83_653_863, "text_encoder": 123_060_480, "text_encoder_2": 694_659_840},
    "sdxl_refiner": {"text_encoder_2": 694_659_840},
    "sd3": {"text_encoder_3": 4_762_310_656},
    "flux": {"transformer": 11_901_408_320, "text_encoder_2": 4_762_310_656},
}
"""Numbers of weights that were published with the models."""


NAMES = {"sd1": 1131, "sdxl": 2515}
"""Families of which the names in a published file are stored, and how many those are."""


def settings(module: Any) -> dict[str, Any]:
    """The whole config of a module, defaults included."""
    config = module.config if isinstance(module.config, dict) else module.config.to_dict()
    return {k: list(v) if isinstance(v, tuple) else v for k, v in config.items() if not k.startswith("_")}


@pytest.fixture(scope="module", params=PUBLISHED)
def published(request: pytest.FixtureRequest) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
    """A family and all weights of its file."""
    yield request.param, true_layouts.weights(request.param)
    true_layouts.weights.cache_clear()
    true_layouts.shipped.cache_clear()


def test_every_weight_finds_its_place(published: tuple[str, dict[str, torch.Tensor]]) -> None:
    family, weights = published
    shapes = {name: tuple(value.shape) for name, value in weights.items()}
    layout = recognise(shapes)
    assert layout.family == family and set(layout.prefixes) == set(layout.parts)
    configs = derived(layout, shapes)
    for part, kind in true_layouts.kinds(family).items():
        module = true_layouts.shipped(family, part, kind)
        whole = settings(module)
        told = {name: list(v) if isinstance(v, tuple) else v for name, v in configs[part].items()}
        assert told == {name: whole[name] for name in told}, part
        prefix = layout.prefixes[part]
        own = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
        got = converted(kind.__name__, own, true_layouts.config(family, part), family)
        want = module.state_dict()
        want.pop("encoder.embed_tokens.weight", None)  # T5's second name of one weight
        bare = {name.removeprefix("text_model."): value.shape for name, value in got.items()}
        assert bare == {name.removeprefix("text_model."): value.shape for name, value in want.items()}, part
        if part in PUBLISHED[family]:
            assert sum(prod(shape) for shape in bare.values()) == PUBLISHED[family][part], part
    if family in NAMES:
        stored = lzma.decompress((STORED / f"{family}.txt.xz").read_bytes()).decode().splitlines()
        ours = sorted(f"{name} {'x'.join(map(str, shape))}" for name, shape in shapes.items())
        assert len(stored) == NAMES[family] and ours == stored


WRONG = {
    "lora": ({"lora_unet_down_blocks_0.lora_down.weight": (4, 320)}, "no diffusion network found; looks like a LoRA"),
    "peft": ({"unet.down_blocks.0.attn1.to_q.lora_A.weight": (4, 320)}, "looks like a LoRA"),
    "vae": ({"decoder.conv_in.weight": (512, 4, 3, 3)}, "looks like a VAE alone"),
    "vae of a checkpoint": ({"first_stage_model.encoder.conv_in.weight": (128, 3, 3, 3)}, "looks like a VAE alone"),
    "clip": ({"text_model.encoder.layers.0.mlp.fc1.weight": (3072, 768)}, "looks like a text encoder alone"),
    "t5": ({"encoder.block.0.layer.0.SelfAttention.q.weight": (4096, 4096)}, "looks like a text encoder alone"),
    "control": ({"control_model.input_blocks.0.0.weight": (320, 4, 3, 3)}, "looks like a ControlNet"),
    "diffusers": ({"down_blocks.0.resnets.0.conv1.weight": (320, 320, 3, 3)}, "in diffusers' layout: put it in a dir"),
    "inversion": ({"emb_params": (4, 768)}, "looks like an embedding of words"),
    "lumina": ({"cap_embedder.0.weight": (1,)}, "this is Lumina 2, which is not supported; supported: sd1, sd2, sdxl"),
    "cosxl": ({"edm_vpred.sigma_max": (), "model.diffusion_model.x": (1,)}, "this is CosXL, which is not supported"),
    "stable video": (
        {"model.diffusion_model.input_blocks.1.0.time_stack.x": (1,)},
        "this is Stable Video Diffusion, w",
    ),
    "other": ({"b": (1,), "a": (2,)}, "no diffusion network found; its 2 weights begin with a, b"),
    "empty": ({}, "no diffusion network found; the file is empty"),
}


@pytest.mark.parametrize("shapes, message", WRONG.values(), ids=WRONG)
def test_other_files_are_named(shapes: dict[str, tuple[int, ...]], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        recognise(shapes)
    assert "\n" not in str(caught.value)


def test_networks_are_told_apart_without_other_parts(published: tuple[str, dict[str, torch.Tensor]]) -> None:
    family, weights = published
    prefix = true_layouts.names.LDM
    bare = {k.removeprefix(prefix): tuple(v.shape) for k, v in weights.items() if k.startswith(prefix)}
    layout = recognise(bare)
    assert layout.family == family and len(layout.prefixes) == 1


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_transformers_keep_their_values(family: str) -> None:
    part = true_layouts.kinds(family)["transformer"]
    small: dict[str, Any] = {
        "sd3": {
            "num_layers": 3, "num_attention_heads": 2, "joint_attention_dim": 48, "caption_projection_dim": 128,
            "pooled_projection_dim": 24, "pos_embed_max_size": 16, "sample_size": 16, "dual_attention_layers": (0,),
            "qk_norm": "rms_norm",
        },
        "flux": {
            "num_layers": 2, "num_single_layers": 2, "num_attention_heads": 2, "attention_head_dim": 32,
            "axes_dims_rope": (4, 14, 14), "joint_attention_dim": 48, "pooled_projection_dim": 24,
        },
    }[family]  # fmt: skip
    config = true_layouts.config(family, "transformer") | small
    module = randomise(part.from_config(config))
    weights = {"sd3": true_layouts.names.sd3, "flux": true_layouts.names.flux}[family](module, "")
    shapes = {name: tuple(value.shape) for name, value in weights.items()}
    told = TRANSFORMERS[family](shapes)
    want = {key: list(value) if isinstance(value, tuple) else value for key, value in small.items()}
    assert {key: told[key] for key in told.keys() & want.keys()} == {k: v for k, v in want.items() if k in told}
    got = converted(part.__name__, weights, config, family)
    state = module.state_dict()
    assert got.keys() == state.keys() and all(torch.equal(value, state[key]) for key, value in got.items())
    with pytest.raises(ValueError, match="1 weights are unknown, the first is more.weight"):
        converted(part.__name__, weights | {"more.weight": torch.ones(1)}, config, family)
