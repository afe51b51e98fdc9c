"""Approximate strengths of tiles for a sampler: whether it suits them is known here, above samplers and spatial."""

from __future__ import annotations

import warnings

from sigmafield.samplers import SAMPLERS
from sigmafield.spatial.tile_strength import Space, Strengths, in_step, scaled
from sigmafield.spatial.tiled_model import Change


def scaled_for(sampler: str, strengths: Strengths, space: Space = in_step, **gain: float) -> Change:
    """`spatial.tile_strength.scaled` for a sampler, with a warning where the sampler is inconsistent with it.

    A sampler that adds noise or uses earlier predictions takes a weakened prediction for a change of the image.

    Args:
        sampler: Name of the run's sampler.
        strengths: Denoise strength of each tile.
        space: What is weakened.
        gain: Further parameters of `scaled`.

    Raises:
        ValueError: The sampler is unknown, or `scaled` refuses the strengths.
    """
    row = SAMPLERS.lookup(sampler)
    why = "adds noise" if row.noise not in ("none", "churn") else ""
    why = why or ("uses earlier predictions" if row.order > row.evals else "")
    if why:
        warnings.warn(
            f"{sampler} {why}, which is inconsistent with predictions scaled per tile: "
            "take euler, or exact strengths by spatial.sigma_field.delayed",
            stacklevel=2,
        )
    return scaled(strengths, space, **gain)
