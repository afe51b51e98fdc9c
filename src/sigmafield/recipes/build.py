"""A recipe on a loaded model becomes a run: model, inputs, schedule, conditionings, denoiser, run, in that order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from PIL import Image
from torch import Tensor

from sigmafield.core.arrays import Latent
from sigmafield.core.protocols import State, Steps
from sigmafield.core.registry import Spec
from sigmafield.core.resize import resize_mask
from sigmafield.guidance.guider import Guider
from sigmafield.guidance.registry import mods_of
from sigmafield.models.bundle import Pipeline
from sigmafield.models.diffusion_model import DiffusionModel
from sigmafield.models.overrides import override_of
from sigmafield.noise.sources import generator_of, initial_noise
from sigmafield.noise.spectrum import parse_filter
from sigmafield.parameterization.prediction import shifted
from sigmafield.recipes.conditionings import Prompts, concat_of, mask_of, prompts_of
from sigmafield.recipes.editing import shown_of
from sigmafield.recipes.field_values import number, spec, spec_or_none, specs
from sigmafield.recipes.framing import corner_of
from sigmafield.recipes.image_io import resized, to_images, to_tensor
from sigmafield.recipes.inputs import Inputs, notes_of
from sigmafield.recipes.ksampler import ksampler_sigmas, open_run, window
from sigmafield.recipes.limits import check_canvas, check_shown, check_side
from sigmafield.recipes.mods import MODS
from sigmafield.recipes.options import AUTO
from sigmafield.recipes.paste_back import PasteBack
from sigmafield.recipes.recipe import Recipe
from sigmafield.recipes.sizes import frames_of, middle_of, size_notes, size_of
from sigmafield.recipes.steering import Steering
from sigmafield.recipes.tiling import (
    leaf_strengths,
    leaves_of,
    rows_of,
    rule_of,
    shown_size,
    tiled_guider,
    vae_for,
)
from sigmafield.runs.finite import check_decoded
from sigmafield.runs.mixing_spec import mixing_of
from sigmafield.samplers import SAMPLERS
from sigmafield.spatial.sigma_field import delayed, field_from_mask, own_schedule
from sigmafield.spatial.tiled_model import rows_shown


@dataclass(frozen=True)
class Job:
    """A recipe on a loaded model, ready to run: `execute(job)`, or `for state in iterate(job.run, job.start): …`.

    Args:
        recipe: The recipe, with the digests of its files.
        pipe: The model, as the recipe changes it.
        run: What is iterated; of a recipe with `demofusion` it is `Phases`.
        start: The state before the first step.
        loaded: The model as it was loaded.
        inputs: What the recipe's files hold.
        steering: What steers.
        rows_each: Network rows that one evaluation of the whole image takes in tiles; 0 without tiles.
        paste: What puts the result into the input image, if the recipe asks for it.
        notes: What a user should know about the inputs and the LoRAs, one sentence each.
    """

    recipe: Recipe
    pipe: Pipeline
    run: Steps
    start: State
    loaded: Pipeline
    inputs: Inputs
    steering: Steering = Steering()
    rows_each: int = 0
    paste: PasteBack | None = None
    notes: Sequence[str] = ()

    @torch.no_grad()
    def images(self, state: State) -> list[Image.Image]:
        """The images of a finished run, or at the end of a phase; of videos, the frames of each in turn.

        Raises:
            FloatingPointError: The VAE gives NaN, which would become black.
        """
        decoded = self.pipe.decode(self.run.result(state))
        if not self.recipe.allow_nonfinite:
            check_decoded(decoded)
        images = to_images(decoded)
        return images if self.paste is None else self.paste.onto(images, len(images) // self.recipe.batch)

    def rows(self, state: State) -> tuple[int, int]:
        """(network rows so far, rows that plain tiling of the whole image would have taken); 0 without tiles."""
        return rows_shown(state.aux), self.rows_each * state.nfe

    @torch.no_grad()
    def preview(self, state: State) -> list[Image.Image]:
        """The clean images that the network predicted in the last step; none where the model has no cheap preview."""
        if state.pred is None or self.pipe.preview is None:
            return []
        return to_images(self.pipe.preview(state.pred.x0))


@torch.no_grad()
def open_single(recipe: Recipe, pipe: Pipeline, inputs: Inputs, steering: Steering) -> Job:
    """A run at one size.

    Args:
        recipe: What to draw, without `demofusion`.
        pipe: The model.
        inputs: What the recipe's files hold.
        steering: What steers, see `steering.steering_of`.

    Raises:
        ValueError: The model cannot do what the recipe asks for.
    """
    size, given, loaded = size_of(recipe, pipe.model, inputs), inputs, pipe
    inputs = middle_of(recipe, given, size)
    shown = shown_size(recipe.tiling, pipe.model, size)
    frames = frames_of(recipe, pipe.model, inputs)
    check_canvas(pipe.model, size, recipe.batch, frames)
    check_shown(pipe.model, shown)
    check_side(pipe.model, shown)
    model = model_of(recipe, pipe.model, shown)
    pipe = replace(pipe, model=model, vae=vae_for(recipe.tiling, pipe.vae, size))

    latent = source_latent(recipe, pipe, inputs, size)
    space = latent.shape[2:]
    sigmas = sigmas_of(recipe, model, space, strengths_of(recipe, model, inputs, size))
    stream, spectrum = generator_of(number(recipe.seed)), parse_filter(spec_or_none(recipe.noise))
    noise = spectrum(initial_noise(stream, latent.shape)).to(pipe.device)

    concat, edited = concat_of(pipe, inputs, size, frames), shown_of(pipe, inputs.references, size)
    prompts = prompts_of(recipe, pipe, steering, concat, size, shown, space, edited)
    guider = guider_of(recipe, model, prompts)
    whole = levels_of(recipe, model, 1.0)
    denoise = tiled_guider(recipe.tiling, model, guider, whole, number(recipe.seed))

    mask, sampler = mask_of(model, inputs, size), spec(recipe.sampler)
    run, start, kept = open_run(
        denoise, model.sampling, sampler.name, sigmas, latent, noise, stream,
        mask=None if mask is None else mask.to(pipe.device),
        random_inpaint=sampler.name == "ddim", rule=rule_of(recipe.tiling, model, space), spectrum=spectrum,
        **sampler.params,
    )  # fmt: skip
    if (mixing := mixing_of(specs(recipe.mixing))) is not None:
        run = mixing.mixing(run, latent, number(recipe.seed), keep=None if kept is None else kept.kept)
        start = run.start(latent)
    rows = rows_of(recipe.tiling, model, guider.asked(SAMPLERS[sampler.name].need_uncond), len(latent), space)
    paste = paste_of(recipe, given, inputs, size) if recipe.paste_back else None
    notes = [*pipe.notes, *notes_of(given), *size_notes(pipe.model, given, inputs)]
    return Job(recipe, pipe, run, start, loaded, given, steering, rows, paste, notes)


def model_of(recipe: Recipe, model: DiffusionModel, shown: tuple[int, int]) -> DiffusionModel:
    """The network under the recipe's model sampling and time shift.

    Args:
        recipe: `model_sampling` and `shift`.
        model: The network as it was loaded.
        shown: (height, width) in pixels of what it sees, which some shifts depend on.

    Raises:
        ValueError: The network has no such levels, or no time shift.
    """
    model = override_of(spec_or_none(recipe.model_sampling))(model)
    if recipe.shift is None:
        return model
    if recipe.shift != "size":
        return replace(model, sampling=shifted(model.sampling, recipe.shift))
    if model.shift_at is None:
        raise ValueError(f"shift 'size' needs a model whose time shift depends on the size; {model.name}'s does not")
    return replace(model, sampling=shifted(model.sampling, model.shift_at(shown)))


def guider_of(recipe: Recipe, model: DiffusionModel, prompts: Prompts) -> Guider:
    """Guidance of the recipe over a network; ValueError for mods that have nothing to act on in it."""
    mods = mods_of(specs(recipe.guidance), MODS)
    if mods.fits:
        mods.check(model.patchable())
    cfg = model.cfg if recipe.cfg is None else recipe.cfg
    return Guider(model, prompts.positive, prompts.negative, cfg, mods, prompts.empty)


def levels_of(recipe: Recipe, model: DiffusionModel, strength: float) -> Tensor:
    """The whole schedule of a position with a share of the recipe's denoise strength, [n + 1]."""
    schedule, sampler = spec(recipe.schedule or Spec(model.schedule)), spec(recipe.sampler)
    return ksampler_sigmas(
        model.sampling.levels, sampler.name, schedule.name, recipe.steps, strength * recipe.denoise, schedule.params
    )


