"""Recipes → prompts of ComfyUI's core nodes, as far as these can say what a recipe says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import PurePath, PureWindowsPath
from typing import Any, NamedTuple

from sigmafield.comfyui.graph import Prompt
from sigmafield.comfyui.workflow import recipe_nodes
from sigmafield.comfyui.workflow.builder import Nodes, Out
from sigmafield.comfyui.workflow.recipe_nodes import PLAIN_SCHEDULES, Counterpart
from sigmafield.core.registry import Spec
from sigmafield.models.diffusion_model import DiffusionModel
from sigmafield.recipes.field_values import number, spec, specs
from sigmafield.recipes.in_memory import InMemory
from sigmafield.recipes.ksampler import DROPS_PENULTIMATE
from sigmafield.recipes.mods import MODS
from sigmafield.recipes.options import Detail
from sigmafield.recipes.recipe import Recipe
from sigmafield.samplers import SAMPLERS
from sigmafield.schedules import SCHEDULES

WITHOUT = (
    "frames", "noise", "shift", "model_sampling", "pad", "mask_feather", "match_colours", "denoise_map", "mixing",
    "tiling", "demofusion", "ip_adapters", "references",
)  # fmt: skip
"""Fields that no core node says."""


class Written(NamedTuple):
    """A prompt, and what a user has to know about it, one sentence each."""

    prompt: Prompt
    notes: Sequence[str]


def with_own_values(recipe: Recipe, model: DiffusionModel) -> Recipe:
    """The recipe with the values that are the model's own written out: schedule, cfg, and the size without an image.

    Args:
        recipe: The recipe.
        model: Its model.
    """
    height, width = model.size
    sized = recipe.image is not None or recipe.width is not None
    return replace(
        recipe,
        schedule=recipe.schedule or Spec(model.schedule),
        cfg=model.cfg if recipe.cfg is None else recipe.cfg,
        width=recipe.width if sized else width,
        height=recipe.height if sized else height,
    )


def prompt_of(recipe: Recipe) -> Written:
    """The prompt in API form that draws what a recipe draws, of core nodes only.

    Files are named as ComfyUI names them, without their directories.

    Args:
        recipe: The recipe, with its schedule, cfg and size, see `with_own_values`.

    Raises:
        ValueError: The recipe says something that the nodes cannot say; the message names all of it.
    """
    if refused := list(_refused(recipe)):
        raise ValueError("ComfyUI's core nodes cannot say all of this recipe: " + "; ".join(refused))
    nodes, notes = Nodes(), []
    loader = nodes.add("CheckpointLoaderSimple", ckpt_name=_file(recipe.model))
    model, clip, vae = [[loader, slot] for slot in range(3)]
    for lora in recipe.loras:
        text = lora.strength if lora.text_strength is None else lora.text_strength
        name = nodes.add(
            "LoraLoader", lora_name=_file(lora.path), strength_model=lora.strength, strength_clip=text, model=model,
            clip=clip,
        )  # fmt: skip
        model, clip = [name, 0], [name, 1]
    for mod in specs(recipe.guidance):
        row = recipe_nodes.MODS[mod.name]
        model = nodes.out(row.kind, **_inputs(row, MODS[mod.name].parameters, mod), model=model)
    if recipe.clip_skip is not None:
        clip = nodes.out("CLIPSetLastLayer", stop_at_clip_layer=recipe.clip_skip, clip=clip)
    positive, negative = _conditionings(recipe, nodes, clip, vae)
    latent, image, mask = _latent(recipe, nodes, vae, notes)
    sampled = _sampled(recipe, nodes, {"model": model, "positive": positive, "negative": negative}, latent)
    images = nodes.out("VAEDecode", samples=sampled, vae=vae)
    if recipe.paste_back:
        images = nodes.out(
            "ImageCompositeMasked", x=0, y=0, resize_source=False, destination=image, source=images, mask=mask
        )
    nodes.add("SaveImage", filename_prefix="sigmafield", images=images)
    nodes.check()
    files = [str(recipe.model), *(lora.path for lora in recipe.loras), *(each.net for each in recipe.controls)]
    notes += [f"ComfyUI looks for {file} as {_file(file)} among its models" for file in files if file != _file(file)]
    return Written(nodes.prompt, notes)


def _refused(recipe: Recipe) -> list[str]:
    """What the nodes cannot say, each as a part of a sentence."""
    found = [name for name in WITHOUT if getattr(recipe, name)]
    found += [f"{name} is the model's own: give it" for name in ("schedule", "cfg") if getattr(recipe, name) is None]
    if recipe.width is None and recipe.image is None:
        found.append("width and height are the model's own: give them")
    if recipe.detail != Detail():
        found.append("detail")
    if recipe.control_crop != "fit":
        found.append(f"control_crop {recipe.control_crop!r}")
    images = [recipe.image, recipe.mask, *(control.image for control in recipe.controls)]
    if any(isinstance(image, InMemory) for image in images):
        found.append("images in memory: give files")
    for mod in specs(recipe.guidance):
        found += _unsaid("guidance", mod, recipe_nodes.MODS.get(mod.name), MODS[mod.name].parameters)
    sampler = spec(recipe.sampler)
    if sampler.params or sampler.name not in recipe_nodes.plain_samplers():
        row = recipe_nodes.SAMPLERS.get(sampler.name)
        found += _unsaid("sampler", sampler, row, SAMPLERS[sampler.name].parameters)
    if recipe.schedule is not None and _has_own_node(spec(recipe.schedule)):
        schedule = spec(recipe.schedule)
        row = recipe_nodes.SCHEDULES.get(schedule.name)
        found += _unsaid("schedule", schedule, row, SCHEDULES[schedule.name].parameters)
        if recipe.denoise != 1:
            found.append(f"denoise {recipe.denoise} with schedule {schedule}")
    if sampler.name in DROPS_PENULTIMATE and _is_custom(recipe):
        found.append(f"{sampler} with schedule {recipe.schedule}: only KSampler leaves out the last level above 0")
    types = {name for each in recipe_nodes.control_types() for name in each.split("/")}
    found += [f"control kind {each.kind!r}" for each in recipe.controls if each.kind and each.kind not in types]
    return found


def _unsaid(kind: str, given: Spec, row: Counterpart | None, parameters: Mapping[str, Any]) -> list[str]:
    """What of a name with parameters a node cannot say."""
    if row is None:
        return [f"{kind} {given}"]
    found = []
    for name, parameter in parameters.items():
        value = given.params.get(name, parameter.default)
        if name not in row.inputs and value != parameter.default:
            found.append(f"{name} of {kind} {given.name}")
        elif name in row.inputs and value is None:
            found.append(f"{name} of {kind} {given.name} is the model's own: give it")
    return found


def _inputs(row: Counterpart, parameters: Mapping[str, Any], given: Spec) -> dict[str, Any]:
    """Values of a node's inputs from a name's parameters."""
    values = {theirs: given.params.get(ours, parameters[ours].default) for ours, theirs in row.inputs.items()}
    return {**values, **row.fixed}


def _has_own_node(schedule: Spec) -> bool:
    return bool(schedule.params) or schedule.name not in PLAIN_SCHEDULES


def _is_custom(recipe: Recipe) -> bool:
    """Whether it takes the nodes of SamplerCustomAdvanced, and not KSampler."""
    sampler = spec(recipe.sampler)
    own = bool(sampler.params) or sampler.name not in recipe_nodes.plain_samplers()
    part = (recipe.start_step, recipe.last_step) != (None, None)
    scheduled = recipe.schedule is not None and _has_own_node(spec(recipe.schedule))
    return own or scheduled or (part and recipe.denoise != 1)  # KSamplerAdvanced has no denoise


def _conditionings(recipe: Recipe, nodes: Nodes, clip: Out, vae: Out) -> tuple[Out, Out]:
    """The prompts with regions, guidance and control images."""
    positive = nodes.text("Positive Prompt", recipe.prompt, clip)
    for region in recipe.regions:
        text = nodes.text("Region", region.prompt, clip)
        box = {"width": region.width, "height": region.height, "x": region.x, "y": region.y}
        placed = nodes.out("ConditioningSetArea", **box, strength=region.strength, conditioning=text)
        positive = nodes.out("ConditioningCombine", conditioning_1=positive, conditioning_2=placed)
    negative = nodes.text("Negative Prompt", recipe.negative, clip)
    if recipe.distilled_guidance is not None:
        positive, negative = (
            nodes.out("FluxGuidance", guidance=recipe.distilled_guidance, conditioning=each)
            for each in (positive, negative)
        )
    types = {name: each for each in recipe_nodes.control_types() for name in each.split("/")}
    for control in recipe.controls:
        net = nodes.out("ControlNetLoader", control_net_name=_file(control.net))
        if control.kind:
            net = nodes.out("SetUnionControlNetType", type=types[control.kind], control_net=net)
        image = nodes.out("LoadImage", image=_file(control.image))
        name = nodes.add(
            "ControlNetApplyAdvanced", strength=control.strength, start_percent=control.start, end_percent=control.end,
            positive=positive, negative=negative, control_net=net, image=image, vae=vae,
        )  # fmt: skip
        positive, negative = [name, 0], [name, 1]
    return positive, negative


def _latent(recipe: Recipe, nodes: Nodes, vae: Out, notes: list[str]) -> tuple[Out, Out | None, Out | None]:
    """The latent that a run begins from, and the image and the mask that it is made of."""
    size = {"width": recipe.width, "height": recipe.height}
    if recipe.image is None:
        return nodes.out("EmptyLatentImage", **size, batch_size=recipe.batch), None, None
    image = nodes.out("LoadImage", image=_file(recipe.image))
    if recipe.scale != 1:
        image = nodes.out("ImageScaleBy", upscale_method="lanczos", scale_by=recipe.scale, image=image)
    if recipe.width is not None:
        image = nodes.out("ImageScale", upscale_method="lanczos", **size, crop="disabled", image=image)
    latent = nodes.out("VAEEncode", pixels=image, vae=vae)
    if recipe.batch > 1:
        latent = nodes.out("RepeatLatentBatch", amount=recipe.batch, samples=latent)
    if recipe.mask is None:
        return latent, image, None
    channel = "alpha" if recipe.mask_from.endswith("alpha") else "red"
    mask = nodes.out("LoadImageMask", image=_file(recipe.mask), channel=channel)
    if recipe.mask_from == "alpha":  # ComfyUI's is 1 where the image is transparent
        mask = nodes.out("InvertMask", mask=mask)
    if channel == "red":
        notes.append("the mask is read from its red channel, which is its brightness where it is grey")
    return nodes.out("SetLatentNoiseMask", samples=latent, mask=mask), image, mask


def _sampled(recipe: Recipe, nodes: Nodes, given: Mapping[str, Out], latent: Out) -> Out:
    """The sampled latent."""
    sampler, schedule, cfg, seed = spec(recipe.sampler), spec(recipe.schedule), recipe.cfg, number(recipe.seed)
    if not _is_custom(recipe):
        common = {"steps": recipe.steps, "cfg": cfg, "sampler_name": sampler.name, "scheduler": schedule.name}
        if (recipe.start_step, recipe.last_step) == (None, None):
            return nodes.out("KSampler", seed=seed, **common, denoise=recipe.denoise, **given, latent_image=latent)
        return nodes.out(
            "KSamplerAdvanced", add_noise="enable", noise_seed=seed, **common, start_at_step=recipe.start_step or 0,
            end_at_step=recipe.last_step or 10000, return_with_leftover_noise="enable", **given, latent_image=latent,
        )  # fmt: skip
    noise = nodes.out("RandomNoise", noise_seed=seed)
    guider = nodes.out("CFGGuider", cfg=cfg, **given)
    chosen = _sampler_node(nodes, sampler, given["model"])
    sigmas = _sigmas(recipe, nodes, given["model"])
    return nodes.out(
        "SamplerCustomAdvanced", noise=noise, guider=guider, sampler=chosen, sigmas=sigmas, latent_image=latent
    )


def _sampler_node(nodes: Nodes, sampler: Spec, model: Out) -> Out:
    row = recipe_nodes.SAMPLERS.get(sampler.name)
    if row is None or (not sampler.params and sampler.name in recipe_nodes.plain_samplers()):
        return nodes.out("KSamplerSelect", sampler_name=sampler.name)
    inputs = _inputs(row, SAMPLERS[sampler.name].parameters, sampler)
    return nodes.out(row.kind, **inputs, **({"model": model} if row.of_model else {}))


def _sigmas(recipe: Recipe, nodes: Nodes, model: Out) -> Out:
    """The noise levels, cut to the steps that are run."""
    schedule = spec(recipe.schedule)
    if _has_own_node(schedule):
        row = recipe_nodes.SCHEDULES[schedule.name]
        inputs = _inputs(row, SCHEDULES[schedule.name].parameters, schedule)
        sigmas = nodes.out(row.kind, steps=recipe.steps, **inputs, **({"model": model} if row.of_model else {}))
    else:
        values = {"scheduler": schedule.name, "steps": recipe.steps, "denoise": recipe.denoise}
        sigmas = nodes.out("BasicScheduler", **values, model=model)
    if recipe.last_step is not None:
        sigmas = nodes.out("SplitSigmas", step=recipe.last_step, sigmas=sigmas)
    if recipe.start_step is not None:
        sigmas = [nodes.add("SplitSigmas", step=recipe.start_step, sigmas=sigmas), 1]
    return sigmas


def _file(path: object) -> str:
    """The name of a file without its directories."""
    text = str(path)
    return (PureWindowsPath(text) if "\\" in text else PurePath(text)).name
