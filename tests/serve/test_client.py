"""The client against a real server: what it draws, how it goes on, and what it raises."""

from __future__ import annotations

import asyncio
import io
import re
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from serving import serving, settings_of

import sigmafield as sf
from sigmafield.client import AsyncClient, Client, Denied, JobFailed, NotThere, Refused, Unavailable
from sigmafield.recipes.label import read_label
from sigmafield.recipes.output import recipe_of
from sigmafield.serve.engine import Engine
from sigmafield.serve.settings import EngineSettings

QUICK = {"steps": 2, "sampler": "euler", "cfg": 1.0}


@pytest.fixture(scope="module")
def client(server):
    with Client(server.url) as client:
        yield client


def local(prompt: str, **settings):
    return sf.generate(sf.load("tiny"), prompt, **settings)


def same(a, b) -> bool:
    """Whether images are equal up to one level of 256: runs that share calls may differ in the last bits of a float."""
    levels = [np.asarray(x, dtype=int) - np.asarray(y, dtype=int) for x, y in zip(a, b)]
    return len(a) == len(b) and all(abs(each).max() <= 1 for each in levels)


def test_generate_gives_what_it_gives_here_with_the_recipe(client, tmp_path):
    images = client.generate(["a red heart", "a pizza"], seed=[1, 2], **QUICK)
    here = local("a red heart", seed=1, **QUICK) + local("a pizza", seed=2, **QUICK)
    assert same(images, here)
    images[1].save(tmp_path / "pizza.webp", lossless=True)
    carried = read_label(recipe_of(tmp_path / "pizza.webp")).recipe
    assert carried == read_label(here[1].info["sigmafield"]).recipe


def test_images_and_masks_are_uploaded_and_keep_their_names(client, tmp_path):
    [start] = local("a red heart", seed=1, **QUICK)
    start.save(tmp_path / "start.png")
    mask = np.linspace(0, 1, 64 * 64, dtype=np.float32).reshape(64, 64)
    settings = {**QUICK, "image": tmp_path / "start.png", "mask": mask, "denoise": 0.7}
    [drawn] = client.generate("a green heart", seed=3, **settings)
    assert same([drawn], local("a green heart", seed=3, **settings))
    recipe = read_label(drawn.info["sigmafield"]).recipe
    assert recipe.image == str(tmp_path / "start.png") and str(recipe.mask).startswith("memory:")
    assert same(
        client.generate("a heart", image=start, denoise=0.5, **QUICK),
        local("a heart", image=start, denoise=0.5, **QUICK),
    )


def test_a_job_is_followed_and_its_events_go_on_after_any_of_them(client, tmp_path):
    job = client.submit(sf.Recipe("a rocket", steps=3))
    events = list(job.events())
    assert [event.kind for event in events] == ["queued", "started", "step", "step", "step", "done"]
    assert [event.data["step"] for event in events if event.kind == "step"] == [1, 2, 3]
    previews = [event.preview for event in events if event.preview]
    assert all(Image.open(io.BytesIO(each)).format == "JPEG" for each in previews)
    assert list(job.events(events[3].id)) == events[4:] and list(job.events(events[-1].id)) == []
    assert job.wait().status == "done" and job.info.step == 3
    [path] = job.fetch(tmp_path)
    [again] = job.fetch(tmp_path)
    assert path.read_bytes() == again.read_bytes() == job.output() and path != again
    assert client.jobs(limit=1)[0].id == job.id and client.job(job.id).info == job.info


def test_a_job_is_steered(client):
    job = client.submit("a cat", priority=-5, steps=400)
    assert job.pause().status == "paused"
    assert job.prioritise(-7).priority == -7
    clone = job.clone(changes={"seed": 5, "steps": 2})
    assert clone.wait().cloned_from == job.id and clone.info.request["seed"] == 5
    job.resume()
    assert job.cancel().status == "cancelled"
    with pytest.raises(JobFailed, match="cancelled") as caught:
        job.wait()
    assert caught.value.job == job.id
    with pytest.raises(Refused):
        job.resume()
    job.delete()
    with pytest.raises(NotThere):
        job.refresh()


def test_a_key_makes_one_job(client):
    first = client.submit("a tree", key="the tree", **QUICK)
    assert client.submit("a tree", key="the tree", **QUICK).id == first.id
    with pytest.raises(Refused, match="before"):
        client.submit("a house", key="the tree", **QUICK)


def test_a_workflow_runs(client):
    prompt = {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 16, "height": 8, "batch_size": 1, "color": 255}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "blue"}},
    }
    [image] = client.submit_workflow(prompt).images()
    assert image.size == (16, 8) and image.getpixel((0, 0)) == (0, 0, 255)


