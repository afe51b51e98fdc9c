"""The table of guidance mods, and the text form in which they are written.

rescale(multiplier=0.7)+cfg_norm          names with parameters, joined by +, in the order in which they act
"""

from __future__ import annotations

from sigmafield.core.registry import Registry, parse_specs
from sigmafield.guidance import GUIDANCE_MODS
from sigmafield.guidance.hooks import Mods
from sigmafield.guidance.registry import Mod, mods_of
from sigmafield.spatial.context_windows import context

MODS: Registry[Mod] = Registry(
    "guidance mod", [*GUIDANCE_MODS.values(), Mod("context", context, "model", "arXiv:2310.15169")]
)
"""Every guidance mod by name."""


def parse_mods(text: str) -> Mods:
    """The hooks of mods in their text form; those of one stage act in the order in which they are written.

    Args:
        text: Such as "apg(eta=0.5, norm_threshold=5)+rescale(multiplier=0.7)"; "" for no mods.

    Raises:
        ValueError: The text has another form, or `mods_of` refuses what it says.
    """
    return mods_of(parse_specs(text, "guidance", "apg(eta=0.5)+rescale(multiplier=0.7)"), MODS)
