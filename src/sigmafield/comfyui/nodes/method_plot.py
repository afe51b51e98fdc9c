"""The node that shows what a sampler does: its order and its region of stability."""

from __future__ import annotations

from typing import Annotated, Literal

import torch

from sigmafield.comfyui.declare import node
from sigmafield.comfyui.plots import drawn
from sigmafield.comfyui.sampling import NamedSampler
from sigmafield.comfyui.sockets import Input
from sigmafield.comfyui.values import Image, Sampler
from sigmafield.core.annotations import Range
from sigmafield.core.process import VE, Flow
from sigmafield.lab import plot
from sigmafield.lab.convergence import convergence, without_noise
from sigmafield.lab.stability import STEP, amplification

CATEGORY, PACK = "sigmafield/lab", "custom_nodes.sigmafield"
BOX = (-5.0, 1.5, -3.25, 3.25)
"""The part of the plane that is shown: Re low, Re high, Im low, Im high."""
POINTS = 81
"""Values along a side of it."""


@node("MethodPlot", CATEGORY, title="Method Plot", module=PACK)
def method_plot(
    sampler: Sampler,
    plot_of: Literal["convergence", "stability"] = "convergence",
    h: Annotated[float, Range(0.01, 3), Input(step=0.01)] = STEP,
) -> Image:
    """Draws the error of a sampler against its number of steps, or the region where its steps are stable.

    Args:
        sampler: The sampler, with its parameters.
        plot_of: convergence, without noise, on exact denoisers of both processes; or stability, where the test
            equation is damped.
        h: Length of the steps in λ, for the region.
    """
    if not isinstance(sampler, NamedSampler):
        raise ValueError(f"sampler must be one of the table of samplers to be plotted; got {type(sampler).__name__}")
    name, params = sampler.spec.name, sampler.spec.params
    if plot_of == "convergence":
        quiet = {**params, **without_noise(name)}
        return drawn(plot.errors([convergence(name, process, **quiet) for process in (VE(), Flow())]))
    re, im = torch.linspace(*BOX[:2], POINTS), torch.linspace(*BOX[2:], POINTS)
    z = torch.complex(re.expand(POINTS, -1), im[:, None].expand(-1, POINTS))
    return drawn(plot.region(amplification(name, z, h, **params), BOX, str(sampler.spec)))
