"""Side networks in single files of the layouts that they were published in, against the modules they were made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

pytest.importorskip("diffusers")
import original_controls as original

from sigmafield.core.conditioning import Cond, Control
from sigmafield.models.bundle import Pipeline
from sigmafield.models.diffusers.control_transformer import fitting_transformer
from sigmafield.models.load import load
from sigmafield.models.load_parts import load_control
from sigmafield.models.weights.layers import PackedLayer

DRAW = torch.Generator().manual_seed(0)
X, HINT = torch.randn(2, 4, 8, 8, generator=DRAW), torch.rand(2, 3, 64, 64, generator=DRAW)
T = torch.tensor([500.0, 3.0])
TEXT = torch.randn(2, 7, 64, generator=DRAW)
SIZES = {"text_embeds": torch.randn(2, 96, generator=DRAW), "time_ids": torch.rand(2, 6, generator=DRAW)}
Made = tuple[Any, dict[str, Tensor]]


@cache
def sd1_net(**changes: Any) -> Any:
    return original.control_net(**changes)


def sd1(prefix: str = "control_model.", **changes: Any) -> Made:
    module = sd1_net(**changes)
    return module, original.lllyasviel(module, (1, 1, 1, 0), 1, prefix)


def whole_checkpoint() -> Made:
    module, weights = sd1()
    others = ("model.diffusion_model.input_blocks.0.0.weight", "first_stage_model.decoder.conv_in.weight")
    return module, weights | {name: torch.ones(4) for name in others}


def xl(names: str) -> Made:
    module = original.control_net(**original.XL)
    return module, original.lllyasviel(module, (0, 1, 2), 2, "") if names == "ldm" else module.state_dict()


def xl_small() -> Made:
    """As diffusers' small one for SDXL: without attention."""
    settings = original.XL | {"depths": (0, 0, 0), "cross_attention_dim": 2048}
    module = original.control_net(**settings, mid_block_type="UNetMidBlock2D")
    return module, module.state_dict()


def union() -> Made:
    sizes = {"num_trans_channel": 32, "num_proj_channel": 32, "num_control_type": 8}
    module = original.control_net("ControlNetUnionModel", **original.XL, **sizes)
    return module, module.state_dict()


def adapter(kind: str, prefix: str | None, **changes: Any) -> Made:
    module = original.adapter(kind, **changes)
    return module, module.state_dict() if prefix is None else original.tencent(module, prefix)


LAYOUTS: dict[str, Callable[[], Made]] = {
    "sd1": sd1,
    "sd1, bare": lambda: sd1(""),
    "sd1, with the model": whole_checkpoint,
    "sd1, shuffle": lambda: sd1(global_pool_conditions=True),
    "sd2": lambda: sd1(use_linear_projection=True),
    "xl, ldm": lambda: xl("ldm"),
    "xl, diffusers": lambda: xl("diffusers"),
    "xl, small": xl_small,
    "xl, union": union,
    "adapter": lambda: adapter("full_adapter", ""),
    "adapter, wrapped": lambda: adapter("full_adapter", "adapter."),
    "adapter, grey": lambda: adapter("full_adapter", "", in_channels=1),
    "adapter, diffusers": lambda: adapter("full_adapter", None),
    "adapter, light": lambda: adapter("light_adapter", ""),
    "adapter, light, diffusers": lambda: adapter("light_adapter", None),
    "adapter, xl": lambda: adapter("full_adapter_xl", "", downscale_factor=16),
}


SPELLINGS = ("sd1, bare", "sd1, with the model", "adapter, wrapped", "adapter, diffusers", "adapter, light, diffusers")
"""Those whose module is another one's, by other names in the file."""


