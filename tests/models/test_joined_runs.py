"""Runs of every family that share network calls by a batcher, with controls and LoRAs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.testing import assert_close

import sigmafield as sf
from sigmafield.core.conditioning import Control
from sigmafield.models.load_parts import load_control
from sigmafield.recipes.build import Job
from sigmafield.recipes.steering import Steering
from sigmafield.runs.run import finish
from sigmafield.serve.batcher import Batcher, BatchSettings

pytestmark = pytest.mark.typed_elsewhere

Loaded = Callable[[str], sf.Pipeline]

SIZE: dict[str, Any] = {"width": 32, "height": 32}
RECIPES = [
    sf.Recipe("a red heart", steps=2, seed=1, **SIZE), sf.Recipe("a blue star", steps=2, sampler="heun", seed=2, **SIZE)
]  # fmt: skip


def jobs_of(batcher: Batcher, pipe: sf.Pipeline, controls: Sequence[Control] = ()) -> list[Job]:
    """The recipes' jobs on a model whose calls a batcher makes."""
    pipe = replace(pipe, model=batcher.joined(pipe.model))
    return [sf.open_job(recipe, pipe, steering=Steering(controls)) for recipe in RECIPES]


def at_once(batcher: Batcher, jobs: Sequence[Job]) -> list[Tensor]:
    """The last latents of jobs that are stepped at once."""
    begin, out = threading.Barrier(len(jobs)), list[Any]([None] * len(jobs))

    def run(i: int) -> None:
        with batcher.running():
            begin.wait(60)
            out[i] = finish(jobs[i].run, jobs[i].start).x

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return out


def check(pipe: sf.Pipeline, controls: Sequence[Control] = ()) -> None:
    """Default mode: as alone to 1e-3 of the largest value, in the longest run's calls. Exact mode: the bits alone."""
    batcher = Batcher(BatchSettings(window=10.0))
    jobs = jobs_of(batcher, pipe, controls)
    out = at_once(batcher, jobs)
    batcher.close()
    alone = [finish(job.run, job.start) for job in (sf.open_job(r, pipe, steering=Steering(controls)) for r in RECIPES)]
    assert batcher.figures().calls == max(state.nfe for state in alone)
    for state, got in zip(alone, out):
        assert_close(got, state.x, atol=1e-3 * float(state.x.abs().max()), rtol=0.0)
    batcher = Batcher(BatchSettings(exact=True, rows=4))
    jobs = jobs_of(batcher, pipe, controls)
    apart = [at_once(batcher, [job])[0] for job in jobs]
    assert all(torch.equal(a, b) for a, b in zip(apart, at_once(batcher, jobs)))
    batcher.close()


FAMILIES = ["sdxl", "sd3", "flux dev", "flux schnell", "auraflow", "lumina2", "wan"]


@pytest.mark.parametrize("name", ["sd1", *(pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES)])
def test_runs_of_every_family(name: str, loaded: Loaded) -> None:
    check(loaded(name))


def test_steered_runs(sd1: tuple[Path, Any], loaded: Loaded, small: ModuleType, tmp_path: Path) -> None:
    """The same ControlNet with the same strength steers both; hints belong to the rows."""
    small.control_net(sd1[1].unet).save_pretrained(tmp_path / "control")
    hint = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    check(loaded("sd1"), [Control(load_control(tmp_path / "control"), hint)])


def test_sets_of_loras_are_not_joined(sd1: tuple[Path, Any], tmp_path: Path) -> None:
    """Each set has weights of its own; a set's runs share calls."""
    base = sf.load(sd1[0], device="cpu")
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    pair = {f"unet.{name}.lora_A.weight": torch.randn(2, 16), f"unet.{name}.lora_B.weight": torch.randn(16, 2)}
    save_file(pair, tmp_path / "a.safetensors")
    batcher = Batcher(BatchSettings(window=10.0))
    joined = replace(base, model=batcher.joined(base.model))
    pipes = [joined, joined.with_loras({tmp_path / "a.safetensors": 0.5})]
    jobs = [sf.open_job(RECIPES[0], pipe) for pipe in (*pipes, *pipes)]
    out = at_once(batcher, jobs)
    batcher.close()
    assert batcher.figures().by_rows == {4: 2 * RECIPES[0].steps}
    assert_close(out[0], out[2], atol=0, rtol=0)
    assert not torch.equal(out[0], out[1])
