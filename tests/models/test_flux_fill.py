"""Flux Fill, Canny and Depth against diffusers' pipelines: what they are shown, from recipes and from nodes."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from PIL import Image
from torch.testing import assert_close

import sigmafield as sf
from sigmafield.comfyui.conditioning import conds_of, entry
from sigmafield.comfyui.nodes.image_conditioning import (
    inpaint_model_conditioning,
    instruct_pix_to_pix_conditioning,
)
from sigmafield.core.resize import resize_mask
from sigmafield.recipes.conditionings import concat_of
from sigmafield.recipes.image_io import to_tensor
from sigmafield.recipes.inputs import Inputs

pytest.importorskip("diffusers")
SIZE = (16, 24)
NOISE = torch.randn(1, 16, 8, 12, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def shown():
    """An image, and a mask whose right half is drawn."""
    torch.manual_seed(0)
    mask = torch.zeros(1, *SIZE)
    mask[..., 13:] = 1
    return Image.fromarray((torch.rand(*SIZE, 3) * 255).byte().numpy()), mask


def means(vae):
    """The VAE of a pipeline, which draws latents from its distribution, giving the means alone."""
    vae.quant_conv.weight.data[16:] = 0
    vae.quant_conv.bias.data[16:] = -30


def components(pipe):
    return {name: part for name, part in pipe.components.items() if name not in ("image_encoder", "feature_extractor")}


def run(ours, pipe, concat):
    """Euler's steps at the levels of diffusers' run that was made last."""
    cond = replace(ours.text.encode(["a red heart"], SIZE), concat=concat)
    assert float(cond.extra["guidance"]) == 30
    guider = sf.Guider(ours.model, cond, cond, 1.0)
    return sf.sample(guider, NOISE, pipe.scheduler.sigmas.double(), process=ours.model.sampling.process)


def test_fill(family, loaded, shown):
    """The masked image and the pixels of the mask go in as diffusers' pipeline gives them; so do those of the node."""
    from diffusers import FluxFillPipeline

    pipe, ours, (image, mask) = family("flux fill")[1], loaded("flux fill"), shown
    theirs: Any = FluxFillPipeline(**components(pipe))
    theirs.set_progress_bar_config(disable=True)
    means(theirs.vae)
    want = theirs(
        "a red heart", image=image, mask_image=mask[0], height=SIZE[0], width=SIZE[1], num_inference_steps=2,
        latents=pipe._pack_latents(NOISE, *NOISE.shape), output_type="latent", guidance_scale=30.0,
    )[0]  # fmt: skip
    want = theirs._unpack_latents(want, *SIZE, 2)
    concat = concat_of(ours, Inputs([image], mask), SIZE, 1)
    assert_close(run(ours, theirs, concat), want, atol=1e-4 * float(want.abs().max()), rtol=0)
    prompt = [entry(ours.text.encode(["a red heart"], SIZE))]
    pixels = to_tensor(image).movedim(1, -1)
    positive, _, latent = inpaint_model_conditioning(prompt, prompt, ours.vae, pixels, mask)
    made = conds_of(positive, ours.model, ours.model.latent.to_network(latent["samples"]))[0].concat
    assert_close(made, concat, atol=1e-5, rtol=0)


def test_a_recipe_fills(loaded, shown):
    ours, (image, mask) = loaded("flux fill"), shown
    painted = sf.generate(ours, "a red heart", image=image, mask=resize_mask(mask, SIZE)[0], steps=1, paste_back=True)
    assert painted[0].crop((0, 0, 13, 16)).tobytes() == image.crop((0, 0, 13, 16)).tobytes()
    assert sf.generate(ours, "a red heart", width=24, height=16, steps=1)[0].size == (24, 16)
    with pytest.raises(ValueError, match="cannot be shown images"):
        sf.generate(ours, "x", references=[sf.Reference(image)])


def test_depth(family, loaded, shown):
    from diffusers import FluxControlPipeline

    pipe, ours, (image, _) = family("flux depth")[1], loaded("flux depth"), shown
    theirs: Any = FluxControlPipeline(**components(pipe))
    theirs.set_progress_bar_config(disable=True)
    means(theirs.vae)
    want = theirs(
        "a red heart", control_image=image, height=SIZE[0], width=SIZE[1], num_inference_steps=2,
        latents=pipe._pack_latents(NOISE, *NOISE.shape), output_type="latent", guidance_scale=30.0,
    )[0]  # fmt: skip
    want = theirs._unpack_latents(want, *SIZE, 2)
    prompt = [entry(ours.text.encode(["a red heart"], SIZE))]
    positive, _, _ = instruct_pix_to_pix_conditioning(prompt, prompt, ours.vae, to_tensor(image).movedim(1, -1))
    concat = conds_of(positive, ours.model, NOISE)[0].concat
    assert_close(run(ours, theirs, concat), want, atol=1e-4 * float(want.abs().max()), rtol=0)
    with pytest.raises(ValueError, match="takes 16 channels of concat: give them in Python"):
        sf.generate(ours, "x")
