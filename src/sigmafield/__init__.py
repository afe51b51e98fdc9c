"""sigmafield: ComfyUI's diffusion sampling as a library, with noise levels that may vary over the image.

Names are imported when first used, so `import sigmafield` costs nothing and needs no optional package.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sigmafield.comfyui.run import run_workflow, run_workflow_async
    from sigmafield.comfyui.workflow.value import Workflow
    from sigmafield.core.conditioning import Area, Cond, Control, ImagePrompt
    from sigmafield.core.geometry import Box, Tile
    from sigmafield.core.grid import Grid
    from sigmafield.core.process import VE, Flow, Span
    from sigmafield.core.protocols import Ctx, Pred, State, Steps
    from sigmafield.core.registry import Spec
    from sigmafield.guidance.guider import Guider
    from sigmafield.guidance.hooks import Mods
    from sigmafield.models.analytic import Mixture
    from sigmafield.models.bundle import Pipeline
    from sigmafield.models.diffusion_model import DiffusionModel
    from sigmafield.models.inspection.inspect import inspect
    from sigmafield.models.inspection.report import Inspected
    from sigmafield.models.load import load
    from sigmafield.models.load_parts import load_control, load_ip_adapter, load_vision
    from sigmafield.models.text.encoder import TextEncoder
    from sigmafield.models.vae.vae import Vae
    from sigmafield.noise.brownian import Brownian
    from sigmafield.noise.sources import Gaussian, Keyed
    from sigmafield.recipes.build import Job
    from sigmafield.recipes.execute import Result, execute, open_job, open_pipe
    from sigmafield.recipes.generate import generate
    from sigmafield.recipes.inputs import Inputs, read_inputs
    from sigmafield.recipes.mods import MODS, parse_mods
    from sigmafield.recipes.options import (
        AdapterImage,
        ControlImage,
        DemoFusion,
        Detail,
        Lora,
        Reference,
        Region,
        Tiling,
    )
    from sigmafield.recipes.recipe import Recipe
    from sigmafield.recipes.settings import Settings
    from sigmafield.runs.checkpoint import load_state, save_state
    from sigmafield.runs.run import Run, finish, iterate, sample
    from sigmafield.samplers import SAMPLERS, Sampler
    from sigmafield.schedules import SCHEDULES

_HOME = {
    "comfyui.run": (
        "run_workflow",
        "run_workflow_async",
    ),
    "comfyui.workflow.value": ("Workflow",),
    "core.conditioning": (
        "Area",
        "Cond",
        "Control",
        "ImagePrompt",
    ),
    "core.geometry": (
        "Box",
        "Tile",
    ),
    "core.grid": ("Grid",),
    "core.process": (
        "VE",
        "Flow",
        "Span",
    ),
    "core.protocols": (
        "Ctx",
        "Pred",
        "State",
        "Steps",
    ),
    "core.registry": ("Spec",),
    "guidance.guider": ("Guider",),
    "guidance.hooks": ("Mods",),
    "models.analytic": ("Mixture",),
    "models.bundle": ("Pipeline",),
    "models.diffusion_model": ("DiffusionModel",),
    "models.inspection.inspect": ("inspect",),
    "models.inspection.report": ("Inspected",),
    "models.load": ("load",),
    "models.load_parts": (
        "load_control",
        "load_ip_adapter",
        "load_vision",
    ),
    "models.text.encoder": ("TextEncoder",),
    "models.vae.vae": ("Vae",),
    "noise.brownian": ("Brownian",),
    "noise.sources": (
        "Gaussian",
        "Keyed",
    ),
    "recipes.build": ("Job",),
    "recipes.execute": (
        "Result",
        "execute",
        "open_job",
        "open_pipe",
    ),
    "recipes.generate": ("generate",),
    "recipes.inputs": (
        "Inputs",
        "read_inputs",
    ),
    "recipes.mods": (
        "MODS",
        "parse_mods",
    ),
    "recipes.options": (
        "AdapterImage",
        "ControlImage",
        "DemoFusion",
        "Detail",
        "Lora",
        "Reference",
        "Region",
        "Tiling",
    ),
    "recipes.recipe": ("Recipe",),
    "recipes.settings": ("Settings",),
    "runs.checkpoint": (
        "load_state",
        "save_state",
    ),
    "runs.run": (
        "Run",
        "finish",
        "iterate",
        "sample",
    ),
    "samplers": (
        "SAMPLERS",
        "Sampler",
    ),
    "schedules": ("SCHEDULES",),
}
_MODULE = {name: module for module, names in _HOME.items() for name in names}

__version__: str
__all__ = [
    "MODS",
    "SAMPLERS",
    "SCHEDULES",
    "VE",
    "AdapterImage",
    "Area",
    "Box",
    "Brownian",
    "Cond",
    "Control",
    "ControlImage",
    "Ctx",
    "DemoFusion",
    "Detail",
    "DiffusionModel",
    "Flow",
    "Gaussian",
    "Grid",
    "Guider",
    "ImagePrompt",
    "Inputs",
    "Inspected",
    "Job",
    "Keyed",
    "Lora",
    "Mixture",
    "Mods",
    "Pipeline",
    "Pred",
    "Recipe",
    "Reference",
    "Region",
    "Result",
    "Run",
    "Sampler",
    "Settings",
    "Span",
    "Spec",
    "State",
    "Steps",
    "TextEncoder",
    "Tile",
    "Tiling",
    "Vae",
    "Workflow",
    "execute",
    "finish",
    "generate",
    "inspect",
    "iterate",
    "load",
    "load_control",
    "load_ip_adapter",
    "load_state",
    "load_vision",
    "open_job",
    "open_pipe",
    "parse_mods",
    "read_inputs",
    "run_workflow",
    "run_workflow_async",
    "sample",
    "save_state",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("sigmafield")
    if name not in _MODULE:
        raise AttributeError(f"module 'sigmafield' has no attribute {name!r}")
    return getattr(import_module(f"sigmafield.{_MODULE[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULE])
