"""What a LoRA file is, from the names, shapes and metadata in its header, without a model and without its numbers."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sigmafield.models.lora.adapters import adapter_of
from sigmafield.models.lora.keys import (
    ALPHA,
    BUNDLED,
    BY_OUTPUT,
    BY_SHAPE,
    DIFF,
    DIFF_BIAS,
    DOWN,
    HADA,
    LOKR,
    MID,
    NETWORK,
    UP_BIAS,
    bundled_key,
    parse,
    trainer_of,
)
from sigmafield.models.text.bundled import prompt_name

Shape = tuple[int, ...]

FAMILIES = {
    "flux": r"(double|single)_blocks_|single_transformer_blocks_",
    "sd3": r"joint_blocks_|^transformer_blocks_\d+_(attn_add_|ff_context|norm1_context)",
    "wan": r"^blocks_\d+_(self_attn|cross_attn|attn1|attn2|ffn)",
    "lumina2": r"^(layers|noise_refiner|context_refiner)_\d+_(attention|attn|feed_forward)",
    "unet": r"(input|output|middle|down|mid|up)_blocks?_",
}
"""Families of networks, by names of their layers with underscores."""

UNETS = {768: "sd1", 1024: "sd2", 1280: "sdxl_refiner", 2048: "sdxl"}
"""Families of UNets, by the width of the text that they are given."""

TAGS, TRIGGER = "ss_tag_frequency", "modelspec.trigger_phrase"
TRAINING = ("ss_", "modelspec.")
LONG = 200
"""Entries of the metadata that are longer than this are tables, such as those of all training images."""


@dataclass(frozen=True)
class LoraHeader:
    """What the header of a LoRA file says.

    Args:
        trainer: Whose spelling its names have: kohya, diffusers, peft, XLabs, …; unknown for names without a prefix.
        kinds: What it is made of: LoRA, LoCon, LoHa, LoKr, full, DoRA, in that order.
        ranks: How many layers have each rank; empty where no layer has one.
        family: The models that it is for: flux, sd3, wan, lumina2, sd1, sd2, sdxl, sdxl_refiner, or "unet" where the
            width of the text does not say which; None: unknown.
        layers: How many layers of the network, and of each text encoder, it changes.
        embeddings: Names of textual inversions in it, which prompts may write after "embedding:".
        unknown: Names of tensors that are not of a LoRA.
        problem: Why layers of it cannot be used with any model; None: nothing in the header says so.
        words: Trigger words, the most frequent first, after the textual inversions: "embedding:" and their names.
        training: Entries of the metadata about its training, without long tables.
    """

    trainer: str
    kinds: Sequence[str]
    ranks: Mapping[int, int]
    family: str | None
    layers: Mapping[str, int]
    embeddings: Sequence[str]
    unknown: Sequence[str]
    problem: str | None
    words: Sequence[str]
    training: Mapping[str, str]


def is_lora(names: Iterable[str]) -> bool:
    """Whether tensors of these names are a LoRA: whether most of them change a layer."""
    keys = [parse(name) for name in names if not name.startswith(BUNDLED)]
    return len(keys) < 2 * sum(key is not None for key in keys)


def describe(shapes: Mapping[str, Shape], metadata: Mapping[str, str]) -> LoraHeader:
    """Describes a LoRA file.

    Args:
        shapes: The shape of each tensor, by its name.
        metadata: The metadata of its header.
    """
    layers: dict[tuple[Sequence[str], str], dict[str, Shape]] = {}
    unknown: list[str] = []
    for name, shape in shapes.items():
        if (key := parse(name)) is not None:
            layers.setdefault((key.parts, key.layer), {})[key.role] = shape
        elif bundled_key(name) is None:
            unknown.append(name)
    keys = (bundled_key(name) for name in shapes)
    bundled = list(dict.fromkeys(prompt_name(key.name) for key in keys if key is not None))
    parts = Counter("network" if set(parts) & set(NETWORK) else parts[0] for parts, _ in layers)
    training = {k: v for k, v in metadata.items() if k.startswith(TRAINING) and len(v) <= LONG and k != TAGS}
    return LoraHeader(
        trainer_of(shapes), kinds_of(layers.values()), ranks_of(layers.values()),
        family_of({layer.replace(".", "_"): roles for (_, layer), roles in layers.items()}),
        dict(parts), bundled, unknown, problem_of(layers),
        [*(f"embedding:{name}" for name in bundled), *words_of(metadata)], training,
    )  # fmt: skip


def problem_of(layers: Mapping[tuple[Sequence[str], str], Mapping[str, Shape]]) -> str | None:
    """Says which layers have tensors that are not a change of a weight together: how many, and why the first is not."""
    wrong: dict[str, str] = {}
    for (_, layer), roles in layers.items():
        try:
            adapter = adapter_of({role: torch.empty(shape, device="meta") for role, shape in roles.items()})
            if adapter is None and not roles.keys() & {DIFF_BIAS, UP_BIAS}:
                raise ValueError(f"{ALPHA if ALPHA in roles else 'DoRA'} without matrices")
        except ValueError as error:
            wrong[layer] = str(error.args[0])
    if not wrong:
        return None
    layer, reason = next(iter(wrong.items()))
    rest = "; --lora-partial loads the rest" if len(wrong) < len(layers) else ""
    return f"{len(wrong)} of {len(layers)} layers cannot be used: {reason} in {layer}{rest}"


def kinds_of(layers: Iterable[Mapping[str, Shape]]) -> list[str]:
    """The kinds of changes, by the roles of each layer's tensors."""
    there: set[str] = set()
    for roles in layers:
        if DOWN in roles:
            there.add("LoCon" if MID in roles or max(roles[DOWN][2:], default=1) > 1 else "LoRA")
        there |= {kind for kind, names in KINDS.items() if roles.keys() & set(names)}
    return [kind for kind in ("LoRA", "LoCon", *KINDS) if kind in there]


