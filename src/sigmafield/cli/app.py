"""The commands and their options; each hands over to a function of the same name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

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

app = typer.Typer(
    help="Draw images with diffusion models, by any sampler of ComfyUI's, from the shell.\n\n"
    'Begin with:  [bold]sigmafield sample "a red heart" -o heart.png[/bold]  (works offline, with the embedded model).',
    no_args_is_help=True,
    rich_markup_mode="rich",
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> bool:
    if wanted:
        from importlib.metadata import version

        typer.echo(version("sigmafield"))
        raise typer.Exit
    return wanted


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None: ...


@app.command()
def sample(
    prompt: Annotated[Optional[str], typer.Argument(help="What to draw.")] = None,
    output: Annotated[
        Optional[Path], typer.Option("-o", "--output", help="PNG to write; default: out.png.", rich_help_panel="Files")
    ] = None,
    out_dir: Annotated[
        Optional[Path],
        typer.Option(help="Folder to write to, by prompt and seed; nothing is overwritten.", rich_help_panel="Files"),
    ] = None,
    prompts: Annotated[
        Optional[Path],
        typer.Option(
            help="Text file with a prompt a line, each for a image; blank lines and # comments are skipped.",
            rich_help_panel="Files",
        ),
    ] = None,
    preview_every: PreviewEvery = None,
    negative: Negative = "",
    sampler: Sampler = "dpmpp_2m",
    schedule: Scheduler = "karras",
    steps: Steps = 20,
    cfg: Cfg = None,
    guidance: Guidance = "",
    seed: Seed = 0,
    param: Param = None,
    schedule_param: SchedulerParam = None,
    batch: Annotated[int, typer.Option(help="Images; more than one also writes a sheet of all.")] = 1,
    size: Annotated[
        Optional[str], typer.Option(help="Width x height; default: the model's own, or the image's.", metavar="WxH")
    ] = None,
    frames: Annotated[Optional[int], typer.Option(help="Frames of a video; default: the model's own.")] = None,
    distilled_guidance: DistilledGuidance = None,
    shift: Shift = None,
    image: Annotated[
        Optional[Path], typer.Option(help="Image to start from.", rich_help_panel="Image to image")
    ] = None,
    denoise: Annotated[
        float,
        typer.Option(help="How much to change it: above 0, up to 1 = all new.", rich_help_panel="Image to image"),
    ] = 1.0,
    mask: Mask = None,
    denoise_map: Annotated[
        Optional[Path],
        typer.Option(
            help="Image: how much each place changes; white as --denoise says, black is kept; or 'auto'.",
            rich_help_panel="Image to image",
        ),
    ] = None,
    map_schedule: MapSchedule = "delayed",
    mix: Annotated[
        str,
        typer.Option(
            help="Blend the noised image in at every step: 'cosine(alpha_1=0.3, align=next)+rewind'.",
            rich_help_panel="Image to image",
        ),
    ] = "",
    region: RegionOption = None,
    controlnet: Controlnet = None,
    model_sampling: ModelSampling = "",
    clip_skip: ClipSkip = None,
    lora: LoraOption = None,
    embeddings: Embeddings = None,
    start: Annotated[Optional[int], typer.Option(help="First step to run.", rich_help_panel="Sampling")] = None,
    end: Annotated[Optional[int], typer.Option(help="Step to stop before.", rich_help_panel="Sampling")] = None,
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
    """Draw a image from a prompt, or one for each prompt of a file.

    The PNG carries its recipe: [bold]sigmafield replay[/bold] draws it again.

    Ctrl-C keeps a checkpoint: [bold]sigmafield resume[/bold] finishes it.
    """
    from sigmafield.cli.batch import asked_for, read_prompts, report
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
    from sigmafield.recipes.recipe import Recipe
    from sigmafield.samplers import SAMPLERS

    with user_errors():
        if (prompt is None) == (prompts is None):
            raise ValueError('give a prompt, such as "a red heart", or --prompts FILE with one a line')
        width, height = parse_size(size)
        many = read_prompts(prompts) if prompts else {}
        text = prompt or next(iter(many.values()), "")
        recipe = Recipe(
            text, negative, model, sampler, schedule, steps, cfg, seed, batch, width, height, denoise,
            str(image) if image else None, mask=str(mask) if mask else None,
            denoise_map=str(denoise_map) if denoise_map else None, map_schedule=map_schedule,
            regions=tuple(parse_region(box) for box in region or []), start_step=start, last_step=end,
            frames=frames, distilled_guidance=distilled_guidance, shift=parse_shift(shift),
            clip_skip=clip_skip, loras=tuple(parse_lora(entry) for entry in lora or []),
            parts=str(parts) if parts else None, embeddings=str(embeddings) if embeddings else None,
            params=parse_params(SAMPLERS.lookup(sampler), param or []),
            schedule_params=parse_params(SCHEDULES.lookup(schedule), schedule_param or []),
            controls=tuple(parse_control(entry) for entry in controlnet or []), guidance=guidance,
            model_sampling=model_sampling, mixing=mix,
        )  # fmt: skip
        asked = asked_for(recipe, many, output, out_dir)
    machine = Machine(device, dtype, offload, compile, max_rows, preview_decoder)
    report(asked, machine, as_json=as_json, every=preview_every)


@app.command()
def resume(
    checkpoint: Annotated[Path, typer.Argument(help="File that an interrupted run left.")],
    output: Annotated[
        Optional[Path], typer.Option("-o", "--output", help="Default: where the run would have written.")
    ] = None,
    device: Device = None,
    dtype: Dtype = None,
    offload: Offload = False,
    compile: Compile = False,
    max_rows: MaxRows = None,
    as_json: Json = False,
) -> None:
    """Finish an interrupted run, with the very pixels that it would have had."""
    from sigmafield.cli.batch import Asked, report
    from sigmafield.cli.draw import Machine, user_errors
    from sigmafield.recipes.recipe import Recipe
    from sigmafield.runs.checkpoint import load_state

    with user_errors():
        state, meta = load_state(checkpoint)
        if "recipe" not in meta:
            raise ValueError(f"{checkpoint} is a state without a recipe: it was not saved by `sigmafield sample`")
        recipe = Recipe.from_json(meta["recipe"])
        asked = [Asked(recipe, output or Path(meta["output"]))]
    report(asked, Machine(device, dtype, offload, compile, max_rows), as_json=as_json, state=state)


@app.command()
def replay(
    drawn: Annotated[Path, typer.Argument(help="PNG that sigmafield wrote.")],
    output: Annotated[
        Optional[Path], typer.Option("-o", "--output", help="Default: NAME-replay.png beside it.")
    ] = None,
    image: Annotated[Optional[Path], typer.Option(help="Where the input image is now, if it has moved.")] = None,
    device: Device = None,
    dtype: Dtype = None,
    offload: Offload = False,
    compile: Compile = False,
    max_rows: MaxRows = None,
    as_json: Json = False,
) -> None:
    """Draw a image again from the recipe that its PNG carries, and compare the pixels."""
    from sigmafield.cli.draw import Machine, again

    again(drawn, output, image, Machine(device, dtype, offload, compile, max_rows), as_json=as_json)


@app.command()
def samplers(
    name: Annotated[Optional[str], typer.Argument(help="One sampler, in full.")] = None, as_json: Json = False
) -> None:
    """List the samplers, or explain one."""
    from sigmafield.cli.listing import show_samplers

    show_samplers(name, as_json)


@app.command()
def schedules(
    name: Annotated[Optional[str], typer.Argument(help="One schedule, in full.")] = None,
    steps: Annotated[int, typer.Option(help="Steps to list or draw.")] = 10,
    plot: Annotated[Optional[Path], typer.Option(help="PNG to draw them in.")] = None,
    model: Model = "tiny",
    as_json: Json = False,
) -> None:
    """List the schedules with the noise levels that they visit, draw them, or explain one."""
    from sigmafield.cli.listing import show_schedules

    show_schedules(name, steps, plot, model, as_json)


@app.command()
def guidance(
    name: Annotated[Optional[str], typer.Argument(help="One mod, in full.")] = None, as_json: Json = False
) -> None:
    """List the mods of guidance with their parameters, or explain one."""
    from sigmafield.cli.listing import show_guidance

    show_guidance(name, as_json)


@app.command()
def cite(
    names: Annotated[
        Optional[list[str]], typer.Argument(help="Samplers, schedules and mods; none: sigmafield itself.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="The whole bibliography.")] = False,
) -> None:
    """Print BibTeX for the papers that samplers, schedules and guidance are from."""
    from sigmafield.cli.explain import show_citations

    show_citations(names or [], everything)


def main() -> None:
    """Entry point of the `sigmafield` command."""
    app()
