"""Inpainting networks, SDXL's refiner, small decoders for previews and calls of few rows, against diffusers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from sigmafield.core.conditioning import Area, Cond
from sigmafield.core.grid import Grid
from sigmafield.core.predict import predict
from sigmafield.core.protocols import Ctx
from sigmafield.guidance.guider import DualGuider, Guider
from sigmafield.models.bundle import Pipeline
from sigmafield.models.load import load
from sigmafield.parameterization.latent_format import latent_format
from sigmafield.recipes.execute import open_job
from sigmafield.recipes.image_io import to_images
from sigmafield.recipes.output import save_image
from sigmafield.recipes.recipe import Recipe
from sigmafield.runs.run import finish, sample
from sigmafield.spatial.inpaint import hidden, inpaint_concat
from small_network import small_model

pytest.importorskip("diffusers")

SIZE = (16, 24)
DRAW = torch.Generator().manual_seed(0)
X, PICTURE = torch.randn(1, 4, 8, 12, generator=DRAW), torch.rand(1, 3, *SIZE, generator=DRAW)
MASK = torch.zeros(1, *SIZE)
MASK[:, 4:12, 6:18] = 1
SIGMA = torch.tensor(2.0, dtype=torch.float64)
Loaded = Callable[[str], Pipeline]


def at(pipe: Pipeline, prompts: list[list[Cond]], x: Tensor = X) -> list[Tensor]:
    """Clean latents of prompts."""
    return predict(
        pipe.model,
        x,
        SIGMA,
        prompts,
        Ctx(Grid(torch.tensor([2.0, 0.0]), pipe.model.sampling.process, clock=pipe.model.sampling.clock).span(0), {}),
    )


def concat_of(pipe: Pipeline) -> Tensor:
    return inpaint_concat(MASK, pipe.encode(hidden(PICTURE, MASK)))


def test_the_concat_is_the_mask_and_the_image_outside_of_it(inpainting: tuple[Path, Any], loaded: Loaded) -> None:
    _, theirs = inpainting
    pipe = loaded("inpainting")
    grey = (PICTURE * 2 - 1) * (MASK < 0.5)
    rest = theirs.vae.encode(grey).latent_dist.mean * theirs.vae.config.scaling_factor
    mask = torch.nn.functional.interpolate(MASK[None], (8, 12))
    assert_close(concat_of(pipe), torch.cat([mask, rest], 1))


def test_soft_masks_are_rounded() -> None:
    soft = torch.tensor([[[0.0, 0.4, 0.6, 1.0]]])
    assert hidden(torch.ones(1, 3, 1, 4), soft)[0, 0, 0].tolist() == [1.0, 1.0, 0.5, 0.5]
    assert inpaint_concat(soft, torch.zeros(2, 4, 1, 4))[:, 0, 0].tolist() == [[0.0, 0.0, 1.0, 1.0]] * 2


def test_whole_runs_of_inpainting_are_those_of_diffusers(inpainting: tuple[Path, Any], loaded: Loaded) -> None:
    _, theirs = inpainting
    pipe, noise = loaded("inpainting"), torch.randn(1, 4, 8, 12)
    concat = concat_of(pipe)
    theirs.set_progress_bar_config(disable=True)
    want = theirs(
        "a red heart", image=PICTURE, mask_image=MASK[None], masked_image_latents=concat[:, 1:], strength=1.0,
        negative_prompt="a horse", height=SIZE[0], width=SIZE[1], num_inference_steps=5, guidance_scale=3.0,
        latents=noise, output_type="latent",
    ).images  # fmt: skip
    positive, negative = (replace(pipe.text.encode([text], SIZE), concat=concat) for text in ("a red heart", "a horse"))
    guider = Guider(pipe.model, positive, negative, 3.0)
    got = sample(guider, noise * float(theirs.scheduler.init_noise_sigma), theirs.scheduler.sigmas, "euler")
    assert (got - want).abs().max() <= 1e-4 * want.abs().max()


def test_whole_runs_of_instruct_pix2pix_are_those_of_diffusers(tmp_path: Path, small: ModuleType) -> None:
    """The image's latent in the VAE's own scale, and the two scales of dual guidance."""
    from diffusers import StableDiffusionInstructPix2PixPipeline

    known = small.save_sd(tmp_path, small.unet(in_channels=8), small.vae(), "epsilon")
    theirs = StableDiffusionInstructPix2PixPipeline(**known.components, requires_safety_checker=False)
    theirs.set_progress_bar_config(disable=True)
    pipe, noise = load(tmp_path / "model"), torch.randn(1, 4, 8, 12)
    want = theirs(
        "a red heart", image=PICTURE, negative_prompt="a horse", num_inference_steps=5, guidance_scale=3.0,
        image_guidance_scale=1.5, latents=noise, output_type="latent",
    ).images  # fmt: skip
    image = pipe.model.latent.to_vae(pipe.encode(PICTURE))
    told, other = (pipe.text.encode([text], SIZE) for text in ("a red heart", "a horse"))
    conds = replace(told, concat=image), replace(other, concat=image), replace(other, concat=image * 0)
    guider = DualGuider(pipe.model, *conds, cfg=3.0, cfg_negative=1.5)
    got = sample(guider, noise * float(theirs.scheduler.init_noise_sigma), theirs.scheduler.sigmas, "euler")
    assert (got - want).abs().max() <= 1e-4 * want.abs().max()


def test_an_area_cuts_the_concat_along_and_other_sizes_are_resized(loaded: Loaded) -> None:
    pipe = loaded("inpainting")
    whole = replace(pipe.text.encode(["a red heart"], SIZE), concat=torch.randn(1, 5, 8, 12))
    part = replace(whole, concat=whole.concat[..., 2:6, 4:10])
    (box,) = at(pipe, [[replace(whole, area=Area((4, 6), (2, 4)))]])
    assert_close(box[..., 2:6, 4:10], at(pipe, [[part]], X[..., 2:6, 4:10])[0])
    even = replace(whole, concat=torch.ones(1, 5, 1, 1))
    assert_close(at(pipe, [[even]]), at(pipe, [[replace(whole, concat=torch.ones(1, 5, 8, 12))]]))


def test_networks_say_what_concat_they_take(loaded: Loaded, tmp_path: Path, small: ModuleType) -> None:
    pipe, plain = loaded("inpainting"), loaded("sd1")
    text = plain.text.encode(["a"], SIZE)
    with pytest.raises(ValueError, match="model takes 5 channels of concat in addition to the latent's 4; got 0"):
        at(pipe, [[text]])
    with pytest.raises(ValueError, match="model takes 0 channels of concat in addition to the latent's 4; got 5"):
        at(plain, [[replace(text, concat=torch.zeros(1, 5, 8, 12))]])
    with pytest.raises(ValueError, match="tiny takes 0 channels of concat"):
        small_model().model.check(replace(text, concat=torch.zeros(1, 5, 8, 12)))
    small.save_sd(tmp_path, small.unet(in_channels=5), small.vae(), "epsilon")
    depth = load(tmp_path / "model")
    assert at(depth, [[replace(text, concat=torch.zeros(1, 1, 8, 12))]])[0].shape == X.shape
    with pytest.raises(ValueError, match="takes 1 channels of concat: give them in Python, as Cond.concat"):
        open_job(Recipe("a", steps=2), depth)


def test_recipes_tell_the_mask(loaded: Loaded, tmp_path: Path) -> None:
    """On an inpainting network a recipe's mask is its concat too; without one all is masked, and the latent grey."""
    pipe = loaded("inpainting")
    image, mask = tmp_path / "in.png", tmp_path / "mask.png"
    save_image(to_images(PICTURE)[0], image)
    save_image(to_images(MASK.expand(3, *SIZE)[None])[0], mask)
    recipe = Recipe("a red heart", steps=3, image=str(image), mask=str(mask))
    guider = open_job(recipe, pipe).run.denoise.denoise  # within the run's Inpaint
    assert_close(guider.positive[0].concat, concat_of(pipe), atol=0.02, rtol=0)  # the file's pixels are bytes
    assert guider.negative.concat is guider.positive[0].concat
    nothing = torch.tensor([0.8223, -0.6876, 0.6364, 0.1380]).reshape(1, 4, 1, 1).expand(1, 4, 8, 12)
    for settings in ({"image": str(image)}, {"width": SIZE[1], "height": SIZE[0]}):
        job = open_job(Recipe("a red heart", steps=3, **settings), pipe)
        assert_close(job.run.denoise.positive[0].concat, torch.cat([torch.ones(1, 1, 8, 12), nothing], 1))
    assert job.images(finish(job.run, job.start))[0].size == SIZE[::-1]


