"""The command line: its commands, each in a file of its own."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from cyclopts import App, CycloptsError

from sigmafield.cli.errors import AS_JSON, fail, warnings_said
from sigmafield.cli.prose import description_in
from sigmafield.cli.signals import Interrupted

app = App(
    name="sigmafield",
    help="Draw images with diffusion models, with any of ComfyUI's samplers, from the shell.\n\n"
    'Start with:  sigmafield sample "a red heart" -o heart.png  (works offline, with the embedded model).',
    version=version("sigmafield"),
    help_flags=["--help", "-h"],
    help_format="plaintext",
)

COMMANDS = {
    "sample": "sample", "upscale": "upscale", "resume": "resume", "replay": "replay", "recipe": "recipe",
    "workflow": "workflow", "run": "run", "serve": "serve", "nodes": "nodes", "inspect": "inspect",
    "models": "models",
    "samplers": "listing", "schedules": "listing", "guidance": "listing", "cite": "cite",
}  # fmt: skip
"""The commands in the order of the help, and the files that they are in, which are imported when one is used."""

for order, (name, file) in enumerate(COMMANDS.items()):
    about = description_in(Path(__file__).with_name(f"{file}.py"), name)
    app.command(f"sigmafield.cli.{file}:{name}", help=about, sort_key=order)


def run(arguments: Sequence[str] | None = None) -> None:
    """Run a command.

    Args:
        arguments: Words of the command line; None is the process's own.
    """
    AS_JSON.set("--json" in (sys.argv[1:] if arguments is None else arguments))
    try:
        with warnings_said():
            app(arguments, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        fail(str(error))
    except Interrupted as end:
        sys.exit(end.status)
    except BrokenPipeError:  # the reader of a pipe has gone
        sys.stderr.close()
