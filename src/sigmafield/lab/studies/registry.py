"""The experiments by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sigmafield.core.parameters import fields_of
from sigmafield.core.registry import near_miss
from sigmafield.lab.experiment import Experiment
from sigmafield.lab.studies.adaptive import ADAPTIVE_STUDY
from sigmafield.lab.studies.guidance import GUIDANCE
from sigmafield.lab.studies.inpaint import INPAINT
from sigmafield.lab.studies.marginals import MARGINALS
from sigmafield.lab.studies.noise import NOISE
from sigmafield.lab.studies.schedules import SCHEDULES_STUDY
from sigmafield.lab.studies.solvers import SOLVERS
from sigmafield.lab.studies.study import Study
from sigmafield.lab.studies.transport import TRANSPORT
from sigmafield.lab.subject import SubjectOptions

STUDIES: Mapping[str, Study[Any]] = {
    study.name: study
    for study in (SOLVERS, SCHEDULES_STUDY, NOISE, GUIDANCE, ADAPTIVE_STUDY, MARGINALS, TRANSPORT, INPAINT)
}
"""The experiments by name, in the order of the command line's help."""


def experiment_from(entries: Mapping[str, Any]) -> Experiment:
    """The experiment of a folder's `experiment.json`.

    Args:
        entries: The object in the file.

    Raises:
        ValueError: The name is not that of an experiment with options, or the options are not its own.
    """
    name = str(entries.get("name"))
    if name not in STUDIES:
        raise ValueError(f"no experiment {name!r} that can be made again{near_miss(name, STUDIES)}")
    shared = fields_of(SubjectOptions)
    rest = {key: value for key, value in entries.items() if key != "name"}
    subject = {key: value for key, value in rest.items() if key in shared}
    return STUDIES[name].experiment(subject, {key: value for key, value in rest.items() if key not in shared})
