"""`kill -9` at random moments: no job is lost, none is done twice, and every image is that of a run left alone."""

import os
import sqlite3

import pytest
from engines import digests, recipe, started, workflow
from job_kills import served_and_killed

from forked import called
from sigmafield.serve.settings import EngineSettings

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
    asked, seed = requests(jobs), int(os.environ.get("KILL_SEED", "0"))
    hits = called(served_and_killed, tmp_path, EngineSettings(**SETTINGS), asked, kills, often, seed)
    assert hits >= kills / 2
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
            f"\n{hits} kills, {jobs} jobs: 0 lost, 0 done twice, all images equal; {again[0]} jobs were "
            f"resumed {again[1]} times, {middle[0]} times in the middle",
            end=" ",
        )
