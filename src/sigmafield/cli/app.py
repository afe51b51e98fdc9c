"""The command line: its commands, each in a file of its own."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from cyclopts import App, CoercionError, CycloptsError, UnusedCliTokensError

from sigmafield.cli.errors import WORDS, fail, warnings_said
from sigmafield.cli.prose import description_in
from sigmafield.cli.signals import Interrupted
from sigmafield.cluster.joined import LOCAL
from sigmafield.core.annotations import WORDS as KINDS

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


def usage(error: CycloptsError) -> str:
    """What is wrong with a command line."""
    if isinstance(error, UnusedCliTokensError) and error.unused_tokens:
        return f"unexpected {error.unused_tokens[0]!r}: a text of several words needs quotes"
    if isinstance(error, CoercionError) and error.token and error.token.keyword and error.target_type in KINDS:
        return f"{error.token.keyword} must be {KINDS[error.target_type]}; got {error.token.value!r}"
    return str(error)


def run(arguments: Sequence[str] | None = None) -> None:
    """Run a command.

    Args:
        arguments: Words of the command line; None is the process's own.
    """
    words = sys.argv[1:] if arguments is None else arguments
    WORDS.set(words)
    try:
        with warnings_said():
            app(with_addresses(words), exit_on_error=False, print_error=False)
    except CycloptsError as error:
        fail(usage(error))
    except Interrupted as end:
        sys.exit(end.status)
    except BrokenPipeError:  # the reader of a pipe has gone
        sys.stderr.close()
