"""A prompt of ComfyUI's protocol is a job as any other: it shares calls, is paused, and survives `kill -9`."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comfy_client import run, talking
from comfy_serving import comfy_engine
from engines import until, workflow
from PIL import Image
from serving import RECIPE, Client

STEPS = 20


def prompt_of(seed: int, steps: int = STEPS, sampler: str = "dpmpp_2m_sde") -> dict[str, Any]:
    return workflow(seed=seed, steps=steps, sampler=sampler)["prompt"]


def recipe_of(seed: int, steps: int = STEPS) -> dict[str, Any]:
    size = {"width": 64, "height": 64}  # what a latent of 128 // 8 is decoded to by the embedded model
    return {**RECIPE, "cfg": 3.0, "seed": seed, "steps": steps, **size}


def history(client: Client, id: str) -> Any:
    """The history of a prompt, once it has ended."""
    for _ in range(4000):
        if found := client.get(f"/history/{id}").json:
            return found[id]
        time.sleep(0.1)
    raise AssertionError(f"prompt {id} does not end")


def shown(client: Client, id: str) -> np.ndarray:
    """The pixels of the image that a prompt has saved."""
    [file] = history(client, id)["outputs"]["9"]["images"]
    return np.asarray(Image.open(io.BytesIO(client.get(f"/view?filename={file['filename']}&type=output").body)))


def test_a_prompt_shares_calls_with_a_recipe_and_is_paused_between_two_steps(tmp_path):
    with comfy_engine(tmp_path, active=4, window=0.5, preview_every=60.0) as (client, engine):
        id = client.post("/prompt", {"prompt": prompt_of(1)}).json["prompt_id"]
        job = client.post("/v1/jobs", {"recipe": recipe_of(2)}).json["id"]
        until(engine, lambda: min(engine.get(each).step for each in (id, job)) >= 3)
        assert client.post(f"/v1/jobs/{id}/pause").json["status"] == "paused"
        until(engine, lambda: engine.get(job).status == "done")
        paused = client.get(f"/v1/jobs/{id}").json
        assert paused["status"] == "paused" and 0 < paused["step"] < STEPS
        assert client.get("/queue").json["queue_pending"][0][1] == id
        client.post(f"/v1/jobs/{id}/resume")
        until(engine, lambda: engine.get(id).status == "done")
        assert history(client, id)["status"]["status_str"] == "success"
        assert shown(client, id).shape == (64, 64, 3)
        [device] = engine.figures().devices
        assert max(device.batch.by_rows) >= 4  # each of the two asks for two rows: its prompt, and without it


def test_prompts_that_end_at_the_same_time_write_files_of_their_own(tmp_path):
    async def talk(url: str) -> list[Any]:
        async with talking(url) as client:
            ids = [await client.post(prompt_of(seed, 3, "euler")) for seed in range(6)]
            await client.ended(ids)
            return [await client.ask("GET", f"/history/{id}") for id in ids]

    with comfy_engine(tmp_path, active=6) as (client, _):
        found = run(lambda: talk(client.url))
    files = [
        image["filename"] for each in found for [entry] in [each.values()] for image in entry["outputs"]["9"]["images"]
    ]
    assert sorted(files) == [f"heart_{k:05}_.png" for k in range(1, 7)]


@contextmanager
def process(folder: Path, *flags: str) -> Iterator[tuple[Client, subprocess.Popen[str]]]:
    """`sigmafield serve` in a process of its own."""
    words = [sys.executable, "-m", "sigmafield", "serve", "--port", "0", "--folder", str(folder), "--device", "cpu"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([*words, *flags], stdout=subprocess.PIPE, text=True, env=env) as server:
        assert server.stdout is not None
        found = re.search(r"http://\S+", server.stdout.readline())
        assert found is not None
        try:
            yield Client(found[0]), server
        finally:
            server.kill()


EXACT = ("--comfyui", "--exact", "--rows", "4", "--active", "3", "--save-every", "0")
"""Every call has four rows, so that an image does not depend on what runs at the same time."""


@pytest.mark.slow
@pytest.mark.typed_elsewhere
def test_a_prompt_that_is_killed_in_its_sampler_goes_on_and_gives_the_same_image(tmp_path):
    id, other = str(uuid.uuid4()), str(uuid.uuid4())
    with process(tmp_path / "alone", *EXACT) as (client, _):
        client.post("/prompt", {"prompt": prompt_of(3), "prompt_id": id})
        whole = shown(client, id)
    with process(tmp_path / "killed", *EXACT) as (client, server):
        earlier = client.post("/prompt", {"prompt": prompt_of(5, 2), "prompt_id": other}).json["number"]
        history(client, other)
        client.post("/prompt", {"prompt": prompt_of(3), "prompt_id": id})
        job = client.post("/v1/jobs", {"recipe": recipe_of(4)}).json["id"]
        while min(client.get(f"/v1/jobs/{each}").json["step"] for each in (id, job)) < STEPS // 4:
            time.sleep(0.05)
        server.send_signal(signal.SIGKILL)
        server.wait()
    with process(tmp_path / "killed", *EXACT) as (client, _):
        assert list(client.get("/history").json) == [other]
        found = client.get(f"/v1/jobs/{id}").json
        assert found["status"] in ("queued", "running") and found["step"] >= STEPS // 4
        assert np.array_equal(shown(client, id), whole)
        assert client.until(job, "done")["step"] >= STEPS
        events = [each["event"] for each in client.events(id)]
        assert events.count("started") == 1 and events.count("resumed") == 1 and events[-1] == "done"
        assert list(client.get("/history").json) == [other, id]
        assert client.post("/prompt", {"prompt": prompt_of(6, 2)}).json["number"] > earlier + 1
