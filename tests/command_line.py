"""The command line run in this process, with what it printed."""

import contextlib
import io
import os
from dataclasses import dataclass

from sigmafield.cli import main


@dataclass
class Ran:
    """What a command left."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def output(self):
        return self.stdout + self.stderr


def run(*arguments, columns=140):
    """`sigmafield` with these arguments."""
    out, err, before = io.StringIO(), io.StringIO(), os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(columns)
    code = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main([str(argument) for argument in arguments])
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        os.environ.pop("COLUMNS") if before is None else os.environ.update(COLUMNS=before)
    return Ran(code, out.getvalue(), err.getvalue())
