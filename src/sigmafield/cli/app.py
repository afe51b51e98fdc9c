"""The commands and their options; each hands over to a function of the same name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

app = typer.Typer(
    help="Draw pictures with diffusion models, by any sampler of ComfyUI's, from the shell.\n\n"
    'Begin with:  [bold]sigmafield sample "a red heart" -o heart.png[/bold]  (works offline, with the embedded model).',
    no_args_is_help=True,
    rich_markup_mode="rich",
    add_completion=False,
    pretty_exceptions_enable=False,
)

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
    Optional[str], typer.Option(help="cpu, cuda, mps; default: the best there is.", rich_help_panel="Model")
]
Dtype = Annotated[
    Optional[str], typer.Option(help="float32, float16 or bfloat16, of the network.", rich_help_panel="Model")
]
Offload = Annotated[
    bool, typer.Option("--offload", help="Keep parts on the CPU until they are needed.", rich_help_panel="Model")
]
Compile = Annotated[
    bool, typer.Option("--compile", help="Compile the network: slow to begin, then faster.", rich_help_panel="Model")
]


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
    prompt: Annotated[str, typer.Argument(help="What to draw.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="PNG to write.")] = Path("out.png"),
    negative: Annotated[str, typer.Option(help="What not to draw.")] = "",
    sampler: Annotated[str, typer.Option(help="See `sigmafield methods`.", rich_help_panel="Sampling")] = "dpmpp_2m",
    scheduler: Annotated[str, typer.Option(help="See `sigmafield schedules`.", rich_help_panel="Sampling")] = "karras",
    steps: Annotated[int, typer.Option(help="Steps, at least 1.", rich_help_panel="Sampling")] = 20,
    cfg: Annotated[
        Optional[float],
        typer.Option(help="Guidance; 1 = none; default: the model's own, 5 or 1.", rich_help_panel="Sampling"),
    ] = None,
    seed: Annotated[int, typer.Option(help="0 … 2^64 - 1.", rich_help_panel="Sampling")] = 0,
    param: Annotated[
        Optional[list[str]],
        typer.Option(help="A parameter of the sampler, such as eta=0.5; repeat for more.", rich_help_panel="Sampling"),
    ] = None,
    scheduler_param: Annotated[
        Optional[list[str]],
        typer.Option(help="A parameter of the schedule, such as rho=5; repeat for more.", rich_help_panel="Sampling"),
    ] = None,
    batch: Annotated[int, typer.Option(help="Pictures; more than one also writes a sheet of all.")] = 1,
    size: Annotated[
        Optional[str], typer.Option(help="Width x height; default: the model's own, or the image's.", metavar="WxH")
    ] = None,
    frames: Annotated[Optional[int], typer.Option(help="Frames of a video; default: the model's own.")] = None,
    guidance: Annotated[
        Optional[float],
        typer.Option(help="What a distilled network is told, such as Flux dev; 3.5.", rich_help_panel="Sampling"),
    ] = None,
    shift: Annotated[
        Optional[str],
        typer.Option(help="Time shift of a flow network, or 'size'.", rich_help_panel="Sampling", metavar="S|size"),
    ] = None,
    image: Annotated[
        Optional[Path], typer.Option(help="Picture to start from.", rich_help_panel="Image to image")
    ] = None,
    denoise: Annotated[
        float,
        typer.Option(help="How much to change it: above 0, up to 1 = all new.", rich_help_panel="Image to image"),
    ] = 1.0,
    mask: Annotated[
        Optional[Path],
        typer.Option(help="Picture: white is drawn anew, black kept.", rich_help_panel="Image to image"),
    ] = None,
    region: Annotated[
        Optional[list[str]],
        typer.Option(
            "--positive-region",
            metavar="X,Y,W,H:PROMPT[:STRENGTH]",
            help="A prompt for a box, in pixels; repeat for more.",
            rich_help_panel="Regions",
        ),
    ] = None,
    start: Annotated[Optional[int], typer.Option(help="First step to run.", rich_help_panel="Sampling")] = None,
    end: Annotated[Optional[int], typer.Option(help="Step to stop before.", rich_help_panel="Sampling")] = None,
    model: Model = "tiny",
    parts: Annotated[
        Optional[Path],
        typer.Option(
            help="Diffusers directory for what a checkpoint lacks: VAE, text encoders.", rich_help_panel="Model"
        ),
    ] = None,
    device: Device = None,
    dtype: Dtype = None,
    offload: Offload = False,
    compile: Compile = False,
    as_json: Json = False,
) -> None:
    """Draw a picture from a prompt.

    The PNG carries its recipe: [bold]sigmafield replay[/bold] draws it again.

    Ctrl-C keeps a checkpoint: [bold]sigmafield resume[/bold] finishes it.
    """
    from sigmafield import schedules
    from sigmafield.cli.draw import Loading, parse_params, parse_region, parse_shift, parse_size, report, user_errors
    from sigmafield.methods import lookup
    from sigmafield.recipe import Recipe

    with user_errors():
        width, height = parse_size(size)
        recipe = Recipe(
            prompt, negative, model, sampler, scheduler, steps, cfg, seed, batch, width, height, denoise,
            str(image) if image else None, mask=str(mask) if mask else None,
            regions=tuple(parse_region(text) for text in region or []), start_step=start, last_step=end,
            frames=frames, guidance=guidance, shift=parse_shift(shift), parts=str(parts) if parts else None,
            params=parse_params(lookup(sampler), param or []),
            scheduler_params=parse_params(schedules.lookup(scheduler), scheduler_param or []),
        )  # fmt: skip
    report(recipe, output, how=Loading(device, dtype, offload, compile), as_json=as_json)


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
    as_json: Json = False,
) -> None:
    """Finish an interrupted run, with the very pixels that it would have had."""
    from sigmafield.checkpoint import load_state
    from sigmafield.cli.draw import Loading, report, user_errors
    from sigmafield.recipe import Recipe

    with user_errors():
        state, meta = load_state(checkpoint)
        if "recipe" not in meta:
            raise ValueError(f"{checkpoint} is a state without a recipe: it was not saved by `sigmafield sample`")
        recipe = Recipe.from_json(meta["recipe"])
    report(
        recipe,
        output or Path(meta["output"]),
        how=Loading(device, dtype, offload, compile),
        as_json=as_json,
        state=state,
    )


@app.command()
def replay(
    picture: Annotated[Path, typer.Argument(help="PNG that sigmafield wrote.")],
    output: Annotated[
        Optional[Path], typer.Option("-o", "--output", help="Default: NAME-replay.png beside it.")
    ] = None,
    image: Annotated[Optional[Path], typer.Option(help="Where the input image is now, if it has moved.")] = None,
    device: Device = None,
    dtype: Dtype = None,
    offload: Offload = False,
    compile: Compile = False,
    as_json: Json = False,
) -> None:
    """Draw a picture again from the recipe that its PNG carries, and compare the pixels."""
    from sigmafield.cli.draw import Loading, again

    again(picture, output, image, how=Loading(device, dtype, offload, compile), as_json=as_json)


@app.command()
def methods(
    name: Annotated[Optional[str], typer.Argument(help="One method, in full.")] = None, as_json: Json = False
) -> None:
    """List the samplers, or explain one."""
    from sigmafield.cli.listing import show_methods

    show_methods(name, as_json)


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
def cite(
    names: Annotated[
        Optional[list[str]], typer.Argument(help="Methods and schedules; none: sigmafield itself.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="The whole bibliography.")] = False,
) -> None:
    """Print BibTeX for the papers that methods and schedules are from."""
    from sigmafield.cli.explain import show_citations

    show_citations(names or [], everything)


def main() -> None:
    """Entry point of the `sigmafield` command."""
    app()
