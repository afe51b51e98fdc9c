"""`sigmafield upscale`: a picture redrawn large, in tiles or by DemoFusion, which is another way to write a recipe."""

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

PANEL = "DemoFusion"


@app.command()
def upscale(
    ctx: typer.Context,
    picture: Annotated[str, typer.Argument(help="Picture to enlarge; by DemoFusion it may be left out.")],
    prompt: Annotated[str | None, typer.Argument(help="What it shows; every tile is told so.")] = None,
    method: Annotated[
        str,
        typer.Option(
            help="Redraw it in tiles, or by DemoFusion at 1, 2, 3 … times its size in turn.", metavar="tiles|demofusion"
        ),
    ] = "tiles",
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
    scale: Annotated[
        float | None,
        typer.Option(help="How many times as wide and high, above 1; by DemoFusion a whole number; default: 2."),
    ] = None,
    size: Annotated[
        str | None, typer.Option(help="Width x height, in place of a scale.", metavar="WxH", rich_help_panel="Tiles")
    ] = None,
    denoise: Annotated[
        float | None,
        typer.Option(
            help="Change all places as much: above 0, up to 1 = all new, as by DemoFusion.",
            rich_help_panel="Denoise",
        ),
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
        typer.Option(
            help="Side that the VAE works on at once, with both methods; 0 = all; 64 places.",
            rich_help_panel="Tiles",
        ),
    ] = None,
    stride: Annotated[
        int | None,
        typer.Option(
            help="Places of the latent between two windows, 1 … the model's own size; default: half of that.",
            rich_help_panel=PANEL,
        ),
    ] = None,
    cosine_scale_1: Annotated[
        float,
        typer.Option(help="Freedom from the phase before, at least 0; less = held for longer.", rich_help_panel=PANEL),
    ] = 3.0,
    cosine_scale_2: Annotated[
        float,
        typer.Option(help="How soon windows act alone, at least 0; less = views for longer.", rich_help_panel=PANEL),
    ] = 1.0,
    cosine_scale_3: Annotated[
        float, typer.Option(help="How soon the blur of the views ends, at least 0.", rich_help_panel=PANEL)
    ] = 1.0,
    blur: Annotated[float, typer.Option(help="Blur of the views in places, above 0.", rich_help_panel=PANEL)] = 1.0,
    views_batch: Annotated[
        int, typer.Option(help="Windows or views in one network call, at least 1.", rich_help_panel=PANEL)
    ] = 16,
    first_size: Annotated[
        str | None,
        typer.Option(
            help="Width x height of the first phase; default: the model's own, or the picture's.",
            metavar="WxH",
            rich_help_panel=PANEL,
        ),
    ] = None,
    phases: Annotated[
        Path | None,
        typer.Option(help="Folder for the pictures of the phases before the last.", rich_help_panel=PANEL),
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

    With [bold]--method demofusion[/bold] a picture, or a prompt alone, is drawn at its own size, then at 2, 3, … times
    that, each led by the one before:  [bold]sigmafield upscale --method demofusion "red heart" --scale 4[/bold]

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
    from sigmafield.cli.large import OWN, factor, given, refuse_others, strengths, whole
    from sigmafield.maths import named
    from sigmafield.methods import lookup
    from sigmafield.recipe import Recipe
    from sigmafield.tiling import DemoFusion, Detail, Tiling

    with user_errors():
        named(OWN, method, "method")
        refuse_others(ctx, method)
        source, text = given(picture, prompt, method)
        if method == "tiles":
            width, height = parse_size(size)
            low, high, where = strengths(denoise, denoise_map, min_denoise, max_denoise)
            own = {
                "denoise": high, "min_denoise": low, "denoise_map": where, "map_schedule": map_schedule,
                "mask": str(mask) if mask else None, "detail": Detail(threshold, smallest=smallest),
                "scale": factor(scale, size), "tiling": Tiling(tiling, tile, overlap, tile_batch, scope, vae_tile),
            }  # fmt: skip
        else:
            width, height = parse_size(first_size)
            shape = (cosine_scale_1, cosine_scale_2, cosine_scale_3, blur)
            how = DemoFusion(whole(scale), stride, *shape, views_batch, vae_tile)
            own = {"denoise": 1.0 if denoise is None else denoise, "demofusion": how}
        recipe = Recipe(
            text, negative, model, sampler, scheduler, steps, cfg, seed, 1, width, height, image=source,
            regions=tuple(parse_region(box) for box in region or []),
            distilled_guidance=distilled_guidance, shift=parse_shift(shift),
            clip_skip=clip_skip, loras=tuple(parse_lora(entry) for entry in lora or []),
            parts=str(parts) if parts else None, embeddings=str(embeddings) if embeddings else None,
            params=parse_params(lookup(sampler), param or []),
            scheduler_params=parse_params(schedules.lookup(scheduler), scheduler_param or []),
            controls=tuple(parse_control(entry) for entry in controlnet or []), guidance=guidance,
            model_sampling=model_sampling, **own,
        )  # fmt: skip
        asked = [Asked(recipe, output or Path("out.png"), tiles=show_tiles, phases=phases)]
    machine = Machine(device, dtype, offload, compile, max_rows, preview_decoder)
    report(asked, machine, as_json=as_json, every=preview_every)
