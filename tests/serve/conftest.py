"""The embedded model, and runs that step at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from torch import Tensor

import sigmafield as sf
from sigmafield.recipes.execute import execute
from sigmafield.serve.batcher import Batcher

AtOnce = Callable[..., list[Tensor]]
"""(batcher, model, recipes, priorities) → the last latents."""


@pytest.fixture(scope="session")
def pipe() -> sf.Pipeline:
    """The embedded model."""
    return sf.load("tiny", device="cpu")


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
