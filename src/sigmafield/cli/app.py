"""The command line: its commands, each in a file of its own."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import version

from cyclopts import App, CycloptsError

from sigmafield.cli.errors import fail

app = App(
    name="sigmafield",
    help="Draw images with diffusion models, with any of ComfyUI's samplers, from the shell.\n\n"
    'Start with:  sigmafield sample "a red heart" -o heart.png  (works offline, with the embedded model).',
    version=version("sigmafield"),
    help_flags=["--help", "-h"],
    help_format="plaintext",
)

for name in ("sample", "upscale", "resume", "replay"):
    app.command(f"sigmafield.cli.{name}:{name}")
for name in ("samplers", "schedules", "guidance"):
    app.command(f"sigmafield.cli.listing:{name}")
app.command("sigmafield.cli.listing:cite")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the `sigmafield` command.

    Args:
        arguments: Words of the command line; None is the process's own.
    """
    try:
        app(arguments, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        fail(str(error))
    except KeyboardInterrupt:  # before there is a state to keep
        sys.exit(130)
    except BrokenPipeError:  # the reader of a pipe has gone
        sys.stderr.close()
