"""Recognises models and parts of them by the names and shapes of their weights."""

from __future__ import annotations

import re
from collections.abc import Mapping

from sigmafield.models.inspection.report import Found, Kind
from sigmafield.models.single_file.layouts import OPTIONAL, Layout, Shapes, network_part, recognise
from sigmafield.models.single_file.shapes import derived

NETWORK, ENCODERS = "the network", "text encoders"

ENCODER_USES = {
    "CLIP-L": ("sd1", "sdxl", "sd3", "flux"), "CLIP-G": ("sdxl", "sdxl_refiner", "sd3"), "CLIP-H": ("sd2",),
    "T5-XXL": ("sd3", "flux", "chroma", "ltxv"), "UMT5-XXL": ("wan",), "Gemma 2 2B": ("lumina2",),
    "Qwen 3 4B": ("z_image", "flux2"), "Qwen 2.5 VL 7B": ("qwen_image",), "Mistral Small": ("flux2",),
    "Llama 3 8B": ("hidream",),
}  # fmt: skip
"""The models that text encoders are for."""

CLIPS = {768: "CLIP-L", 1024: "CLIP-H", 1280: "CLIP-G"}
"""CLIP's text encoders by their width."""

DECODERS = {2304: "Gemma 2 2B", 2560: "Qwen 3 4B", 3584: "Qwen 2.5 VL 7B", 4096: "Llama 3 8B", 5120: "Mistral Small"}
"""Language models that read prompts, by their width."""

RECENT = (
    "hidream", "qwen_image", "qwen_image21", "z_image", "flux2", "chroma", "wan", "wan_fun", "wan_vace", "ltxv",
    "hunyuan_video",
)  # fmt: skip
"""Families of which nothing special is told."""

UMT5_WORDS = 256384
"""Size of UMT5's vocabulary."""

OTHERS: dict[str, tuple[Kind, str]] = {
    r"^model\.\d+\.|^body\.\d+\.|^RDB_|^layers\.0\.residual_group\.": (
        "upscaler",
        "networks that upscale images are not supported; sigmafield upscale draws the larger image",
    ),
    r"^(down_blocks|mid_block|transformer_blocks|single_transformer_blocks|blocks|layers|joint_transformer_blocks)\.": (
        "network",
        "a network in diffusers' layout: put it in a directory with the other parts and give that",
    ),
}
"""Files of other kinds, by a pattern that a name in them matches, and why they are not loaded."""


def model(shapes: Shapes) -> Found | None:
    """Recognises a diffusion network, alone or with other parts of its model; None: there is not one."""
    try:
        layout = recognise(shapes)
    except ValueError as error:
        unsupported = re.match(r"this is (.*?), which is not supported", str(error))
        return unsupported and Found("network", [unsupported[1]], {"network": ""}, problem=str(error))
    alone = set(layout.prefixes) == {network_part(layout.family)}
    missing = [part for part in layout.parts if part not in layout.prefixes and part not in OPTIONAL]
    try:
        facts, problem = facts_of(layout, shapes, derived(layout, shapes)), None
    except (ValueError, IndexError, TypeError, ArithmeticError) as error:  # of sizes that make no network
        facts, problem = {}, f"weights are missing or have sizes that make no network: {error}"
    optional = [part for part in OPTIONAL if part in layout.parts and part not in layout.prefixes]
    if optional:
        facts["optional"] = f"works without {', '.join(optional)}"
    return Found("network" if alone else "checkpoint", [layout.family], layout.prefixes, missing, problem, facts)


def facts_of(layout: Layout, shapes: Shapes, configs: Mapping[str, Mapping[str, object]]) -> dict[str, str]:
    """What is special about a network of its family."""
    config = configs[network_part(layout.family)]
    if layout.family == "flux":
        return {"variant": "dev, with a guidance input" if config["guidance_embeds"] else "schnell"}
    if layout.family in RECENT:
        return {}
    facts: dict[str, str] = {}
    channels = {"unet": 4, "transformer": 16}[network_part(layout.family)]
    if config["in_channels"] == 2 * channels + 1:
        facts["variant"] = "inpainting"
    elif config["in_channels"] != channels:
        facts["variant"] = f"{config['in_channels']} input channels"
    if "v_pred" in shapes:
        facts["prediction"] = "v" + ", zero terminal SNR" * ("ztsnr" in shapes)
    return facts