def test_a_mask_of_another_size_is_resized_to_the_image_first(loaded: Loaded, tmp_path: Path) -> None:
    """Bilinear, to the image and then to the latent: for the noise, for the concat, and for what the image hides."""
    pipe, (image, mask) = loaded("inpainting"), (tmp_path / "in.png", tmp_path / "mask.png")
    small = torch.randint(0, 256, (1, 1, 5, 11), generator=torch.Generator().manual_seed(4)) / 255
    save_image(to_images(PICTURE)[0], image)
    save_image(to_images(small.expand(1, 3, 5, 11))[0], mask)
    denoise = open_job(Recipe("a red heart", steps=3, image=str(image), mask=str(mask)), pipe).run.denoise
    large = torch.nn.functional.interpolate(small, SIZE, mode="bilinear")
    latent = torch.nn.functional.interpolate(large, (8, 12), mode="bilinear")
    assert_close(denoise.mask, latent.expand(1, 4, 8, 12))
    pixels = (PICTURE * 255).round() / 255
    rest = pipe.encode(0.5 + (pixels - 0.5) * (1 - large.round()))
    assert_close(denoise.denoise.positive[0].concat, torch.cat([latent.round(), rest], 1), atol=1e-4, rtol=1e-4)
    at_once = torch.nn.functional.interpolate(small, (8, 12), mode="bilinear")
    assert not torch.equal(at_once.round(), latent.round())


