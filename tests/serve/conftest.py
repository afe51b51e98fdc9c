"""One engine, and servers of it, for all tests of HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import ALICE, BOB, Client, png, serving, settings_of

from sigmafield.serve.engine import Engine
from sigmafield.serve.http.run import make_engine
from sigmafield.serve.settings import EngineSettings


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the server, and beside it those of models and inputs, and a secret."""
    root = tmp_path_factory.mktemp("server")
    (root / "models" / "loras").mkdir(parents=True)
    (root / "models" / "evil.ckpt").write_bytes(b"a pickle")
    (root / "inputs" / "more").mkdir(parents=True)
    (root / "inputs" / "heart.png").write_bytes(png())
    (root / "inputs" / "more" / "heart.png").write_bytes(png(colour="blue"))
    (root / "secret.png").write_bytes(png(colour="green"))
    (root / "inputs" / "link.png").symlink_to(root / "secret.png")
    (root / "inputs" / "out").symlink_to(root)
    (root / "models" / "link.safetensors").symlink_to(root / "secret.png")
    return root


@pytest.fixture(scope="session")
def engine(root: Path) -> Iterator[Engine]:
    settings = EngineSettings(devices=("cpu",), preview_every=0.0, queue_length=200)
    engine = make_engine(root / "jobs", settings, settings_of(root))
    engine.start()
    yield engine
    engine.stop()


@pytest.fixture(scope="session")
def server(engine: Engine, root: Path) -> Iterator[Client]:
    """A server that needs no token."""
    with serving(engine, settings_of(root, private_webhooks=True), root / "jobs") as client:
        yield client


@pytest.fixture(scope="session")
def guarded(engine: Engine, root: Path) -> Iterator[Client]:
    """A server with two owners of tokens, that waits half a second for a request and knows another name and site."""
    settings = http(
        root, tokens={"alice": ALICE, "bob": BOB}, request_seconds=0.5, allow_host=("images.example",),
        allow_origin=("https://app.example",),
    )  # fmt: skip
    with serving(engine, settings, root / "jobs") as client:
        yield client


@pytest.fixture(scope="session")
def alice(guarded: Client) -> Client:
    return Client(guarded.url, {"Authorization": f"Bearer {ALICE}"})


@pytest.fixture(scope="session")
def bob(guarded: Client) -> Client:
    return Client(guarded.url, {"Authorization": f"Bearer {BOB}"})
