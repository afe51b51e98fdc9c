"""What the tensors of a LoRA file are, by their names: the part of the model, the layer, and the role there.

    lora_unet_mid_block_attentions_0_proj_in . lora_down.weight
    └ part ─┘ └ layer ─────────────────────┘   └ role ────────┘

Trainers write each of the three in their own way; layers keep the trainer's spelling here, see `names` for the rest.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

NETWORK = ("unet", "transformer")
CLIP_L, CLIP_G = ("text_encoder",), ("text_encoder_2",)
T5 = ("text_encoder_3", "text_encoder_2", "text_encoder")
"""Where T5 is: the third encoder of Stable Diffusion 3, the second of Flux, the only one of Wan."""
ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")
ANY = (*NETWORK, *ENCODERS)

PREFIXES: dict[str, Sequence[str]] = {
    "lora_unet_": NETWORK, "lora_transformer_": NETWORK, "lycoris_": NETWORK,
    "lora_te_": CLIP_L, "lora_te1_": CLIP_L, "lora_te2_": CLIP_G, "lora_te3_": T5,
    "model.diffusion_model.": NETWORK, "diffusion_model.": NETWORK,
    "unet.": ("unet",), "transformer.": ("transformer",), "transformer_2.": ("transformer_2",),
    "text_encoder.": CLIP_L, "text_encoder_2.": CLIP_G, "text_encoder_3.": T5[:1],
    "text_encoders.clip_l.transformer.": CLIP_L, "text_encoders.clip_g.transformer.": CLIP_G,
    "text_encoders.t5xxl.transformer.": T5, "text_encoders.umt5xxl.transformer.": T5,
    "text_encoders.clip_l.": CLIP_L, "text_encoders.clip_g.": CLIP_G, "text_encoders.t5xxl.": T5,
    "clip_l.transformer.": CLIP_L, "clip_g.transformer.": CLIP_G, "t5xxl.transformer.": T5,
    "clip_l.": CLIP_L, "clip_g.": CLIP_G, "t5xxl.": T5,
}  # fmt: skip
"""Parts of a model that a key can be of, the first one that exists, by how the key begins."""

PEFT = "base_model.model."
"""How peft's own keys begin, which do not name a part."""

BUNDLED = "bundle_emb."
"""How the keys of textual inversions begin that OneTrainer puts into the file."""

DOWN, UP, MID, ALPHA = "lora_down", "lora_up", "lora_mid", "alpha"
UP_BIAS, DIFF, DIFF_BIAS = "lora_up.bias", "diff", "diff_b"
BY_OUTPUT, BY_SHAPE = "lora_magnitude_vector", "dora_scale"
"""DoRA's magnitudes: peft's, one for each output, and those whose shape says what they belong to."""

HADA = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2")
LOKR = ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2")

ROLES = {
    "lora_down.weight": DOWN, "lora_up.weight": UP, "lora_mid.weight": MID, "alpha": ALPHA,
    "lora_A.weight": DOWN, "lora_B.weight": UP, "lora_A": DOWN, "lora_B": UP, "lora_B.bias": UP_BIAS,
    "lora.down.weight": DOWN, "lora.up.weight": UP, "lora.alpha": ALPHA,
    "lora_linear_layer.down.weight": DOWN, "lora_linear_layer.up.weight": UP, "lora_linear_layer.alpha": ALPHA,
    "dora_scale": BY_SHAPE, "lora_magnitude_vector": BY_OUTPUT, "lora_magnitude_vector.weight": BY_OUTPUT,
    "diff": DIFF, "diff_b": DIFF_BIAS, "w_norm": DIFF, "b_norm": DIFF_BIAS,
    **{name: name for name in (*HADA, *LOKR)},
}  # fmt: skip
"""What a tensor is, by how its key ends."""

_END = re.compile(rf"(?P<layer>.+?)\.(?P<end>{'|'.join(sorted(map(re.escape, ROLES), key=len, reverse=True))})")
_PROCESSOR = re.compile(r"_lora(?P<number>\d?)\.(?P<end>(down|up)\.weight|alpha)$")
"""Names of attention processors: to_q_lora.down.weight, and XLabs' qkv_lora1.down.weight."""

_BUNDLED = re.compile(re.escape(BUNDLED) + r"(?P<name>.+)\.(?P<vectors>clip_[lg]|emb_params|string_to_param\.\*)", re.S)
"""A tensor of a textual inversion; files of models with one encoder do not name it."""


class Key(NamedTuple):
    """What the name of a tensor says.

    Args:
        parts: Parts of a model that it can be of.
        layer: The layer, or the parameter, as the trainer spells it.
        role: What it is there: one of the values of `ROLES`.
    """

    parts: Sequence[str]
    layer: str
    role: str


class BundledKey(NamedTuple):
    """What the name of a tensor of a textual inversion says.

    Args:
        name: The textual inversion.
        encoder: The encoder that it is for: clip_l or clip_g.
    """

    name: str
    encoder: str


def bundled_key(key: str) -> BundledKey | None:
    """Reads the name of a tensor of a textual inversion; None for one that is something else."""
    found = _BUNDLED.fullmatch(key)
    return found and BundledKey(found["name"], "clip_g" if found["vectors"] == "clip_g" else "clip_l")


def parse(key: str) -> Key | None:
    """Reads the name of a tensor; None for one that is not of a LoRA."""
    if key.startswith(BUNDLED):
        return None
    plain = _PROCESSOR.sub(r"\g<number>.lora.\g<end>", key.replace(".default.", "."))
    parts, rest = part_of(plain)
    if rest.endswith(".diff_m"):  # Wan's modulation, a parameter without a layer
        return Key(parts, f"{rest.removesuffix('.diff_m')}.modulation", DIFF)
    found = _END.fullmatch(rest)
    return found and Key(parts, found["layer"], ROLES[found["end"]])


def part_of(key: str) -> tuple[Sequence[str], str]:
    """The parts of a model that a key can be of, and the key without what says so."""
    parts: Sequence[str] = ANY
    rest = key.removeprefix(PEFT)
    prefix = next((prefix for prefix in PREFIXES if rest.startswith(prefix)), None)
    if prefix is not None:
        parts, rest = PREFIXES[prefix], rest.removeprefix(prefix)
    return parts, rest.removeprefix(PEFT)


def trainer_of(keys: Iterable[str]) -> str:
    """Whose spelling the names of tensors have."""
    known = list(keys)
    found = (name for name, pattern in SPELLINGS.items() if any(re.search(pattern, key) for key in known))
    return next(found, "unknown")


SPELLINGS = {
    "OneTrainer": r"^bundle_emb\.",
    "XLabs": r"processor\.\w+_lora\d?\.(down|up)",
    "LyCORIS": r"^lycoris_",
    "kohya": r"^lora_(unet|te\d?|transformer)_",
    "ComfyUI": r"^(model\.)?diffusion_model\.|^text_encoders\.",
    "peft": r"^base_model\.model\.",
    "diffusers": r"^(unet|transformer|text_encoder(_\d)?)\.",
    "diffusers without prefix": r"\.(lora_[AB]|lora\.(down|up)|lora_linear_layer|lora_magnitude_vector)\b",
}
"""Spellings of LoRA files, by a pattern that their keys match, the more special ones first."""
