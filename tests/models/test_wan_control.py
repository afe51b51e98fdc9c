"""Wan steered by videos: VACE against diffusers' pipeline, Fun-Control against its network, and their nodes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from recent_models import wan_fun
from recent_names import in_published_names
from safetensors.torch import save_file
from torch import Tensor
from torch.testing import assert_close

from sigmafield import sample
from sigmafield.comfyui.conditioning import conds_of
from sigmafield.comfyui.model import NodeModel
from sigmafield.comfyui.nodes.ksampler import ksampler
from sigmafield.comfyui.nodes.prompts import clip_text_encode
from sigmafield.comfyui.nodes.wan import wan_image_to_video
from sigmafield.comfyui.nodes.wan_control import (
    wan22_fun_control_to_video,
    wan_fun_control_to_video,
    wan_vace_to_video,
)
from sigmafield.core.conditioning import Cond
from sigmafield.guidance.guider import Guider
from sigmafield.models.bundle import Pipeline
from sigmafield.models.diffusion_model import DiffusionModel
from sigmafield.models.load import load
from sigmafield.models.load_parts import load_network
from sigmafield.models.lora.read import read_lora
from sigmafield.models.references import with_references
from sigmafield.models.vace import STRENGTH, control_latents, control_mask, control_of
from sigmafield.parameterization.latent_format import latent_format
from sigmafield.recipes.execute import open_job
from sigmafield.recipes.recipe import Recipe
from sigmafield.runs.run import finish

pytest.importorskip("diffusers")
Family = Callable[[str], tuple[Path, Any]]
Loaded = Callable[[str], Pipeline]
SIDE = 32


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def pixels(n: int, seed: int = 0) -> Tensor:
    """Random images [n, 3, 32, 32] of 8 bits."""
    return torch.randint(0, 256, (n, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(seed)) / 255


def as_pil(images: Tensor) -> list[Image.Image]:
    return [Image.fromarray((each * 255).round().byte().movedim(0, -1).numpy()) for each in images]


def asked(model: DiffusionModel, x: Tensor, sigma: float, cond: Cond) -> Tensor:
    model.check(cond)
    return model.network(x, torch.full((len(x),), 1000 * sigma), cond)


def test_whole_run_of_vace(loaded: Loaded, family: Family) -> None:
    """Euler's steps end where diffusers' pipeline ends, with a video, a mask and a reference image."""
    ours, (_, pipe) = loaded("wan vace"), family("wan vace")
    video, image, x = pixels(5), pixels(1, seed=1), noise(1, 16, 3, 4, 4)
    mask = torch.zeros(5, 1, SIDE, SIDE)
    mask[1:, :, :, :16] = 1
    texts = [ours.text.encode([text], (SIDE, SIDE)).embeds for text in ("a red heart", "1999")]
    want = pipe(
        prompt_embeds=texts[0], negative_prompt_embeds=texts[1], height=SIDE, width=SIDE, num_frames=5, latents=x,
        num_inference_steps=3, guidance_scale=3.0, video=as_pil(video), mask=as_pil(mask.expand(-1, 3, -1, -1)),
        reference_images=as_pil(image), conditioning_scale=0.7, output_type="latent",
    )[0]  # fmt: skip
    shown = video.movedim(0, 1)[None], mask.movedim(0, 1)[None]
    latents = control_latents(ours.vae, ours.model.latent, *shown, image)
    control = control_of(ours.model.latent, latents, control_mask(shown[1], 8, 1))
    positive, negative = (Cond(text, {STRENGTH: torch.tensor([0.7])}, concat=control) for text in texts)
    guider = Guider(ours.model, positive, negative, 3.0)
    got = sample(guider, x, pipe.scheduler.sigmas.double(), process=ours.model.sampling.process)
    assert_close(got, want, atol=1e-4 * float(want.abs().max()), rtol=0)


def test_a_strength_for_each_row(loaded: Loaded, family: Family) -> None:
    """Rows of a call have controls and strengths of their own; strength 0 is no control."""
    ours, (_, pipe) = loaded("wan vace"), family("wan vace")
    x, control, text = noise(3, 16, 2, 4, 4), noise(3, 96, 2, 4, 4, seed=1), noise(3, 7, 32, seed=2)
    strengths = torch.tensor([0.5, 0.0, 2.0])
    got = asked(ours.model, x, 0.6, Cond(text, {STRENGTH: strengths}, concat=control))
    for row, strength in enumerate(strengths):
        one = slice(row, row + 1)
        want = pipe.transformer(
            x[one], timestep=torch.tensor([600.0]), encoder_hidden_states=text[one], control_hidden_states=control[one],
            control_hidden_states_scale=strength.expand(2),
        ).sample  # fmt: skip
        assert_close(got[one], want, atol=1e-5, rtol=0)
    other = asked(ours.model, x, 0.6, Cond(text, {STRENGTH: strengths}, concat=control + 1))
    assert torch.equal(other[1], got[1]) and not torch.allclose(other[2], got[2], atol=1e-3)


def written(path: Path, network: Any) -> Path:
    save_file({name: value.clone().contiguous() for name, value in in_published_names(network).items()}, path)
    return path


def test_vace_in_a_file(tmp_path: Path, loaded: Loaded, family: Family) -> None:
    """The network under the names that it was published with, and a LoRA of its control's blocks."""
    ours, (_, pipe) = loaded("wan vace"), family("wan vace")
    path = written(tmp_path / "vace.safetensors", pipe.transformer)
    model = load_network(path)
    x, control, text = noise(1, 16, 2, 4, 4), noise(1, 96, 2, 4, 4, seed=1), noise(1, 7, 32, seed=2)
    cond = Cond(text, concat=control)
    assert torch.equal(asked(model, x, 0.6, cond), asked(ours.model, x, 0.6, cond))
    assert model.family == ours.model.family and model.concat == 96
    weight = pipe.transformer.vace_blocks[0].attn1.to_q.weight
    lora = {"diffusion_model.vace_blocks.0.self_attn.q.diff": torch.ones_like(weight)}
    save_file(lora, tmp_path / "lora.safetensors")
    assert model.module is not None
    read = read_lora(tmp_path / "lora.safetensors", {"transformer": model.module})
    assert not read.unused and list(read.changes["transformer"]) == ["vace_blocks.0.attn1.to_q.weight"]


