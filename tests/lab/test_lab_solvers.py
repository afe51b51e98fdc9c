"""`lab solvers` finds the orders of samplers that are known."""

import pytest

from sigmafield.lab.drawing import rows_of
from sigmafield.lab.rows import frame
from sigmafield.lab.studies.solvers import SOLVERS, front_of, observed_order

ORDERS = {"euler": 1, "heun": 2, "dpmpp_2m": 2, "dpmpp_sde": 2}


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """samplers, numbers of steps → the table."""

    def run(samplers, steps):
        given = {"model": "gaussian", "seeds": 3, "particles": 8}
        experiment = SOLVERS.experiment(given, {"samplers": samplers, "steps": steps})
        return frame(experiment.run(tmp_path_factory.mktemp("orders")))

    return run


@pytest.fixture(scope="module")
def table(measured):
    return measured(list(ORDERS), "16,32")


def has_order(table, name, order):
    found = observed_order(rows_of(table, sampler=name), 1e-11)
    assert found is not None and found.value == pytest.approx(order, abs=0.2)
    assert found.low <= found.value <= found.high


@pytest.mark.parametrize("name", ORDERS)
def test_orders(table, name):
    has_order(table, name, ORDERS[name])


def test_a_third_order_takes_shorter_steps_to_show(measured):
    has_order(measured(["seeds_3"], "32,64"), "seeds_3", 3)


def test_the_front_has_no_arm_that_another_beats(table):
    front = front_of(table)
    arms = table.select("sampler", "steps", "nfe", "error").group_by("sampler", "steps").mean()
    for nfe, error in arms.select("nfe", "error").rows():
        assert any(cost <= nfe and least <= error for cost, least, _ in front)
    assert [n for n, _, _ in front] == sorted(n for n, _, _ in front)
