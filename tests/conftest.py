"""Options and data that every test folder shares."""

import gc
import os
from pathlib import Path

import jaxtyping
import pytest

from resident import give_back, resident

# processes instead of threads: networks this small wait for each other's threads, and equal bits need equal threads
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

DATA = Path(__file__).parent / "data"
AFTER = pytest.StashKey[float]()
MUCH = 100
"""MB that tests may leave behind before garbage is looked for, and what is free goes back to the system."""


def pytest_addoption(parser):
    parser.addoption("--golden", type=Path, default=DATA / "golden", help="directory of golden vectors to compare with")


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Libraries and tests are for good: the collector need not look through their million objects again and again."""
    gc.disable()
    result = yield
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    gc.enable()
    return result


@pytest.fixture
def few_channels():
    """The shipped model has a small network and VAE of random weights, which draw noise in less time."""
    from small_network import few_channels  # which imports torch

    with few_channels():
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Calls are checked against their annotations, not so in tests marked typed_elsewhere."""
    jaxtyping.config.update("jaxtyping_disable", bool(item.get_closest_marker("typed_elsewhere")))
    try:
        return (yield)
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item, nextitem):
    """What the models of a file of tests leave behind is not kept until the end."""
    result = yield
    if nextitem is None or nextitem.path != item.path:
        stash = item.config.stash
        if resident() > stash.get(AFTER, 0.0) + MUCH:
            gc.collect()
            give_back()
            stash[AFTER] = resident()
    return result
