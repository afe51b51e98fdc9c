"""The embedded model, runs that step at once, one engine, and servers of it for all tests of HTTP."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from serving import ALICE, BOB, Client, png, serving, settings_of
from torch import Tensor

import sigmafield as sf
from sigmafield.models import tiny
from sigmafield.recipes.execute import execute
from sigmafield.serve.batcher import Batcher
from sigmafield.serve.engine import Engine
from sigmafield.serve.http.run import make_engine
from sigmafield.serve.settings import EngineSettings
from small_network import small_model

AtOnce = Callable[..., list[Tensor]]
"""(batcher, model, recipes, priorities) → the last latents."""


READ_ONCE = cache(tiny.read_module)


@pytest.fixture(scope="module", autouse=True)
def read_once() -> Iterator[None]:
    """The embedded model's modules, which no engine changes, are read once for all engines."""
    with mock.patch.object(tiny, "read_module", READ_ONCE):
        yield


@pytest.fixture(scope="session")
def pipe() -> sf.Pipeline:
    """The embedded model, of few channels: what shares calls, and in which order, does not depend on the network."""
    return small_model()


@pytest.fixture(scope="session")
def at_once() -> AtOnce:
    """Runs recipes at once, each in a thread, by a batcher; gives their last latents, or raises what one raised."""

    def run_all(batcher: Batcher, pipe: sf.Pipeline, recipes: Sequence[sf.Recipe]) -> list[Tensor]:
        pipe = replace(pipe, model=batcher.joined(pipe.model))
        jobs, begin = [sf.open_job(recipe, pipe) for recipe in recipes], threading.Barrier(len(recipes))
        out: list[Tensor | None] = [None] * len(jobs)

        def run(i: int) -> None:
            with batcher.running():
                begin.wait(60)
                out[i] = execute(jobs[i]).state.x

        threads = [threading.Thread(target=run, args=(i,)) for i in range(len(jobs))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(300)
        latents = [latent for latent in out if latent is not None]
        assert len(latents) == len(jobs), "a run failed, or did not end"
        return latents

    return run_all


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
    settings = EngineSettings(devices=("cpu",), preview_every=0.03, queue_length=200)
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
    settings = settings_of(
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


@pytest.fixture(scope="session")
def done(server: Client) -> dict[str, Any]:
    """A job that has ended."""
    return server.until(server.submit(), "done")