def test_a_recipe_shows_vace_what_a_mask_keeps(tmp_path: Path, loaded: Loaded) -> None:
    """Inpainting shows the network the image around the mask; without a mask the whole video is drawn."""
    ours = loaded("wan vace")
    image = pixels(1)
    as_pil(image)[0].save(tmp_path / "a.png")
    mask = Image.new("L", (SIDE, SIDE), 0)
    mask.paste(255, (0, 0, 16, SIDE))
    mask.save(tmp_path / "m.png")
    settings: dict[str, Any] = {
        "steps": 2, "sampler": "euler", "schedule": "simple", "cfg": 1.0, "width": SIDE, "height": SIDE, "frames": 5,
    }  # fmt: skip
    job = open_job(Recipe("a", image=str(tmp_path / "a.png"), mask=str(tmp_path / "m.png"), **settings), ours)
    concat = job.run.denoise.denoise.positive[0].concat
    assert concat is not None and concat.shape == (1, 96, 2, 4, 4)
    assert concat[0, 32:, :, 0].amin() == 0 and concat[0, 32:, :, :, 0].amin() == 1
    half = torch.ones(1, 3, SIDE, SIDE) * 0.5
    half[..., 16:] = image[..., 16:]
    kept = ours.encode(half[:, :, None].expand(-1, -1, 5, -1, -1))
    assert_close(concat[:, :16], kept, atol=1e-4, rtol=0)
    assert torch.isfinite(finish(job.run, job.start).x).all()
    plain = open_job(Recipe("a", **settings), ours).run.denoise.positive[0].concat
    assert plain is not None and bool((plain[:, 32:] == 1).all())
    assert torch.equal(plain[:, :16], plain[:, 16:32])


