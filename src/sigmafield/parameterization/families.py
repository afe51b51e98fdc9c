"""Model families as data: prediction, noise levels, latent format and settings of each, as ComfyUI has them.

The table is `data/families.json`; `inpaint_source` names how a family noises what an inpainting mask keeps.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

from sigmafield.core.registry import named, near_miss
from sigmafield.parameterization.prediction import (
    Sampling,
    cascade_sampling,
    continuous_edm_sampling,
    continuous_v_sampling,
    cosmos_sampling,
    discrete_sampling,
    flow_sampling,
    flux_sampling,
)
from sigmafield.parameterization.timesteps import betas


@dataclass(frozen=True)
class Family:
    """One family of models; `settings` are those of its noise levels, with the defaults filled in."""

    prediction: str
    levels: str
    settings: dict[str, Any]
    latent_format: str
    inpaint_source: str = "noised"
    note: str = field(default="", repr=False)

    def sampling(self, **settings: Any) -> Sampling:
        """The family's sampling, with other `settings` where given; ValueError for one that its levels lack."""
        for name in settings:
            if name not in self.settings:
                raise ValueError(f"{self.levels} levels have no setting {name!r}{near_miss(name, self.settings)}")
        return _MAKE[self.levels](self.prediction, **{**self.settings, **settings})


def _discrete(prediction: str, beta_schedule: str, start: float, end: float, n: int, zsnr: bool) -> Sampling:
    return discrete_sampling(prediction, betas(beta_schedule, start, end, n), zsnr)


_MAKE: dict[str, Callable[..., Sampling]] = {
    "discrete": _discrete,
    "continuous_edm": continuous_edm_sampling,
    "continuous_v": lambda _, **settings: continuous_v_sampling(**settings),
    "shifted_flow": lambda _, **settings: flow_sampling(**settings),
    "flux": lambda _, **settings: flux_sampling(**settings),
    "cascade": lambda _, **settings: cascade_sampling(**settings),
    "cosmos": lambda _, **settings: cosmos_sampling(**settings),
}


@cache
def families() -> dict[str, Family]:
    """Every family by its name in ComfyUI."""
    table = json.loads((files("sigmafield") / "data" / "families.json").read_text("utf-8"))
    return {name: Family(**row) for name, row in table.items()}


def family(name: str) -> Family:
    """The family of that name; ValueError with the near miss if there is none."""
    return named(families(), name, "model family")
