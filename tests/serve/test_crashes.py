"""`kill -9` at random moments: no job is lost, none is done twice, and every image is that of a run left alone."""

import json
import os
import sqlite3
import subprocess
import sys

import pytest
from engines import digests, recipe, started, workflow

LAUNCHER = """
import json, os, random, signal, sys, time
from pathlib import Path
import sigmafield.serve.engine  # a child begins with torch imported, so that most kills hit the work and not the start
from sigmafield.serve.engine import Engine
from sigmafield.serve.jobs import FINISHED
from sigmafield.serve.settings import EngineSettings

root, kills, often, seed, settings, requests = sys.argv[1:7]
kills, moments = int(kills), random.Random(int(seed))

def start(folder):
    child = os.fork()
    if child == 0:
        engine = Engine(Path(folder), EngineSettings(**json.loads(settings)))
        engine.start()
        for name, (kind, request) in json.loads(requests).items():
            engine.submit(kind, request, key=name, priority=moments.choice((0, 1)))
        while sum(n for status, n in engine.counts().items() if status not in FINISHED):
            time.sleep(0.01)
        engine.stop()
        os._exit(0)
    return child

began = time.monotonic()
assert os.waitpid(start(root + "/whole"), 0)[1] == 0
longest = (time.monotonic() - began) / float(often)
hits = 0
for k in range(kills + 1):
    child = start(root + "/killed")
    first = k == 0 and kills  # in the middle of a job whatever the machine's speed; the others at any moment
    end = time.monotonic() + (moments.uniform(0, longest) if 0 < k < kills else 900)
    while not (over := os.waitpid(child, os.WNOHANG))[0] and time.monotonic() < end:
        if first and any(Path(root, "killed", "jobs").rglob("state-000003.*")):
            break
        time.sleep(0.002)
    if over[0]:
        assert over[1] == 0, over
        break
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    hits += 1
print(json.dumps(hits))
"""
"""Serves jobs in a process that is left alone, then in processes that are killed at random moments, all on one folder,
until one of them has no jobs left."""

SETTINGS = {
    "devices": ["cpu", "cpu"],
    "exact": True,
    "max_rows": None,
    "rows": 4,
    "active": 3,
    "save_every": 0.0,
    "keep_jobs": None,
}


def requests(n):
    """Jobs of all kinds, by their keys; small ones, so that many are in the middle of their steps at any moment."""
    side = {"width": 32, "height": 32, "cfg": 3.0}
    each = [
        lambda k: ("recipe", recipe("a red heart", seed=k, sampler="dpmpp_2m_sde", steps=8, **side)),
        lambda k: ("workflow", workflow("a pizza", seed=k, steps=6, sampler="dpmpp_2s_ancestral", side=32)),
        lambda k: ("recipe", recipe("a green apple", seed=k, sampler="dpmpp_2m", steps=10, batch=1 + k % 2, **side)),
        lambda k: ("recipe", recipe("a rocket", seed=k, sampler="heun", steps=6, **side)),
    ]
    return {f"job {k}": each[k % len(each)](k) for k in range(n)}


@pytest.mark.parametrize("kills, jobs, often", [(1, 2, 1), pytest.param(100, 24, 20, marks=pytest.mark.slow)])
@pytest.mark.typed_elsewhere
def test_kills_at_random_moments(kills, jobs, often, tmp_path, capsys):
    asked, seed = requests(jobs), os.environ.get("KILL_SEED", "0")
    words = [sys.executable, "-c", LAUNCHER, tmp_path, kills, often, seed, json.dumps(SETTINGS), json.dumps(asked)]
    ran = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert int(ran.stdout) >= kills / 2
    with started(tmp_path / "whole", **SETTINGS) as engine:
        wanted = {record.key: digests(record) for record in engine.list(limit=10 * jobs)}
    assert wanted.keys() == asked.keys()
    with started(tmp_path / "killed", **SETTINGS) as engine:
        records = {record.key: record for record in engine.list(limit=10 * jobs)}
        assert records.keys() == asked.keys() and engine.counts()["done"] == jobs
        for key, record in records.items():
            assert digests(record) == wanted[key], key
            for n in range(len(record.outputs)):
                assert engine.output(record.id, n).stat().st_size == record.outputs[n].size
            assert [event.kind for event in engine.events(record.id)].count("done") == 1
            assert len(list(engine.output(record.id, 0).parent.iterdir())) == len(record.outputs)
    with sqlite3.connect(tmp_path / "killed" / "jobs.sqlite") as db:
        again = db.execute("SELECT count(DISTINCT job), count(*) FROM events WHERE kind = 'resumed'").fetchone()
        middle = db.execute("SELECT count(*) FROM events WHERE kind = 'resumed' AND data NOT LIKE '%: 0}'").fetchone()
    assert middle[0] > 0
    with capsys.disabled():
        print(
            f"\n{ran.stdout.strip()} kills, {jobs} jobs: 0 lost, 0 done twice, all images equal; {again[0]} jobs were "
            f"resumed {again[1]} times, {middle[0]} times in the middle",
            end=" ",
        )