def test_the_refiner_reads_and_answers_as_diffusers(refiner: tuple[Path, Any]) -> None:
    folder, theirs = refiner
    pipe = load(folder)
    positive = pipe.text.encode(["a red heart"], SIZE)
    negative = pipe.text.encode_negative(["a horse"], SIZE)
    embeds, other, pooled, other_pooled = theirs.encode_prompt("a red heart", device="cpu", negative_prompt="a horse")
    numbers = theirs._get_add_time_ids(SIZE, (0, 0), SIZE, 6.0, 2.5, SIZE, (0, 0), SIZE, torch.float32, 20)
    for cond, wanted in ((positive, (embeds, pooled, numbers[0])), (negative, (other, other_pooled, numbers[1]))):
        assert_close((cond.embeds, cond.extra["text_embeds"], cond.extra["time_ids"]), wanted)
    theirs.set_progress_bar_config(disable=True)
    want = theirs(
        "a red heart", image=X, negative_prompt="a horse", denoising_start=0.4, num_inference_steps=6,
        guidance_scale=3.0, output_type="latent",
    ).images  # fmt: skip
    sigmas = theirs.scheduler.sigmas
    rest = sigmas[len(sigmas) - 1 - len([t for t in theirs.scheduler.timesteps if t < 600]) :]
    got = sample(Guider(pipe.model, positive, negative, 3.0), X, rest, "euler")
    assert (got - want).abs().max() <= 1e-4 * want.abs().max()


def tiny_decoder(small: ModuleType, **changes: Any) -> Any:
    from diffusers import AutoencoderTiny

    return small.randomise(AutoencoderTiny(**changes))


