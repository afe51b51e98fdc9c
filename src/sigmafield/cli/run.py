"""`sigmafield run`: ComfyUI's workflows, run without ComfyUI."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Literal

from cyclopts import Parameter

from sigmafield.cli.errors import complain, user_errors
from sigmafield.cli.workflow_run import changes, finish, once
from sigmafield.cli.workflow_setup import setup
from sigmafield.comfyui.cache import LastPrompt
from sigmafield.comfyui.paused import load_paused
from sigmafield.comfyui.problems import Validated

Texts = Annotated[tuple[str, ...], Parameter(negative=())]


def run(
    file: Annotated[Path, Parameter(help="Workflow, image that carries one, or a paused workflow.")],
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
    watch: Annotated[bool, Parameter(help="Run again whenever the file changes.", negative=())] = False,
) -> None:
    """Run a workflow of ComfyUI and print the files that it saves.

    Ctrl-C in the middle of a sampler writes a paused workflow into the output folder; running that file finishes it.
    """
    with user_errors(), TemporaryDirectory() as inputs:
        made = setup(models, extra_model_paths, output, nodes, device, Path(inputs))
        if file.suffix.lower() == ".safetensors" and not dry_run:
            paused = load_paused(file, made.context.device)
            finish(once(made, paused.validated, LastPrompt(), paused))
            return
        cache = LastPrompt()
        for _ in changes(file) if watch else [None]:
            try:
                validated = made.read(file, set, input, substitute)
                status = _said(file, validated) if dry_run else once(made, validated, cache)
            except ValueError as error:
                if not watch:
                    raise
                complain(str(error))
                continue
            if not watch:
                finish(status)


def _said(file: Path, validated: Validated) -> int:
    """Print that a workflow can run."""
    print(f"{file} can run: {len(validated.prompt)} nodes, outputs {', '.join(validated.outputs)}")
    return 0
