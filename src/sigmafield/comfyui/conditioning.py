"""CONDITIONING: pairs of token embeddings and a dict, as nodes change them; and what a network is given of them.

A pair's dict has ComfyUI's keys: pooled_output, area, strength, mask, start_percent, control, …. What depends on the
latent's size or on the network, such as SDXL's sizes, is worked out when a guider is opened.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sigmafield.comfyui.scaling import scaled
from sigmafield.comfyui.shown_frames import shown_frames, strengths
from sigmafield.core.conditioning import Area, Cond
from sigmafield.core.linear import filled
from sigmafield.models.diffusion_model import DiffusionModel
from sigmafield.models.references import at_zero, references, with_references
from sigmafield.recipes.conditionings import GREY
from sigmafield.recipes.ksampler import repaired
from sigmafield.spatial.inpaint import fill_concat, fit_mask

Entry = tuple[Tensor, dict[str, Any]]
"""Token embeddings [B, tokens, dim] and what goes with them; nodes make new pairs and new dicts."""

DISTILLED_GUIDANCE = 3.5
"""Flux's guidance input where a pair has none."""
FLUX2_GUIDANCE = 4.0
"""Flux 2's."""
HUNYUAN_GUIDANCE = 6.0
"""HunyuanVideo's."""
FRAME_RATE = 25.0
"""LTX's frames per second where a pair has none."""
SCORES = (6.0, 2.5)
"""The refiner's aesthetic score of a prompt, and of a negative prompt, where a pair has none."""
NAMES = {
    "text_embeds": "pooled_output",
    "pooled_projections": "pooled_output",
    "encoder_attention_mask": "attention_mask",
    "image_slots": "image_slots",
    "llama_states": "conditioning_llama3",
    "encoder_hidden_states_2": "conditioning_byt5small",
    "encoder_attention_mask_2": "byt5small_mask",
}
"""ComfyUI's names of what text encoders give with the embeddings; other inputs follow from the latent."""


def entry(cond: Cond) -> Entry:
    """A conditioning that a text encoder gave, as a pair."""
    return cond.embeds, {NAMES[name]: value for name, value in cond.extra.items() if name in NAMES}


def changed(conditioning: Sequence[Entry], **values: Any) -> list[Entry]:
    """The pairs with values set in each dict."""
    return [(embeds, {**extra, **values}) for embeds, extra in conditioning]


def conds_of(
    conditioning: Sequence[Entry],
    model: DiffusionModel,
    latent: Tensor,
    mask: Tensor | None = None,
    negative: bool = False,
) -> list[Cond]:
    """What a network is given for a list of pairs.

    Args:
        conditioning: The pairs.
        model: The network.
        latent: The latent that is sampled, in the network's scale [B, C, *space].
        mask: Mask of the run, which inpainting networks are shown where a pair has none.
        negative: Whether it is the negative prompt, whose aesthetic score is another for SDXL's refiner.

    Raises:
        ValueError: A pair lacks something that the network needs, or has what it cannot take.
    """
    return [_cond(embeds, extra, model, latent, mask, negative) for embeds, extra in conditioning]


def _cond(
    embeds: Tensor, extra: Mapping[str, Any], model: DiffusionModel, latent: Tensor, mask: Tensor | None, negative: bool
) -> Cond:
    device = model.device
    concat = shown_frames(extra, model, latent) if model.latent.axes == 3 else _concat(extra, model, latent, mask)
    window = (extra.get("start_percent"), extra.get("end_percent"))
    own = extra.get("mask")
    cond = Cond(
        embeds.to(device),
        {name: value.to(device) for name, value in _inputs(len(embeds), extra, model, latent, negative).items()},
        strength=extra.get("strength", 1.0),
        area=area_of(extra.get("area")),
        mask=own,
        mask_strength=extra.get("mask_strength", 1.0),
        bounds=bool(extra.get("set_area_to_bounds", False)) and own is not None,
        window=window,
        default="default" in extra,
        concat=concat,
        controls=tuple(each.control(model) for each in extra.get("control", ())),
    )
    cond = with_references(cond, _shown(extra, model))
    if references(cond) and extra.get("reference_latents_method") == "index_timestep_zero":
        cond = at_zero(cond)
    model.check(cond)
    return cond


