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
from sigmafield.cluster.joined import LOCAL

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
    "workflow": "workflow", "run": "run", "serve": "serve", "jobs": "jobs", "nodes": "nodes", "inspect": "inspect",
    "models": "models", "lab": "lab",
    "samplers": "listing", "schedules": "listing", "guidance": "listing", "cite": "cite",
}  # fmt: skip
"""The commands in the order of the help, and the files that they are in, which are imported when one is used."""

for order, (name, file) in enumerate(COMMANDS.items()):
    about = description_in(Path(__file__).with_name(f"{file}.py"), name)
    app.command(f"sigmafield.cli.{file}:{name}", help=about, sort_key=order)


def with_addresses(words: Sequence[str]) -> list[str]:
    """The words with the address that --ray has where none is given: that of a cluster started here."""
    following = [*words[1:], "--"]
    return [f"--ray={LOCAL}" if (w == "--ray" and then.startswith("-")) else w for w, then in zip(words, following)]


def run(arguments: Sequence[str] | None = None) -> None:
    """Run a command.

    Args:
        arguments: Words of the command line; None is the process's own.
    """
    words = sys.argv[1:] if arguments is None else arguments
    AS_JSON.set("--json" in words)
    try:
        with warnings_said():
            app(with_addresses(words), exit_on_error=False, print_error=False)
    except CycloptsError as error:
        fail(str(error))
    except Interrupted as end:
        sys.exit(end.status)
    except BrokenPipeError:  # the reader of a pipe has gone
        sys.stderr.close()
