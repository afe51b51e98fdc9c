"""`sigmafield run`: ComfyUI's workflows, run without ComfyUI."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Literal

from cyclopts import Parameter

from sigmafield.cli.errors import complain, user_errors
from sigmafield.cli.remote import Server, refuse_here
from sigmafield.cli.workflow_run import changes, finish, once
from sigmafield.cli.workflow_server import run_there
from sigmafield.cli.workflow_setup import setup
from sigmafield.comfyui.cache import LastPrompt
from sigmafield.comfyui.paused import is_paused, load_paused
from sigmafield.comfyui.previews import Method, previews_by
from sigmafield.comfyui.problems import Validated

SIGNALS = 128
"""Statuses above this one are those of a program that a signal ended."""

Texts = Annotated[tuple[str, ...], Parameter(negative=())]


def run(
    file: Annotated[Path, Parameter(help="Workflow, image or video that carries one, or a paused workflow.")],
    /,
    *,
    set: Annotated[Texts, Parameter(help='Value of an input: 3.seed=5, "KSampler.steps=10".')] = (),
    input: Annotated[Texts, Parameter(help="File of an input: image=cat.png, LoadImage.image=cat.png.")] = (),
    models: Annotated[Path | None, Parameter(help="Folder of models: checkpoints, loras, vae, … below it.")] = None,
    extra_model_paths: Annotated[Path | None, Parameter(help="Further folders, in ComfyUI's YAML form.")] = None,
    output: Annotated[Path, Parameter(name=["--output", "-o"], help="Folder of what is saved.")] = Path("output"),
    nodes: Annotated[Path | None, Parameter(help="Folder of custom nodes, the code of which is run.")] = None,
    substitute: Annotated[Literal["tiny"] | None, Parameter(help="Model for missing checkpoints.")] = None,
    device: Annotated[str | None, Parameter(help="Device, such as cuda:0. [default: the fastest]")] = None,
    dry_run: Annotated[bool, Parameter(help="Only say what is missing.", negative=())] = False,
    preview_method: Annotated[
        Method | None, Parameter(help="How previews are made; auto is latent2rgb, taesd reads models/vae_approx.")
    ] = None,
    preview_every: Annotated[
        int | None, Parameter(help="Write previews/NODE.png in the output folder every this many steps.")
    ] = None,
    watch: Annotated[bool, Parameter(help="Run again whenever the file changes.", negative=())] = False,
    server: Server = None,
) -> None:
    """Run a workflow of ComfyUI and print the files that it saves.

    Ctrl-C in the middle of a sampler writes a paused workflow into the output folder; running that file finishes it.
    """
    with user_errors(), TemporaryDirectory() as inputs:
        check_paused(file, {"set": set, "input": input, "substitute": substitute, "watch": watch, "dry-run": dry_run})
        if server:
            here = {"models": models, "extra_model_paths": extra_model_paths, "nodes": nodes, "substitute": substitute}
            shown = {"preview_method": preview_method, "preview_every": preview_every}
            refuse_here({**here, **shown, "device": device, "dry_run": dry_run, "watch": watch})
            if is_paused(file):
                raise ValueError(f"{file} is paused, and a server takes no states from clients: leave --server out")
            run_there(server, file, set, input, output)
            return
        made = setup(models, extra_model_paths, output, nodes, device, Path(inputs))
        small = made.context.folders.models.get("vae_approx", ())
        previews = previews_by(preview_method, preview_every, small)
        if is_paused(file):
            paused = load_paused(file, made.context.device)
            for name, data in paused.files.items():
                (Path(inputs) / name).write_bytes(data)
            finish(once(made, paused.validated, LastPrompt(), paused, previews))
            return
        cache = LastPrompt()
        for _ in changes(file) if watch else [None]:
            try:
                validated = made.read(file, set, input, substitute)
                status = _said(file, validated) if dry_run else once(made, validated, cache, previews=previews)
            except (ValueError, OSError) as error:
                if not watch:
                    raise
                complain(str(error))
                continue
            if not watch or status > SIGNALS:
                finish(status)


def check_paused(file: Path, given: Mapping[str, object]) -> None:
    """Raise ValueError for flags that a paused workflow, whose values are settled, does not take."""
    wrong = [f"--{name}" for name, value in given.items() if value]
    if wrong and is_paused(file):
        raise ValueError(f"{file} is a paused workflow, which goes on as it began: leave {', '.join(wrong)} out")


def _said(file: Path, validated: Validated) -> int:
    """Print that a workflow can run."""
    print(f"{file} can run: {len(validated.prompt)} nodes, outputs {', '.join(validated.outputs)}")
    return 0
