"""Checkpoints that hold the mean of a network's weights over its training (model_ema.…) instead of the network's own.

Their names have no dots: model_ema.diffusion_modelinput_blocks10in_layers0weight is what
model.diffusion_model.input_blocks.1.0.in_layers.0.weight is in the network.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from sigmafield.models.single_file.layouts import LDM

EMA = "model_ema.diffusion_model"
PAIRS = ("input_blocks", "output_blocks", "label_emb")
"""Words that two numbers come after; the second has one digit."""

NAMES = {
    "single": "time_embed|middle_block|transformer_blocks|in_layers|emb_layers|out_layers|to_out|net|out",
    "whole": "skip_connection|proj_in|proj_out|to_q|to_k|to_v|norm[123]|attn[12]|norm|proj|conv|op|ff",
    "last": "weight|bias",
}
"""Words of the names of a UNet: those that one number comes after, those that none does, and the last ones."""

WORD = re.compile(
    rf"(?P<pair>{'|'.join(PAIRS)})(?P<first>\d+)(?P<second>\d)|(?P<single>{NAMES['single']})(?P<number>\d+)"
    rf"|(?P<whole>{NAMES['whole']}|{NAMES['last']})"
)


def ema_names(stored: Iterable[str]) -> dict[str, str]:
    """The names that the weights of a network's mean have in the network.

    Args:
        stored: The names in a file.

    Returns:
        Stored name → name; {} for a file that has the network's own weights. Names that no UNet has are left out.
    """
    names = list(stored)
    if any(name.startswith(LDM) for name in names):
        return {}
    pairs = {name: dotted(name.removeprefix(EMA)) for name in names if name.startswith(EMA)}
    return {name: LDM + found for name, found in pairs.items() if found is not None}


def dotted(joined: str) -> str | None:
    """A name with its dots; None where it is not the name of a weight of a UNet."""
    words, at = [], 0
    while at < len(joined):
        found = WORD.match(joined, at)
        if found is None:
            return None
        words += [part for part in found.groups() if part is not None]
        at = found.end()
    return ".".join(words) if words and words[-1] in NAMES["last"].split("|") else None
