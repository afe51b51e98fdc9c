"""ControlNets and T2I-Adapters that diffusers saved, against diffusers' own pipelines."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from sigmafield.core.conditioning import Area, Cond, Control
from sigmafield.core.fitting import fit
from sigmafield.core.grid import Grid
from sigmafield.core.predict import predict
from sigmafield.core.protocols import Ctx
from sigmafield.guidance.guider import Guider
from sigmafield.models.bundle import Pipeline
from sigmafield.models.load import load
from sigmafield.models.load_parts import load_control
from sigmafield.recipes.ksampler import open_run
from sigmafield.runs.run import finish
from small_network import small_model

pytest.importorskip("diffusers")
import diffusers

SIZE = (16, 24)
DRAW = torch.Generator().manual_seed(0)
X, HINT = torch.randn(1, 4, 8, 12, generator=DRAW), torch.rand(1, 3, *SIZE, generator=DRAW)
T = torch.tensor([500.0])
Loaded = Callable[[str], Pipeline]
opened, opened_control = cache(load), cache(load_control)  # nothing here changes a network


@pytest.fixture(scope="module")
def xl(sdxl: tuple[Path, Any], tmp_path_factory: pytest.TempPathFactory, small: ModuleType) -> tuple[Path, Any]:
    """As `sdxl`, with the order of blocks that XL's adapters are for."""
    folder, pipe = sdxl
    blocks = {"down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D")}
    blocks |= {"up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D")}
    unet = small.randomise(type(pipe.unet).from_config({**pipe.unet.config, **blocks}))
    path = tmp_path_factory.mktemp("xl") / "model"
    shutil.copytree(folder, path)
    unet.save_pretrained(path / "unet")
    return path, diffusers.StableDiffusionXLPipeline(**{**pipe.components, "unet": unet})


@pytest.fixture(scope="module")
def nets(
    tmp_path_factory: pytest.TempPathFactory, small: ModuleType, sd1: Any, sdxl: Any
) -> dict[str, tuple[Any, Any]]:
    """Directories and modules of side networks; those named xl are for the model like Stable Diffusion XL."""
    folder = tmp_path_factory.mktemp("nets")
    made = {
        "control": small.control_net(sd1[1].unet),
        "other control": small.control_net(sd1[1].unet, seed=2),
        "xl control": small.control_net(sdxl[1].unet),
        "adapter": small.adapter(),
        "light adapter": small.adapter("light_adapter"),
        "grey adapter": small.adapter(in_channels=1),
        "xl adapter": small.adapter("full_adapter_xl", downscale_factor=4),
        "union": small.control_union(sd1[1].unet),
    }
    for name, module in made.items():
        module.save_pretrained(folder / name)
    return {name: (folder / name, module) for name, module in made.items()}


def test_what_is_loaded_is_what_was_saved(nets: dict[str, tuple[Any, Any]]) -> None:
    """The tests below compare with the loaded modules, for a weight's place in memory chooses its kernels."""
    for path, module in nets.values():
        loaded = load_control(path, kind="canny" if "union" in path.name else None).module
        ours, theirs = loaded.state_dict(), module.state_dict()
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.fixture
def pipe(loaded: Loaded) -> Pipeline:
    return loaded("sd1")


@pytest.fixture
def model_of(loaded: Loaded, request: pytest.FixtureRequest) -> Loaded:
    """A model by its fixture's name."""
    return lambda name: opened(request.getfixturevalue(name)[0]) if name == "xl" else loaded(name)


def control(nets: dict[str, tuple[Any, Any]], name: str, **settings: Any) -> Control:
    return Control(opened_control(nets[name][0]), HINT, **settings)


def extended(pipe: Pipeline, *controls: Control) -> Cond:
    return replace(pipe.text.encode(["a red heart"], SIZE), controls=controls)


def answer(pipe: Pipeline, cond: Cond, sigma: float = 2.0, x: Tensor = X) -> Tensor:
    """The clean latent that a conditioning leads to."""
    at = torch.tensor(sigma, dtype=torch.float64)
    ctx = Ctx(
        Grid(torch.tensor([sigma, 0.0]), pipe.model.sampling.process, clock=pipe.model.sampling.clock).span(0), {}
    )
    return predict(pipe.model, x, at, [[cond]], ctx)[0]


@pytest.mark.parametrize("name, model", [("control", "sd1"), ("xl control", "sdxl")])
def test_a_control_net_is_called_as_diffusers_does(
    name: str, model: str, nets: dict[str, tuple[Any, Any]], model_of: Loaded
) -> None:
    pipe = model_of(model)
    steered = control(nets, name, strength=0.7)
    side, unet, cond = steered.net.module, pipe.modules["unet"], extended(pipe, steered)
    further = {"encoder_hidden_states": cond.embeds, "added_cond_kwargs": cond.extra, "return_dict": False}
    down, middle = side(X, T, controlnet_cond=HINT, conditioning_scale=0.7, **further)
    residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
    assert torch.equal(pipe.model.network(X, T, cond), unet(X, T, **further, **residuals)[0])


