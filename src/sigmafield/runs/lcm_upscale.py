"""Consistency sampling whose latent grows between the steps: the first steps are cheap, the last has full size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from sigmafield.core.arrays import Latent
from sigmafield.core.grid import Grid
from sigmafield.core.linear import lincomb
from sigmafield.core.process import VE, Process
from sigmafield.core.protocols import Denoiser, State
from sigmafield.core.resize import resize
from sigmafield.core.typed import numbers
from sigmafield.noise.sources import Keyed
from sigmafield.runs.run import Run, iterate
from sigmafield.samplers import SAMPLERS


def factors(n: int, scale: float = 2.0, steps: int | None = None) -> list[float]:
    """Sizes after the steps of a run, in multiples of the first: equally spaced up to `scale`, then unchanged.

    Args:
        n: Number of steps of the run.
        scale: Last size, above 0.
        steps: Number of steps in which the last size is reached, 0 for no growth; None for ⌊(n + 1)/2⌋, at least 1.
    """
    if scale <= 0:
        raise ValueError(f"scale must be above 0; got {scale}")
    if steps is not None and steps < 0:
        raise ValueError(f"steps must be ≥ 0, or None; got {steps}")
    count = max((n + 1) // 2, 1) if steps is None else min(steps, n + 1)
    return numbers(torch.linspace(1, scale, count + 1, dtype=torch.float64)[1:])


@dataclass(frozen=True)
class LcmUpscale:
    """A consistency run whose latent grows between the steps: denoise, enlarge, add noise.

        x' = k resize(D) + σ' ξ,   k = 1

    As in ComfyUI, the noise is that of a variance exploding process for every model, unless `flow_noise` is set.
    Luo et al., arXiv:2310.04378.

    Args:
        denoise: The guided model.
        grid: The schedule.
        seeds: One seed per sample.
        scale: Last size in multiples of the first, see `factors`.
        steps: Number of steps in which the latent grows, see `factors`.
        mode: Interpolation, see `resize`.
        flow_noise: Whether k = α' on a flow.

    Raises:
        ValueError: The schedule is a σ-field, which has one size.
    """

    denoise: Denoiser
    grid: Grid
    seeds: Sequence[int]
    scale: float = 2.0
    steps: int | None = None
    mode: str = "bislerp"
    flow_noise: bool = False

    def __post_init__(self) -> None:
        if self.grid.is_field:
            raise ValueError(f"lcm_upscale needs one sigma per step; got a field {tuple(self.grid.sigmas.shape)}")

    @property
    def n(self) -> int:
        """Number of steps."""
        return self.grid.n

    @cached_property
    def sizes(self) -> list[float]:
        """Sizes after the steps, in multiples of the first."""
        return factors(self.n, self.scale, self.steps)

    def start(self, x: Latent) -> State:
        """The state before the first step, from the noisy latent x [B, C, *space]."""
        return State(0, x, {"size": tuple(map(float, x.shape[-2:]))})

    def done(self, st: State) -> bool:
        """Whether the last step has been taken."""
        return st.i >= self.n

    def progress(self, st: State) -> float:
        """Share of the run that is done, 0 … 1."""
        return st.i / self.n if self.n else 1.0

    def result(self, st: State) -> Latent:
        """The clean latent of a state at the end of the run."""
        return self.grid.process.finish(self.grid.sigmas[-1], st.x)

    def label(self, st: State) -> str:
        """The size of the latent."""
        height, width = st.x.shape[-2:]
        return f"{width}x{height}"

    def step(self, st: State) -> State:
        """The state after one step. Pure."""
        span = self.grid.span(st.i)
        to_zero = Grid(
            torch.stack([span.sigma, torch.zeros_like(span.sigma)]), self.grid.process, clock=self.grid.clock
        )
        end = Run(self.denoise, SAMPLERS.lookup("euler"), to_zero).step(State(0, st.x, aux=st.aux))
        x = end.x
        if st.i < len(self.sizes):
            height, width = (round(n * self.sizes[st.i]) for n in st.mem["size"])
            x = resize(x, height, width, self.mode)
        if span.sigma_next > 0:
            keep = span.alpha_next if self.flow_noise else 1.0
            x = lincomb(keep, x, span.sigma_next, Keyed(self.seeds, x.shape, x.dtype, x.device)(span))
        return State(st.i + 1, x, st.mem, end.aux, nfe=st.nfe + end.nfe, pred=end.pred)


def lcm_upscale(
    denoise: Denoiser,
    start: Latent | State,
    sigmas: Tensor,
    seeds: Sequence[int],
    *,
    scale: float = 2.0,
    steps: int | None = None,
    mode: str = "bislerp",
    process: Process = VE(),
    flow_noise: bool = False,
) -> Iterator[State]:
    """The states of a `LcmUpscale` run.

    Args:
        denoise: The guided model.
        start: Noisy latent [B, C, *space], or a state to continue from.
        sigmas: Noise levels [steps + 1].
        seeds: One seed per sample.
        scale: As for `LcmUpscale`, and so are the further arguments.
        steps: Number of steps in which the latent grows.
        mode: Interpolation.
        process: Process that the model was trained on.
        flow_noise: Whether k = α' on a flow.
    """
    return iterate(LcmUpscale(denoise, Grid(sigmas, process), seeds, scale, steps, mode, flow_noise), start)
