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
    from sigmafield.guidance import MODS, parse_mods
    from sigmafield.guidance.guider import Guider
    from sigmafield.guidance.hooks import Mods
    from sigmafield.hints import ControlImage
    from sigmafield.job import generate, open_job, open_pipe
    from sigmafield.methods import METHODS, Method
    from sigmafield.models import load, load_control
    from sigmafield.models.analytic import Mixture
    from sigmafield.models.pipeline import Pipeline
    from sigmafield.noise import Gaussian, Keyed
    from sigmafield.recipe import Lora, Recipe, Region
    from sigmafield.run import Run, finish, iterate, sample
    from sigmafield.schedules import SCHEDULES
    from sigmafield.single import Job
    from sigmafield.tiling import DemoFusion, Detail, Tiling
    from sigmafield.types import Area, Cond, Control, Ctx, Pred, State

_HOME = {
    "brownian": ("Brownian",),
    "checkpoint": ("load_state", "save_state"),
    "grid": ("VE", "Flow", "Grid", "Span"),
    "guidance": ("MODS", "parse_mods"),
    "guidance.guider": ("Guider",),
    "guidance.hooks": ("Mods",),
    "hints": ("ControlImage",),
    "job": ("generate", "open_job", "open_pipe"),
    "methods": ("METHODS", "Method"),
    "models": ("load", "load_control"),
    "models.analytic": ("Mixture",),
    "models.pipeline": ("Pipeline",),
    "noise": ("Gaussian", "Keyed"),
    "recipe": ("Lora", "Recipe", "Region"),
    "run": ("Run", "finish", "iterate", "sample"),
    "schedules": ("SCHEDULES",),
    "single": ("Job",),
    "tiling": ("DemoFusion", "Detail", "Tiling"),
    "types": ("Area", "Cond", "Control", "Ctx", "Pred", "State"),
}
_MODULE = {name: module for module, names in _HOME.items() for name in names}

__version__ = version("sigmafield")
__all__ = [
    "METHODS", "MODS", "SCHEDULES", "VE", "Area", "Brownian", "Cond", "Control", "ControlImage", "Ctx", "DemoFusion",
    "Detail", "Flow", "Gaussian", "Grid", "Guider", "Job", "Keyed", "Lora", "Method", "Mixture", "Mods", "Pipeline",
    "Pred", "Recipe", "Region", "Run", "Span", "State", "Tiling", "finish", "generate", "iterate", "load",
    "load_control", "load_state", "open_job", "open_pipe", "parse_mods", "sample", "save_state",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _MODULE:
        raise AttributeError(f"module 'sigmafield' has no attribute {name!r}")
    return getattr(import_module(f"sigmafield.{_MODULE[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULE])