def test_errors_are_those_that_the_same_mistake_has_here(client, server, guarded, alice, tmp_path):
    with pytest.raises(ValueError, match="steps"):
        client.submit("a heart", steps=0)
    with pytest.raises(TypeError, match="stepz"):
        client.submit("a heart", stepz=3)
    with pytest.raises(FileNotFoundError, match="no image at"):
        client.submit("a heart", image=tmp_path / "none.png")
    with pytest.raises(Refused, match="401") as caught:
        client.submit("a heart", steps=401)
    assert caught.value.field == "steps"
    with pytest.raises(TypeError, match="in the recipe"):
        client.submit({"prompt": "a heart"}, steps=3)
    with pytest.raises(ValueError, match="http"):
        Client("127.0.0.1:8188")
    with Client(guarded.url) as other, pytest.raises(Denied, match="token"):
        other.models()
    token = alice.headers["Authorization"].split()[1]
    with Client(guarded.url, token) as other:
        assert other.models()[0] == "tiny"
        with pytest.raises(NotThere):
            other.job(client.jobs(limit=1)[0].id)
    with Client("http://127.0.0.1:9") as other, pytest.raises(Unavailable, match="no answer"):
        other.jobs()


def test_the_asynchronous_client_follows_jobs_at_once(server):
    async def draw():
        async with AsyncClient(server.url) as client:
            jobs = [await client.submit("a heart", seed=seed, **QUICK) for seed in (1, 2)]
            return await asyncio.gather(*(job.images() for job in jobs))

    one, two = asyncio.run(draw())
    assert same(one, local("a heart", seed=1, **QUICK))
    assert same(two, local("a heart", seed=2, **QUICK))


class Relay:
    """Passes bytes to a server, and drops each connection after some bytes of answers, as a bad network does.

    limits: Bytes after which connections are dropped in turn; those after the last have its limit too.
    """

    def __init__(self, url: str, limits: Sequence[int]):
        self.host, self.port, self.limits, self.connections = "127.0.0.1", int(url.rpartition(":")[2]), limits, 0
        self.writers = []

    async def __aenter__(self):
        self.relay = await asyncio.start_server(self.passed, self.host, 0)
        self.url = f"http://{self.host}:{self.relay.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_):
        self.relay.close()

    def drop(self):
        for writer in self.writers:
            writer.transport.abort()

    async def passed(self, reader, writer):
        most = self.limits[min(self.connections, len(self.limits) - 1)]
        self.connections += 1
        self.writers.append(writer)
        there, back = await asyncio.open_connection(self.host, self.port)

        async def copy(source, sink, left):
            while left > 0 and (data := await source.read(min(left, 4096))):
                sink.write(data)
                await sink.drain()
                left -= len(data)
            sink.transport.abort() if left > 0 else sink.close()

        await asyncio.gather(copy(reader, back, 10**9), copy(there, writer, most), return_exceptions=True)


def test_a_broken_connection_loses_no_event_and_makes_no_second_job(client, server):
    async def follow():
        # the second connection loses the answer to the submission, the others what comes after some events
        async with Relay(server.url, (10**9, 50, 4000, 1300)) as relay, AsyncClient(relay.url) as shaky:
            await shaky.models()
            relay.drop()
            job = await shaky.submit("a boat", **{**QUICK, "steps": 24})
            return job.id, [event.id async for event in job.events(previews=False)], relay.connections

    before = {info.id for info in client.jobs()}
    id, seen, connections = asyncio.run(follow())
    assert connections > 4 and seen == [event.id for event in client.job(id).events()] and len(seen) == 27
    assert {info.id for info in client.jobs()} - before == {id}


def test_a_full_queue_is_waited_for_as_long_as_patience_lasts(root, tmp_path):
    engine = Engine(tmp_path, EngineSettings(devices=("cpu",), queue_length=1))  # not started: no job leaves
    with serving(engine, settings_of(root), tmp_path) as server:
        with Client(server.url, patience=0.1) as client:
            job = client.submit("a heart")
            with pytest.raises(Unavailable, match="wait already"):
                client.submit("a heart")
        with Client(server.url) as client:
            threading.Timer(0.3, client.job(job.id).cancel).start()
            assert client.submit("a heart").info.status == "queued"
    engine.stop()


def test_importing_the_client_loads_no_torch():
    code = "import sys, sigmafield.client; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


@pytest.mark.slow
def test_the_python_of_the_page_runs(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[2] / "docs" / "client.md").read_text("utf-8")
    code = "\n".join(re.findall(r"```py\n(.*?)```", page, re.DOTALL)).replace("http://127.0.0.1:8188", server.url)
    exec(compile(code.replace("steps=20", "steps=2"), "docs/client.md", "exec"), {"__name__": "__docs__"})
    assert recipe_of(tmp_path / "heart.png") and list((tmp_path / "images").iterdir())
