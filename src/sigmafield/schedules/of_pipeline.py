"""The schedule that a diffusers pipeline asks for: by a number of steps, or by its own sigmas or timesteps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sigmafield.core.grid import Grid
from sigmafield.core.process import Flow
from sigmafield.parameterization.prediction import Sampling
from sigmafield.schedules.registry import SCHEDULES

Numbers = Sequence[float | int] | np.ndarray | Tensor


def grid_of(
    sampling: Sampling,
    schedule: str | None,
    steps: int | None = None,
    sigmas: Numbers | None = None,
    timesteps: Numbers | None = None,
) -> Grid:
    """The noise levels of a run, from exactly one of steps, sigmas and timesteps.

    Args:
        sampling: Process and noise levels of the network.
        schedule: Name of a schedule, or None. A flow takes only the number of entries from sigmas or timesteps then.
        steps: Number of steps, on the named schedule or on "normal".
        sigmas: Levels: for a discrete network with the one that the run ends at, for a flow without the final 0 and
            before the shift.
        timesteps: The network's clock without the end; for a flow before the shift.

    Raises:
        ValueError: If not exactly one is given, or a schedule in addition to the levels of a discrete network.
    """
    given = {"num_inference_steps": steps, "sigmas": sigmas, "timesteps": timesteps}
    names = [name for name, value in given.items() if value is not None]
    if len(names) != 1:
        raise ValueError(f"give one of {', '.join(given)}; got {' and '.join(names) or 'none'}")
    process, levels = sampling.process, sampling.levels
    listed = timesteps if sigmas is None else sigmas
    if listed is not None and schedule is not None:
        if not isinstance(process, Flow):
            raise ValueError(f"{names[0]} and the schedule {schedule!r} were given: leave one of them out")
        steps = len(listed)
    if steps is not None:
        return Grid(SCHEDULES.lookup(schedule or "normal")(steps, levels), process, clock=levels.sigma_at)
    times = torch.as_tensor(listed, dtype=torch.float64)
    if timesteps is None and not isinstance(process, Flow):
        return Grid(times, process, clock=levels.sigma_at)
    found = levels.sigma(times if sigmas is None else times * len(levels.sigmas)).cpu()
    return Grid(torch.cat([found, torch.zeros(1, dtype=torch.float64)]), process, clock=levels.sigma_at)