def sigmas_of(recipe: Recipe, model: DiffusionModel, space: Sequence[int], strengths: Tensor | None) -> Tensor:
    """The noise levels of the run, [steps + 1]; with `strengths_of`, a σ-field of a latent with these axes.

    Raises:
        ValueError: The strengths are so small that no position takes a step.
    """
    sigmas = window(levels_of(recipe, model, 1.0), recipe.start_step, recipe.last_step)
    if strengths is None:
        return sigmas
    own = own_schedule(partial(levels_of, recipe, model))
    field = field_from_mask(own if recipe.map_schedule == "own" else delayed(sigmas), strengths, space)
    if not (field[0] > field[-1]).any():
        raise ValueError(
            "the denoise map would change nothing: its largest strength here is "
            f"{recipe.denoise * float(strengths.max()):.3g}, which is less than one of {len(sigmas) - 1} steps at a "
            f"denoise of {recipe.denoise:.3g}: take more steps, map_schedule 'own', or larger strengths"
        )
    return field


def strengths_of(recipe: Recipe, model: DiffusionModel, inputs: Inputs, size: tuple[int, int]) -> Tensor | None:
    """Each position's share of the recipe's denoise strength, [1, h, w] of any resolution; None without a map."""
    if recipe.denoise_map is None:
        return None
    low = recipe.min_denoise / recipe.denoise
    if recipe.denoise_map == AUTO:
        image = resized(inputs.frames[0], size)
        leaves, strengths = leaves_of(recipe.detail, recipe.tiling, model, image, low, 1.0)
        return leaf_strengths(leaves, strengths, size, model.latent.factor)
    assert inputs.denoise_map is not None
    return low + (1 - low) * inputs.denoise_map.double()