KINDS = {"LoHa": HADA, "LoKr": LOKR, "full": (DIFF, DIFF_BIAS), "DoRA": (BY_OUTPUT, BY_SHAPE)}
"""Kinds that the roles of a layer's tensors give away."""


def ranks_of(layers: Iterable[Mapping[str, Shape]]) -> dict[int, int]:
    """How many layers have each rank, the most frequent first."""
    ranks = Counter[int]()
    for roles in layers:
        shape = next((roles[name] for name in (DOWN, "hada_w1_b", "lokr_w2_b", "lokr_w1_b") if name in roles), ())
        ranks.update(shape[:1])
    return dict(ranks.most_common())


def family_of(layers: Mapping[str, Mapping[str, Shape]]) -> str | None:
    """The family of models that layers are of, by their names with underscores."""
    named = (family for family, pattern in FAMILIES.items() if any(re.search(pattern, name) for name in layers))
    family = next(named, None)
    if family != "unet":
        return family
    read = (roles.get(DOWN, ()) for name, roles in layers.items() if re.search(r"attn2_(processor_)?to_[kv]$", name))
    return next((UNETS[shape[1]] for shape in read if len(shape) > 1 and shape[1] in UNETS), family)


def words_of(metadata: Mapping[str, str]) -> list[str]:
    """Trigger words: those that the author names, then the tags of the training images by how frequent they are."""
    named = [word.strip() for word in metadata.get(TRIGGER, "").split(",")]
    tags = Counter[str]()
    for table in _objects(metadata.get(TAGS, "{}")):
        tags.update({tag.strip(): n for tag, n in table.items() if isinstance(n, int) and not isinstance(n, bool)})
    return list(dict.fromkeys(word for word in [*named, *(tag for tag, _ in tags.most_common())] if word))


def _objects(text: str) -> list[dict[str, Any]]:
    """The objects in an object of JSON; none of a text that is something else."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return []
    return [each for each in value.values() if isinstance(each, dict)] if isinstance(value, dict) else []
