"""`sigmafield upscale`: a picture enlarged and redrawn in tiles, which is another way to write a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sigmafield.cli.app import app
from sigmafield.cli.options import (
    Cfg,
    ClipSkip,
    Compile,
    Controlnet,
    Device,
    DistilledGuidance,
    Dtype,
    Embeddings,
    Guidance,
    Json,
    LoraOption,
    MapSchedule,
    Mask,
    MaxRows,
    Model,
    ModelSampling,
    Negative,
    Offload,
    Param,
    Parts,
    PreviewDecoder,
    PreviewEvery,
    RegionOption,
    Sampler,
    Scheduler,
    SchedulerParam,
    Seed,
    Shift,
    Steps,
)

SCALE, MIN_DENOISE, MAX_DENOISE = 2.0, 0.1, 0.4


@app.command()
def upscale(
    picture: Annotated[Path, typer.Argument(help="Picture to enlarge.")],
    prompt: Annotated[str, typer.Argument(help="What it shows; every tile is told so.")] = "",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="PNG to write; default: out.png.", rich_help_panel="Files")
    ] = None,
    show_tiles: Annotated[
        Path | None,
        typer.Option(
            help="PNG or SVG of the tiles with their strengths, written before the run.", rich_help_panel="Files"
        ),
    ] = None,
    preview_every: PreviewEvery = None,
    scale: Annotated[float | None, typer.Option(help="How many times as wide and high, above 1; default: 2.")] = None,
    size: Annotated[str | None, typer.Option(help="Width x height, in place of a scale.", metavar="WxH")] = None,
    denoise: Annotated[
        float | None,
        typer.Option(help="Change all places as much: above 0, up to 1 = all new.", rich_help_panel="Denoise"),
    ] = None,
    denoise_map: Annotated[
        str | None,
        typer.Option(
            help="How much each place changes: 'auto', most where there is much to see, or a picture, white = most; "
            "default: auto.",
            metavar="auto|PNG",
            rich_help_panel="Denoise",
        ),
    ] = None,
    min_denoise: Annotated[
        float | None,
        typer.Option(help="Strength where there is least to see, or black; 0 = kept; 0.1.", rich_help_panel="Denoise"),
    ] = None,
    max_denoise: Annotated[
        float | None,
        typer.Option(help="Strength where there is most to see, or white; 0.4.", rich_help_panel="Denoise"),
    ] = None,
    map_schedule: MapSchedule = "delayed",
    threshold: Annotated[
        float,
        typer.Option(help="Map auto: how much there must be to see in a box to split it.", rich_help_panel="Denoise"),
    ] = 0.03,
    smallest: Annotated[
        int | None,
        typer.Option(
            help="Map auto: side of a box in pixels, at least; a quarter of a tile.", rich_help_panel="Denoise"
        ),
    ] = None,
    mask: Mask = None,
    tiling: Annotated[
        str,
        typer.Option(
            help="How tiles become one: blended by a bell, by the mean, or shifted at each step.",
            metavar="mixture|multidiffusion|spot",
            rich_help_panel="Tiles",
        ),
    ] = "mixture",
    tile: Annotated[
        int | None,
        typer.Option(help="Side of a tile in pixels; default: the model's own size.", rich_help_panel="Tiles"),
    ] = None,
    overlap: Annotated[
        int | None,
        typer.Option(help="Pixels that neighbours share; a quarter of a tile, none for spot.", rich_help_panel="Tiles"),
    ] = None,
    tile_batch: Annotated[int, typer.Option(help="Tiles in one network call.", rich_help_panel="Tiles")] = 4,
    scope: Annotated[
        str,
        typer.Option(
            help="Guidance of the whole canvas, or of each tile alone.",
            metavar="canvas|tile",
            rich_help_panel="Tiles",
        ),
    ] = "canvas",
    vae_tile: Annotated[
        int | None,
        typer.Option(help="Side that the VAE works on at once; 0 = all; default: 64 places.", rich_help_panel="Tiles"),
    ] = None,
    negative: Negative = "",
    sampler: Sampler = "dpmpp_2m",
    scheduler: Scheduler = "karras",
    steps: Steps = 20,
    cfg: Cfg = None,
    guidance: Guidance = "",
    seed: Seed = 0,
    param: Param = None,
    scheduler_param: SchedulerParam = None,
    distilled_guidance: DistilledGuidance = None,
    shift: Shift = None,
    region: RegionOption = None,
    controlnet: Controlnet = None,
    model_sampling: ModelSampling = "",
    clip_skip: ClipSkip = None,
    lora: LoraOption = None,
    embeddings: Embeddings = None,
    model: Model = "tiny",
    parts: Parts = None,
    device: Device = None,
    dtype: Dtype = None,
    offload: Offload = False,
    compile: Compile = False,
    max_rows: MaxRows = None,
    preview_decoder: PreviewDecoder = None,
    as_json: Json = False,
) -> None:
    """Enlarge a picture and redraw it in tiles, much where there is much to see and little where there is not.

    For example:  [bold]sigmafield upscale heart.png "red heart" --scale 4 --show-tiles tiles.png -o large.png[/bold]

    The picture is enlarged plainly (Lanczos). Then the network, which is shown tiles of a size that it can draw,
    changes each place as much as its denoise strength says. Weak places join late, and a tile costs nothing until then.

    Every tile is told the whole prompt: strengths far above 0.5 draw what it says in each of them.

    The PNG carries its recipe: [bold]sigmafield replay[/bold] draws it again.

    Ctrl-C keeps a checkpoint: [bold]sigmafield resume[/bold] finishes it.
    """
    from sigmafield import schedules
    from sigmafield.cli.batch import Asked, report
    from sigmafield.cli.draw import (
        Machine,
        parse_control,
        parse_lora,
        parse_params,
        parse_region,
        parse_shift,
        parse_size,
        user_errors,
    )
    from sigmafield.methods import lookup
    from sigmafield.recipe import Recipe
    from sigmafield.tiling import Detail, Tiling

    with user_errors():
        width, height = parse_size(size)
        low, high, where = strengths(denoise, denoise_map, min_denoise, max_denoise)
        recipe = Recipe(
            prompt, negative, model, sampler, scheduler, steps, cfg, seed, 1, width, height, high, str(picture),
            mask=str(mask) if mask else None, denoise_map=where, min_denoise=low, map_schedule=map_schedule,
            detail=Detail(threshold, smallest=smallest), scale=factor(scale, size),
            tiling=Tiling(tiling, tile, overlap, tile_batch, scope, vae_tile),
            regions=tuple(parse_region(box) for box in region or []),
            distilled_guidance=distilled_guidance, shift=parse_shift(shift),
            clip_skip=clip_skip, loras=tuple(parse_lora(entry) for entry in lora or []),
            parts=str(parts) if parts else None, embeddings=str(embeddings) if embeddings else None,
            params=parse_params(lookup(sampler), param or []),
            scheduler_params=parse_params(schedules.lookup(scheduler), scheduler_param or []),
            controls=tuple(parse_control(entry) for entry in controlnet or []), guidance=guidance,
            model_sampling=model_sampling,
        )  # fmt: skip
        asked = [Asked(recipe, output or Path("out.png"), tiles=show_tiles)]
    machine = Machine(device, dtype, offload, compile, max_rows, preview_decoder)
    report(asked, machine, as_json=as_json, every=preview_every)


def factor(scale: float | None, size: str | None) -> float:
    """The recipe's scale; ValueError for one that enlarges nothing, and for a scale and a size."""
    if scale is not None and size is not None:
        raise ValueError(f"give --scale or --size, not both; got {scale:g} and {size}")
    if scale is not None and not scale > 1:
        raise ValueError(f"scale must be above 1; got {scale:g}: to redraw a picture at its size, give --size")
    return 1.0 if size else scale or SCALE


def strengths(
    denoise: float | None, where: str | None, low: float | None, high: float | None
) -> tuple[float, float, str | None]:
    """(least strength, largest, denoise map) of a recipe; ValueError for one strength and a map."""
    if denoise is not None:
        if (where, low, high) != (None, None, None):
            raise ValueError("give --denoise for all places, or a map with --min-denoise and --max-denoise, not both")
        return 0.0, denoise, None
    low, high = MIN_DENOISE if low is None else low, MAX_DENOISE if high is None else high
    if not (0 <= low <= high <= 1 and high > 0):
        raise ValueError(
            f"min-denoise and max-denoise must be 0 ≤ min ≤ max ≤ 1, and max above 0; got {low:g} and {high:g}"
        )
    return low, high, where or "auto"