@pytest.mark.parametrize(
    "name, model",
    [
        ("adapter", "sd1"),
        ("light adapter", "sd1"),
        ("grey adapter", "sd1"),
        ("xl adapter", "xl"),
        ("adapter", "sdxl"),
    ],
)
def test_an_adapter_is_called_as_diffusers_does(
    name: str, model: str, nets: dict[str, tuple[Any, Any]], model_of: Loaded
) -> None:
    pipe = model_of(model)
    steered = control(nets, name, strength=0.7)
    side, unet, cond = steered.net.module, pipe.modules["unet"], extended(pipe, steered)
    hint = HINT.mean(1, keepdim=True) if name == "grey adapter" else HINT
    features = [0.7 * feature for feature in side(hint)]
    further = {"encoder_hidden_states": cond.embeds, "added_cond_kwargs": cond.extra, "return_dict": False}
    want = unet(X, T, **further, down_intrablock_additional_residuals=features)[0]
    assert torch.equal(pipe.model.network(X, T, cond), want)
    assert not torch.equal(pipe.model.network(X, T, replace(cond, controls=())), want)


def test_a_union_is_told_the_kind(nets: dict[str, tuple[Any, Any]], pipe: Pipeline) -> None:
    path = nets["union"][0]
    net = load_control(path, kind="canny")
    cond = extended(pipe, Control(net, HINT, 0.7))
    kind = torch.tensor([[0.0, 0, 0, 1, 0, 0]])
    down, middle = net.module(X, T, cond.embeds, [HINT], kind, [3], 0.7, return_dict=False)
    want = pipe.modules["unet"](
        X, T, cond.embeds, down_block_additional_residuals=down, mid_block_additional_residual=middle, return_dict=False
    )[0]
    assert torch.equal(pipe.model.network(X, T, cond), want)
    for given, message in {
        None: "say which, one of openpose, depth, .*",
        "cany": "unknown kind of hint 'cany'",
    }.items():
        with pytest.raises(ValueError, match=message):
            load_control(path, kind=given)
    with pytest.raises(ValueError, match="one kind only; got kind 'canny'"):
        load_control(nets["control"][0], kind="canny")


@pytest.mark.parametrize("name", ["control", "adapter"])
def test_strength_0_and_outside_of_the_window_is_no_control(
    name: str, nets: dict[str, tuple[Any, Any]], pipe: Pipeline
) -> None:
    half = pipe.model.sampling.clock(0.5)
    plain = extended(pipe)
    late = extended(pipe, control(nets, name, window=(0.5, 1.0)))
    whole = extended(pipe, control(nets, name))
    assert torch.equal(answer(pipe, extended(pipe, control(nets, name, strength=0.0))), answer(pipe, plain))
    for sigma, same in {half * 1.01: plain, half: whole, half * 0.99: whole}.items():
        assert torch.equal(answer(pipe, late, sigma), answer(pipe, same, sigma))
    assert not torch.equal(answer(pipe, whole), answer(pipe, plain))


@pytest.mark.parametrize("name, side", [("control", "bfloat16"), ("control", "float32"), ("adapter", "float32")])
def test_half_precision_of_the_network_and_of_its_side(
    name: str, side: str, nets: dict[str, tuple[Any, Any]], pipe: Pipeline, sd1: tuple[Path, Any]
) -> None:
    full, half = pipe, opened(sd1[0], dtype="bfloat16")
    whole = extended(full, control(nets, name))
    low = replace(whole, controls=[Control(load_control(nets[name][0], dtype=side), HINT)])
    assert_close(half.model.network(X, T, low), full.model.network(X, T, whole), atol=0.3, rtol=0)


def test_a_chain_is_the_sum_of_what_its_parts_add(nets: dict[str, tuple[Any, Any]], pipe: Pipeline) -> None:
    from diffusers.models.controlnets.multicontrolnet import MultiControlNetModel

    a, b = control(nets, "control", strength=0.7), control(nets, "other control", strength=0.4)
    both = extended(pipe, a, b)
    many = MultiControlNetModel([a.net.module, b.net.module])
    down, middle = many(X, T, both.embeds, [HINT, HINT], [0.7, 0.4], return_dict=False)
    want = pipe.modules["unet"](
        X, T, both.embeds, down_block_additional_residuals=down, mid_block_additional_residual=middle
    ).sample
    assert torch.equal(pipe.model.network(X, T, both), want)
    assert_close(pipe.model.network(X, T, extended(pipe, b, a)), want, atol=1e-5, rtol=0)
    twice = extended(pipe, replace(a, strength=0.3), replace(a, strength=0.4))
    assert_close(pipe.model.network(X, T, twice), pipe.model.network(X, T, extended(pipe, a)), atol=1e-5, rtol=0)
    with_adapter = extended(pipe, a, control(nets, "adapter"))
    assert not torch.equal(pipe.model.network(X, T, with_adapter), pipe.model.network(X, T, extended(pipe, a)))