def _shown(extra: Mapping[str, Any], model: DiffusionModel) -> list[Tensor]:
    """The images that an editing network is shown, as latents in its scale.

    Raises:
        ValueError: They are told apart in a way that is not supported.
    """
    shown = [repaired(latent, model.latent) for latent in extra.get("reference_latents", ())]
    method = extra.get("reference_latents_method", "index")
    qwen = model.family is not None and model.family.name == "QwenImage"
    known = method == "index" or (method == "offset" and len(shown) == 1) or (method == "index_timestep_zero" and qwen)
    if shown and not known:
        raise ValueError(f"reference_latents_method {method} of {len(shown)} images is not supported; supported: index")
    return [model.latent.to_network(latent.to(model.device)) for latent in shown]


def area_of(area: Sequence[Any] | None) -> Area | None:
    """An area (height, width, y, x), in latent positions or ("percentage", …) in shares of the latent's sides."""
    if area is None:
        return None
    relative = area[0] == "percentage"
    numbers = area[1:] if relative else area
    half = len(numbers) // 2
    return Area(tuple(numbers[:half]), tuple(numbers[half:]), relative)


def _inputs(
    rows: int, extra: Mapping[str, Any], model: DiffusionModel, latent: Tensor, negative: bool
) -> dict[str, Tensor]:
    """The network's further inputs, by its own names."""
    family = "" if model.family is None else model.family.name
    make = next((make for name, make in INPUTS.items() if family.startswith(name)), None)
    if make is None:
        return {}
    try:
        return make(rows, extra, [side * model.latent.factor for side in latent.shape[-2:]], negative)
    except KeyError as error:
        raise ValueError(
            f"{model.name} needs {error.args[0]} in a conditioning: encode prompts with the CLIP of such a model"
        ) from None


def _sizes(rows: int, *numbers: float) -> Tensor:
    return torch.tensor([[float(number) for number in numbers]]).repeat(rows, 1)


def _refiner(rows: int, extra: Mapping[str, Any], size: Sequence[int], negative: bool) -> dict[str, Tensor]:
    height, width = extra.get("height", size[0]), extra.get("width", size[1])
    score = extra.get("aesthetic_score", SCORES[negative])
    ids = _sizes(rows, height, width, extra.get("crop_h", 0), extra.get("crop_w", 0), score)
    return {"text_embeds": extra["pooled_output"], "time_ids": ids}


def _xl(rows: int, extra: Mapping[str, Any], size: Sequence[int], negative: bool) -> dict[str, Tensor]:
    height, width = extra.get("height", size[0]), extra.get("width", size[1])
    target = extra.get("target_height", height), extra.get("target_width", width)
    ids = _sizes(rows, height, width, extra.get("crop_h", 0), extra.get("crop_w", 0), *target)
    return {"text_embeds": extra["pooled_output"], "time_ids": ids}


def _pooled(rows: int, extra: Mapping[str, Any], size: Sequence[int], negative: bool) -> dict[str, Tensor]:
    return {"pooled_projections": extra["pooled_output"]}


def _flux(rows: int, extra: Mapping[str, Any], size: Sequence[int], negative: bool) -> dict[str, Tensor]:
    guidance = torch.full((rows,), float(extra.get("guidance", DISTILLED_GUIDANCE)))
    return {"pooled_projections": extra["pooled_output"], "guidance": guidance}


def _masked(rows: int, extra: Mapping[str, Any], size: Sequence[int], negative: bool) -> dict[str, Tensor]:
    return {"encoder_attention_mask": extra["attention_mask"]}


def _with_slots(rows: int, extra: Mapping[str, Any], size: Sequence[int], negative: bool) -> dict[str, Tensor]:
    return {"encoder_attention_mask": extra["attention_mask"], "image_slots": extra["image_slots"]}


def _with_llama(rows: int, extra: Mapping[str, Any], size: Sequence[int], negative: bool) -> dict[str, Tensor]:
    return {"pooled_projections": extra["pooled_output"], "llama_states": extra["conditioning_llama3"]}


def _guided(rows: int, extra: Mapping[str, Any], size: Sequence[int], negative: bool) -> dict[str, Tensor]:
    return {"guidance": torch.full((rows,), float(extra.get("guidance", FLUX2_GUIDANCE)))}


def _filmed(rows: int, extra: Mapping[str, Any], size: Sequence[int], negative: bool) -> dict[str, Tensor]:
    rate = torch.full((rows,), float(extra.get("frame_rate", FRAME_RATE)))
    return {"encoder_attention_mask": extra["attention_mask"], "frame_rate": rate}


