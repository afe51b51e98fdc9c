"""Experiments: rows are written one by one, a run goes on where it stopped, and the report says what was measured."""

import json
import shutil
from collections.abc import Mapping

import polars
import pytest

from sigmafield.lab.experiment import Arm, Experiment, Reading, asked_in
from sigmafield.lab.report import write_report
from sigmafield.lab.rows import RowFile, frame
from sigmafield.lab.studies.solvers import SOLVERS
from sigmafield.recipes.recipe import Recipe

SMALL = ({"model": "gaussian", "seeds": 3, "particles": 16}, {"samplers": "euler,heun", "steps": "4,8"})


def measured(rows):
    """What two runs of an experiment must share: everything except the time that they took."""
    return [(row.key, row.labels, row.recipe, row.values) for row in sorted(rows, key=lambda row: row.key)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(folder, rows) of an undisturbed run."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, list(SOLVERS.experiment(*SMALL).run(folder))


def test_a_stopped_run_goes_on_and_gives_the_same_rows(whole, tmp_path):
    """Also if the last line was cut off by a crash; what was there is not measured again."""
    running = SOLVERS.experiment(*SMALL).run(tmp_path)
    first = [next(running) for _ in range(5)]
    running.close()
    path = tmp_path / "rows.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    rows = list(SOLVERS.experiment(*SMALL).run(tmp_path))
    assert measured(rows) == measured(whole[1])
    assert [row.seconds for row in rows[:4]] == [row.seconds for row in first[:4]]
    assert len(path.read_text().splitlines()) == len(rows) == 12


def test_every_prefix_of_the_rows_is_paired(whole):
    keys = [row.key for row in whole[1]]
    assert [seed for _, seed in keys] == sorted(seed for _, seed in keys)


def test_a_folder_has_one_experiment(whole):
    other = SOLVERS.experiment(SMALL[0], {**SMALL[1], "steps": "4,16"})
    with pytest.raises(ValueError, match=r"rows of another experiment \(steps \[4, 8\] there, \[4, 16\] here\)"):
        next(other.run(whole[0]))


def test_a_folder_without_rows_takes_another_experiment(tmp_path):
    """What failed before its first row does not keep the folder."""
    SOLVERS.experiment(SMALL[0], {**SMALL[1], "steps": "4,16"}).claim(tmp_path)
    experiment = SOLVERS.experiment(*SMALL)
    experiment.claim(tmp_path)
    assert asked_in(tmp_path) == json.loads(json.dumps({"name": experiment.name, **experiment.settings}))


def cut(line: bytes) -> bytes:
    return line[:50]


def of_another_seed(line: bytes) -> bytes:
    return line.replace(b'"seed": 0', b'"seed": 77', 1)


@pytest.mark.parametrize(
    "damage, message",
    [
        (cut, "rows.jsonl, line 2: not a row of an experiment"),
        (lambda line: b"\xff", "line 2: not a row"),
        (lambda line: b"5", "line 2: not a row"),
        (of_another_seed, "a row of arm 1 and seed 77, which this experiment does not have"),
    ],
)
def test_a_damaged_row_is_named_and_left_as_it_is(whole, tmp_path, damage, message):
    shutil.copytree(whole[0], tmp_path, dirs_exist_ok=True)
    path = tmp_path / "rows.jsonl"
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([lines[0], damage(lines[1]), *lines[2:]]))
    before = path.read_bytes()
    with pytest.raises(ValueError, match=message):
        list(SOLVERS.experiment(*SMALL).run(tmp_path))
    assert path.read_bytes() == before


def test_reading_rows_changes_no_file(whole, tmp_path):
    """Another process may be writing the last line."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes((whole[0] / "rows.jsonl").read_bytes()[:-20])
    before = path.read_bytes()
    assert len(RowFile(path).known) == 11
    assert path.read_bytes() == before


@pytest.mark.parametrize("text, message", [(None, "has no experiment.json"), ("{", "cannot be read"), ("[]", "object")])
def test_a_folder_that_does_not_say_what_it_is_is_refused(whole, tmp_path, text, message):
    shutil.copyfile(whole[0] / "rows.jsonl", tmp_path / "rows.jsonl")
    if text is not None:
        (tmp_path / "experiment.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        next(SOLVERS.experiment(*SMALL).run(tmp_path))


def test_one_process_measures_in_a_folder(tmp_path):
    running = SOLVERS.experiment(*SMALL).run(tmp_path)
    next(running)
    with pytest.raises(ValueError, match="another process measures in"):
        next(SOLVERS.experiment(*SMALL).run(tmp_path))
    running.close()
    next(SOLVERS.experiment(*SMALL).run(tmp_path))


def test_a_file_is_not_a_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file; an experiment needs a folder"):
        SOLVERS.experiment(*SMALL).claim(tmp_path / "file")


@pytest.mark.parametrize(
    "subject, options, message",
    [
        ({}, {"steps": "4,inf"}, "steps must be whole numbers in ascending order, each at least 2, such as 5,10,20"),
        ({}, {"steps": "4,nan"}, "steps must be whole numbers"),
        ({"model": "gausian"}, {}, "unknown model 'gausian'; did you mean gaussian"),
        ({"model": "mixture", "prompt": "0,9"}, {}, "numbers of components below 3"),
        ({"first_seed": 2**64}, {}, "first_seed"),
    ],
)
def test_options_are_refused_when_they_are_given(subject, options, message):
    with pytest.raises(ValueError, match=message):
        SOLVERS.experiment(subject, options)


def test_a_row_is_replayed_by_its_recipe(whole):
    """The recipe of a row is whole: on a bench of its own it gives the row again."""
    experiment, row = SOLVERS.experiment(*SMALL), whole[1][-1]
    arm = Arm(row.labels, Recipe.from_plain(json.loads(frame(whole[1])["recipe"][-1])))
    again = list(Experiment(**{**vars(experiment), "arms": [arm], "seeds": [row.key[1]]}).run(whole[0] / "again"))
    assert again[0].values == row.values


def test_the_report_has_the_design_and_the_table(whole, tmp_path):
    folder = tmp_path / "report"
    shutil.copytree(whole[0], folder)
    findings = write_report(SOLVERS.experiment(*SMALL), whole[1], folder, "sigmafield lab solvers")
    text, page = (folder / "report.md").read_text(), (folder / "report.html").read_text()
    for word in ("sampler: euler, heun", "steps: 4, 8", "seeds: 3", "sigmafield lab solvers", *findings):
        assert word in text
    assert 'src="data:image/png;base64,' in page and "<table>" in page
    csv, parquet = polars.read_csv(folder / "table.csv"), polars.read_parquet(folder / "table.parquet")
    assert csv.columns == parquet.columns == ["sampler", "steps", "seed", "nfe", "error", "seconds", "recipe"]
    assert csv["error"].to_list() == pytest.approx(parquet["error"].to_list())
    assert len(csv) == 12


def nothing(bench, arm) -> Mapping[str, float]:
    return {}


@pytest.mark.parametrize(
    "labels, seeds, message",
    [([{"a": 1}, {"a": 1}], [0], "arms that differ"), ([], [0], "arms that differ"), ([{"a": 1}], [0, 0], "different")],
)
def test_designs_without_a_sense_are_refused(labels, seeds, message):
    arms = [Arm(each, Recipe("")) for each in labels]
    with pytest.raises(ValueError, match=message):
        Experiment("x", "?", {}, arms, seeds, nothing, {}, lambda table: Reading([], {}, {}), [])
