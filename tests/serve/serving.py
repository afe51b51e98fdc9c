"""A real server on a free port of this machine, and a client that shows everything of an answer."""

from __future__ import annotations

import asyncio
import http.client
import io
import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web
from PIL import Image

from sigmafield.serve.comfyui.settings import ComfyUISettings
from sigmafield.serve.engine import Engine
from sigmafield.serve.http.app import make_app
from sigmafield.serve.http.run import runner_of
from sigmafield.serve.http.settings import HttpSettings
from sigmafield.serve.limits import Limits

RECIPE = {"prompt": "a red heart", "steps": 2, "sampler": "euler", "seed": 1, "cfg": 1.0}
"""A recipe that is drawn quickly."""

LONG = {**RECIPE, "steps": 400}
"""One that still runs when it is looked at."""


ALICE, BOB = "alice-0123456789abcdef", "bob-fedcba9876543210"
"""Tokens of two owners."""

LIMITS = Limits(max_body=1, max_pixels=256 * 256, max_steps=400, max_batch=4, max_frames=4, max_text=1000)


def settings_of(root: Path, **more: Any) -> HttpSettings:
    """Settings of a server with low limits, and with the folders of the tests."""
    folders = {"model_folder": root / "models", "input_folder": root / "inputs"}
    return HttpSettings(port=0, limits=LIMITS, **{**folders, **more})


@dataclass(frozen=True)
class Answer:
    """What a server answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> Any:
        """The error of the answer, which has to have one and no trace of Python."""
        assert self.status >= 400, (self.status, self.body)
        assert self.headers["Content-Type"].startswith("application/json")
        assert b"Traceback" not in self.body
        return self.json["error"]


@dataclass(frozen=True)
class Client:
    """A client of a server.

    Args:
        url: The server's address.
        headers: Sent with every request.
    """

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=60)

    def ask(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None, kind: str = ""
    ) -> Answer:
        """The answer to a request; a body that is not bytes is sent as JSON."""
        sent = {**self.headers, **(headers or {})}
        if body is not None:
            sent.setdefault("Content-Type", kind or "application/json")
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection = self.connection()
        try:
            connection.request(method, path, data, sent)
            answer = connection.getresponse()
            return Answer(answer.status, dict(answer.getheaders()), answer.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})

    def post(self, path: str, body: Any = None, **headers: str) -> Answer:
        return self.ask("POST", path, body, {name.replace("_", "-"): value for name, value in headers.items()})

    def submit(self, **entries: Any) -> str:
        """The id of a new job that draws a recipe."""
        answer = self.post("/v1/jobs", {"recipe": {**RECIPE, **entries}})
        assert answer.status == 202, answer.body
        return answer.json["id"]

    def until(self, job: str, *statuses: str) -> Any:
        """The job when it has one of some statuses."""
        for _ in range(2000):
            found = self.get(f"/v1/jobs/{job}").json
            if found["status"] in statuses:
                return found
            assert found["status"] in ("queued", "running", "paused"), found
            time.sleep(0.01)
        raise AssertionError(f"job {job} is {found['status']}")

    def events(self, job: str, **headers: str) -> list[dict[str, Any]]:
        """The events of a job, until it ends."""
        return parsed(self.get(f"/v1/jobs/{job}/events", **headers).body)


def parsed(stream: bytes) -> list[dict[str, Any]]:
    """The events of a stream, each as {"id", "event", "data"}; comments are left out."""
    found = []
    for block in stream.decode().split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if lines:
            found.append({**lines, "id": int(lines["id"]), "data": json.loads(lines["data"])})
    return found


@contextmanager
def serving(
    engine: Engine, settings: HttpSettings, folder: Path, comfyui: ComfyUISettings | None = None
) -> Iterator[Client]:
    """A server of an engine, with a client of it."""
    loop = asyncio.new_event_loop()
    runner = runner_of(make_app(engine, settings, folder, comfyui), settings)

    async def start() -> str:
        await runner.setup()
        await web.TCPSite(runner, settings.host, 0).start()
        return f"http://{settings.host}:{runner.addresses[0][1]}"

    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield Client(asyncio.run_coroutine_threadsafe(start(), loop).result(30))
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def png(width: int = 64, height: int = 64, colour: str = "red", mode: str = "RGB") -> bytes:
    """The bytes of an image of one colour."""
    buffer = io.BytesIO()
    Image.new(mode, (width, height), colour).save(buffer, "PNG")
    return buffer.getvalue()
