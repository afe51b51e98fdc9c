"""Consistency sampling that enlarges the latent on the way: the first steps are cheap, the last at full size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from sigmafield.core.arrays import Latent
from sigmafield.core.linear import lincomb
from sigmafield.core.process import VE, Grid, Process
from sigmafield.core.protocols import Denoiser, State
from sigmafield.core.resize import resize
from sigmafield.noise.sources import Keyed
from sigmafield.runs.run import Run
from sigmafield.samplers import SAMPLERS


def factors(n: int, scale: float = 2.0, steps: int | None = None) -> list[float]:
    """Sizes after each step of an n-step run, in terms of the first: equally spaced up to `scale`.

    They are reached in `steps` steps, or in ⌊(n + 1)/2⌋ (at least 1) where None; none where steps is 0.
    """
    if scale <= 0:
        raise ValueError(f"scale must be above 0; got {scale}")
    if steps is not None and steps < 0:
        raise ValueError(f"steps must be ≥ 0, or None; got {steps}")
    count = max((n + 1) // 2, 1) if steps is None else min(steps, n + 1)
    return torch.linspace(1, scale, count + 1, dtype=torch.float64)[1:].tolist()


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
    """The states of a consistency run whose latent grows between the steps: denoise, enlarge, noise anew.

        x' = k resize(D) + σ' ξ,   k = 1

    start: noisy latent [B, C, *space], or a state to go on from; sigmas: [levels], one a step; seeds: one a sample;
    scale, steps: see `factors`; mode: of `resize`. The noise is that of a variance exploding process whatever the
    model, as in ComfyUI; flow_noise: on a flow, k = α'. Luo et al., arXiv:2310.04378.
    Raises ValueError for a σ-field: a field has one size.
    """
    grid, jump = Grid(sigmas, process), SAMPLERS.lookup("euler")
    if grid.is_field:
        raise ValueError(f"lcm_upscale needs one sigma per step; got a field {tuple(grid.sigmas.shape)}")
    sizes = factors(grid.n, scale, steps)
    st = start if isinstance(start, State) else State(0, start, {"size": tuple(map(float, start.shape[-2:]))})
    while st.i < grid.n:
        span = grid.span(st.i)
        to_zero = Grid(torch.stack([span.sigma, torch.zeros_like(span.sigma)]), process)
        end = Run(denoise, jump, to_zero).step(State(0, st.x, aux=st.aux))
        x = end.x
        if st.i < len(sizes):
            height, width = (round(n * sizes[st.i]) for n in st.mem["size"])
            x = resize(x, height, width, mode)
        if span.sigma_next > 0:
            keep = span.alpha_next if flow_noise else 1.0
            x = lincomb(keep, x, span.sigma_next, Keyed(seeds, x.shape, x.dtype, x.device)(span))
        st = State(st.i + 1, x, st.mem, end.aux, nfe=st.nfe + end.nfe, pred=end.pred)
        yield st
