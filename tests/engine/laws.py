"""Shared by the law tests: schedules, processes, denoisers."""

from dataclasses import dataclass, fields

import pytest
import torch

from sigmafield.core.grid import Grid
from sigmafield.core.process import VE, Flow
from sigmafield.core.protocols import Pred, State
from sigmafield.models.analytic import Mixture
from sigmafield.noise.policy import default_noise
from sigmafield.parameterization.timesteps import betas, discrete, shifted_flow
from sigmafield.runs.run import Run
from sigmafield.samplers import SAMPLERS
from sigmafield.schedules import karras

PROCESSES = [VE(), Flow(3.0)]
LINEAR = [name for name, sampler in SAMPLERS.items() if sampler.linear]
# churn adds noise only on request: with these parameters the laws of stochastic samplers hold too
CHURN = {"s_churn": 4.0}

# parameters that correct quirks of the reference; laws that the defaults break hold with them
FLOW_NOISE = {"flow_noise": True}
LARGE = {"eta": 3.0}  # σ_down would be below 0
CORRECTED = [
    ("ipndm_v", {"exact_weights": True}),
    ("deis", {"quadrature": "gauss"}),
    ("deis", {"deis_mode": "rhoab"}),
    ("er_sde", {"quadrature": "gauss"}),
    ("uni_pc", {"precise": True}),
    ("uni_pc", {"precise": True, "end": 0.0, "solve_one_step": True}),
    ("uni_pc_bh2", {"precise": True, "end": 0.0, "solve_one_step": True}),
    ("ddpm", FLOW_NOISE),
    ("dpmpp_2s_ancestral_cfg_pp", {"same_stage": True, **FLOW_NOISE}),
    ("res_multistep_ancestral", FLOW_NOISE),
    ("res_multistep_ancestral_cfg_pp", FLOW_NOISE),
    *((name, {**CHURN, **FLOW_NOISE}) for name in ("euler", "heun", "heunpp2", "dpm_2")),
    ("dpm_fast", {"precise": True}),
    ("dpm_fast", {"precise": True, "eta": 0.7, "denoise_to_zero": True, **FLOW_NOISE}),
    ("euler_ancestral", {**LARGE, "renoise_from_zero": True}),
    ("dpm_2_ancestral", {**LARGE, "renoise_from_zero": True}),
    ("euler_ancestral_cfg_pp", {"eta": 0.5, "keep_first_noise": True}),
]

# samplers that run the code of another one: their cases in laws of the engine are slow
REPEATED = {
    "ddim", "euler_cfg_pp", "dpmpp_2m_sde_heun_gpu", "dpmpp_3m_sde_gpu", "dpmpp_sde_gpu", "exp_heun_2_x0_sde",
    "res_multistep", "res_multistep_cfg_pp", "er_sde_reverse_time", "distance", "distance_n", "distance_p",
    "distance_fast", "distance_fast_n", "distance_c2", "distance_c4", "distance_cfgpp", "distance_step_cfg_pp",
}  # fmt: skip
# these parameters change coefficients, not what a sampler remembers, draws or asks for
COEFFICIENTS = ("exact_weights", "quadrature", "deis_mode", "same_stage")


def sparing(cases):
    """(name, params) as pytest's cases: slow are those whose code other cases run."""
    return [pytest.param(name, params, marks=repeats(name, params), id=f"{name}-{params}") for name, params in cases]


def repeats(name, params=()):
    """The marks of a case: slow where it runs the code of other cases."""
    same = name in REPEATED or any(key in params for key in COEFFICIENTS)
    return (pytest.mark.slow,) if same else ()


def by_process(cases):
    """(name, params, process) as pytest's cases; flows are slow where the code does not ask which process it is."""
    found = []
    for name, params in cases:
        asks = name in ASK or (name == "euler" and "flow_noise" in params)
        for process in PROCESSES:
            marks = repeats(name, params) if asks or isinstance(process, VE) else (pytest.mark.slow,)
            found.append(pytest.param(name, params, process, marks=marks, id=f"{name}-{params}-{process}"))
    return found


# one of each kind that asks: Span.ancestral, a stage of its own, a clipped first level; Euler where its churn does
ASK = {"euler_ancestral", "dpmpp_2s_ancestral", "dpmpp_2m_sde"}

LEVELS = {VE: discrete(betas()), Flow: shifted_flow(3.0)}


def on(sigmas, process):
    """A schedule with the clock of Stable Diffusion or of a shifted flow."""
    return Grid(sigmas, process, clock=LEVELS[type(process)].sigma_at)


def grid(process, n=8, low=0.03):
    """A schedule that ends at 0: Karras for VE, a shifted line for a flow."""
    if isinstance(process, VE):
        return on(karras(n, low, 14.6), process)
    u = torch.linspace(1, 0, n + 1, dtype=torch.float64)
    return on(3 * u / (1 + 2 * u), process)


@dataclass(frozen=True)
class Guided:
    """An exact denoiser with an unconditional prediction in addition to the guided one."""

    model: Mixture
    other: Mixture

    def __call__(self, x, sigma, ctx):
        D = self.model(x, sigma).x0
        return Pred(D, D, self.other(x, sigma).x0)


def guided(process):
    """The mixture, guided away from a mixture with other weights."""
    return Guided(Mixture(process=process), Mixture(weights=(0.4, 0.3, 0.3), process=process))


def run_of(name, denoise, grid, x, **params):
    """A run with the sampler's default noise, seeded with 7."""
    return Run(denoise, SAMPLERS.lookup(name), grid, default_noise(SAMPLERS.lookup(name).noise, 7, grid, x), params)


def same(a, b):
    """Whether two states are equal bit for bit, including their memories and except for previews."""
    if isinstance(a, State):
        return all(same(getattr(a, field.name), getattr(b, field.name)) for field in fields(a) if field.name != "pred")
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