def paste_of(recipe: Recipe, given: Inputs, inputs: Inputs, size: tuple[int, int]) -> PasteBack:
    """What puts a result of (height, width) into the input image, which is resized where the result has another size.

    Args:
        recipe: `match_colours`.
        given: The inputs before they were cut.
        inputs: The inputs as the run sees them.
        size: (height, width) of the result.
    """
    assert inputs.mask is not None
    mask = resize_mask(inputs.mask, size)[0].numpy()
    if inputs is not given:
        width, height = given.frames[0].size
        frames = [resized(frame, (height, width)) for frame in given.frames]
        return PasteBack(frames, mask, corner_of((height, width), size), recipe.match_colours)
    return PasteBack([resized(frame, size) for frame in given.frames], mask, match_colours=recipe.match_colours)


def source_latent(recipe: Recipe, pipe: Pipeline, inputs: Inputs, size: tuple[int, int]) -> Latent:
    """The latent that noise is added to: zeros, or the image's, once per sample of the batch.

    A video begins from the frames of the animation, or from the same image for each frame.
    """
    model, source = pipe.model, inputs.frames
    frames = frames_of(recipe, model, inputs)
    if not source:
        return torch.zeros(model.latent.shape(recipe.batch, size, frames), device=pipe.device)
    tensors = [to_tensor(resized(image, size)) for image in source[:frames]]
    tensors = tensors * frames if len(tensors) == 1 else tensors
    images = torch.stack(tensors, dim=2) if model.latent.axes == 3 else tensors[0]
    latent = pipe.encode(images.to(pipe.device))
    return latent.expand(recipe.batch, *latent.shape[1:]).contiguous()
