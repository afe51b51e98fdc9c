"""`lab solvers` finds the orders of samplers that are known."""

import pytest

from sigmafield.lab.drawing import rows_of
from sigmafield.lab.rows import frame
from sigmafield.lab.studies.solvers import SOLVERS, front_of, observed_order

ORDERS = {"euler": 1, "heun": 2, "dpmpp_2m": 2, "dpmpp_sde": 2, "seeds_3": 3}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    given = {"model": "gaussian", "seeds": 3, "particles": 8}
    experiment = SOLVERS.experiment(given, {"samplers": list(ORDERS), "steps": "32,64"})
    return frame(experiment.run(tmp_path_factory.mktemp("orders")))


@pytest.mark.parametrize("name", ORDERS)
def test_orders(table, name):
    found = observed_order(rows_of(table, sampler=name), 1e-11)
    assert found is not None and found.value == pytest.approx(ORDERS[name], abs=0.2)
    assert found.low <= found.value <= found.high


def test_the_front_has_no_arm_that_another_beats(table):
    front = front_of(table)
    arms = table.select("sampler", "steps", "nfe", "error").group_by("sampler", "steps").mean()
    for nfe, error in arms.select("nfe", "error").rows():
        assert any(cost <= nfe and least <= error for cost, least, _ in front)
    assert [n for n, _, _ in front] == sorted(n for n, _, _ in front)