def test_the_node_of_vace(loaded: Loaded) -> None:
    """Numbers of its mask and latents, the frames that it puts in front, and a run."""
    ours = loaded("wan vace")
    model, vae, text = NodeModel(ours.model, text=ours.text), ours.vae, clip_text_encode("a red heart", ours.text)
    video, image = pixels(6).movedim(1, -1), pixels(1, seed=1).movedim(1, -1)
    masks = torch.zeros(2, SIDE, SIDE)
    masks[1, 3, 8] = 1
    positive, negative, latent, trim = wan_vace_to_video(
        text, text, vae, SIDE, SIDE, 9, 2, 0.5, control_video=video, control_masks=masks, reference_image=image
    )
    assert trim == 1 and latent["samples"].shape == (2, 16, 4, 4, 4) and not latent["samples"].any()
    extra = positive[0][1]
    [frames], [cells], [strength] = extra["vace_frames"], extra["vace_mask"], extra["vace_strength"]
    assert strength == 0.5 and frames.shape == (1, 32, 4, 4, 4) and cells.shape == (1, 64, 4, 4, 4)
    whole = torch.full((1, 3, 9, SIDE, SIDE), 0.5)
    whole[:, :, :6] = video.movedim(-1, 0)
    drawn = torch.ones(1, 1, 9, SIDE, SIDE)
    drawn[:, :, :2] = masks
    assert_close(frames[:, :16, 1:], vae.encode((whole - 0.5) * (1 - drawn) + 0.5), atol=1e-5, rtol=1e-5)
    assert_close(frames[:, 16:, 1:], vae.encode((whole - 0.5) * drawn + 0.5), atol=1e-5, rtol=1e-5)
    assert_close(frames[:, :16, :1], vae.encode(image.movedim(-1, 1)[:, :, None]), atol=1e-5, rtol=1e-5)
    assert not latent_format("Wan21").to_network(frames[:, 16:, :1]).abs().gt(1e-5).any()
    # frames 1, 4 and 7 of nine are the nearest to three; the mask's one pixel of frame 1 is (3, 0) of its position
    assert not cells[:, :, 0].any() and bool((cells[:, :, 2:] == 1).all())
    assert cells[0, :, 1].nonzero().tolist() == [[3 * 8, 0, 1]]
    cond = conds_of(positive, ours.model, latent["samples"])[0]
    assert cond.extra[STRENGTH].tolist() == [0.5]
    drawing = {"sampler_name": "euler", "scheduler": "simple"}
    made = [
        ksampler(model, 5, 2, 2.0, positive=p, negative=n, latent_image=latent, **drawing)["samples"]
        for p, n in ((positive, negative), (text, text))
    ]
    assert all(torch.isfinite(each).all() for each in made) and not torch.allclose(*made, atol=1e-3)
    twice = wan_vace_to_video(positive, negative, vae, SIDE, SIDE, 9)[0]
    with pytest.raises(ValueError, match="is shown one control; got 2, of as many WanVaceToVideo"):
        conds_of(twice, ours.model, latent["samples"])


def test_fun_control_of_wan21(tmp_path: Path, loaded: Loaded) -> None:
    """The network is shown the control's latents, then those of the first frames; nothing is 0 to it."""
    network = wan_fun(48, 16, reference=False)
    model = load_network(written(tmp_path / "fun.safetensors", network))
    ours = loaded("wan2.2")
    text, form = clip_text_encode("a red heart", ours.text), latent_format("Wan21")
    control, start = pixels(7).movedim(1, -1), pixels(1, seed=1).movedim(1, -1)
    positive, _, latent = wan_fun_control_to_video(
        text, text, ours.vae, SIDE, SIDE, 9, start_image=start, control_video=control
    )
    x = noise(1, 16, 3, 4, 4)
    cond = conds_of(positive, model, latent["samples"])[0]
    seen = torch.zeros(1, 32, 3, 4, 4)
    seen[:, :16, :2] = form.to_network(ours.vae.encode(control[:5].movedim(-1, 0)[None]))
    seen[:, 16:, :1] = form.to_network(ours.vae.encode(start.movedim(-1, 0)[None]))
    assert cond.concat is not None
    assert_close(cond.concat, seen, atol=1e-5, rtol=0)
    want = network(torch.cat([x, seen], 1), timestep=torch.tensor([600.0]), encoder_hidden_states=positive[0][0]).sample
    assert_close(asked(model, x, 0.6, cond), want, atol=1e-5, rtol=0)
    images = wan_image_to_video(text, text, ours.vae, SIDE, SIDE, 9, start_image=start)[0]
    with pytest.raises(ValueError, match="is shown 32 channels of latents; got 16: Fun-Control needs WanFunControl"):
        conds_of(images, model, latent["samples"])


