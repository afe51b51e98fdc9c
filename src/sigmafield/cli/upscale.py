"""`sigmafield upscale`: a image redrawn large, in tiles or by DemoFusion, which is another way to write a recipe."""

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
from sigmafield.schedules import SCHEDULES

PANEL = "DemoFusion"


@app.command()
def upscale(
    image: Annotated[str, typer.Argument(help="Image to enlarge; by DemoFusion it may be left out.")],
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
            help="How much each place changes: 'auto', most where there is much to see, or a image, white = most; "
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
        float | None,
        typer.Option(
            help="Map auto: how much there must be to see in a box to split it; 0.03.", rich_help_panel="Denoise"
        ),
    ] = None,
    smallest: Annotated[
        int | None,
        typer.Option(
            help="Map auto: side of a box in pixels, at least; a quarter of a tile.", rich_help_panel="Denoise"
        ),
    ] = None,
    mask: Mask = None,
    tiling: Annotated[
        str | None,
        typer.Option(
            help="How tiles become one: blended by a bell, by the mean, or shifted at each step; default: mixture.",
            metavar="mixture|multidiffusion|spot",
            rich_help_panel="Tiles",
        ),
    ] = None,
    tile: Annotated[
        int | None,
        typer.Option(help="Side of a tile in pixels; default: the model's own size.", rich_help_panel="Tiles"),
    ] = None,
    overlap: Annotated[
        int | None,
        typer.Option(help="Pixels that neighbours share; a quarter of a tile, none for spot.", rich_help_panel="Tiles"),
    ] = None,
    tile_batch: Annotated[
        int | None, typer.Option(help="Tiles in one network call; 4.", rich_help_panel="Tiles")
    ] = None,
    scope: Annotated[
        str | None,
        typer.Option(
            help="Guidance of the whole canvas, or of each tile alone; default: canvas.",
            metavar="canvas|tile",
            rich_help_panel="Tiles",
        ),
    ] = None,
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
        float | None,
        typer.Option(
            help="Freedom from the phase before, at least 0; less = held for longer; 3.", rich_help_panel=PANEL
        ),
    ] = None,
    cosine_scale_2: Annotated[
        float | None,
        typer.Option(help="How soon windows act alone, at least 0; less = views for longer; 1.", rich_help_panel=PANEL),
    ] = None,
    cosine_scale_3: Annotated[
        float | None,
        typer.Option(help="How soon the blur of the views ends, at least 0; 1.", rich_help_panel=PANEL),
    ] = None,
    blur: Annotated[
        float | None, typer.Option(help="Blur of the views in places, above 0; 1.", rich_help_panel=PANEL)
    ] = None,
    views_batch: Annotated[
        int | None, typer.Option(help="Windows or views in one network call, at least 1; 16.", rich_help_panel=PANEL)
    ] = None,
    first_size: Annotated[
        str | None,
        typer.Option(
            help="Width x height of the first phase; default: the model's own, or the image's.",
            metavar="WxH",
            rich_help_panel=PANEL,
        ),
    ] = None,
    phases: Annotated[
        Path | None,
        typer.Option(help="Folder for the images of the phases before the last.", rich_help_panel=PANEL),
    ] = None,
    negative: Negative = "",
    sampler: Sampler = "dpmpp_2m",
    schedule: Scheduler = "karras",
    steps: Steps = 20,
    cfg: Cfg = None,
    guidance: Guidance = "",
    seed: Seed = 0,
    param: Param = None,
    schedule_param: SchedulerParam = None,
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
    """Enlarge a image and redraw it in tiles, much where there is much to see and little where there is not.

    For example:  [bold]sigmafield upscale heart.png "red heart" --scale 4 --show-tiles tiles.png -o large.png[/bold]

    The image is enlarged plainly (Lanczos). Then the network, which is shown tiles of a size that it can draw,
    changes each place as much as its denoise strength says. Weak places join late, and a tile costs nothing until then.

    Every tile is told the whole prompt: strengths far above 0.5 draw what it says in each of them.

    With [bold]--method demofusion[/bold] a image, or a prompt alone, is drawn at its own size, then at 2, 3, … times
    that, each led by the one before:  [bold]sigmafield upscale --method demofusion "red heart" --scale 4[/bold]

    The PNG carries its recipe: [bold]sigmafield replay[/bold] draws it again.

    Ctrl-C keeps a checkpoint: [bold]sigmafield resume[/bold] finishes it.
    """
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
    from sigmafield.cli.large import factor, given, read, refuse_others, strengths, whole
    from sigmafield.recipes.options import DemoFusion, Detail, Tiling
    from sigmafield.recipes.recipe import Recipe
    from sigmafield.samplers import SAMPLERS

    with user_errors():
        tiles = {
            "size": size, "denoise_map": denoise_map, "min_denoise": min_denoise, "max_denoise": max_denoise,
            "map_schedule": None if map_schedule == "delayed" else map_schedule, "threshold": threshold,
            "smallest": smallest, "mask": mask, "tiling": tiling, "tile": tile, "overlap": overlap,
            "tile_batch": tile_batch, "scope": scope, "show_tiles": show_tiles,
        }  # fmt: skip
        demofusion = {
            "stride": stride, "cosine_scale_1": cosine_scale_1, "cosine_scale_2": cosine_scale_2,
            "cosine_scale_3": cosine_scale_3, "blur": blur, "views_batch": views_batch, "first_size": first_size,
            "phases": phases,
        }  # fmt: skip
        refuse_others(method, {"tiles": tiles, "demofusion": demofusion})
        source, text = read(image, prompt, method)
        width, height = parse_size(size or first_size)
        if method == "tiles":
            low, high, where = strengths(denoise, denoise_map, min_denoise, max_denoise)
            shown = given(kind=tiling, tile=tile, overlap=overlap, batch=tile_batch, scope=scope, vae_tile=vae_tile)
            own = {
                "denoise": high, "min_denoise": low, "denoise_map": where, "map_schedule": map_schedule,
                "mask": str(mask) if mask else None, "scale": factor(scale, size), "tiling": Tiling(**shown),
                "detail": Detail(**given(threshold=threshold, smallest=smallest)),
            }  # fmt: skip
        else:
            shape = given(
                stride=stride, cosine_scale_1=cosine_scale_1, cosine_scale_2=cosine_scale_2,
                cosine_scale_3=cosine_scale_3, sigma=blur, batch=views_batch, vae_tile=vae_tile,
            )  # fmt: skip
            own = given(denoise=denoise, demofusion=DemoFusion(whole(scale), **shape))
        recipe = Recipe(
            text, negative, model, sampler, schedule, steps, cfg, seed, 1, width, height, image=source,
            regions=tuple(parse_region(box) for box in region or []),
            distilled_guidance=distilled_guidance, shift=parse_shift(shift),
            clip_skip=clip_skip, loras=tuple(parse_lora(entry) for entry in lora or []),
            parts=str(parts) if parts else None, embeddings=str(embeddings) if embeddings else None,
            params=parse_params(SAMPLERS.lookup(sampler), param or []),
            schedule_params=parse_params(SCHEDULES.lookup(schedule), schedule_param or []),
            controls=tuple(parse_control(entry) for entry in controlnet or []), guidance=guidance,
            model_sampling=model_sampling, **own,
        )  # fmt: skip
        asked = [Asked(recipe, output or Path("out.png"), tiles=show_tiles, phases=phases)]
    machine = Machine(device, dtype, offload, compile, max_rows, preview_decoder)
    report(asked, machine, as_json=as_json, every=preview_every)
