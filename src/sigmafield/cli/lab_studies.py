"""The commands of `sigmafield lab` that run an experiment, made of what the lab says about each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sigmafield.cli.flags import Flags, Given, with_flags
from sigmafield.cli.groups import Json
from sigmafield.cli.lab import QUESTIONS
from sigmafield.cli.lab_run import Cluster, Folder, Quick, conduct
from sigmafield.lab.studies.registry import STUDIES
from sigmafield.lab.studies.study import Study
from sigmafield.lab.subject import SubjectOptions


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
    run.__doc__ = QUESTIONS[study.name]
    return with_flags(subject=(shared,), options=(own,))(run)


def _words(flags: Flags, given: Given) -> list[str]:
    """What was given, as words of a command line."""
    return [word for name, value in given.items() for word in (flags.flag(name), str(value))]


solvers = command(STUDIES["solvers"])
schedules = command(STUDIES["schedules"])
noise = command(STUDIES["noise"])
guidance = command(STUDIES["guidance"])
adaptive = command(STUDIES["adaptive"])
marginals = command(STUDIES["marginals"])
transport = command(STUDIES["transport"])
inpaint = command(STUDIES["inpaint"])
