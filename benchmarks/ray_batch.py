"""What a local Ray pool adds to a batch: seconds per line and for the start, in one process and with `--ray`.

The same command is run with few and with many lines; the difference is the lines' own time, the rest is the start.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import cyclopts
from rich.console import Console
from rich.table import Table


def seconds(folder: Path, lines: int, steps: int, options: list[str]) -> float:
    """Wall time of a batch of lines."""
    prompts = folder / f"{lines}.txt"
    prompts.write_text("".join(f"a red heart {k}\n" for k in range(lines)))
    words = ["sample", "--prompts", str(prompts), "--out-dir", tempfile.mkdtemp(dir=folder), "--steps", str(steps)]
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "sigmafield", *words, *options], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def main(
    few: Annotated[int, cyclopts.Parameter(help="Lines of the short batch.")] = 8,
    many: Annotated[int, cyclopts.Parameter(help="Lines of the long batch.")] = 40,
    steps: Annotated[int, cyclopts.Parameter(help="Steps of a line.")] = 20,
) -> None:
    """Measure and print."""
    os.environ["OMP_NUM_THREADS"] = "1"  # as many threads per process with and without workers
    table = Table("", "start, s", "per line, s", "lines per second", "ratio", title=f"{os.cpu_count()} CPUs")
    first: float | None = None
    with tempfile.TemporaryDirectory() as name:
        for label, options in (("one process", []), ("--ray", ["--ray"])):
            short, long = (seconds(Path(name), lines, steps, options) for lines in (few, many))
            each = (long - short) / (many - few)
            first = first or each
            table.add_row(label, f"{short - few * each:.1f}", f"{each:.3f}", f"{1 / each:.2f}", f"{first / each:.2f}")
    Console().print(table)


if __name__ == "__main__":
    cyclopts.run(main)
