"""Recognises what is added to a model, by names and shapes: LoRAs, control nets, textual inversions."""

from __future__ import annotations

import re
from collections.abc import Mapping

from sigmafield.models.inspection.report import Found
from sigmafield.models.lora.describe import describe, is_lora
from sigmafield.models.single_file.controls import FLUX_KINDS, KINDS, SideFile, side_file
from sigmafield.models.single_file.layouts import Shapes

UNETS = {768: "sd1", 1024: "sd2", 2048: "sdxl"}
"""Families of UNets, by the width of the text that they are given."""

VECTORS = {768: ("sd1", "sdxl"), 1024: ("sd2",), 1280: ("sdxl",)}
"""Families of models with text encoders of a width."""

TENSORS = ("emb_params", "clip_l", "clip_g")
"""Names of tensors of a textual inversion."""

XL_CHANNELS = {256, 768}
"""Channels of an image, grey or in colours, of which an adapter for SDXL has made 16×16 pixels one."""


def lora(shapes: Shapes, metadata: Mapping[str, str]) -> Found | None:
    """Recognises a LoRA or one of its relatives."""
    if not shapes or not is_lora(shapes):
        return None
    header = describe(shapes, metadata)
    families = [] if header.family is None else [header.family]
    facts = {"layers": ", ".join(f"{n} of {name}" for name, n in header.layers.items())}
    return Found("LoRA", families, {"changes": ""}, ["a model"], header.problem, facts, header)


OF_TRANSFORMERS = {"FluxControlNetModel": "flux", "SD3ControlNetModel": "sd3", "ZImageControlNetModel": "z_image"}
"""Families of control nets by their classes, where the class says it."""

PROJECTIONS = ("image_proj.", "ip_adapter_proj_model.")
"""How the names of an IP-Adapter's weights begin that make tokens of an image."""

KEYS = re.compile(r"to_k_ip\.weight$|double_stream_k_proj\.weight$")
"""Names of the weights that make keys of them."""

ADAPTED = {768: "sd1", 1024: "sd2", 2048: "sdxl", 4096: "flux"}
"""Families by the width of those tokens."""

FACE = "an IP-Adapter of FaceID, which needs a face recogniser and is not supported"


def control_net(shapes: Shapes) -> Found | None:
    """Recognises a ControlNet or T2I-Adapter, also in a file with a whole model."""
    try:
        side = side_file(shapes)
    except ValueError as error:
        return Found("control net", problem=str(error))
    if side is None:
        return None
    families = control_families(side, shapes)
    facts = {"class": side.kind, "names": side.names}
    number, known = 0, KINDS
    if side.kind == "ControlNetUnionModel":
        number = first_axis(shapes, "task_embedding")
    elif "controlnet_mode_embedder.weight" in shapes:
        number, known = first_axis(shapes, "controlnet_mode_embedder.weight"), FLUX_KINDS
    if number:
        facts["kinds"] = ", ".join(known[:number])
    if any(name.startswith("model.diffusion_model.") for name in shapes):
        facts["also in the file"] = "the model that it was trained with, which is not used with it"
    return Found("control net", families, {"control": side.prefix}, ["a model", "a control image"], None, facts)


def first_axis(shapes: Shapes, name: str) -> int:
    """How many rows a weight has; 0 for one without axes."""
    return shapes[name][0] if shapes[name] else 0


def control_families(side: SideFile, shapes: Shapes) -> list[str]:
    """The models that a side network is for."""
    if side.kind in OF_TRANSFORMERS:
        return [OF_TRANSFORMERS[side.kind]]
    own = {name.removeprefix(side.prefix): shape for name, shape in shapes.items() if name.startswith(side.prefix)}
    if side.kind == "T2IAdapter":
        first = next((own[name] for name in ("conv_in.weight", "adapter.conv_in.weight") if name in own), ())
        return ["sdxl" if XL_CHANNELS & {*first[1:2]} else "sd1"]
    text = (shape[1] for name, shape in own.items() if name.endswith("attn2.to_k.weight") and len(shape) == 2)
    family = next((UNETS[width] for width in text if width in UNETS), None)
    if family is None and any(name.startswith(("add_embedding.", "label_emb.")) for name in own):
        family = "sdxl"
    return [family] if family else []


def ip_adapter(shapes: Shapes) -> Found | None:
    """Recognises an IP-Adapter."""
    inner = {name.partition(".")[2]: shape for name, shape in shapes.items() if name.startswith(PROJECTIONS)}
    if not inner:
        return None
    keys = (shape[1] for name, shape in shapes.items() if KEYS.search(name) and len(shape) == 2)
    family = next((ADAPTED[width] for width in keys if width in ADAPTED), None)
    kind = "plain" if "proj.weight" in inner else "plus" if "latents" in inner else "full"
    face = any("lora" in name or "perceiver_resampler." in name for name in shapes)
    face = face or {"proj.0.weight", "norm.weight"} <= inner.keys()
    problem = FACE if face else None
    needed = ["a model", "a vision encoder", "an image"]
    return Found("IP-Adapter", [family] if family else [], {"adapter": ""}, needed, problem, {"sort": kind})


def textual_inversion(shapes: Shapes) -> Found | None:
    """Recognises vectors of a textual inversion."""
    vectors = {name: shape for name, shape in shapes.items() if name in TENSORS}
    if len(shapes) == 1 and not vectors:
        vectors = {name: shape for name, shape in shapes.items() if len(shape) in (1, 2) and shape[-1] in VECTORS}
    if not vectors or len(vectors) < len(shapes):
        return None
    if vectors.keys() >= {"clip_l", "clip_g"}:
        families: tuple[str, ...] = ("sdxl",)
    else:
        families = next((VECTORS[s[-1]] for s in vectors.values() if s and s[-1] in VECTORS), ())
    counts = ", ".join(
        f"{name}: {shape[0] if len(shape) > 1 else 1} of width {shape[-1] if shape else 0}"
        for name, shape in vectors.items()
    )
    return Found("textual inversion", families, {"vectors": ""}, ["a model"], None, {"vectors": counts})
