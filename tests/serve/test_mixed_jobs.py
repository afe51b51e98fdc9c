"""Jobs of every kind at the same time, stopped and killed in the middle, give what each gives alone."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from engines import digests, finished, recipe, started
from PIL import Image

import sigmafield as sf

pytestmark = [pytest.mark.slow, pytest.mark.typed_elsewhere]

SETTINGS = {"exact": True, "max_rows": None, "rows": 8, "active": 8, "save_every": 0.0, "keep_states": 1}


@pytest.fixture(scope="module")
def requests(tmp_path_factory):
    """Two runs at σ-fields, an upscale in tiles, DemoFusion, iterative mixing, and three plain runs."""
    folder = tmp_path_factory.mktemp("inputs")
    heart, ramp = str(folder / "heart.png"), str(folder / "ramp.png")
    sf.generate(sf.load("tiny", device="cpu"), "red heart", steps=3, seed=1, cfg=3.0)[0].save(heart)
    Image.fromarray(np.tile(np.linspace(0, 255, 64, dtype=np.uint8), (64, 1))).save(ramp)
    tiles = {"kind": "mixture", "tile": 64, "overlap": 16}
    drawn = [
        recipe("a green apple", image=heart, denoise_map=ramp, min_denoise=0.2, sampler="dpmpp_2m_sde", steps=5),
        recipe("a blue star", image=heart, denoise_map=ramp, map_schedule="own", sampler="euler", steps=5),
        recipe("a red heart", image=heart, scale=2.0, denoise=0.6, tiling=tiles, steps=5),
        recipe("a rocket", demofusion={"scale": 2}, steps=3),
        recipe("a pizza", image=heart, mixing="cosine(alpha_1=0.3)", steps=5),
        recipe("a red heart", sampler="euler_ancestral", seed=5, steps=5),
        recipe("a green apple", sampler="heun", seed=6, steps=4),
        recipe("a rocket", sampler="dpmpp_3m_sde", seed=7, steps=6, batch=2),
    ]
    return [{**each, "cfg": 3.0} for each in drawn]


@pytest.fixture(scope="module")
def alone(requests, tmp_path_factory):
    """Digests of each request's outputs when nothing else runs."""
    with started(tmp_path_factory.mktemp("alone"), **{**SETTINGS, "active": 1, "save_every": 100.0}) as engine:
        return [digests(record) for record in finished(engine, *(engine.submit("recipe", each) for each in requests))]


SERVE = """
import json, sys, time
from pathlib import Path
from sigmafield.serve.engine import Engine
from sigmafield.serve.settings import EngineSettings
engine = Engine(Path(sys.argv[1]), EngineSettings(devices=["cpu"], **json.loads(sys.argv[2])))
engine.start()
time.sleep(600)
"""


def test_all_at_once_and_killed_in_the_middle(requests, alone, tmp_path):
    with started(tmp_path, **SETTINGS) as engine:
        jobs = [engine.submit("recipe", each) for each in requests]
        while sum(engine.get(job.id).step > 0 for job in jobs) < len(jobs):
            time.sleep(0.01)
    words = [sys.executable, "-c", SERVE, str(tmp_path), json.dumps(SETTINGS)]
    with subprocess.Popen(words, env={**os.environ, "OMP_NUM_THREADS": "1"}) as server:
        before = {path.name for path in tmp_path.glob("jobs/*/state-*")}
        while {path.name for path in tmp_path.glob("jobs/*/state-*")} == before:
            time.sleep(0.01)
        server.send_signal(signal.SIGKILL)
    with started(tmp_path, **SETTINGS) as engine:
        assert [digests(record) for record in finished(engine, *jobs)] == alone


def test_all_at_once_and_stopped_in_the_middle(requests, alone, tmp_path):
    with started(tmp_path, **{**SETTINGS, "save_every": 100.0}) as engine:
        jobs = [engine.submit("recipe", each) for each in requests]
        while sum(engine.get(job.id).step > 0 for job in jobs) < len(jobs):
            time.sleep(0.01)
    with started(tmp_path, **SETTINGS) as engine:
        assert any(0 < engine.get(job.id).step < engine.get(job.id).steps for job in jobs)
        assert [digests(record) for record in finished(engine, *jobs)] == alone
        assert max(engine.figures().devices[0].batch.by_rows) > 2