def test_fun_control_of_wan22(tmp_path: Path, loaded: Loaded) -> None:
    """Its mask lies between two latents, and a reference image is a frame in front with tokens of its own."""
    network = wan_fun(52, 16, reference=True)
    model = load_network(written(tmp_path / "fun.safetensors", network))
    assert model.references and model.concat == 36
    ours = loaded("wan2.2")
    text = clip_text_encode("a red heart", ours.text)
    control, image = pixels(9).movedim(1, -1), pixels(1, seed=1).movedim(1, -1)
    positive, _, latent = wan22_fun_control_to_video(
        text, text, ours.vae, SIDE, SIDE, 9, ref_image=image, control_video=control
    )
    cond = conds_of(positive, model, latent["samples"])[0]
    assert cond.concat is not None and cond.concat.shape == (1, 36, 3, 4, 4)
    assert not cond.concat[:, 16:].abs().gt(1e-5).any()
    want = ours.encode(control.movedim(-1, 0)[None])
    assert_close(cond.concat[:, :16], want, atol=1e-5, rtol=0)
    assert_close(cond.extra["reference_1"], ours.encode(image.movedim(-1, 0)[None]), atol=1e-5, rtol=0)
    assert torch.isfinite(asked(model, noise(1, 16, 3, 4, 4), 0.6, cond)).all()


def test_the_vae_of_another_network_is_refused() -> None:
    for node in (wan_vace_to_video, wan_fun_control_to_video, wan22_fun_control_to_video):
        with pytest.raises(ValueError, match="vae must be Wan's; this one is for images of 4 channels"):
            node([], [], load("tiny").vae, 16, 16, 5)


def test_a_reference_image_is_a_frame(tmp_path: Path) -> None:
    """Where the convolution of the image is that of frames, its answer is that for a video with one frame more."""
    network = wan_fun(52, 16, reference=True)
    network.ref_conv.weight.copy_(network.patch_embedding.weight[:, :16, 0])
    network.ref_conv.bias.copy_(network.patch_embedding.bias)
    model = load_network(written(tmp_path / "fun.safetensors", network))
    x, concat, text = noise(2, 16, 3, 4, 4), noise(2, 36, 3, 4, 4, seed=1), noise(2, 7, 32, seed=2)
    image = noise(1, 16, 1, 4, 4, seed=3)
    got = asked(model, x, 0.6, with_references(Cond(text, concat=concat), [image]))
    front = torch.cat([image, torch.zeros(1, 36, 1, 4, 4)], 1).expand(2, -1, -1, -1, -1)
    longer = torch.cat([front, torch.cat([x, concat], 1)], 2)
    want = network(longer, timestep=torch.full((2,), 600.0), encoder_hidden_states=text).sample[:, :, 1:]
    assert_close(got, want, atol=1e-5, rtol=0)
    plain = asked(model, x, 0.6, Cond(text, concat=concat))
    assert_close(
        plain,
        network(longer[:, :, 1:], timestep=torch.full((2,), 600.0), encoder_hidden_states=text).sample,
        atol=1e-5,
        rtol=0,
    )
    with pytest.raises(ValueError, match="this network is shown one image; got 2"):
        asked(model, x, 0.6, with_references(Cond(text, concat=concat), [image, image]))