def test_small_decoders_draw_previews(sd1: tuple[Path, Any], tmp_path: Path, small: ModuleType) -> None:
    """From a directory of diffusers', a file of its layout or TAESD's own, and a folder of such files by name."""
    from safetensors.torch import save_file

    known, z = tiny_decoder(small), X[..., :3, :4]
    with torch.no_grad():
        known.decoder.layers[-1].weight.mul_(0.05)  # so that not all is beyond 0 … 1
    want = (known.decode(z).sample / 2 + 0.5).clamp(0, 1)
    known.save_pretrained(tmp_path / "tiny")
    own = {}
    for key, value in known.decoder.state_dict().items():
        number, _, rest = key.removeprefix("layers.").partition(".")
        own[f"{int(number) + 1}.{rest}"] = value  # there layer 0 clamps
    name = f"{latent_format('SD15').taesd}.safetensors"
    save_file(own, tmp_path / name)
    sources = [tmp_path / "tiny", tmp_path / "tiny" / "diffusion_pytorch_model.safetensors", tmp_path / name]
    for source in [*sources, tmp_path]:
        preview = load(sd1[0], preview=source).preview
        assert preview is not None
        assert_close(preview(z), want)
    assert 0 < float(want.mean()) < 1
    scaled = tiny_decoder(small, scaling_factor=2.0, shift_factor=0.5)
    scaled.save_pretrained(tmp_path / "scaled")
    preview = load(sd1[0], preview=tmp_path / "scaled").preview
    assert preview is not None
    assert_close(preview(z), (scaled.decode(z / 2 + 0.5).sample / 2 + 0.5).clamp(0, 1))


@pytest.mark.usefixtures("few_channels")
def test_decoders_that_do_not_fit_are_refused(sd1: tuple[Path, Any], tmp_path: Path, small: ModuleType) -> None:
    from safetensors.torch import save_file

    tiny_decoder(small, latent_channels=16).save_pretrained(tmp_path / "wide")
    save_file({"1.weight": torch.zeros(3, 3)}, tmp_path / "other.safetensors")
    (tmp_path / "empty").mkdir()
    refusals = {
        tmp_path / "wide": (ValueError, "decodes latents of 16 channels; the model's have 4"),
        tmp_path / "other.safetensors": (ValueError, "weights are not those of a TAESD decoder .*is it an encoder?"),
        tmp_path / "empty": (FileNotFoundError, "no config.json and no taesd_decoder.safetensors; it is empty"),
        tmp_path / "nowhere": (FileNotFoundError, "nowhere: no such file or directory to take a preview decoder from"),
        sd1[0] / "vae": (ValueError, "vae is a AutoencoderKL; supported for previews: AutoencoderTiny"),
    }
    for path, (kind, message) in refusals.items():
        with pytest.raises(kind, match=message):
            load("tiny", device="cpu", preview=path)


CALLS = {None: [6], 6: [6], 4: [3, 3], 1: [1] * 6}
"""Rows of each call for three samples and two prompts, by the budget."""


@pytest.mark.parametrize("model", ["tiny", "sdxl", "inpainting"])
@pytest.mark.usefixtures("few_channels")
def test_a_budget_of_rows_makes_more_calls_and_the_same_numbers(model: str, request: pytest.FixtureRequest) -> None:
    where, rows = model if model == "tiny" else request.getfixturevalue(model)[0], []
    pipe = load(where, max_rows=1)

    def forward(module: object, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        rows.append(len(x))
        return pipe.model.forward(module, x, t, cond)

    concat = torch.randn(3, 5, 8, 12) if pipe.model.concat else None
    x = torch.randn(3, pipe.model.latent.channels, 8, 12)
    prompts = [[replace(pipe.text.encode([text] * 3, SIZE), concat=concat)] for text in ("a red heart", "a horse")]
    want = at(replace(pipe, model=replace(pipe.model, max_rows=None)), prompts, x)
    assert pipe.model.max_rows == 1
    for max_rows, calls in CALLS.items():
        rows.clear()
        got = at(replace(pipe, model=replace(pipe.model, forward=forward, max_rows=max_rows)), prompts, x)
        assert rows == calls
        assert_close(got, want, atol=2e-5, rtol=1e-5)


def test_a_budget_is_at_least_a_row() -> None:
    with pytest.raises(ValueError, match="load needs max_rows ≥ 1; got 0"):
        load(max_rows=0)