def test_an_area_cuts_the_hint_along(nets: dict[str, tuple[Any, Any]], pipe: Pipeline) -> None:
    """In its box an area sees x and that part of the hint as a latent of its size would, or by default all of it."""
    steered = control(nets, "control")
    box = answer(pipe, replace(extended(pipe, steered), area=Area((4, 6), (2, 4))))
    nearest = torch.nn.functional.interpolate(HINT, (8, 12), mode="nearest-exact")
    assert_close(box[..., 2:6, 4:10], answer(pipe, extended(pipe, replace(steered, hint=nearest)), x=X[..., 2:6, 4:10]))
    steered = replace(steered, crop="along")
    whole, part = extended(pipe, steered), extended(pipe, replace(steered, hint=HINT[..., 4:12, 8:20]))
    box = answer(pipe, replace(whole, area=Area((4, 6), (2, 4))))
    assert_close(box[..., 2:6, 4:10], answer(pipe, part, x=X[..., 2:6, 4:10]))


def test_hints_of_other_sizes_are_cut_to_proportion_and_resized(
    nets: dict[str, tuple[Any, Any]], pipe: Pipeline
) -> None:
    steered = extended(pipe, control(nets, "control"))
    assert fit(steered, (8, 12)).controls[0].hint is steered.controls[0].hint
    twice = HINT.repeat_interleave(2, 2).repeat_interleave(2, 3)
    margins = torch.nn.functional.pad(twice, (6, 6, 0, 0))
    for hint in (twice, margins):
        other = replace(steered, controls=[replace(steered.controls[0], hint=hint)])
        assert torch.equal(answer(pipe, other), answer(pipe, steered))