def saved(made: Made, folder: Path, name: str) -> Path:
    """A file of the weights."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{name.replace(', ', '-')}.safetensors"
    save_file({key: value.contiguous() for key, value in made[1].items()}, path)
    return path


def saved_twice(made: Made, folder: Path, name: str) -> tuple[Path, Path]:
    """A file of the weights, and a directory of the module that diffusers wrote."""
    made[0].save_pretrained(folder / "directory")
    return saved(made, folder, name), folder / "directory"


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_file_is_the_module_that_it_was_made_of(name: str, tmp_path: Path) -> None:
    made = LAYOUTS[name]()
    net: Any = load_control(saved(made, tmp_path, name), kind="canny" if "union" in name else None)
    state = made[0].state_dict()
    assert type(net.module) is type(made[0]) and net.module.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in net.module.state_dict().items())
    if name in SPELLINGS:
        return
    cond = Cond(TEXT, SIZES if name.startswith("xl") else {})
    hint = HINT if net.factor == 8 else HINT.repeat_interleave(2, 2).repeat_interleave(2, 3)
    got, want = (each(X, T, cond, hint, 0.7) for each in (net, replace(net, module=made[0])))
    assert len(got.skips) == len(want.skips) and len(got.blocks) == len(want.blocks)
    for a, b in zip([*got.skips, *got.blocks, got.middle], [*want.skips, *want.blocks, want.middle]):
        assert (a is None and b is None) or torch.equal(a, b)


def test_quantised_weights_stay_so(tmp_path: Path) -> None:
    """The same numbers in 8 bits with scales and in float32 give the same answer."""
    module, weights = sd1()
    eight, plain = dict(weights), dict(weights)
    for name, value in weights.items():
        if value.ndim == 2 and ".attn1.to_" in name:
            eight[name] = (value * 64).to(torch.float8_e4m3fn)
            eight[name.replace(".weight", ".scale_weight")] = torch.tensor(1 / 64)
            plain[name] = eight[name].float() / 64
    nets: list[Any] = [
        load_control(saved((module, each), tmp_path, name)) for name, each in {"8": eight, "32": plain}.items()
    ]
    layers = [net.module.get_submodule("mid_block.attentions.0.transformer_blocks.0.attn1.to_q") for net in nets]
    assert [isinstance(layer, PackedLayer) for layer in layers] == [True, False]
    ours, theirs = (net(X, T, Cond(TEXT), HINT, 1.0) for net in nets)
    torch.testing.assert_close(ours.middle, theirs.middle, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["sd1", "adapter, xl"])
def test_a_file_is_what_its_directory_is(name: str, tmp_path: Path) -> None:
    ours, theirs = (load_control(path) for path in saved_twice(LAYOUTS[name](), tmp_path, name))
    assert type(ours) is type(theirs) and type(ours.module) is type(theirs.module) and ours.factor == theirs.factor
    state = theirs.module.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in ours.module.state_dict().items())


@pytest.fixture(scope="module")
def steered(loaded: Callable[[str], Pipeline]) -> dict[str, Pipeline]:
    """Models like Flux and Stable Diffusion 3 with heads as wide as published."""
    from diffusers import FluxTransformer2DModel, SD3Transformer2DModel
    from small_models import randomise

    flux = FluxTransformer2DModel(
        in_channels=64, num_layers=3, num_single_layers=3, attention_head_dim=32, num_attention_heads=1,
        joint_attention_dim=32, pooled_projection_dim=32, guidance_embeds=True, axes_dims_rope=(4, 14, 14),
    )  # fmt: skip
    sd3 = SD3Transformer2DModel(
        sample_size=8, in_channels=16, out_channels=16, num_layers=4, attention_head_dim=64, num_attention_heads=1,
        joint_attention_dim=64, caption_projection_dim=64, pooled_projection_dim=56, pos_embed_max_size=12,
    )  # fmt: skip
    made = {}
    for name, module in {"flux dev": flux, "sd3": sd3}.items():
        pipe = loaded(name)
        module, check = randomise(module), fitting_transformer(module)
        made[name] = replace(pipe, model=replace(pipe.model, module=module, controls=check))
    return made


def flux(names: str = "", **changes: Any) -> Made:
    module = original.flux(**original.XLABS | changes if names == "xlabs" else changes)
    return module, original.xlabs(module) if names == "xlabs" else module.state_dict()


def sd3(names: str = "", **changes: Any) -> Made:
    module = original.sd3(**original.LARGE | changes if names == "stability" else changes)
    return module, original.stability(module) if names == "stability" else module.state_dict()


TRANSFORMERS: dict[str, tuple[str, Callable[[], Made], str | None]] = {
    "flux": ("flux dev", flux, None),
    "flux, joint blocks alone": ("flux dev", lambda: flux(num_single_layers=0, guidance_embeds=False), None),
    "flux, union": ("flux dev", lambda: flux(num_mode=10), "depth"),
    "flux, xlabs": ("flux dev", lambda: flux("xlabs"), None),
    "sd3": ("sd3", sd3, None),
    "sd3, large": ("sd3", lambda: sd3("stability"), None),
    "sd3, large, canny": ("sd3", lambda: sd3("stability"), None),
}


def answer(pipe: Pipeline, module: Any, name: str, x: Tensor, cond: Cond, hint: Tensor) -> Tensor:
    """What diffusers' own transformer says with what diffusers' own side network adds to it."""
    t, vae, transformer = torch.tensor([0.5, 0.2]), pipe.modules["vae"], pipe.model.module

    def encoded(images: Tensor, shift: float = 0.1) -> Tensor:
        z = torch.cat([vae.encode(image).latent_dist.mean for image in images.split(1)])
        return (z - shift) * vae.config.scaling_factor

    if name.startswith("sd3"):
        large = "large" in name
        shown = encoded(hint * 127.5 + 0.5 if "canny" in name else hint * 2 - 1, 0.06 if large else 0.0)
        pooled = cond.extra["pooled_projections"]
        [blocks] = module(
            transformer.pos_embed(x) if large else x, shown, 0.7, None if large else cond.embeds,
            pooled if large else 0 * pooled, t, return_dict=False,
        )  # fmt: skip
        return transformer(x, cond.embeds, pooled, t, block_controlnet_hidden_states=blocks, return_dict=False)[0]
    pipe_class = pytest.importorskip("diffusers").FluxPipeline
    pack = pipe_class._pack_latents
    b, c, h, w = x.shape
    image = "xlabs" in name
    told = {
        "encoder_hidden_states": cond.embeds, "pooled_projections": cond.extra["pooled_projections"], "timestep": t,
        "img_ids": pipe_class._prepare_latent_image_ids(b, h // 2, w // 2, "cpu", torch.float32),
        "txt_ids": torch.zeros(cond.embeds.shape[1], 3), "guidance": cond.extra["guidance"], "return_dict": False,
    }  # fmt: skip
    shown = hint * 2 - 1 if image else pack(encoded(hint * 2 - 1), b, c, h, w)
    mode = torch.tensor([[2], [2]]) if "union" in name else None
    own = told if module.config.guidance_embeds else told | {"guidance": None}
    joint, single = module(pack(x, b, c, h, w), shown, mode, 0.7, **own)
    out = transformer(
        pack(x, b, c, h, w), **told, controlnet_block_samples=joint, controlnet_single_block_samples=single,
        controlnet_blocks_repeat=image,
    )[0]  # fmt: skip
    return pipe_class._unpack_latents(out, h * 8, w * 8, 8)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers_are_steered_as_diffusers_does(name: str, steered: dict[str, Pipeline], tmp_path: Path) -> None:
    model, make, kind = TRANSFORMERS[name]
    made, pipe = make(), steered[model]
    path, folder = saved_twice(made, tmp_path, name)
    with pytest.raises(ValueError, match=r"reads latents .*: pass pipe=PIPELINE to load_control"):
        load_control(path, kind=kind)
    cond = pipe.text.encode(["a red heart", "a horse"], (16, 16))
    x, t = torch.randn(2, 16, 8, 8, generator=DRAW), torch.tensor([0.5, 0.2])
    files = [path, folder] if name in ("flux", "sd3") else [path]
    nets: list[Any] = [load_control(file, kind=kind, pipe=pipe) for file in files]
    for net in nets:
        state = made[0].state_dict()
        assert net.module.state_dict().keys() == state.keys()
        assert all(torch.equal(value, state[key]) for key, value in net.module.state_dict().items())
        hint = torch.rand(2, 3, 8 * net.factor, 8 * net.factor, generator=DRAW)
        controlled = replace(cond, controls=[Control(net, hint, 0.7)])
        got = pipe.model.network(x, t, controlled)
        want = answer(pipe, net.module, name, x, cond, hint)
        if "canny" in name:  # its image is scaled, and scaled back
            torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)
        else:
            assert torch.equal(got, want)
        assert not torch.equal(got, pipe.model.network(x, t, cond))


def test_chains_add_up_whatever_their_depths(steered: dict[str, Pipeline], tmp_path: Path) -> None:
    """Side networks of different depths in either order; one at 1 and at ½ is one at 1½."""
    pipe = steered["flux dev"]
    cond = pipe.text.encode(["a red heart", "a horse"], (16, 16))
    x, t, hint = torch.randn(2, 16, 8, 8), torch.tensor([0.5, 0.2]), torch.rand(2, 3, 16, 16)
    nets = []
    for i, made in enumerate((flux(), flux(num_layers=2, num_single_layers=1))):
        nets.append(load_control(saved(made, tmp_path / str(i), "flux"), pipe=pipe))

    def run(*controls: Control) -> Tensor:
        return pipe.model.network(x, t, replace(cond, controls=controls))

    a, b = (Control(net, hint, 1.0) for net in nets)
    assert not torch.equal(run(a, b), run(a))
    torch.testing.assert_close(run(a, b), run(b, a), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(run(a, replace(a, strength=0.5)), run(replace(a, strength=1.5)), atol=1e-4, rtol=1e-4)


def test_an_image_is_encoded_once(steered: dict[str, Pipeline], tmp_path: Path) -> None:
    seen: list[int] = []
    pipe = steered["flux dev"]

    def counted(images: Tensor) -> Tensor:
        seen.append(len(images))
        return pipe.vae.encoder(images)

    watched = replace(pipe, vae=replace(pipe.vae, encoder=counted))
    net = load_control(saved(flux(), tmp_path, "flux"), pipe=watched)
    cond = pipe.text.encode(["a red heart"] * 3, (16, 16))
    x, t, hint = torch.randn(3, 16, 8, 8), torch.full((3,), 0.5), torch.rand(3, 3, 16, 16)
    hint[1] = hint[0]
    for _ in range(2):
        pipe.model.network(x, t, replace(cond, controls=[Control(net, hint.clone())]))
    assert seen == [1, 1]


def test_a_union_of_flux_is_told_the_kind(steered: dict[str, Pipeline], tmp_path: Path) -> None:
    pipe, path = steered["flux dev"], saved(flux(num_mode=7), tmp_path, "flux")
    for kind, message in {
        None: "say which, one of canny, tile, depth, ",
        "dept": "unknown kind of hint 'dept'",
    }.items():
        with pytest.raises(ValueError, match=message):
            load_control(path, kind=kind, pipe=pipe)
    with pytest.raises(ValueError, match="one kind only; got kind 'canny'"):
        load_control(saved(flux(), tmp_path / "plain", "flux"), kind="canny", pipe=pipe)


def test_side_networks_of_other_networks_are_refused(
    steered: dict[str, Pipeline], tmp_path: Path, loaded: Callable[[str], Pipeline]
) -> None:
    flux_file = saved(flux(), tmp_path, "flux")
    net = load_control(flux_file, pipe=steered["flux dev"])
    unet = loaded("sd1")
    with pytest.raises(ValueError, match="this FluxControlNetModel is for a transformer; the model is a UNet"):
        unet.model.controls(net)  # type: ignore[misc]
    with pytest.raises(ValueError, match="this FluxControlNetModel is not for a SD3Transformer2DModel"):
        load_control(flux_file, pipe=steered["sd3"])
    wide = flux(joint_attention_dim=48)
    with pytest.raises(ValueError, match="is for networks with joint_attention_dim = 48; the model has 32"):
        load_control(saved(wide, tmp_path / "wide", "wide"), pipe=steered["flux dev"])


def test_the_command_line_steers_with_a_file(tmp_path: Path) -> None:
    """A ControlNet in one file draws what its directory draws, and replays."""
    import small_models

    from command_line import run
    from sigmafield.recipes.image_io import open_image, to_images
    from sigmafield.recipes.output import save_image

    network = small_models.unet(block_out_channels=(32, 64), norm_num_groups=32, attention_head_dim=8)
    small_models.save_sd(tmp_path, network, small_models.vae(), "epsilon")
    module = original.control_net(
        depths=(1, 0), cross_attention_dim=32, layers_per_block=1, conditioning_embedding_out_channels=(8, 16)
    )
    path, folder = saved_twice((module, module.state_dict()), tmp_path, "control_v11p_sd15_canny")
    hint = tmp_path / "hint.png"
    save_image(to_images(HINT)[0], hint)
    options = ["--model", tmp_path / "model", "--steps", 1, "--size", "16x16", "--seed", 3]
    models = {str(tmp_path / "model"): load(tmp_path / "model")}
    for name, net in {"a": path, "b": folder}.items():
        steer = ["--controlnet", f"net={net},image={hint}"]
        result = run("sample", "a red heart", "-o", tmp_path / f"{name}.png", *options, *steer, models=models)
        assert result.exit_code == 0, result.output
    a, b = (open_image(tmp_path / f"{name}.png").tobytes() for name in "ab")
    assert a == b
    assert "every pixel is the same" in run("replay", tmp_path / "a.png", models=models).output


WRONG = {
    "lora": ({"lora_unet_down_blocks_0.lora_down.weight": (4, 320)}, "not a ControlNet or T2I-Adapter but a LoRA"),
    "checkpoint": (
        {
            "model.diffusion_model.input_blocks.0.0.weight": (320, 4, 3, 3),
            "model.diffusion_model.output_blocks.0.0.in_layers.2.weight": (1, 1, 1, 1),
        },
        "not a ControlNet or T2I-Adapter but a sd1 model",
    ),
    "empty": ({}, "not a ControlNet or T2I-Adapter but the file is empty"),
    "control lora": ({"lora_controlnet": (0,), "input_hint_block.0.weight": (1,)}, "a Control-LoRA, which is not su"),
    "lllite": ({"lllite_unet_input_blocks_4.down.0.weight": (4, 4)}, "a ControlNet-LLLite, which is not supported"),
    "difference": ({"difference": (0,), "control_model.zero_convs.0.0.weight": (1,)}, "the difference between a Contr"),
    "half": (
        {"controlnet_cond_embedding.conv_in.weight": (1,), "controlnet_down_blocks.0.weight": (1, 1, 1, 1)},
        "a ControlNetModel without the weight 'conv_in.weight'",
    ),
    "adapter": ({"body.0.block1.weight": (1,)}, "a T2IAdapter without the weight"),
}


@pytest.mark.parametrize("shapes, message", WRONG.values(), ids=WRONG)
def test_other_files_are_named(shapes: dict[str, tuple[int, ...]], message: str, tmp_path: Path) -> None:
    save_file({name: torch.zeros(shape) for name, shape in shapes.items()}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=message) as caught:
        load_control(tmp_path / "x.safetensors")
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_pickles_are_not_opened(tmp_path: Path) -> None:
    (tmp_path / "control_sd15_canny.pth").write_bytes(b"\x80\x04.")
    with pytest.raises(ValueError, match=r"a pickle can run any code and is not opened"):
        load_control(tmp_path / "control_sd15_canny.pth")


SIGNS = [
    "input_hint_block.0.weight", "zero_convs.0.0.weight", "controlnet_cond_embedding.conv_in.weight", "task_embedding",
    "controlnet_down_blocks.0.weight", "controlnet_blocks.0.weight", "controlnet_x_embedder.weight",
    "double_blocks.0.img_attn.qkv.weight", "pos_embed_input.proj.weight", "y_embedder.mlp.0.weight",
    "body.0.block1.weight", "body.0.body.0.block1.weight", "adapter.body.0.resnets.0.block1.weight", "conv_in.weight",
    "down_blocks.0.resnets.0.conv1.weight", "input_blocks.0.0.weight", "control_model.input_hint_block.0.weight",
]  # fmt: skip


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    weights=st.dictionaries(
        st.sampled_from(SIGNS) | st.text(max_size=8), st.lists(st.integers(0, 5), max_size=4), max_size=6
    )
)
def test_any_weights_are_loaded_or_refused(weights: dict[str, list[int]], tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({name: torch.zeros(shape) for name, shape in weights.items()}, path)
    with pytest.raises(ValueError, match=r"x\.safetensors"):
        load_control(path)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=64))
def test_any_bytes_are_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "y.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match=r"y\.safetensors"):
        load_control(tmp_path / "y.safetensors")
