"""DemoFusion's network: a latent larger than its own, shown in windows and in dilated views. arXiv:2311.16973.

    D = (1 − c₂) D_local + c₂ D_global,   c₂ = κ^α₂,   κ = ½ (1 + cos(π (1 − τ)))

τ is the network's time at σ: early steps follow the views, which show the whole image, late ones the windows. Both are
wrappers of a `Model` and are summed as predictions, so that any sampler can step with them. The paper's skip residual
is `runs.mixing.Mixing` with `residual_weights`, blended before the step with one noise for all levels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float64
from torch import Tensor

from sigmafield.core.arrays import Latent, Sigma
from sigmafield.core.conditioning import Cond
from sigmafield.core.fitting import transformed
from sigmafield.core.geometry import Box
from sigmafield.core.linear import lincomb
from sigmafield.core.process import Flow
from sigmafield.core.protocols import Ctx, Model
from sigmafield.core.statistics import moments, standardised
from sigmafield.core.views import crop, stride
from sigmafield.noise.sources import generator_of, seed_word
from sigmafield.parameterization.prediction import Sampling
from sigmafield.spatial.tiled_model import plane

Clock = Callable[[Sigma], Tensor]
"""σ → the network's time τ, 0 = clean … 1 = pure noise."""


def clock(sampling: Sampling) -> Clock:
    """The time τ of a network: t/T for a network with T discrete levels, σ for a flow.

    With a continuous clock (EDM) it is the share between the ends of the network's levels.
    """
    if isinstance(sampling.process, Flow):
        return lambda sigma: sigma
    t = sampling.levels.timestep
    if sampling.beta is not None:
        count = len(sampling.beta)
        return lambda sigma: t(sigma) / count
    first, last = t(torch.tensor([sampling.levels.sigma_min, sampling.levels.sigma_max], dtype=torch.float64))
    return lambda sigma: ((t(sigma) - first) / (last - first)).clamp(0, 1)


def skip_of(sampling: Sampling) -> Callable[[Sigma], float]:
    """σ → c_skip of a network's prediction."""
    return lambda sigma: float(sampling.prediction(sigma).c_skip)


def kappa(time: Tensor) -> Tensor:
    """κ = ½ (1 + cos(π (1 − τ))): 1 at pure noise, 0 at the end."""
    return 0.5 * (1 + (math.pi * (1 - time)).cos())


def residual_weights(sigmas: Float64[Tensor, "levels"], time: Clock, alpha: float = 3.0) -> list[float]:
    """The weight of the run itself before each step of a schedule, 1 − c₁ with c₁ = κ^α; for `Mixing`."""
    return (1 - kappa(time(sigmas[:-1])) ** alpha).tolist()


