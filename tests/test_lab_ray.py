"""An experiment on a Ray cluster: the rows are those of one process, also where a worker is killed in the middle."""

import os
import signal
import warnings

import pytest

from cluster_of_two import TwoNodes
from forked import called
from sigmafield.lab.studies.solvers import SOLVERS

pytestmark = [pytest.mark.ray, pytest.mark.typed_elsewhere]

SMALL = (
    {"model": "mixture", "seeds": 3, "particles": 64, "first_seed": 1},
    {"samplers": "euler,heun,dpmpp_2m", "steps": "8,16,200"},
)


def measured(rows):
    return [(row.key, row.labels, row.recipe, row.values) for row in sorted(rows, key=lambda row: row.key)]


def on_cluster(folder):
    """(the rows of the experiment on a cluster, what was warned of); a worker is killed after the fourth row.

    For a process of its own: Ray reads how it authenticates when it is imported, which other tests have done.
    """
    nodes, rows = TwoNodes(), []
    os.environ.update(nodes.environment)
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            for row in SOLVERS.experiment(*SMALL).run(folder, nodes.address):
                rows.append(row)
                if len(rows) == 4:
                    os.kill(nodes.workers()[0], signal.SIGKILL)
    finally:
        nodes.stop()
    return measured(rows), [str(each.message) for each in said]


def test_a_killed_workers_rows_are_measured_again(tmp_path):
    rows, said = called(on_cluster, tmp_path / "ray")
    assert any("is measured again" in each for each in said)
    alone = list(SOLVERS.experiment(*SMALL).run(tmp_path / "alone"))
    assert rows == measured(alone)
    assert len((tmp_path / "ray" / "rows.jsonl").read_text().splitlines()) == len(alone) == 27
