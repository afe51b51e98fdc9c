"""Names of samplers and schedules as people write them: in any case, and as other programs call them."""

from __future__ import annotations

import re
from typing import NamedTuple

from sigmafield.core.registry import Spec, near_miss, shown
from sigmafield.samplers import SAMPLERS
from sigmafield.schedules import SCHEDULES

SAMPLER_ALIASES = {
    "euler a": "euler_ancestral", "euler ancestral": "euler_ancestral", "euler": "euler", "lms": "lms", "heun": "heun",
    "dpm2": "dpm_2", "dpm2 a": "dpm_2_ancestral", "dpm2 ancestral": "dpm_2_ancestral", "dpm fast": "dpm_fast",
    "dpm adaptive": "dpm_adaptive", "dpm++ 2s a": "dpmpp_2s_ancestral", "dpm++ 2s ancestral": "dpmpp_2s_ancestral",
    "dpm++ 2m": "dpmpp_2m", "dpm++ sde": "dpmpp_sde", "dpm++ 2m sde": "dpmpp_2m_sde",
    "dpm++ 2m sde heun": "dpmpp_2m_sde_heun", "dpm++ 3m sde": "dpmpp_3m_sde", "unipc": "uni_pc", "uni pc": "uni_pc",
    "ddim": "ddim", "ddpm": "ddpm", "lcm": "lcm", "deis": "deis", "er sde": "er_sde", "seeds 2": "seeds_2",
    "eulerdiscretescheduler": "euler", "eulerancestraldiscretescheduler": "euler_ancestral",
    "heundiscretescheduler": "heun", "kdpm2discretescheduler": "dpm_2",
    "kdpm2ancestraldiscretescheduler": "dpm_2_ancestral", "lmsdiscretescheduler": "lms",
    "dpmsolvermultistepscheduler": "dpmpp_2m", "dpmsolversdescheduler": "dpmpp_sde", "ddimscheduler": "ddim",
    "ddpmscheduler": "ddpm", "unipcmultistepscheduler": "uni_pc_bh2", "deismultistepscheduler": "deis",
    "ipndmscheduler": "ipndm", "lcmscheduler": "lcm", "sasolverscheduler": "sa_solver",
    "flowmatcheulerdiscretescheduler": "euler", "flowmatchheundiscretescheduler": "heun",
    "edmeulerscheduler": "euler", "edmdpmsolvermultistepscheduler": "dpmpp_2m",
}  # fmt: skip
"""Names in A1111, InvokeAI and diffusers, in lower case with single spaces, of samplers."""

SCHEDULE_ALIASES = {
    "sgm uniform": "sgm_uniform", "ddim": "ddim_uniform", "ddim uniform": "ddim_uniform", "kl optimal": "kl_optimal",
    "linear quadratic": "linear_quadratic", "align your steps": "align_your_steps", "ays": "align_your_steps",
    "turbo": "sd_turbo", "uniform": "normal", "automatic": "normal",
}  # fmt: skip
"""The same of schedules."""


class Understood(NamedTuple):
    """A sampler's name as it was read: the sampler, and the schedule if the name had one."""

    sampler: Spec
    schedule: Spec | None = None

    def __str__(self) -> str:
        return f"sampler {self.sampler}" + (f", schedule {self.schedule}" if self.schedule else "")


def _plain(name: str) -> str:
    """Lower case, with single spaces in place of other separators."""
    return re.sub(r"[\s_-]+", " ", name.strip().lower())


def _sampler(name: str) -> str | None:
    plain = _plain(name)
    own = plain.replace(" ", "_")
    return own if own in SAMPLERS else SAMPLER_ALIASES.get(plain)


def _schedule(name: str) -> str | None:
    plain = _plain(name)
    own = plain.replace(" ", "_")
    return own if own in SCHEDULES else SCHEDULE_ALIASES.get(plain)


def read_sampler(text: str) -> Understood:
    """A sampler from its name in this or another program, with parameters or with a schedule's name after it.

    "dpmpp_2m_sde(eta=0.5)", "DPM++ 2M Karras", "Euler a", "EulerAncestralDiscreteScheduler", "k_euler"

    Raises:
        ValueError: No sampler has this name; the message has the near miss.
    """
    if "(" in text:
        spec = Spec.parse(text, "sampler", "dpmpp_2m_sde(eta=0.5)")
        return Understood(Spec(_sampler(spec.name) or spec.name, spec.params))
    words = _plain(text).removeprefix("k ").split(" ")
    for cut in range(len(words), 0, -1):
        name, rest = _sampler(" ".join(words[:cut])), " ".join(words[cut:])
        rest = "karras" if rest == "k" else rest
        if name and (not rest or _schedule(rest)):
            return Understood(Spec(name), Spec(str(_schedule(rest))) if rest else None)
    raise ValueError(f"unknown sampler {shown(text)}{near_miss(text.lower(), SAMPLERS)}")


def read_schedule(text: str) -> Spec:
    """A schedule from its name in this or another program, with parameters: "karras(rho=5)", "SGM Uniform".

    Raises:
        ValueError: No schedule has this name; the message has the near miss.
    """
    spec = Spec.parse(text, "schedule", "karras(rho=5)") if "(" in text else Spec(text)
    name = _schedule(spec.name)
    if name is None:
        raise ValueError(f"unknown schedule {shown(spec.name)}{near_miss(spec.name.lower(), SCHEDULES)}")
    return Spec(name, spec.params)
