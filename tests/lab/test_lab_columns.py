"""Every column of every experiment has a label for people, which its figures and its report show."""

import pytest

from sigmafield.lab.columns import VARIED, label_of
from sigmafield.lab.drawing import octaves, with_arms, words_of
from sigmafield.lab.rows import frame
from sigmafield.lab.studies.registry import STUDIES

LEAST = {
    "solvers": {"samplers": "euler", "steps": "4,8"},
    "schedules": {"schedules": "karras", "steps": "4", "samplers": "euler", "local_steps": 4},
    "noise": {"samplers": "euler_ancestral", "etas": "0,1", "s_noises": "1", "steps": 4},
    "guidance": {"cfgs": "1,3", "mods": "none", "steps": 3},
    "adaptive": {"rtols": "0.3", "atols": "0.1", "orders": "2", "pids": "0/1/0", "samplers": "euler", "steps": "4"},
    "marginals": {"samplers": "euler_ancestral", "etas": "0,1", "steps": "3"},
    "transport": {"samplers": "euler_ancestral", "etas": "0,1", "cfgs": "1", "schedules": "exponential", "steps": "3"},
    "inpaint": {"ways": "hard,field", "steps": "3"},
}
"""The least design of each experiment."""


@pytest.fixture(scope="module", params=STUDIES)
def study(request, tmp_path_factory):
    """(experiment, its rows)."""
    name, folder = request.param, tmp_path_factory.mktemp(request.param)
    model = {"inpaint": "images", "guidance": "mixture"}.get(name, "gaussian")
    experiment = STUDIES[name].experiment({"model": model, "seeds": 2, "particles": 8}, LEAST[name])
    return experiment, list(experiment.run(folder))


def test_what_is_measured_is_declared(study):
    experiment, rows = study
    for row in rows:
        assert set(row.values) == set(experiment.measured)
        assert set(row.labels) <= set(VARIED)
    labels = [column.label for column in experiment.measured.values()]
    assert len(set(labels)) == len(labels)


def test_axes_are_labelled_with_words(study):
    """No axis and no column of the report's tables has a name of the table that its label replaces; all are drawn."""
    experiment, rows = study
    own = {name for name, column in {**VARIED, **experiment.measured}.items() if name != column.label}
    reading = experiment.read(frame(rows))
    for shown in reading.figures.values():
        for axes in shown.figure.axes:
            assert axes.get_xlabel() and axes.get_ylabel()
            assert not {axes.get_xlabel(), axes.get_ylabel()} & own
        shown.figure.set_layout_engine("none")  # half of the time; reports are drawn with it elsewhere
        shown.figure.draw_without_rendering()
    assert reading.tables and not any(own & {*table.columns} for table in reading.tables.values())


def test_labels():
    assert label_of("s_noise") != "s_noise" and label_of("clip_skip") == "clip skip"
    assert words_of({"sampler": "heun", "eta": 0.5, "cfg": 3.0, "pid": ""}) == "heun, η 0.5, cfg 3"


def test_arms_are_named_by_what_varies():
    import polars

    table = polars.DataFrame({"sampler": ["heun", "euler"], "eta": [0.0, 1.0], "cfg": [1.0, 1.0]})
    assert with_arms(table, ["sampler", "eta", "cfg"])["arm"].to_list() == ["heun, η 0", "euler, η 1"]
    assert with_arms(table[:1], ["sampler", "eta", "cfg"])["arm"].to_list() == ["heun"]


def test_octaves_span_the_numbers():
    assert octaves([8, 64]) == [8, 16, 32, 64]
    assert octaves([7, 65]) == [4, 8, 16, 32, 64, 128]
