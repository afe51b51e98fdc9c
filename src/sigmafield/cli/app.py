"""The command line: its commands, each in a file of its own."""

from __future__ import annotations

import sys
from importlib.metadata import version

from cyclopts import App

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


def main() -> None:
    """Entry point of the `sigmafield` command."""
    try:
        app()
    except BrokenPipeError:  # the reader of a pipe has gone
        sys.stderr.close()
