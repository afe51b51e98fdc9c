"""sigmafield: ComfyUI's diffusion sampling as a library, with noise levels that may vary over the image.

Names are imported when first used, so `import sigmafield` costs nothing and needs no optional package.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sigmafield.brownian import Brownian
    from sigmafield.checkpoint import load_state, save_state
    from sigmafield.grid import VE, Flow, Grid, Span
    from sigmafield.guidance.guider import Guider
    from sigmafield.methods import METHODS, Method
    from sigmafield.models import load
    from sigmafield.models.analytic import Mixture
    from sigmafield.models.pipeline import Pipeline
    from sigmafield.noise import Gaussian, Keyed
    from sigmafield.recipe import Job, Lora, Recipe, Region, generate, open_job, open_pipe
    from sigmafield.run import Run, finish, iterate, sample
    from sigmafield.schedules import SCHEDULES
    from sigmafield.types import Area, Cond, Ctx, Pred, State

_HOME = {
    "brownian": ("Brownian",),
    "checkpoint": ("load_state", "save_state"),
    "grid": ("VE", "Flow", "Grid", "Span"),
    "guidance.guider": ("Guider",),
    "methods": ("METHODS", "Method"),
    "models": ("load",),
    "models.analytic": ("Mixture",),
    "models.pipeline": ("Pipeline",),
    "noise": ("Gaussian", "Keyed"),
    "recipe": ("Job", "Lora", "Recipe", "Region", "generate", "open_job", "open_pipe"),
    "run": ("Run", "finish", "iterate", "sample"),
    "schedules": ("SCHEDULES",),
    "types": ("Area", "Cond", "Ctx", "Pred", "State"),
}
_MODULE = {name: module for module, names in _HOME.items() for name in names}

__version__ = version("sigmafield")
__all__ = [
    "METHODS", "SCHEDULES", "VE", "Area", "Brownian", "Cond", "Ctx", "Flow", "Gaussian", "Grid", "Guider", "Job",
    "Keyed", "Lora", "Method", "Mixture", "Pipeline", "Pred", "Recipe", "Region", "Run", "Span", "State", "finish",
    "generate", "iterate", "load", "load_state", "open_job", "open_pipe", "sample", "save_state",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _MODULE:
        raise AttributeError(f"module 'sigmafield' has no attribute {name!r}")
    return getattr(import_module(f"sigmafield.{_MODULE[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULE])
