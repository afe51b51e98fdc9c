"""`sigmafield upscale`: an image redrawn large, in tiles or by DemoFusion, which is another way to write a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from sigmafield.cli import large
from sigmafield.cli.flags import Given, with_flags
from sigmafield.cli.groups import (
    FILES,
    MACHINE,
    MODEL,
    STEERING,
    CheckpointEvery,
    Json,
    Negative,
    Output,
    Overwrite,
    PreviewEvery,
    Size,
)
from sigmafield.cli.panels import panel
from sigmafield.cli.remote import Server, refuse_here
from sigmafield.cli.remote_draw import draw_there
from sigmafield.cli.runner import Watching
from sigmafield.cli.single import draw, target_of
from sigmafield.cli.understood import say_understood
from sigmafield.recipes.options import Detail, MachineOptions, Tiling
from sigmafield.recipes.recipe import Recipe


@with_flags(
    recipe=(large.SAMPLING_HERE, STEERING, MODEL), image=(large.IMAGE_HERE,), tiling=(large.TILING,),
    detail=(large.DETAIL,), demofusion=(large.DEMOFUSION,), machine=(MACHINE,),
)  # fmt: skip
def upscale(
    image_file: Annotated[str, Parameter(name="IMAGE", help="Image to enlarge; DemoFusion can do without.")],
    prompt: Annotated[str | None, Parameter(name="PROMPT", help="What it shows; every tile is given it.")] = None,
    /,
    *,
    recipe: Given,
    image: Given,
    tiling: Given,
    detail: Given,
    demofusion: Given,
    machine: Given,
    method: Annotated[
        Literal["tiles", "demofusion"],
        Parameter(help="Redraw it in tiles, or by DemoFusion at 1, 2, 3 … times its size in turn."),
    ] = "tiles",
    scale: Annotated[
        float | None, Parameter(help="Factor of width and height, above 1; whole for DemoFusion. [default: 2]")
    ] = None,
    max_denoise: Annotated[
        float | None,
        Parameter(help="Strength where the denoise map is white. [default: 0.4]", group=panel("Denoise")),
    ] = None,
    size: Size = None,
    first_size: Annotated[
        str | None,
        Parameter(
            help="Width x height of the first phase; the model's own, or the image's.", group=panel("DemoFusion")
        ),
    ] = None,
    phases: Annotated[
        Path | None,
        Parameter(help="Folder for the images of the phases before the last.", group=panel("DemoFusion")),
    ] = None,
    show_tiles: Annotated[
        Path | None,
        Parameter(help="PNG or SVG of the tiles with their strengths, written before the run.", group=FILES),
    ] = None,
    negative: Negative = "",
    output: Output = None,
    overwrite: Overwrite = False,
    preview_every: PreviewEvery = None,
    checkpoint_every: CheckpointEvery = 60.0,
    server: Server = None,
    json: Json = False,
) -> None:
    """Enlarge an image and redraw it in tiles: much where there is much detail, little where there is not.

    For example:  sigmafield upscale heart.png "red heart" --scale 4 --show-tiles tiles.png -o large.png

    The image is enlarged by interpolation (Lanczos). Then the network, which is shown tiles of a size that it can
    draw, changes each position as much as its denoise strength says. Weak positions join late, and a tile costs
    nothing until then. Every tile is given the whole prompt: strengths far above 0.5 draw it in each of them.

    With --method demofusion an image, or a prompt alone, is drawn at its own size, then at 2, 3, … times that, each
    guided by the one before:  sigmafield upscale --method demofusion "red heart" --scale 4
    """
    vae = {key: value for key, value in tiling.items() if key in large.VAE}
    tiles = {**image, **tiling, **detail, "max_denoise": max_denoise, "size": size, "show_tiles": show_tiles}
    views = {**demofusion, "first_size": first_size, "phases": phases}
    large.refuse_others(method, {"tiles": tiles, "demofusion": views}, both=("denoise", *large.VAE))
    if method == "tiles":
        own = large.tiles_recipe(image, max_denoise, scale, size, Tiling(**tiling), Detail(**detail))
        whole = Recipe(prompt or "", negative, image=image_file, **recipe, **own)
    else:
        source, text, own = large.demofusion_recipe(image_file, prompt, image, scale, first_size, {**demofusion, **vae})
        whole = Recipe(text, negative, image=source, **recipe, **own)
    say_understood(recipe, whole, quiet=json)
    how = Watching(preview_every, checkpoint_every, phases)
    target = target_of(whole, output, None, overwrite)
    if server:
        refuse_here({**machine, "show_tiles": show_tiles, "phases": phases})
        draw_there(server, target, how, recipe, as_json=json)
    else:
        draw(target, MachineOptions(**machine), how, as_json=json, tiles=show_tiles)
