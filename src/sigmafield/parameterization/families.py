"""The table of model families: prediction, noise levels, latent format and recommended schedule of each.

Facts of ComfyUI, in `data/families.json`.
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
    """One family of models.

    Args:
        name: Its name in ComfyUI.
        prediction: What its networks predict: eps, v, edm, flow, ….
        levels: Kind of its noise levels.
        settings: Settings of the noise levels, with the defaults filled in.
        latent_format: Name of its latent format.
        schedule: Name of the recommended schedule.
        inpaint_source: How it adds noise to what an inpainting mask keeps.
        note: Remark on the row.
    """

    name: str
    prediction: str
    levels: str
    settings: dict[str, Any]
    latent_format: str
    schedule: str
    inpaint_source: str = "noised"
    note: str = field(default="", repr=False)

    @property
    def multiplier(self) -> float:
        """The network is given multiplier · σ as its timestep, for flows: 1 or 1000."""
        return float(self.settings.get("multiplier", 1.0))

    def sampling(self, **settings: Any) -> Sampling:
        """The family's sampling, with some settings changed.

        Raises:
            ValueError: If the family's noise levels do not have a setting of that name.
        """
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
    """All families by name."""
    table = json.loads((files("sigmafield") / "data" / "families.json").read_text("utf-8"))
    return {name: Family(name, **row) for name, row in table.items()}


def family(name: str) -> Family:
    """Finds a family by its name; raises ValueError with the near miss for an unknown one."""
    return named(families(), name, "model family")
