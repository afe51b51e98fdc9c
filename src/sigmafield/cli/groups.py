"""The groups of flags that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from sigmafield.cli.flags import Flags, panel
from sigmafield.recipes.groups import CanvasOptions, ImageOptions, ModelOptions, SamplingOptions, SteeringOptions
from sigmafield.recipes.options import MachineOptions

FILES = panel("Files")

SAMPLING = Flags(
    SamplingOptions, "Sampling", {"start_step": "start", "last_step": "end"}, defaults={"schedule": "the model's own"}
)
CANVAS = Flags(CanvasOptions, "Images", without=("width", "height"))
IMAGE = Flags(ImageOptions, "Image to image", {"mixing": "mix"})
STEERING = Flags(
    SteeringOptions, "Regions and control", {"regions": "positive_region", "controls": "controlnet"}
)  # fmt: skip
MODEL = Flags(ModelOptions, "Model", {"loras": "lora"})
MACHINE = Flags(MachineOptions, "Machine")

Output = Annotated[
    Path | None, Parameter(name=["--output", "-o"], help="PNG to write. [default: out.png]", group=FILES)
]
Size = Annotated[
    str | None, Parameter(name="--size", help="Width x height in pixels, such as 512x768.", group=panel("Images"))
]
PreviewEvery = Annotated[
    int | None, Parameter(name="--preview-every", help="Write NAME-preview.png every this many steps.", group=FILES)
]
Negative = Annotated[str, Parameter(name="--negative", help="What not to draw.", show_default=False)]
Json = Annotated[
    bool,
    Parameter(
        name="--json", negative="", show_default=False, help="Print one JSON object for machines, and no progress."
    ),
]