def _hunyuan(rows: int, extra: Mapping[str, Any], size: Sequence[int], negative: bool) -> dict[str, Tensor]:
    guidance = torch.full((rows,), float(extra.get("guidance", HUNYUAN_GUIDANCE)))
    pooled = {"pooled_projections": extra["pooled_output"], "guidance": guidance}
    return {"encoder_attention_mask": extra["attention_mask"], **pooled}


def _glyphs(rows: int, extra: Mapping[str, Any], size: Sequence[int], negative: bool) -> dict[str, Tensor]:
    names = ("encoder_attention_mask", "encoder_hidden_states_2", "encoder_attention_mask_2")
    seen = extra.get("clip_vision_output")
    image = {} if seen is None else {"image_embeds": seen.last_hidden_state}
    return {name: extra[NAMES[name]] for name in names} | image


def _seen(rows: int, extra: Mapping[str, Any], size: Sequence[int], negative: bool) -> dict[str, Tensor]:
    seen = extra.get("clip_vision_output")
    return {} if seen is None else {"encoder_hidden_states_image": seen.penultimate_hidden_states}


Inputs = Callable[[int, Mapping[str, Any], Sequence[int], bool], dict[str, Tensor]]
INPUTS: dict[str, Inputs] = {
    "SDXLRefiner": _refiner,
    "SDXL": _xl,
    "SD3": _pooled,
    "HiDream": _with_llama,
    "FluxSchnell": _pooled,
    "Flux2": _guided,
    "Flux": _flux,
    "Lumina2": _masked,
    "QwenImage21": _with_slots,
    "QwenImage": _masked,
    "ZImage": _masked,
    "Chroma": _masked,
    "WAN21_Vace": strengths,
    "WAN2": _seen,
    "LTX": _filmed,
    "HunyuanVideo15": _glyphs,
    "HunyuanImage21": _glyphs,
    "HunyuanVideo": _hunyuan,
}
"""Further inputs of the networks of a family: (rows, dict, (height, width) in pixels, whether negative) → tensors."""


def _concat(extra: Mapping[str, Any], model: DiffusionModel, latent: Tensor, mask: Tensor | None) -> Tensor | None:
    """What a network with more input channels is given: mask and image of an inpainting network, or an image."""
    if not model.concat:
        return None
    space, form = latent.shape[-2:], model.latent
    image = extra.get("concat_latent_image")
    if image is not None:
        image = form.to_network(image.to(latent))
        image = image if image.shape[-2:] == space else scaled(image, space[1], space[0], "bilinear", "center")
        image = filled(image, len(latent), axis=0)
    shown = extra.get("concat_mask", mask)
    if model.may_lack_concat and form.axes == 3:
        return None if image is None else torch.cat([image, 1 - _where(extra, latent)], dim=1)
    if model.concat == form.channels:
        return torch.zeros_like(latent) if image is None else image
    if model.concat == form.channels + form.factor**2:
        shown = latent.new_ones(1, 1, 1) if shown is None else shown
        return fill_concat(shown, torch.zeros_like(latent) if image is None else image, form.factor)
    if model.concat != 1 + form.channels:
        raise ValueError(f"{model.name} takes {model.concat} channels of concat, which nodes cannot make")
    if shown is None:
        grey = torch.tensor(GREY).to(latent).reshape(1, -1, 1, 1) if form.channels == len(GREY) else latent * 0
        return torch.cat([torch.ones_like(latent[:, :1]), grey.expand_as(latent)], dim=1)
    return torch.cat([fit_mask(shown, latent)[:, :1].round(), latent if image is None else image], dim=1)


def _where(extra: Mapping[str, Any], latent: Tensor) -> Tensor:
    """The mask of a video that a pair shows, 0 for the frames that it shows: [B, 1, *space]."""
    mask = extra.get("concat_mask")
    return torch.ones_like(latent[:, :1]) if mask is None else fit_mask(mask, latent)[:, :1]


def with_controls(negative: Sequence[Entry], positive: Sequence[Entry]) -> list[Entry]:
    """The negative pairs with those controls of the positive ones that are to act on them, too.

    These are controls of pairs without an area; where a negative pair without an area has a control, nothing changes.
    """
    shared = [
        x["control"] for _, x in positive if x.get("control_apply_to_uncond") and "area" not in x and "control" in x
    ]
    whole = [k for k, (_, extra) in enumerate(negative) if "area" not in extra]
    out = list(negative)
    if not shared or not whole or any("control" in negative[k][1] for k in whole):
        return out
    for i, control in enumerate(shared):
        embeds, extra = out[at := whole[i % len(whole)]]
        out[at] = (embeds, {**extra, "control": control})
    return out
