"""The embedded model, and an image that it drew."""

import pytest

import sigmafield as sf
from small_network import shipped_model


@pytest.fixture(scope="session")
def pipe():
    return shipped_model()


@pytest.fixture(scope="session")
def heart(pipe):
    return sf.generate(pipe, "red heart", steps=4, seed=1, cfg=3.0)[0]
