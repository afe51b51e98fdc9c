"""The groups of flags that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from sigmafield.cli.flags import Flags
from sigmafield.cli.moved import MovedOptions
from sigmafield.cli.panels import panel
from sigmafield.recipes.groups import CanvasOptions, ImageOptions, ModelOptions, SamplingOptions, SteeringOptions
from sigmafield.recipes.options import MachineOptions

FILES = panel("Files")

SAMPLING = Flags(
    SamplingOptions, "Sampling", {"start_step": "start", "last_step": "end"}, defaults={"schedule": "the model's own"}
)
CANVAS = Flags(CanvasOptions, "Images", without=("width", "height"))
IMAGE = Flags(ImageOptions, "Image to image", {"mixing": "mix"})
STEERING = Flags(
    SteeringOptions, "Regions, control and references",
    {"regions": "positive_region", "controls": "controlnet", "ip_adapters": "ip_adapter", "references": "reference"},
)  # fmt: skip
MODEL = Flags(ModelOptions, "Model", {"loras": "lora"})
MACHINE = Flags(MachineOptions, "Machine")

MOVED = Flags(MovedOptions, "Moved files")

Output = Annotated[
    Path | None,
    Parameter(
        name=["--output", "-o"],
        help="PNG, JPEG, WebP or AVIF to write; NAME_2 where it exists. [default: out.png]",
        group=FILES,
    ),
]
Overwrite = Annotated[
    bool, Parameter(name="--overwrite", negative="", show_default=False, help="Replace what -o names.", group=FILES)
]
CheckpointEvery = Annotated[
    float,
    Parameter(
        name="--checkpoint-every",
        help="Seconds after which a run saves its state, again and again, until it is finished; 0 is after each step, "
        "inf is never.",
        group=FILES,
    ),
]
RayCluster = Annotated[
    str | None,
    Parameter(
        name="--ray",
        help="Draw the lines of --prompts with the workers of a Ray cluster: auto is that of this machine, HOST:PORT "
        "and ray://HOST:PORT are elsewhere; without an address, one is started for this command.",
        group=panel("Machine"),
    ),
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
