"""Graphs of nodes on small models of each family give the pixels of the same run in Python."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import original_models
import original_names
import pytest
import torch
from safetensors.torch import save_file

from sigmafield.comfyui.context import Context, Folders
from sigmafield.comfyui.nodes.conditioning import conditioning_zero_out
from sigmafield.comfyui.nodes.custom_sampling import basic_guider, random_noise, sampler_custom_advanced
from sigmafield.comfyui.nodes.image_conditioning import (
    controlnet_apply,
    controlnet_apply_advanced,
    inpaint_model_conditioning,
)
from sigmafield.comfyui.nodes.ksampler import ksampler as ksampler_node
from sigmafield.comfyui.nodes.loaders import (
    checkpoint_loader_simple,
    clip_loader,
    controlnet_loader,
    diffusers_loader,
    dual_clip_loader,
    lora_loader,
    lora_loader_model_only,
    parts,
    triple_clip_loader,
    unet_loader,
    vae_loader,
)
from sigmafield.comfyui.nodes.merging import (
    clip_merge_simple,
    model_merge_add,
    model_merge_blocks,
    model_merge_simple,
    model_merge_subtract,
)
from sigmafield.comfyui.nodes.model_sampling import model_sampling_discrete
from sigmafield.comfyui.nodes.prompts import (
    clip_text_encode,
    clip_text_encode_flux,
    clip_text_encode_sd3,
    clip_text_encode_sdxl,
    clip_text_encode_sdxl_refiner,
)
from sigmafield.comfyui.nodes.samplers import ksampler_select
from sigmafield.comfyui.nodes.schedules import basic_scheduler
from sigmafield.core.conditioning import Control
from sigmafield.guidance.guider import Guider
from sigmafield.models.bundle import Pipeline
from sigmafield.models.module_view import view_of
from sigmafield.recipes.generate import generate
from sigmafield.recipes.image_io import to_images
from sigmafield.recipes.ksampler import ksampler
from sigmafield.spatial.inpaint import hidden, inpaint_concat

pytestmark = pytest.mark.typed_elsewhere

Family = Callable[[str], tuple[Path, Any]]
Loaded = Callable[[str], Pipeline]
TEXTS = ("a photograph of (the:1.3) horse", "the red heart")


def opened(loaded: Loaded, name: str) -> tuple[Any, Any, Any]:
    """The three values of a model as a loader gives them; nodes leave them as they are."""
    return parts(loaded(name))


def empty(model: Any, size: int = 16) -> Any:
    return {"samples": torch.zeros(model.network.latent.shape(1, (size, size)))}


def sampled(model: Any, positive: Any, negative: Any, latent: Any, cfg: float = 3.0) -> Any:
    return ksampler_node(
        model, 5, 2, cfg, sampler_name="euler", scheduler="simple", positive=positive, negative=negative,
        latent_image=latent,
    )["samples"]  # fmt: skip


def in_python(guider: Any, network: Any, latent: Any, **more: Any) -> Any:
    return ksampler(guider, network.sampling, network.latent, latent["samples"], seed=5, steps=2, **more).samples


FEW, MORE = ("sd1", "sdxl", "sd3", "flux dev"), ("sd2", "sd3 without T5", "flux schnell", "auraflow", "wan")


@pytest.mark.parametrize("name", [*FEW, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE)])
def test_text_to_image_is_generate(name: str, family: Family, loaded: Loaded) -> None:
    model, clip, vae = opened(loaded, name)
    if name == "sd1":
        path = family(name)[0]
        model, clip, vae = diffusers_loader(path.name, Context(Folders({"diffusers": [path.parent]})))
    positive, negative = (clip_text_encode(text, clip) for text in TEXTS)
    made = to_images(vae.decode(sampled(model, positive, negative, empty(model))))
    own = generate(
        loaded(name), TEXTS[0], negative=TEXTS[1], seed=5, steps=2, cfg=3.0, sampler="euler",
        schedule="simple", width=16, height=16, frames=1,
    )  # fmt: skip
    assert [image.tobytes() for image in made] == [image.tobytes() for image in own]


def test_prompts_of_each_encoder(loaded: Loaded) -> None:
    for name, encode in (
        ("sdxl", lambda clip, a, b: clip_text_encode_sdxl(clip, text_l=a, text_g=b)),
        ("sd3", lambda clip, a, b: clip_text_encode_sd3(clip, a, b, "it's", empty_padding="empty_prompt")),
    ):
        _, clip, _ = opened(loaded, name)
        one, other = encode(clip, *TEXTS)[0], encode(clip, TEXTS[1], TEXTS[1])[0]
        width, n = 32, one[0].shape[1] if name == "sdxl" else 16
        assert not one[0][:, :n, :width].equal(other[0][:, :n, :width])
        assert one[0][:, :n, width : width + 24].equal(other[0][:, :n, width : width + 24])
    _, clip, _ = opened(loaded, "flux dev")
    one, other = (clip_text_encode_flux(clip, text, TEXTS[1], 2.0)[0] for text in TEXTS)
    assert one[0].equal(other[0]) and not one[1]["pooled_output"].equal(other[1]["pooled_output"])
    assert one[1]["guidance"] == 2.0


def test_sizes_and_scores_that_a_network_is_told(loaded: Loaded) -> None:
    model, clip, _ = opened(loaded, "sdxl")
    asked = clip_text_encode_sdxl(clip, 64, 48, 3, 5, 128, 96, text_l=TEXTS[0], text_g=TEXTS[0])
    cond = clip.encode([TEXTS[0]], (16, 16))
    told = replace(cond, extra={**cond.extra, "time_ids": torch.tensor([[48.0, 64, 5, 3, 96, 128]])})
    guider = Guider(model.network, told, clip.encode([TEXTS[1]], (16, 16)), 3.0)
    out = sampled(model, asked, clip_text_encode(TEXTS[1], clip), empty(model))
    assert out.equal(in_python(guider, model.network, empty(model)))
    model, clip, _ = opened(loaded, "refiner")
    asked = [clip_text_encode(text, clip) for text in TEXTS]
    guider = Guider(model.network, clip.encode([TEXTS[0]], (16, 16)), clip.encode_negative([TEXTS[1]], (16, 16)), 3.0)
    assert sampled(model, *asked, empty(model)).equal(in_python(guider, model.network, empty(model)))
    asked[0] = clip_text_encode_sdxl_refiner(9.0, 32, 32, text=TEXTS[0], clip=clip)
    assert not sampled(model, *asked, empty(model)).equal(in_python(guider, model.network, empty(model)))


def test_flux_with_a_guider(loaded: Loaded) -> None:
    model, clip, _ = opened(loaded, "flux dev")
    positive = clip_text_encode_flux(clip, TEXTS[0], TEXTS[0], 2.0)
    cond = clip.encode([TEXTS[0]], (16, 16))
    cond = replace(cond, extra={**cond.extra, "guidance": torch.tensor([2.0])})
    out, _ = sampler_custom_advanced(
        random_noise(5), basic_guider(model, positive), ksampler_select("euler"), basic_scheduler(model, "simple", 2),
        empty(model),
    )  # fmt: skip
    assert out["samples"].equal(in_python(Guider(model.network, cond, None, 1.0), model.network, empty(model)))
    zero = conditioning_zero_out(positive)
    assert sampled(model, positive, zero, empty(model), 2.0).isfinite().all()
    foreign = clip_text_encode(TEXTS[0], opened(loaded, "sd1")[1])
    with pytest.raises(ValueError, match="needs pooled_output in a conditioning"):
        sampled(model, foreign, foreign, empty(model))


def test_inpainting(loaded: Loaded) -> None:
    model, clip, vae = opened(loaded, "inpainting")
    image, mask = torch.rand(1, 16, 16, 3), torch.zeros(1, 16, 16)
    mask[:, :, 8:] = 1
    pairs = [clip_text_encode(text, clip) for text in TEXTS]
    positive, negative, latent = inpaint_model_conditioning(*pairs, vae, image, mask)
    pixels = image.movedim(-1, 1)
    assert latent["samples"].equal(vae.encode(pixels)) and latent["noise_mask"].equal(mask[None])
    shown = model.network.latent.to_network(vae.encode(hidden(pixels, mask)))
    conds = [replace(clip.encode([text], (16, 16)), concat=inpaint_concat(mask, shown)) for text in TEXTS]
    own = in_python(Guider(model.network, *conds, 3.0), model.network, latent, mask=mask)
    assert sampled(model, positive, negative, latent).equal(own)
    without = inpaint_model_conditioning(*pairs, vae, image, mask, False)[2]
    assert "noise_mask" not in without
    assert sampled(model, *pairs, empty(model)).isfinite().all()


def test_control_nets(sd1: tuple[Path, Any], small: Any, loaded: Loaded, tmp_path: Path) -> None:
    model, clip, _ = opened(loaded, "sd1")
    small.control_net(sd1[1].unet).save_pretrained(tmp_path / "lines")
    context = Context(Folders({"controlnet": [tmp_path]}))
    net = controlnet_loader("lines/diffusion_pytorch_model.safetensors", context)
    pairs, hint = [clip_text_encode(text, clip) for text in TEXTS], torch.rand(1, 16, 16, 3)
    positive, negative = controlnet_apply_advanced(*pairs, net, hint, 0.7, 0.0, 0.6)
    control = Control(net.network(model.network, None), hint.movedim(-1, 1), 0.7, (0.0, 0.6))
    conds = [replace(clip.encode([text], (16, 16)), controls=(control,)) for text in TEXTS]
    own = in_python(Guider(model.network, *conds, 3.0), model.network, empty(model))
    made = sampled(model, positive, negative, empty(model))
    assert made.equal(own) and not made.equal(sampled(model, *pairs, empty(model)))
    again, _ = controlnet_apply_advanced(positive, negative, net, hint, 0.2)
    assert len(again[0][1]["control"]) == 2 and "control" not in pairs[0][0][1]
    assert controlnet_apply_advanced(*pairs, net, hint, 0.0) == tuple(pairs)
    both = sampled(model, controlnet_apply(pairs[0], net, hint, 0.7), pairs[1], empty(model))
    control = replace(control, window=(0.0, 1.0))
    conds = [replace(cond, controls=(control,)) for cond in conds]
    assert both.equal(in_python(Guider(model.network, *conds, 3.0), model.network, empty(model)))


def test_loras_add_up_and_leave_the_model(loaded: Loaded, tmp_path: Path) -> None:
    model, clip, _ = opened(loaded, "sd1")
    weights = {}
    generator = torch.Generator().manual_seed(0)
    for stem, module in (
        (
            "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q",
            model.network.module.mid_block.attentions[0],
        ),
        ("lora_te1_text_model_encoder_layers_0_self_attn_q_proj", None),
    ):
        out, into = (32, 32) if module is None else module.transformer_blocks[0].attn1.to_q.weight.shape
        weights |= {
            f"{stem}.lora_down.weight": torch.randn(2, into, generator=generator),
            f"{stem}.lora_up.weight": torch.randn(out, 2, generator=generator),
            f"{stem}.alpha": torch.tensor(2.0),
        }
    save_file(weights, tmp_path / "a.safetensors")
    context = Context(Folders({"loras": [tmp_path]}))
    pairs = [clip_text_encode(text, clip) for text in TEXTS]
    plain = sampled(model, *pairs, empty(model))
    once, text = lora_loader(model, clip, "a.safetensors", 0.5, 0.25, context)
    twice, _ = lora_loader(once, text, "a.safetensors", 0.25, 0.0, context)
    own = loaded("sd1").with_loras([(tmp_path / "a.safetensors", (0.75, 0.25))])
    torch.testing.assert_close(
        sampled(twice, *pairs, empty(model)),
        sampled(replace(model, network=own.model), *pairs, empty(model)), rtol=1e-3, atol=1e-3,
    )  # fmt: skip
    assert clip_text_encode(TEXTS[0], text)[0][0].equal(own.text.encode([TEXTS[0]], (16, 16)).embeds)
    assert sampled(model, *pairs, empty(model)).equal(plain)
    assert clip_text_encode(TEXTS[0], clip)[0][0].equal(pairs[0][0][0])
    only = lora_loader_model_only(model, "a.safetensors", 0.5, context)
    assert sampled(only, *pairs, empty(model)).equal(sampled(once, *pairs, empty(model)))


def test_merged_models(sd1: tuple[Path, Any], loaded: Loaded) -> None:
    model, clip, _ = opened(loaded, "sd1")
    other = model_sampling_discrete(model, "v_prediction", False)
    small_module = view_of(model.network.patchable())
    generator = torch.Generator().manual_seed(3)
    for layer in small_module.modules():
        layer._parameters = {
            name: value if value is None else torch.nn.Parameter(
                torch.randn(value.shape, generator=generator), requires_grad=False
            )
            for name, value in layer._parameters.items()
        }  # fmt: skip
    other = replace(other, network=replace(other.network, module=small_module))

    def weights(of: Any, name: str) -> Any:
        return of.network.module.get_parameter(name)

    names = ("conv_in.weight", "time_embedding.linear_1.weight", "mid_block.resnets.0.conv1.weight", "conv_out.bias")
    before = [weights(model, name).clone() for name in names]
    blocks = model_merge_blocks(model, other, 0.25, 0.5, 0.75)
    for name, ratio in zip(names, (0.25, 0.25, 0.5, 0.75)):
        a, b = weights(model, name), weights(other, name)
        torch.testing.assert_close(weights(model_merge_simple(model, other, 0.3), name), 0.3 * a + 0.7 * b)
        torch.testing.assert_close(weights(blocks, name), ratio * a + (1 - ratio) * b)
        torch.testing.assert_close(weights(model_merge_subtract(model, other, 2.0), name), 2 * (a - b))
        torch.testing.assert_close(weights(model_merge_add(model, other), name), a + b)
    assert all(weights(model, name).equal(value) for name, value in zip(names, before))
    assert blocks.network.sampling is model.network.sampling
    texts = clip_merge_simple(clip, clip, 0.5)
    torch.testing.assert_close(
        clip_text_encode(TEXTS[0], texts)[0][0], clip_text_encode(TEXTS[0], clip)[0][0], rtol=1e-5, atol=1e-5
    )
    with pytest.raises(ValueError, match="same names and shapes"):
        model_merge_simple(model, opened(loaded, "sdxl")[0], 0.5)


def test_a_vae_in_a_file_of_its_own(tmp_path: Path) -> None:
    for channels, changes in ((4, {}), (16, original_models.FLOW_VAE)):
        module = original_models.vae(**changes)
        weights = {name: value.contiguous() for name, value in original_names.autoencoder(module).items()}
        bare = {name.removeprefix("first_stage_model."): value for name, value in weights.items()}
        save_file(bare if channels == 4 else weights, tmp_path / "vae.safetensors")
        latent, image = torch.randn(1, channels, 2, 2), torch.rand(1, 3, 16, 16)
        vae = vae_loader("vae.safetensors", Context(Folders({"vae": [tmp_path]})))
        assert vae.decode(latent).equal((module.decode(latent).sample / 2 + 0.5).clamp(0, 1))
        assert vae.encode(image).equal(module.encode(image * 2 - 1).latent_dist.mean)
    save_file({name: value.contiguous() for name, value in module.state_dict().items()}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="not a VAE of Stable Diffusion, Flux, Wan or Qwen-Image in its"):
        vae_loader("other.safetensors", Context(Folders({"vae": [tmp_path]})))
    save_file({"lora_unet_x.lora_down.weight": torch.ones(1, 1)}, tmp_path / "lora.safetensors")
    with pytest.raises(ValueError, match="no VAE found; looks like a LoRA"):
        vae_loader("lora.safetensors", Context(Folders({"vae": [tmp_path]})))


def placed(folder: Path, name: str, weights: Any) -> None:
    folder.mkdir(exist_ok=True)
    save_file({key: value.contiguous() for key, value in weights.items()}, folder / name)


@pytest.mark.parametrize(
    "kind", [*(pytest.param(name, marks=pytest.mark.slow) for name in ("sd1", "sdxl", "sd3")), "flux"]
)
def test_parts_in_files_of_their_own_are_the_whole(kind: str, tmp_path: Path) -> None:
    modules, weights = getattr(original_models, kind)()
    placed(tmp_path / "checkpoints", "whole.safetensors", weights)
    context = Context(
        Folders({name: [tmp_path / name] for name in ("checkpoints", "diffusion_models", "text_encoders", "vae")})
    )
    prefix = next(start for start in ("model.diffusion_model.", "") if any(key.startswith(start) for key in weights))
    network = {
        key.removeprefix(prefix): value
        for key, value in weights.items()
        if key.startswith(prefix) and not key.startswith(("first_stage_model.", "text_encoders.", "vae."))
    }
    placed(tmp_path / "diffusion_models", "network.safetensors", network)
    texts = sorted((name for name in modules if name.startswith("text_encoder")), reverse=True)
    for name in texts:
        if "T5" in type(modules[name]).__name__:
            own = {key: value for key, value in modules[name].state_dict().items() if "embed_tokens" not in key}
        else:
            own = original_names.clip(modules[name], "")
        placed(tmp_path / "text_encoders", f"{name}.safetensors", own)
    placed(tmp_path / "vae", "vae.safetensors", original_names.autoencoder(modules["vae"], ""))
    whole = checkpoint_loader_simple("whole.safetensors", context)
    model = unet_loader("network.safetensors", weight_dtype="default", context=context)
    paths = [f"{name}.safetensors" for name in texts]
    if kind == "sd1":
        clip = clip_loader(*paths, type="stable_diffusion", context=context)
    elif kind == "sd3":
        clip = triple_clip_loader(*paths, context=context)
    else:
        clip = dual_clip_loader(*paths, type=kind, context=context)
    vae = vae_loader("vae.safetensors", context)
    for one, other in ((whole[0].network, model.network), (whole[2], vae)):
        assert all(map(torch.equal, one.module.state_dict().values(), other.module.state_dict().values()))
    assert (model.network.family, model.network.concat) == (whole[0].network.family, whole[0].network.concat)
    assert model.network.latent == whole[0].network.latent and vae.factor == whole[2].factor
    (one, extra), (other, further) = (clip_text_encode(TEXTS[0], each)[0] for each in (whole[1], clip))
    n = other.shape[1]  # prompts of Flux dev are padded to 512 tokens, these to 256, as in ComfyUI
    assert extra.keys() == further.keys() and all(extra[key].equal(further[key]) for key in extra)
    assert one[:, :n].equal(other) if kind != "flux" else one.shape[1] == 2 * n
    if kind == "flux":
        with pytest.raises(ValueError, match="sd3 needs 3 text encoders"):
            dual_clip_loader(*paths, type="sd3", context=context)
        with pytest.raises(ValueError, match="type hunyuan_video is not supported"):
            dual_clip_loader(*paths, type="hunyuan_video", context=context)
