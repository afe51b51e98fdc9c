"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object for machines, and no progress.")]
Model = Annotated[
    str,
    typer.Option(
        help="'tiny', a diffusers directory, a .safetensors checkpoint, or a hub id.",
        rich_help_panel="Model",
        metavar="tiny|PATH",
    ),
]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda, mps; default: the best there is.", rich_help_panel="Model")
]
Dtype = Annotated[
    str | None, typer.Option(help="float32, float16 or bfloat16, of the network.", rich_help_panel="Model")
]
MaxRows = Annotated[
    int | None,
    typer.Option(
        help="Rows (images x prompts) in one network call at most, for little memory.", rich_help_panel="Model"
    ),
]
Offload = Annotated[
    bool, typer.Option("--offload", help="Keep parts on the CPU until they are needed.", rich_help_panel="Model")
]
Compile = Annotated[
    bool, typer.Option("--compile", help="Compile the network: slow to begin, then faster.", rich_help_panel="Model")
]
Negative = Annotated[str, typer.Option(help="What not to draw.")]
Sampler = Annotated[str, typer.Option(help="See `sigmafield samplers`.", rich_help_panel="Sampling")]
Scheduler = Annotated[str, typer.Option(help="See `sigmafield schedules`.", rich_help_panel="Sampling")]
Steps = Annotated[int, typer.Option(help="Steps, at least 1.", rich_help_panel="Sampling")]
Cfg = Annotated[
    float | None,
    typer.Option(help="Guidance; 1 = none; default: the model's own, 5 or 1.", rich_help_panel="Sampling"),
]
Guidance = Annotated[
    str, typer.Option(help="Mods, such as 'apg+cfg_norm'. See `sigmafield guidance`.", rich_help_panel="Sampling")
]
Seed = Annotated[int, typer.Option(help="0 … 2^64 - 1.", rich_help_panel="Sampling")]
Param = Annotated[
    list[str] | None,
    typer.Option(help="A parameter of the sampler, such as eta=0.5; repeat for more.", rich_help_panel="Sampling"),
]
SchedulerParam = Annotated[
    list[str] | None,
    typer.Option(help="A parameter of the schedule, such as rho=5; repeat for more.", rich_help_panel="Sampling"),
]
DistilledGuidance = Annotated[
    float | None,
    typer.Option(help="What a distilled network is told, such as Flux dev; 3.5.", rich_help_panel="Sampling"),
]
Shift = Annotated[
    str | None,
    typer.Option(help="Time shift of a flow network, or 'size'.", rich_help_panel="Sampling", metavar="S|size"),
]
MapSchedule = Annotated[
    str,
    typer.Option(
        help="With a denoise map: a 'delayed' start for weak places, or an 'own' schedule of small steps.",
        rich_help_panel="Image to image",
        metavar="delayed|own",
    ),
]
RegionOption = Annotated[
    list[str] | None,
    typer.Option(
        "--positive-region",
        metavar="X,Y,W,H:PROMPT[:STRENGTH]",
        help="A prompt for a box, in pixels; repeat for more.",
        rich_help_panel="Regions",
    ),
]
Controlnet = Annotated[
    list[str] | None,
    typer.Option(
        metavar="net=DIR,image=PNG[,strength=1][,start=0][,end=1][,kind=canny]",
        help="A image that steers, and the ControlNet or T2I-Adapter that reads it; start and end are shares of "
        "the way through sampling. Repeat for more.",
        rich_help_panel="Control",
    ),
]
Mask = Annotated[
    Path | None,
    typer.Option(
        "--inpaint",
        "--mask",
        help="Image: white is drawn anew, black kept; inpainting models are told it too.",
        rich_help_panel="Image to image",
    ),
]
ModelSampling = Annotated[
    str,
    typer.Option(
        help="What the network was trained for, where its files do not say: 'discrete(prediction=v, zsnr=true)', "
        "lcm, edm, flux … See docs/models.md.",
        rich_help_panel="Model",
    ),
]
ClipSkip = Annotated[int | None, typer.Option(help="Layer of CLIP to stop at; -1 = the last.", rich_help_panel="Model")]
LoraOption = Annotated[
    list[str] | None,
    typer.Option(metavar="FILE[:STRENGTH]", help="A LoRA; repeat for more.", rich_help_panel="Model"),
]
Embeddings = Annotated[
    Path | None,
    typer.Option(help="Folder of textual inversions, for embedding:name.", rich_help_panel="Model"),
]
Parts = Annotated[
    Path | None,
    typer.Option(help="Diffusers directory for what a checkpoint lacks: VAE, text encoders.", rich_help_panel="Model"),
]
PreviewDecoder = Annotated[
    Path | None,
    typer.Option(help="A small decoder for previews: AutoencoderTiny or TAESD.", rich_help_panel="Model"),
]
PreviewEvery = Annotated[
    int | None,
    typer.Option(help="Write NAME-preview.png beside the output every so many steps.", rich_help_panel="Files"),
]
