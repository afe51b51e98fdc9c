"""An experiment from the command line: its rows are measured with a progress bar, then its report is written."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.live import Live

from sigmafield.cli.console import console
from sigmafield.cli.errors import complain
from sigmafield.cli.groups import FILES
from sigmafield.cli.panels import panel
from sigmafield.cli.signals import Interrupted, Signals
from sigmafield.cli.terminal import progress_bar
from sigmafield.cluster.joined import check_address, needs_ray
from sigmafield.lab.experiment import Experiment
from sigmafield.lab.report import write_report
from sigmafield.lab.rows import Row

Folder = Annotated[
    Path | None,
    Parameter(
        name=["--output", "-o"],
        help="Folder for the table, the figures and the report; what it has already is not measured again. "
        "[default: lab-NAME]",
        group=FILES,
    ),
]
Quick = Annotated[
    bool,
    Parameter(
        name="--quick", negative="", show_default=False, group=panel("Experiment"),
        help="A smaller design, which takes less than a minute on two cores.",
    ),
]  # fmt: skip
Cluster = Annotated[
    str | None,
    Parameter(
        name="--ray", group=panel("Machine"),
        help="Measure with the workers of a Ray cluster: auto is that of this machine, HOST:PORT and ray://HOST:PORT "
        "are elsewhere; without an address, one is started for this command.",
    ),
]  # fmt: skip


def conduct(
    experiment: Experiment, folder: Path, command: Sequence[str], cluster: str | None = None, *, as_json: bool = False
) -> None:
    """Measure the rows of an experiment that a folder does not have, and write its report there.

    Args:
        experiment: The experiment.
        folder: The folder.
        command: Words of the command, for the report.
        cluster: Address of the Ray cluster whose workers measure; None measures here.
        as_json: Print JSON for machines, and no progress.

    Raises:
        ValueError: The folder has another experiment, or it is not the address of a cluster.
        ImportError: Ray, or a package of the extra `lab`, is missing.
        OSError: The folder cannot be written to, or no cluster answers.
    """
    if cluster is not None:
        check_address(cluster)
        needs_ray()
    words = shlex.join(command)
    try:
        rows = measured(experiment, folder, cluster, quiet=as_json)
    except Interrupted as end:
        again = shlex.join([*command, "--output", str(folder)])
        complain(f"interrupted; the rows so far are in {folder}: go on with: {again}", "note")
        sys.exit(end.status)
    findings = write_report(experiment, rows, folder, words)
    files = {name: str(folder / name) for name in ("report.html", "report.md", "table.csv", "table.parquet")}
    if as_json:
        seconds = sum(row.seconds for row in rows)
        print(json.dumps({"rows": len(rows), "seconds": seconds, "findings": findings, **files}, ensure_ascii=False))
        return
    for finding in findings:
        print(f"- {finding}")
    print(files["report.html"])


def measured(experiment: Experiment, folder: Path, cluster: str | None, *, quiet: bool) -> list[Row]:
    """All rows of an experiment; those that the folder does not have are measured, with a progress bar.

    Raises:
        Interrupted: A signal came; the rows so far are in the folder.
    """
    out = console(stderr=True)
    bar = progress_bar(out)
    task = bar.add_task(experiment.name, total=len(experiment.arms) * len(experiment.seeds), note="")
    live = Live(bar, console=out, refresh_per_second=8, transient=True)
    rows: list[Row] = []
    signals = Signals()
    if not quiet and out.is_terminal:
        live.start()
    try:
        with signals.raised(), closing(experiment.run(folder, cluster)) as found:
            for row in found:
                rows.append(row)
                spent = sum(each.seconds for each in rows)
                label = ", ".join(f"{name} {value}" for name, value in row.labels.items())
                bar.update(task, completed=len(rows), description=f"{experiment.name}: {label}", note=f"{spent:.0f} s")
    finally:
        if not quiet and out.is_terminal:
            with suppress(OSError):
                live.stop()
    return rows
