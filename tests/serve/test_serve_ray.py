"""`sigmafield serve --ray`: one address for the devices of a cluster; what a killed one ran goes on elsewhere."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from serving import RECIPE, Client, png

import sigmafield as sf
from cluster_of_two import TwoNodes
from sigmafield.recipes.recipe import Recipe

pytestmark = [pytest.mark.ray, pytest.mark.typed_elsewhere]
LONG = {**RECIPE, "steps": 80, "sampler": "dpmpp_2m_sde", "cfg": 3.0}
OPTIONS = ["--port", "0", "--exact", "--rows", "2", "--active", "2", "--save-every", "0", "--preview-every", "0"]


@pytest.fixture(scope="module")
def cluster():
    nodes = TwoNodes()
    yield nodes
    nodes.stop()


@pytest.fixture
def server(cluster, tmp_path):
    """(client, process) of a server whose jobs run on the cluster."""
    command = [sys.executable, "-m", "sigmafield", "serve", "--folder", str(tmp_path / "jobs"), *OPTIONS]
    log = (tmp_path / "log").open("w")
    process = subprocess.Popen(
        [*command, "--ray", cluster.address], env=cluster.environment, stdout=subprocess.PIPE, stderr=log, text=True
    )
    said = process.stdout.readline()
    assert "listening at " in said, (tmp_path / "log").read_text()
    yield Client(re.search(r"http://\S+", said)[0]), process
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0, (tmp_path / "log").read_text()


def image_of(client, job):
    answer = client.get(f"/v1/jobs/{job}/outputs/0")
    assert answer.status == 200
    return Image.open(BytesIO(answer.body))


def alone(**entries):
    """The pixels of a recipe that is drawn here."""
    recipe = Recipe.from_plain(entries)
    return np.asarray(sf.execute(sf.open_job(recipe, sf.load("tiny", device="cpu"))).images[0][0]).astype(int)


def until(client, job, condition, seconds=150.0):
    """The job once a condition on it holds."""
    end = time.monotonic() + seconds
    while not condition(found := client.get(f"/v1/jobs/{job}").json):
        assert time.monotonic() < end and found["status"] not in ("failed", "cancelled"), found
        time.sleep(0.1)
    return found


def check(client, job, whole):
    done = until(client, job, lambda found: found["status"] == "done")
    assert done["step"] == done["steps"] > 0
    image = np.asarray(image_of(client, job).convert("RGB")).astype(int)
    assert np.abs(image - whole).max() <= 1  # calls of several jobs are joined
    return done


def test_jobs_of_a_killed_worker_go_on_on_another(server, cluster, tmp_path):
    """Four jobs on two nodes, one of which is killed; a paused one is kept, and an upload is sent along."""
    client, _ = server
    jobs = [client.submit(**{**LONG, "seed": seed}) for seed in (1, 2, 3)]
    upload = client.ask("POST", "/v1/uploads", png(64, 64, "blue"), kind="image/png").json["id"]
    jobs.append(client.submit(**LONG, image=f"upload:{upload}", denoise=0.8))
    for job in jobs:
        until(client, job, lambda found: found["step"] >= 3)
    assert client.get(f"/v1/jobs/{jobs[0]}/preview").status in (200, 404)
    paused = client.post(f"/v1/jobs/{jobs[0]}/pause").json
    assert paused["status"] == "paused"
    os.kill(cluster.workers("Host")[0], signal.SIGKILL)
    for job, seed in zip(jobs[1:3], (2, 3)):
        check(client, job, alone(**{**LONG, "seed": seed}))
    (tmp_path / "blue.png").write_bytes(png(64, 64, "blue"))
    check(client, jobs[3], alone(**LONG, image=str(tmp_path / "blue.png"), denoise=0.8))
    told = json.loads(image_of(client, jobs[3]).info["sigmafield"])
    assert told["recipe"]["image"] == f"upload:{upload}"
    assert client.post(f"/v1/jobs/{jobs[0]}/resume").status == 200
    check(client, jobs[0], alone(**{**LONG, "seed": 1}))
    kinds = [[event["event"] for event in client.events(job)] for job in jobs]
    assert all(names.count("done") == 1 for names in kinds)
    assert any("resumed" in names for names in kinds[1:])  # those of the killed process


def test_a_job_that_cannot_be_drawn_says_why(server):
    client, _ = server
    job = client.submit(negative="x", image=None, regions=[], loras=[], width=66, height=64)
    failed = client.until(job, "failed")
    assert "width must be a multiple of 4" in failed["error"]
    cancelled = client.submit(**LONG)
    client.until(cancelled, "running")
    assert client.post(f"/v1/jobs/{cancelled}/cancel").json["status"] == "cancelled"
    figures = client.get("/metrics").body.decode()
    assert "worker 1" in figures and "worker 2" in figures
