"""Experiments run on both embedded networks, and their reports have what they declare."""

import pytest

from sigmafield.lab.rows import frame
from sigmafield.lab.studies.registry import STUDIES

pytestmark = pytest.mark.slow  # a reference solution is 192 calls of the network

LEAST = {
    "noise": {
        "samplers": "euler_ancestral",
        "etas": "0,1",
        "s_noises": "1",
        "steps": 2,
        "prompts": "pizza;dog face",
        "reference": 4,
    },
    "inpaint": {"ways": "hard,soft,differential,field", "steps": "4"},
    "guidance": {"cfgs": "1,3", "mods": "none", "steps": 2},
    "solvers": {"samplers": "euler", "steps": "4,32"},
    "schedules": {"schedules": "karras", "steps": "4", "samplers": "euler", "local_steps": 0},
    "adaptive": {"rtols": "0.3", "atols": "0.1", "orders": "2", "pids": "0/1/0", "samplers": "euler", "steps": "4,40"},
}
"""The least design of each experiment that takes a network."""


@pytest.mark.parametrize("model", ["tiny", "tiny-flow"])
@pytest.mark.parametrize("name", LEAST)
def test_networks(name, model, tmp_path):
    experiment = STUDIES[name].experiment({"model": model, "seeds": 2}, LEAST[name])
    rows = list(experiment.run(tmp_path))
    for row in rows:
        assert set(row.values) == set(experiment.measured)
    reading = experiment.read(frame(rows))
    for shown in reading.figures.values():
        assert all(axes.get_xlabel() and axes.get_ylabel() for axes in shown.figure.axes)
    if name in ("solvers", "adaptive"):
        table = frame(rows).filter(sampler="euler").select("steps", "error")
        errors = table.group_by("steps").mean().sort("steps")["error"]
        assert errors[1] < errors[0]


@pytest.mark.parametrize("model", ["tiny", "tiny-flow"])
def test_quick_designs_are_small(model):
    """Calls of the network in all rows of a quick design: about 40 ms each, so that all end within a minute."""
    for name in LEAST:
        experiment = STUDIES[name].experiment({"model": model}, {}, quick=True)
        twice = name == "guidance"  # which evaluates the negative prompt at cfg = 1, too
        cells = [arm.recipe for _, arm in experiment.cells()]
        calls = sum(recipe.steps * (1 if (recipe.cfg or 1) == 1 and not twice else 2) for recipe in cells)
        references = 192 * len(experiment.seeds) if name in ("solvers", "schedules", "adaptive") else 0
        assert calls + references < 1400, name
