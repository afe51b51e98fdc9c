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
MaxRows = Annotated[
    Optional[int],
    typer.Option(
        help="Rows (pictures x prompts) in one network call at most, for little memory.", rich_help_panel="Model"
    ),
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
            help="Text file with a prompt a line, each for a picture; blank lines and # comments are skipped.",
            rich_help_panel="Files",
        ),
    ] = None,
    preview_every: Annotated[
        Optional[int],
        typer.Option(help="Write NAME-preview.png beside the output every so many steps.", rich_help_panel="Files"),
    ] = None,
    negative: Annotated[str, typer.Option(help="What not to draw.")] = "",
    sampler: Annotated[str, typer.Option(help="See `sigmafield methods`.", rich_help_panel="Sampling")] = "dpmpp_2m",
    scheduler: Annotated[str, typer.Option(help="See `sigmafield schedules`.", rich_help_panel="Sampling")] = "karras",
    steps: Annotated[int, typer.Option(help="Steps, at least 1.", rich_help_panel="Sampling")] = 20,
    cfg: Annotated[
        Optional[float],
        typer.Option(help="Guidance; 1 = none; default: the model's own, 5 or 1.", rich_help_panel="Sampling"),
    ] = None,
    guidance: Annotated[
        str, typer.Option(help="Mods, such as 'apg+cfg_norm'. See `sigmafield guidance`.", rich_help_panel="Sampling")
    ] = "",
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
    distilled_guidance: Annotated[
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
        typer.Option(
            "--inpaint",
            "--mask",
            help="Picture: white is drawn anew, black kept; inpainting models are told it too.",
            rich_help_panel="Image to image",
        ),
    ] = None,
    denoise_map: Annotated[
        Optional[Path],
        typer.Option(
            help="Picture: how much each place changes; white as --denoise says, black is kept.",
            rich_help_panel="Image to image",
        ),
    ] = None,
    map_schedule: Annotated[
        str,
        typer.Option(
            help="With a denoise map: a 'delayed' start for weak places, or an 'own' schedule of small steps.",
            rich_help_panel="Image to image",
            metavar="delayed|own",
        ),
    ] = "delayed",
    mix: Annotated[
        str,
        typer.Option(
            help="Blend the noised image in at every step: 'cosine(alpha_1=0.3, align=next)+rewind'.",
            rich_help_panel="Image to image",
        ),
    ] = "",
    region: Annotated[
        Optional[list[str]],
        typer.Option(
            "--positive-region",
            metavar="X,Y,W,H:PROMPT[:STRENGTH]",
            help="A prompt for a box, in pixels; repeat for more.",
            rich_help_panel="Regions",
        ),
    ] = None,
    controlnet: Annotated[
        Optional[list[str]],
        typer.Option(
            metavar="net=DIR,image=PNG[,strength=1][,start=0][,end=1][,kind=canny]",
            help="A picture that steers, and the ControlNet or T2I-Adapter that reads it; start and end are shares of "
            "the way through sampling. Repeat for more.",
            rich_help_panel="Control",
        ),
    ] = None,
    model_sampling: Annotated[
        str,
        typer.Option(
            help="What the network was trained for, where its files do not say: 'discrete(prediction=v, zsnr=true)', "
            "lcm, edm, flux … See docs/models.md.",
            rich_help_panel="Model",
        ),
    ] = "",
    clip_skip: Annotated[
        Optional[int], typer.Option(help="Layer of CLIP to stop at; -1 = the last.", rich_help_panel="Model")
    ] = None,
    lora: Annotated[
        Optional[list[str]],
        typer.Option(metavar="FILE[:STRENGTH]", help="A LoRA; repeat for more.", rich_help_panel="Model"),
    ] = None,
    embeddings: Annotated[
        Optional[Path],
        typer.Option(help="Folder of textual inversions, for embedding:name.", rich_help_panel="Model"),
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
    max_rows: MaxRows = None,
    preview_decoder: Annotated[
        Optional[Path],
        typer.Option(help="A small decoder for previews: AutoencoderTiny or TAESD.", rich_help_panel="Model"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Draw a picture from a prompt, or one for each prompt of a file.

    The PNG carries its recipe: [bold]sigmafield replay[/bold] draws it again.

    Ctrl-C keeps a checkpoint: [bold]sigmafield resume[/bold] finishes it.
    """
    from sigmafield import schedules
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
    from sigmafield.methods import lookup
    from sigmafield.recipe import Recipe

    with user_errors():
        if (prompt is None) == (prompts is None):
            raise ValueError('give a prompt, such as "a red heart", or --prompts FILE with one a line')
        width, height = parse_size(size)
        many = read_prompts(prompts) if prompts else {}
        text = prompt or next(iter(many.values()), "")
        recipe = Recipe(
            text, negative, model, sampler, scheduler, steps, cfg, seed, batch, width, height, denoise,
            str(image) if image else None, mask=str(mask) if mask else None,
            denoise_map=str(denoise_map) if denoise_map else None, map_schedule=map_schedule,
            regions=tuple(parse_region(box) for box in region or []), start_step=start, last_step=end,
            frames=frames, distilled_guidance=distilled_guidance, shift=parse_shift(shift),
            clip_skip=clip_skip, loras=tuple(parse_lora(entry) for entry in lora or []),
            parts=str(parts) if parts else None, embeddings=str(embeddings) if embeddings else None,
            params=parse_params(lookup(sampler), param or []),
            scheduler_params=parse_params(schedules.lookup(scheduler), scheduler_param or []),
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
    from sigmafield.checkpoint import load_state
    from sigmafield.cli.batch import Asked, report
    from sigmafield.cli.draw import Machine, user_errors
    from sigmafield.recipe import Recipe

    with user_errors():
        state, meta = load_state(checkpoint)
        if "recipe" not in meta:
            raise ValueError(f"{checkpoint} is a state without a recipe: it was not saved by `sigmafield sample`")
        recipe = Recipe.from_json(meta["recipe"])
        asked = [Asked(recipe, output or Path(meta["output"]))]
    report(asked, Machine(device, dtype, offload, compile, max_rows), as_json=as_json, state=state)


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
    max_rows: MaxRows = None,
    as_json: Json = False,
) -> None:
    """Draw a picture again from the recipe that its PNG carries, and compare the pixels."""
    from sigmafield.cli.draw import Machine, again

    again(picture, output, image, Machine(device, dtype, offload, compile, max_rows), as_json=as_json)


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
def guidance(
    name: Annotated[Optional[str], typer.Argument(help="One mod, in full.")] = None, as_json: Json = False
) -> None:
    """List the mods of guidance with their parameters, or explain one."""
    from sigmafield.cli.listing import show_guidance

    show_guidance(name, as_json)


@app.command()
def cite(
    names: Annotated[
        Optional[list[str]], typer.Argument(help="Methods, schedules and mods; none: sigmafield itself.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="The whole bibliography.")] = False,
) -> None:
    """Print BibTeX for the papers that methods, schedules and guidance are from."""
    from sigmafield.cli.explain import show_citations

    show_citations(names or [], everything)


def main() -> None:
    """Entry point of the `sigmafield` command."""
    app()
