"""What the tests of tiles and σ-fields share: a network that couples neighbours, and noise that can be cropped."""

from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F

from sigmafield.core.conditioning import Cond
from sigmafield.core.grid import Grid
from sigmafield.models.analytic import Mixture
from sigmafield.noise.sources import Keyed
from sigmafield.parameterization.families import family
from sigmafield.recipes.ksampler import ksampler_sigmas
from sigmafield.samplers import SAMPLERS

SAMPLINGS = {"eps": family("SD15").sampling(), "flow": family("SD3").sampling()}
SYNCHRONOUS = [
    name
    for name, sampler in SAMPLERS.items()
    if sampler.linear and not sampler.adaptive and name not in ("dpm_fast", "ddim") and not name.endswith("_gpu")
]
"""Samplers that take fields, without those that are another under a second name."""

STEPS = {SAMPLERS[name].step: name for name in reversed(SYNCHRONOUS)}
"""Function of a step → the first sampler that it is of: others have other parameters of it."""

SUMMED = {"deis", "er_sde", "er_sde_ode", "er_sde_reverse_time"}
"""Samplers with sums over many points, whose order of addition depends on the shape."""


def cond(value):
    return Cond(torch.full((1, 2, 3), float(value)))


POSITIVE, NEGATIVE = cond(0.4), cond(-0.3)


def blurred(x):
    """Each place mixed with its neighbours in the last two axes."""
    flat = x.reshape(-1, 1, *x.shape[-2:])
    return 0.8 * x + 0.2 * F.avg_pool2d(F.pad(flat, (1, 1, 1, 1), mode="replicate"), 3, stride=1).reshape(x.shape)


@dataclass
class Toy:
    """A `Model`: the posterior mean of a mixture, of the blurred latent, moved by the conditioning. It counts."""

    process: object
    local: bool = True
    rows: int = 0
    calls: list = field(default_factory=list)

    def __call__(self, x, sigma, conds, ctx):
        self.rows += len(x)
        self.calls.append((tuple(x.shape), sigma))
        u = blurred(x) if self.local else x
        move = torch.cat([c.embeds.mean((1, 2)).expand(len(x) // len(conds)) for c in conds])
        move = move.reshape(-1, *[1] * (x.ndim - 1))
        if sigma.ndim:
            sigma = sigma.repeat(len(conds), *[1] * (sigma.ndim - 1))
        return list((Mixture(process=self.process)(u - 0.1 * move, sigma).x0 + 0.1 * move).chunk(len(conds)))


class Cropped:
    """A part of another source's noise, of a run that begins at its step `first`."""

    def __init__(self, noise, at, first=0):
        self.noise, self.at, self.first = noise, at, first

    def __call__(self, span):
        return self.noise(replace(span, i=span.i + self.first))[self.at].contiguous()

    def get_state(self):
        return self.noise.get_state()

    def set_state(self, state):
        self.noise.set_state(state)


def drawn(shape, seed=3, scale=1.0):
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def sigmas_of(kind, sampler, schedule, n, denoise=None):
    return ksampler_sigmas(SAMPLINGS[kind].levels, sampler, schedule, n, denoise)


def keyed(shape):
    return Keyed(range(5, 5 + shape[0]), shape)


def started(process, sigmas, noise, source):
    return process.start(Grid(sigmas, process).sigmas[0], noise, source)
