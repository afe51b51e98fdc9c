"""The commands of `sigmafield lab` that run an experiment, made of what the lab says about each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from sigmafield.cli.flags import Flags, Given, with_flags
from sigmafield.cli.groups import FILES, Json
from sigmafield.cli.lab import STUDIES
from sigmafield.cli.lab_run import conduct
from sigmafield.cli.panels import panel
from sigmafield.lab.studies.solvers import SOLVERS
from sigmafield.lab.studies.study import Study
from sigmafield.lab.subject import SubjectOptions

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


def command(study: Study[Any]) -> Callable[..., None]:
    """The command of an experiment."""
    shared = Flags(SubjectOptions, "Model", defaults=study.subject)
    own = Flags(study.options, "Experiment")  # type: ignore[arg-type]

    def run(
        *,
        subject: Given,
        options: Given,
        output: Folder = None,
        quick: Quick = False,
        ray: Cluster = None,
        json: Json = False,
    ) -> None:
        folder = output or Path(f"lab-{study.name}")
        words = [*(["--quick"] * quick), *_words(shared, subject), *_words(own, options)]
        experiment = study.experiment(subject, options, quick)
        conduct(experiment, folder, ["sigmafield", "lab", study.name, *words], ray, as_json=json)

    run.__name__ = study.name
    run.__doc__ = STUDIES[study.name]
    return with_flags(subject=(shared,), options=(own,))(run)


def _words(flags: Flags, given: Given) -> list[str]:
    """What was given, as words of a command line."""
    return [word for name, value in given.items() for word in (flags.flag(name), str(value))]


solvers = command(SOLVERS)
