"""Prompts whose shape is that of a recipe → recipes; what a recipe cannot say is an error that names the node."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from sigmafield.comfyui.graph import Prompt
from sigmafield.comfyui.workflow import recipe_nodes
from sigmafield.comfyui.workflow.reader import Found, Reader
from sigmafield.comfyui.workflow.recipe_nodes import Counterpart
from sigmafield.core.registry import Spec, shown
from sigmafield.models.directory import SHIPPED, TINY
from sigmafield.recipes.mods import MODS
from sigmafield.recipes.options import ControlImage, Lora, Region
from sigmafield.recipes.recipe import Recipe
from sigmafield.samplers import SAMPLERS
from sigmafield.schedules import SCHEDULES

SAVERS = ("SaveImage", "PreviewImage", "SaveAnimatedWEBP", "SaveAnimatedPNG", "SaveImageAdvanced")
EMPTY_LATENTS = ("EmptyLatentImage", "EmptySD3LatentImage")

Fields = dict[str, Any]


class Read(NamedTuple):
    """A recipe, and what a user has to know about it, one sentence each."""

    recipe: Recipe
    notes: Sequence[str]


def recipe_of(prompt: Prompt) -> Read:
    """The recipe that draws what a prompt draws, if the prompt's shape is that of one.

    That is: a checkpoint with LoRAs and model patches, prompts with areas and ControlNets, one sampler, an empty latent
    or an encoded image with a mask, and one output.

    Args:
        prompt: A prompt in API form.

    Raises:
        ValueError: It has another shape, or a value that a recipe cannot have; the message names the node.
    """
    reader = Reader(prompt)
    ends = [(name, node) for name, node in prompt.items() if node["class_type"] in SAVERS]
    if len(ends) != 1:
        names = ", ".join(name for name, _ in ends)
        raise ValueError(
            f"a recipe has one output, and this workflow {len(ends)}" + (f": nodes {names}" if ends else "")
        )
    [(name, node)] = ends
    reader.seen.add(name)
    image = reader.at(Found(name, node["class_type"], node["inputs"]), "images", "VAEDecode", "ImageCompositeMasked")
    fields: Fields = {"paste_back": True} if image.kind == "ImageCompositeMasked" else {}
    decoded = reader.at(image, "source", "VAEDecode") if fields else image
    sampler = reader.at(decoded, "samples", "KSampler", "KSamplerAdvanced", "SamplerCustomAdvanced")
    guider = reader.at(sampler, "guider", "CFGGuider") if sampler.kind == "SamplerCustomAdvanced" else sampler
    fields |= _sampling(reader, sampler, guider)
    fields |= _model(reader, guider)
    fields |= _conditionings(reader, guider)
    fields |= _latent(reader, sampler)
    loader = reader.at(decoded, "vae", "CheckpointLoaderSimple")
    if loader.inputs.get("ckpt_name") != fields["model"]:
        raise ValueError(f"node {loader.id} ({loader.kind}): a recipe has one checkpoint")
    named = [name for name in ("model", "image", "mask") if fields.get(name, TINY) not in SHIPPED]
    notes = [f"{name} is named {fields[name]!r}: give its path" for name in named]
    notes += [
        f"node {name} ({prompt[name]['class_type']}) is not a part of what is saved"
        for name in prompt
        if name not in reader.seen
    ]
    return Read(Recipe(**fields), notes)


def _sampling(reader: Reader, node: Found, guider: Found) -> Fields:
    """Sampler, schedule, steps, cfg, seed, denoise, and which steps are run."""
    fields: Fields = {"cfg": reader.number(guider, "cfg")}
    if node.kind == "SamplerCustomAdvanced":
        noise = reader.at(node, "noise", "RandomNoise")
        fields["seed"] = reader.value(noise, "noise_seed")
        fields["sampler"] = _sampler(reader, reader.at(node, "sampler"))
        return fields | _sigmas(reader, reader.at(node, "sigmas"))
    fields |= {
        "steps": reader.value(node, "steps"), "sampler": Spec(reader.value(node, "sampler_name")),
        "schedule": Spec(reader.value(node, "scheduler")),
    }  # fmt: skip
    if node.kind == "KSampler":
        return fields | {"seed": reader.value(node, "seed"), "denoise": reader.number(node, "denoise")}
    start, end = reader.value(node, "start_at_step"), reader.value(node, "end_at_step")
    if reader.value(node, "add_noise") != "enable":
        raise ValueError(f"node {node.id} ({node.kind}): a recipe adds noise")
    ends_early = end < fields["steps"]
    if ends_early and reader.value(node, "return_with_leftover_noise") != "enable":
        raise ValueError(f"node {node.id} ({node.kind}): a recipe that ends early keeps the leftover noise")
    parts = {"start_step": start or None, "last_step": end if ends_early else None}
    return fields | {"seed": reader.value(node, "noise_seed")} | parts


def _sampler(reader: Reader, node: Found) -> Spec:
    if node.kind == "KSamplerSelect":
        return Spec(reader.value(node, "sampler_name"))
    return _row(reader, node, recipe_nodes.SAMPLERS, SAMPLERS, "sampler")


def _sigmas(reader: Reader, node: Found) -> Fields:
    """Schedule, steps and denoise of the noise levels, and which of the steps are run."""
    fields: Fields = {}
    for name, slot in (("start_step", 1), ("last_step", 0)):
        if node.kind == "SplitSigmas" and node.slot == slot:
            fields[name] = reader.value(node, "step")
            node = reader.at(node, "sigmas")
    fields["steps"] = reader.value(node, "steps") if "steps" in node.inputs else None
    if node.kind == "BasicScheduler":
        schedule = Spec(reader.value(node, "scheduler"))
        return fields | {"schedule": schedule, "denoise": reader.number(node, "denoise")}
    return fields | {"schedule": _row(reader, node, recipe_nodes.SCHEDULES, SCHEDULES, "schedule")}


def _row(
    reader: Reader, node: Found, rows: Mapping[str, Counterpart], registry: Mapping[str, Any], kind: str
) -> Spec:  # fmt: skip
    """The name with parameters that a node stands for; parameters with their defaults are left out."""
    names = [name for name, row in rows.items() if row.kind == node.kind]
    if not names:
        raise ValueError(f"node {node.id} ({node.kind}): a recipe has no such {kind}")
    for name in names:
        row = rows[name]
        if all(reader.value(node, key) == value for key, value in row.fixed.items()):
            given = {ours: reader.value(node, theirs) for ours, theirs in row.inputs.items() if theirs in node.inputs}
            defaults = {ours: parameter.default for ours, parameter in registry[name].parameters.items()}
            return Spec(name, {key: value for key, value in given.items() if value != defaults[key]})
    values = {key: node.inputs.get(key) for name in names for key in rows[name].fixed}
    raise ValueError(f"node {node.id} ({node.kind}): no {kind} of a recipe has {shown(values)}")


def _model(reader: Reader, guider: Found) -> Fields:
    """The checkpoint, its LoRAs and its patches, from the one that acts last."""
    mods, loras, node = [], [], reader.at(guider, "model")
    while node.kind != "CheckpointLoaderSimple":
        if node.kind in ("LoraLoader", "LoraLoaderModelOnly"):
            loras.append(_lora(reader, node))
        elif loras:
            raise ValueError(f"node {node.id} ({node.kind}): a recipe has LoRAs after patches of the model")
        else:
            mods.append(_row(reader, node, recipe_nodes.MODS, MODS, "guidance mod"))
        node = reader.at(node, "model")
    fields: Fields = {"model": reader.value(node, "ckpt_name")}
    return fields | ({"guidance": mods[::-1]} if mods else {}) | ({"loras": loras[::-1]} if loras else {})


def _lora(reader: Reader, node: Found) -> Lora:
    strength = reader.number(node, "strength_model")
    text = reader.number(node, "strength_clip") if node.kind == "LoraLoader" else 0.0
    return Lora(reader.value(node, "lora_name"), strength, text_strength=None if text == strength else text)


def _conditionings(reader: Reader, guider: Found) -> Fields:
    """Prompts, regions, distilled guidance, control images and CLIP skip."""
    fields: Fields = {}
    positive, negative, controls = reader.at(guider, "positive"), reader.at(guider, "negative"), []
    while positive.kind == "ControlNetApplyAdvanced":
        if negative.id != positive.id or (positive.slot, negative.slot) != (0, 1):
            raise ValueError(f"node {positive.id} ({positive.kind}): a recipe has controls on both prompts")
        controls.append(_control(reader, positive))
        positive, negative = reader.at(positive, "positive"), reader.at(positive, "negative")
    if controls:
        fields["controls"] = controls[::-1]
    if positive.kind == "FluxGuidance":
        fields["distilled_guidance"] = reader.number(positive, "guidance")
        positive = reader.at(positive, "conditioning")
    if negative.kind == "FluxGuidance":
        negative = reader.at(negative, "conditioning")
    parts = list(_combined(reader, positive))
    whole = [part for part in parts if part.kind == "CLIPTextEncode"]
    if len(whole) != 1:
        raise ValueError(f"node {positive.id} ({positive.kind}): a recipe has one prompt for the whole image")
    regions = [_region(reader, part) for part in parts if part.kind != "CLIPTextEncode"]
    if negative.kind == "ConditioningZeroOut":
        raise ValueError(f"node {negative.id} ({negative.kind}): a recipe has a text there, and at cfg 1 none is used")
    if negative.kind != "CLIPTextEncode":
        raise ValueError(f"node {negative.id} ({negative.kind}): a recipe's negative prompt is one text")
    fields |= {"prompt": reader.value(whole[0], "text"), "negative": reader.value(negative, "text")}
    clip = reader.at(whole[0], "clip")
    _same_clip(reader, [clip, reader.at(negative, "clip")])
    if clip.kind == "CLIPSetLastLayer":
        fields["clip_skip"] = reader.value(clip, "stop_at_clip_layer")
        clip = reader.at(clip, "clip")
    if clip.kind not in ("LoraLoader", "CheckpointLoaderSimple"):
        raise ValueError(f"node {clip.id} ({clip.kind}): a recipe's text encoder is that of its checkpoint")
    return fields | ({"regions": regions} if regions else {})


def _same_clip(reader: Reader, nodes: Sequence[Found]) -> None:
    if len({node.id for node in nodes}) > 1:
        names = " and ".join(node.id for node in nodes)
        raise ValueError(f"nodes {names}: a recipe has one text encoder for its prompts")


def _combined(reader: Reader, node: Found) -> Iterator[Found]:
    """The texts, and the texts with areas, that a conditioning combines."""
    if node.kind == "ConditioningCombine":
        yield from _combined(reader, reader.at(node, "conditioning_1"))
        yield from _combined(reader, reader.at(node, "conditioning_2"))
    elif node.kind in ("CLIPTextEncode", "ConditioningSetArea"):
        yield node
    else:
        raise ValueError(f"node {node.id} ({node.kind}): a recipe's prompts are texts, and texts with areas")


def _region(reader: Reader, node: Found) -> Region:
    text = reader.at(node, "conditioning", "CLIPTextEncode")
    reader.at(text, "clip")
    box = [reader.value(node, name) for name in ("x", "y", "width", "height")]
    return Region(reader.value(text, "text"), *box, strength=reader.number(node, "strength"))


def _control(reader: Reader, node: Found) -> ControlImage:
    net, kind = reader.at(node, "control_net", "ControlNetLoader", "SetUnionControlNetType"), None
    if net.kind == "SetUnionControlNetType":
        kind = reader.value(net, "type").split("/")[0]
        net = reader.at(net, "control_net", "ControlNetLoader")
    image = reader.at(node, "image", "LoadImage")
    return ControlImage(
        reader.value(net, "control_net_name"), _name(reader.value(image, "image")), reader.number(node, "strength"),
        reader.number(node, "start_percent"), reader.number(node, "end_percent"), kind,
    )  # fmt: skip


def _latent(reader: Reader, sampler: Found) -> Fields:
    """Size and batch, or the image with its mask."""
    fields: Fields = {}
    node = reader.at(sampler, "latent_image", *EMPTY_LATENTS, "VAEEncode", "RepeatLatentBatch", "SetLatentNoiseMask")
    if node.kind == "SetLatentNoiseMask":
        fields |= _mask(reader, reader.at(node, "mask", "LoadImageMask", "InvertMask"))
        node = reader.at(node, "samples", "VAEEncode", "RepeatLatentBatch")
    if node.kind in EMPTY_LATENTS:
        size = {name: reader.value(node, name) for name in ("width", "height")}
        return {**fields, **size, "batch": reader.value(node, "batch_size")}
    if node.kind == "RepeatLatentBatch":
        fields["batch"] = reader.value(node, "amount")
        node = reader.at(node, "samples", "VAEEncode")
    reader.at(node, "vae", "CheckpointLoaderSimple")
    image = reader.at(node, "pixels", "LoadImage", "ImageScale", "ImageScaleBy")
    if image.kind == "ImageScale":
        fields |= {name: reader.value(image, name) for name in ("width", "height")}
        image = reader.at(_lanczos(reader, image), "image", "LoadImage", "ImageScaleBy")
    if image.kind == "ImageScaleBy":
        fields["scale"] = reader.number(image, "scale_by")
        image = reader.at(_lanczos(reader, image), "image", "LoadImage")
    return {**fields, "image": _name(reader.value(image, "image"))}


def _lanczos(reader: Reader, node: Found) -> Found:
    """A node that resizes as a recipe does; ValueError for other ways."""
    if reader.value(node, "upscale_method") != "lanczos" or node.inputs.get("crop", "disabled") != "disabled":
        raise ValueError(f"node {node.id} ({node.kind}): a recipe resizes by lanczos, without a crop")
    return node


def _mask(reader: Reader, node: Found) -> Fields:
    inverted = node.kind == "InvertMask"
    loader = reader.at(node, "mask", "LoadImageMask") if inverted else node
    channel = reader.value(loader, "channel")
    if inverted and channel != "alpha":
        raise ValueError(f"node {node.id} ({node.kind}): a recipe's mask is inverted before, in its file")
    source = ("alpha" if inverted else "inverted_alpha") if channel == "alpha" else "brightness"
    return {"mask": _name(reader.value(loader, "image")), "mask_from": source}


def _name(text: str) -> str:
    """A file's name without the folder in brackets that ComfyUI writes after it."""
    for folder in ("input", "output", "temp"):
        text = text.removesuffix(f" [{folder}]")
    return text