def vae(shapes: Shapes) -> Found | None:
    """Recognises a VAE of images, or Wan's of videos, alone in a file."""
    for prefix in ("", "first_stage_model.", "vae."):
        own = {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}
        if "decoder.conv_in.weight" in own and len(own["decoder.conv_in.weight"]) == 4:
            channels = own["decoder.conv_in.weight"][1]
            families = {4: ("sd1", "sd2", "sdxl"), 16: ("sd3", "flux", "lumina2")}.get(channels, ())
            words = "diffusers'" if any(name.startswith("decoder.up_blocks.") for name in own) else "the original"
            facts = {"latents": f"{channels} channels", "names": words}
            return part("VAE", families, prefix, facts | without_encoder(own), (NETWORK, ENCODERS))
        if "decoder.middle.0.residual.0.gamma" in own:
            return part("VAE", ("wan",), prefix, without_encoder(own), (NETWORK, ENCODERS))
    return None


def without_encoder(shapes: Shapes) -> dict[str, str]:
    """Says whether a VAE can only decode."""
    there = any(name.startswith("encoder.") for name in shapes)
    return {} if there else {"encoder": "missing: it decodes only"}


def part(kind: Kind, families: tuple[str, ...], prefix: str, facts: dict[str, str], missing: tuple[str, ...]) -> Found:
    """A part of a model that is alone in a file."""
    name = {"VAE": "vae", "text encoder": "text_encoder"}[kind]
    problem = "a part of a model, which is read from a checkpoint or from a directory in diffusers' layout (--parts)"
    return Found(kind, families, {name: prefix}, missing, problem, facts)


def text_encoder(shapes: Shapes) -> Found | None:
    """Recognises a text encoder alone in a file."""
    name, width, words = "", 0, 0
    for weight, shape in shapes.items():
        if len(shape) != 2:
            continue
        if weight.endswith("token_embedding.weight"):
            words, width = shape
            name = CLIPS.get(width, "CLIP")
        elif weight.removeprefix("transformer.") in ("shared.weight", "encoder.embed_tokens.weight"):
            words, width = shape
            name = "UMT5" if words >= UMT5_WORDS else "T5"
            name += {4096: "-XXL", 2048: "-XL", 1024: "-large", 768: "-base"}.get(width, "")
        elif weight.removeprefix("language_model.") == "model.embed_tokens.weight" or weight == "token_embd.weight":
            words, width = shape
            name = DECODERS.get(width, "a language model")
    if not name:
        return None
    facts = {"model": name, "width": str(width), "words": str(words)}
    return part("text encoder", ENCODER_USES.get(name, ()), "", facts, (NETWORK, "the VAE"))


def preview_decoder(shapes: Shapes) -> Found | None:
    """Recognises TAESD and its relatives."""
    own = {name.removeprefix("decoder."): shape for name, shape in shapes.items() if not name.startswith("encoder.")}
    original, diffusers = "1.weight" in own and "3.conv.0.weight" in own, "layers.2.conv.0.weight" in own
    if not original and not diffusers:
        encoder = "0.weight" in own and "1.conv.0.weight" in own
        return Found("preview decoder", problem="an encoder, not a decoder, of small latents") if encoder else None
    first = own.get("1.weight" if original else "layers.0.weight", ())
    channels = first[1] if len(first) == 4 else 4
    families = {4: ("sd1", "sd2", "sdxl"), 16: ("sd3", "flux")}.get(channels, ())
    return Found("preview decoder", families, {"decoder": ""}, ("a model",), facts={"latents": f"{channels} channels"})


def something_else(shapes: Shapes) -> Found:
    """A file of another kind, or of none that is known."""
    for pattern, (kind, why) in OTHERS.items():
        if any(re.match(pattern, name) for name in shapes):
            return Found(kind, problem=why)
    first = ", ".join(sorted(shapes)[:3])
    return Found("unknown", problem=f"its weights begin with {first}" if shapes else "the file has no tensors")