def firsts(length: int, window: int, stride: int) -> list[int]:
    """Where the windows along an axis begin: min(k · stride, L − n) for k = 0 … ⌈(L − n)/stride⌉; 0 where n ≥ L."""
    rest = max(length - window, 0)
    return [min(k * stride, rest) for k in range(-(-rest // stride) + 1)]


def offsets(count: int, jitter: int) -> list[tuple[int, int]]:
    """(least, largest) offset of each window along an axis: the first and the last window do not move inwards."""
    if count == 1:
        return [(0, 0)]
    return [(0 if k == count - 1 else -jitter, 0 if k == 0 else jitter) for k in range(count)]


def ask(
    model: Model, shown: Sequence[Latent], conds: Sequence[Sequence[Cond]], sigma: Sigma, ctx: Ctx, batch: int
) -> Iterator[Latent]:
    """What a network predicts for views of equal size.

    A view and its prediction have the rows of the first conditioning, then those of the second, …

    Args:
        model: The network.
        shown: The views.
        conds: The conditionings of each view.
        sigma: The noise level.
        ctx: The step.
        batch: Views of one network call, at most.

    Raises:
        ValueError: σ is a field.
    """
    if sigma.ndim:
        raise ValueError(f"DemoFusion needs one sigma per step; got a field of shape {tuple(sigma.shape)}")
    k = len(conds[0])
    for first in range(0, len(shown), batch):
        some = slice(first, first + batch)
        own = [cond for each in conds[some] for cond in each]
        answers = model(torch.cat(list(shown[some])), sigma, own, replace(ctx, want=None))
        for j in range(0, len(answers), k):
            yield torch.cat(answers[j : j + k])


@dataclass(frozen=True)
class Windows:
    """The local path: D is the mean over windows that cover the latent, and that move at random at each step.

    They move by up to J = ⌊(n − stride)/4⌋ positions, beyond the latent too, where they show zeros. The samples of a
    batch have the same windows. A network of SDXL's kind is given the pixels at which each window begins.

    Args:
        model: The network.
        window: (height, width) of each window in latent positions, cut to the latent.
        stride: Positions between neighbouring windows, from 1 to the window's smaller side.
        seed: Of the moves, together with the number of the step.
        batch: Windows of one network call, at most.
        factor: Pixels along a side for each latent position.

    Raises:
        ValueError: The stride or the batch is out of range.
    """

    model: Model
    window: tuple[int, int]
    stride: int
    seed: int = 0
    batch: int = 16
    factor: int = 8

    def __post_init__(self) -> None:
        if not 1 <= self.stride <= min(self.window):
            raise ValueError(f"stride must be 1 … {min(self.window)}, the window's side; got {self.stride}")
        if self.batch < 1:
            raise ValueError(f"batch must be ≥ 1 window; got {self.batch}")

    @property
    def jitter(self) -> tuple[int, int]:
        """J down and right."""
        return (self.window[0] - self.stride) // 4, (self.window[1] - self.stride) // 4

    def boxes(self, height: int, width: int, step: int) -> list[Box]:
        """The windows of a step in a latent of that size, row by row."""
        rows, columns = (firsts(side, n, self.stride) for side, n in zip((height, width), self.window))
        down, right = (offsets(len(ks), jitter) for ks, jitter in zip((rows, columns), self.jitter))
        generator = generator_of(seed_word(self.seed, (step,), np.uint64))
        drawn = torch.rand(len(rows) * len(columns), 2, generator=generator, dtype=torch.float64).tolist()
        size = min(self.window[0], height), min(self.window[1], width)
        grid = [(i, j) for i in range(len(rows)) for j in range(len(columns))]
        return [
            Box(rows[i] + _between(down[i], v), columns[j] + _between(right[j], u), *size)
            for (i, j), (u, v) in zip(grid, drawn)
        ]

    def __call__(self, x: Latent, sigma: Sigma, conds: Sequence[Cond], ctx: Ctx) -> list[Tensor]:
        height, width = plane(x)
        top, left = self.jitter
        padded = F.pad(x, (left, left, top, top))
        boxes = self.boxes(height, width, ctx.span.i)
        at = [(..., *box.moved(top, left).index) for box in boxes]
        own = [[self.given(cond, box, x) for cond in conds] for box in boxes]
        answers = ask(self.model, [padded[index] for index in at], own, sigma, ctx, self.batch)
        total, count = torch.zeros_like(padded), torch.zeros_like(padded[:1, :1])
        for index, D in zip(at, answers):
            total[index] += D
            count[index] += 1
        inside = (..., slice(top, top + height), slice(left, left + width))
        return list((total[inside] / count[inside]).chunk(len(conds)))

    def given(self, cond: Cond, box: Box, x: Latent) -> Cond:
        """A window's conditioning: cut to it, and with the pixels at which it begins, where the network takes them."""
        cond = transformed(cond, crop(box.spanning(x.shape[2:])))
        if "time_ids" not in cond.extra:
            return cond
        ids, corner = cond.extra["time_ids"], (box.y + self.jitter[0], box.x + self.jitter[1])
        begins = ids.new_tensor(corner).expand(len(ids), 2) * self.factor
        return replace(cond, extra={**cond.extra, "time_ids": torch.cat([ids[:, :2], begins, ids[:, 4:]], dim=1)})


def _between(ends: tuple[int, int], u: float) -> int:
    """A whole number from the first to the last, from u in [0, 1)."""
    return ends[0] + math.floor(u * (ends[1] - ends[0] + 1))


@dataclass(frozen=True)
class Dilated:
    """The global path: q² views, each of every q-th position of a blurred copy x_b, so that each shows the whole image.

        D = D(views of x_b), interleaved, + c_skip (x − x_b)

    which is c_skip x + c_out F(views of x_b), F the network, as in the authors' code. x_b is `blurred`, then brought
    back to the mean and deviation of x, sample by sample (theirs are of the whole batch). The latent is padded with
    zeros at its top and left until its sides are multiples of q · multiple.

    Args:
        model: The network.
        q: Positions from one of a view to its next.
        blur: σ → the deviation of the blur, in latent positions.
        skip: σ → c_skip of the network's prediction, see `skip_of`: 1 for ε and flows; always 1 takes its noise from x.
        batch: Views of one network call, at most.
        multiple: What a view's sides have to be multiples of, such as the side of the network's patches.

    Raises:
        ValueError: A number is below 1.
    """

    model: Model
    q: int
    blur: Callable[[Sigma], float]
    skip: Callable[[Sigma], float]
    batch: int = 16
    multiple: int = 1

    def __post_init__(self) -> None:
        for name in ("q", "batch", "multiple"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be ≥ 1; got {getattr(self, name)}")

    def __call__(self, x: Latent, sigma: Sigma, conds: Sequence[Cond], ctx: Ctx) -> list[Tensor]:
        q, (height, width) = self.q, plane(x)
        top, left = (-side % (q * self.multiple) for side in (height, width))
        x = F.pad(x, (left, 0, top, 0))
        x_b = standardised(blurred(x, q, self.blur(sigma)), *moments(x))
        firsts = [(a, b) for a in range(q) for b in range(q)]
        views = [(..., slice(a, None, q), slice(b, None, q)) for a, b in firsts]
        own = [[transformed(cond, stride(q, a, b, (top, left))) for cond in conds] for a, b in firsts]
        out = lincomb(c_skip := self.skip(sigma), x, -c_skip, x_b)
        for view, D in zip(views, ask(self.model, [x_b[view] for view in views], own, sigma, ctx, self.batch)):
            out[view] += D
        return list(out[..., top:, left:].chunk(len(conds)))


def gaussian(q: int, deviation: float) -> Float64[Tensor, "taps"]:
    """2q − 1 taps g_j ∝ exp(−(j − q + 1)²/(2 s²)) that sum to 1, s > 0 the deviation in latent positions."""
    taps = (-(torch.arange(1 - q, q, dtype=torch.float64) ** 2) / (2 * deviation**2)).exp()
    return taps / taps.sum()


def blurred(x: Latent, q: int, deviation: float) -> Tensor:
    """x convolved with a `gaussian` along each of its last two axes, with zeros around it."""
    taps, flat = gaussian(q, deviation).to(x), x.reshape(-1, 1, *x.shape[-2:])
    rows = F.conv2d(flat, taps.reshape(1, 1, -1, 1), padding=(q - 1, 0))
    return F.conv2d(rows, taps.reshape(1, 1, 1, -1), padding=(0, q - 1)).reshape(x.shape)


@dataclass(frozen=True)
class Composed:
    """D = (1 − c) D_local + c D_global, c = weight(σ); a path of weight 0 is not evaluated."""

    local: Model
    whole: Model
    weight: Callable[[Sigma], float]

    def __call__(self, x: Latent, sigma: Sigma, conds: Sequence[Cond], ctx: Ctx) -> list[Tensor]:
        c = self.weight(sigma)
        if c in (0, 1):
            return (self.whole if c else self.local)(x, sigma, conds, ctx)
        near, far = self.local(x, sigma, conds, ctx), self.whole(x, sigma, conds, ctx)
        return [lincomb(1 - c, a, c, b) for a, b in zip(near, far)]


def fused(
    local: Windows,
    q: int,
    time: Clock,
    skip: Callable[[Sigma], float],
    *,
    cosine_scale_2: float = 1.0,
    cosine_scale_3: float = 1.0,
    sigma: float = 1.0,
    multiple: int = 1,
) -> Composed:
    """The network of a phase at q times its own size: windows and q² views of the same model.

        c₂ = κ^α₂,   blur of the views: s · (0.99 κ^α₃ + 0.01) latent positions

    Args:
        local: The windows.
        q: How many times larger the latent is.
        time: The network's time.
        skip: See `Dilated`: `skip_of(sampling)` is the authors' rule.
        cosine_scale_2: α₂ of the views' weight; large values leave it to the windows soon.
        cosine_scale_3: α₃ of the views' blur.
        sigma: s of the views' blur.
        multiple: See `Dilated`.
    """

    def blur(level: Sigma) -> float:
        return sigma * (0.99 * float(kappa(time(level))) ** cosine_scale_3 + 0.01)

    def weight(level: Sigma) -> float:
        return float(kappa(time(level))) ** cosine_scale_2

    return Composed(local, Dilated(local.model, q, blur, skip, local.batch, multiple), weight)