def test_conditionings_share_a_call_if_their_controls_do(nets: dict[str, tuple[Any, Any]], pipe: Pipeline) -> None:
    """Each row has its own hint; another network, strength or window is another call; the numbers are the same."""
    steered = control(nets, "control")
    rows: list[int] = []

    def forward(module: object, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        rows.append(len(x))
        return pipe.model.forward(module, x, t, cond)

    counted = replace(pipe, model=replace(pipe.model, forward=forward))
    at = torch.tensor(2.0, dtype=torch.float64)
    ctx = Ctx(Grid(torch.tensor([2.0, 0.0]), pipe.model.sampling.process, clock=pipe.model.sampling.clock).span(0), {})
    x = torch.randn(2, 4, 8, 12)
    hints = torch.rand(2, 3, *SIZE)
    for other, calls in {
        steered: [4],
        replace(steered, hint=hints): [4],
        replace(steered, strength=0.5): [2, 2],
        control(nets, "other control"): [2, 2],
        None: [2, 2],
    }.items():
        prompts = [[extended(pipe, steered)], [extended(pipe, *([other] if other else []))]]
        rows.clear()
        together = predict(counted.model, x, at, prompts, ctx)
        assert rows == calls
        for D, prompt in zip(together, prompts):
            for k in (0, 1):
                (c,) = prompt[0].controls or (None,)
                own = prompt[0] if c is None or len(c.hint) == 1 else extended(pipe, replace(c, hint=hints[k : k + 1]))
                assert_close(D[k : k + 1], answer(pipe, own, x=x[k : k + 1]), atol=1e-4, rtol=1e-4)


def theirs_of(kind: str, model: Any, side: Any) -> Any:
    """diffusers' pipeline of a model with a side network."""
    parts = {name: value for name, value in model.components.items() if name != "image_encoder"}
    if kind == "StableDiffusionXLControlNetPipeline":
        return diffusers.StableDiffusionXLControlNetPipeline(**parts, controlnet=side, add_watermarker=False)
    if kind == "StableDiffusionControlNetPipeline":
        return diffusers.StableDiffusionControlNetPipeline(**parts, controlnet=side, requires_safety_checker=False)
    return getattr(diffusers, kind)(
        **parts, adapter=side, **({} if "XL" in kind else {"requires_safety_checker": False})
    )


RUNS = [
    ("StableDiffusionControlNetPipeline", "control", "sd1"),
    ("StableDiffusionXLControlNetPipeline", "xl control", "sdxl"),
    ("StableDiffusionAdapterPipeline", "adapter", "sd1"),
    ("StableDiffusionXLAdapterPipeline", "xl adapter", "xl"),
]


@pytest.mark.parametrize("kind, name, model", RUNS, ids=[kind for kind, _, _ in RUNS])
def test_whole_runs_are_those_of_diffusers(
    kind: str, name: str, model: str, nets: dict[str, tuple[Any, Any]], model_of: Loaded, request: pytest.FixtureRequest
) -> None:
    known = request.getfixturevalue(model)[1]
    pipe, noise = model_of(model), torch.randn(1, 4, 8, 12)
    scale = "adapter_conditioning_scale" if "Adapter" in kind else "controlnet_conditioning_scale"
    diffuser = theirs_of(kind, known, nets[name][1])
    diffuser.set_progress_bar_config(disable=True)
    want = diffuser(
        "a red heart", image=HINT, negative_prompt="a horse", height=SIZE[0], width=SIZE[1], num_inference_steps=3,
        guidance_scale=3.0, latents=noise, output_type="latent", **{scale: 0.8},
    ).images  # fmt: skip
    positive, negative = (
        replace(pipe.text.encode([text], SIZE), controls=[control(nets, name, strength=0.8)])
        for text in ("a red heart", "a horse")
    )
    sigmas = diffuser.scheduler.sigmas.double()
    ratio = float(diffuser.scheduler.init_noise_sigma / sigmas[0])  # their first x is not raised to √(1 + σ²)
    guider = Guider(pipe.model, positive, negative, 3.0)
    run, _, _ = open_run(guider, pipe.model.sampling, "euler", sigmas, torch.zeros_like(noise), noise, 0)
    got = finish(run, noise * float(sigmas[0]) * ratio).x
    assert (got - want).abs().max() <= 1e-4 * want.abs().max()


def test_refusals(nets: dict[str, tuple[Any, Any]], pipe: Pipeline, tmp_path: Path, sd1: tuple[Path, Any]) -> None:
    steered = control(nets, "xl control")
    with pytest.raises(
        ValueError, match="this ControlNetModel is for networks with cross_attention_dim = 56; the model"
    ):
        answer(pipe, extended(pipe, steered))
    with pytest.raises(
        ValueError, match=r"this T2IAdapter is for networks with down_block_types\[0\] = DownBlock2D; the"
    ):
        pipe.model.check(extended(pipe, control(nets, "xl adapter")))
    tiny = small_model()
    with pytest.raises(ValueError, match="tiny takes no controls: these are for Stable Diffusion"):
        tiny.model.check(extended(tiny, steered))
    with pytest.raises(ValueError, match="unet is a UNet2DConditionModel; supported: ControlNetModel, "):
        load_control(sd1[0] / "unet")
    with pytest.raises(FileNotFoundError, match="no config.json, so this is not a network"):
        load_control(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such file or directory; a ControlNet or T2I-Adapter is a .saf"):
        load_control(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"hint must be \[B, 3, height, width\]; got shape \(1, 1, 4, 4\)"):
        Control(steered.net, torch.rand(1, 1, 4, 4))
    with pytest.raises(ValueError, match="needs images with sides that are multiples of 4; got 22x16"):
        xl = control(nets, "xl adapter")
        xl.net(X, T, extended(pipe), torch.rand(1, 3, 16, 22), 1.0)


def test_the_command_line_steers_and_replays(
    nets: dict[str, tuple[Any, Any]], pipe: Pipeline, sd1: tuple[Path, Any], tmp_path: Path
) -> None:
    import command_line
    from sigmafield.recipes.image_io import open_image, to_images
    from sigmafield.recipes.output import save_image

    hint = tmp_path / "hint.png"
    save_image(to_images(HINT)[0], hint)
    run = partial(command_line.run, models={str(sd1[0]): pipe})
    options = ["--model", sd1[0], "--steps", 2, "--size", "24x16", "--seed", 3]
    steered = ["--controlnet", f"net={nets['control'][0]},image={hint},strength=0.9,end=0.8"]
    for name, more in {"a": steered, "b": [*steered, *steered], "c": []}.items():
        result = run("sample", "a red heart", "-o", tmp_path / f"{name}.png", *options, *more)
        assert result.exit_code == 0, result.output
    drawn = [open_image(tmp_path / f"{name}.png").tobytes() for name in "abc"]
    assert len(set(drawn)) == 3
    assert run("replay", tmp_path / "b.png").exit_code == 0
    hint.write_bytes((tmp_path / "c.png").read_bytes())
    result = run("replay", tmp_path / "a.png")
    assert result.exit_code == 2 and "hint.png has changed since this recipe was made" in result.stderr
    wrong = ["--controlnet", f"net={nets['xl control'][0]},image={hint}"]
    result = run("sample", "a red heart", "-o", tmp_path / "d.png", *options, *wrong)
    assert result.exit_code == 2 and "this ControlNetModel is for networks with" in result.stderr
