"""Runs that share network calls give what they give alone."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

import sigmafield as sf
from sigmafield.recipes.execute import execute
from sigmafield.serve.batcher import Batcher, BatchSettings

RUNS = [
    sf.Recipe("a red heart", steps=4, cfg=3.0, sampler="euler", seed=1),
    sf.Recipe("a blue star", steps=6, cfg=5.0, sampler="dpmpp_2m_sde", seed=2),
    sf.Recipe("a green circle", steps=3, cfg=4.0, sampler="heun", seed=3),
    sf.Recipe("a red square", steps=5, cfg=7.0, sampler="uni_pc", schedule="normal", seed=4),
]


@pytest.fixture(scope="module")
def pipe() -> sf.Pipeline:
    return sf.load("tiny", device="cpu")


def together(batcher: Batcher, pipe: sf.Pipeline, recipes: Sequence[sf.Recipe]) -> list[Tensor]:
    """The last latents of runs that begin at once, each in a thread."""
    pipe = replace(pipe, model=batcher.joined(pipe.model))
    jobs, out = [sf.open_job(recipe, pipe) for recipe in recipes], [torch.zeros(0)] * len(recipes)
    begin = threading.Barrier(len(jobs))

    def run(i: int) -> None:
        with batcher.running():
            begin.wait()
            out[i] = execute(jobs[i]).state.x

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return out


def test_unlike_runs_take_the_calls_of_the_longest(pipe: sf.Pipeline) -> None:
    alone = [execute(sf.open_job(recipe, pipe)).state for recipe in RUNS]
    batcher = Batcher(BatchSettings(window=10.0))
    out = together(batcher, pipe, RUNS)
    batcher.close()
    assert batcher.figures().calls == max(state.nfe for state in alone)
    assert batcher.figures().rows == 2 * sum(state.nfe for state in alone)
    for state, got in zip(alone, out):
        torch.testing.assert_close(got, state.x, atol=1e-4, rtol=0)
