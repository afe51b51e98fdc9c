"""Experiments: rows are written one by one, a run goes on where it stopped, and the report says what was measured."""

import json
import shutil
from collections.abc import Mapping

import polars
import pytest

from sigmafield.lab.experiment import Arm, Experiment, Reading
from sigmafield.lab.report import write_report
from sigmafield.lab.rows import frame
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
    with pytest.raises(ValueError, match="has another experiment, or this one with other settings"):
        next(other.run(whole[0]))


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
