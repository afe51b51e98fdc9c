"""`cluster.each`: results as they come, errors of one item, and items that take workers with them."""

import os
import signal
import sys

import pytest

from cluster_of_two import TwoNodes
from sigmafield.cluster.pool import each

pytestmark = [pytest.mark.ray, pytest.mark.typed_elsewhere]


def count(item, saved):
    """Counts to 3 from what was saved; some items do not end well."""
    for k in range(int(saved or b"0") + 1, 4):
        yield (item, k), str(k).encode()
        if item == "fails":
            raise ValueError("it cannot be done")
        if item == "deadly" or (item == "dies once" and saved is None):
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(scope="module")
def reports():
    nodes = TwoNodes()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in nodes.environment.items():
            patch.setenv(name, value)
        from ray import cloudpickle  # reads the environment

        cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import what pytest has imported
        yield list(each(count, ["a", "fails", "dies once", "deadly", "b"], nodes.address))
    nodes.stop()


def of(item, reports):
    return [report for report in reports if report.item == item]


def test_every_item_ends_once(reports):
    ended = [report.item for report in reports if report.ended]
    assert sorted(ended) == ["a", "b", "deadly", "dies once", "fails"]


def test_values_come_in_order_and_the_last_is_the_result(reports):
    for item in ("a", "b"):
        assert [report.value for report in of(item, reports)] == [(item, 1), (item, 2), (item, 3), (item, 3)]
        assert not any(report.died or report.error for report in of(item, reports))


def test_an_error_ends_its_item_alone(reports):
    last = of("fails", reports)[-1]
    assert isinstance(last.error, ValueError) and str(last.error) == "it cannot be done" and last.value == ("fails", 1)


def test_another_worker_begins_with_what_was_saved(reports):
    news = of("dies once", reports)
    assert [report.died for report in news].count(True) == 1
    assert [report.value[1] for report in news if not report.died] == [1, 2, 3, 3]


def test_an_item_may_not_take_all_workers_with_it(reports):
    last = of("deadly", reports)[-1]
    assert isinstance(last.error, OSError) and str(last.error).startswith("3 workers died while they worked on it")
