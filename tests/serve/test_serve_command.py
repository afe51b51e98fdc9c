"""`sigmafield serve` as a process: it listens, draws, and goes on where it was stopped."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from serving import Client, serving

from command_line import run
from sigmafield.serve.comfyui.settings import ComfyUISettings
from sigmafield.serve.device import Device
from sigmafield.serve.engine import Engine
from sigmafield.serve.http.run import make_engine, serve, started
from sigmafield.serve.http.settings import HttpSettings
from sigmafield.serve.settings import EngineSettings


def test_comfyuis_protocol_is_not_served_from_a_cluster(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"leave --ray out, or leave --comfyui out and post workflows to /v1/jobs"):
        serve(tmp_path, EngineSettings(), HttpSettings(port=0), print, cluster="auto", comfyui=ComfyUISettings())
    assert not list(tmp_path.iterdir())


def check_ended(folder: Path, job: str, quick: dict[str, Any]) -> None:
    """A job that a server has left goes on where it was, and draws as before."""
    settings = HttpSettings(port=0)
    engine = make_engine(folder, EngineSettings(devices=("cpu",)), settings)
    assert engine.get(job).step > 0 and engine.get(job).status == "queued"
    engine.start()
    with serving(engine, settings, folder) as client:
        client.until(job, "done")
        again = client.until(client.submit(), "done")
        assert again["outputs"][0]["sha256"] == quick["outputs"][0]["sha256"]
        events = [each["event"] for each in client.events(job) if each["event"] != "step"]
        assert events == ["queued", "started", "queued", "resumed", "done"]
    engine.stop()


def begun(client: Client) -> tuple[str, dict[str, Any]]:
    """(a job that has done a step, one that is done)."""
    quick = client.until(client.submit(), "done")
    job = client.submit(steps=40)
    while not client.get(f"/v1/jobs/{job}").json["step"]:
        time.sleep(0.02)
    return job, quick


def test_a_signal_ends_a_server_which_saves_its_jobs(tmp_path):
    found: list[Any] = []

    def use(address: str) -> None:
        def work() -> None:
            try:
                found.extend(begun(Client(address)))
            finally:
                os.kill(os.getpid(), signal.SIGTERM)

        threading.Thread(target=work).start()

    serve(tmp_path, EngineSettings(devices=("cpu",)), HttpSettings(port=0), use)
    check_ended(tmp_path, *found)


class Loading(Device):
    """A device that loads its model for as long as the test lasts."""

    begun, end = threading.Event(), threading.Event()

    def load(self, model: str) -> None:
        self.begun.set()
        self.end.wait(60)


@pytest.mark.typed_elsewhere  # it passes a local device where a remote one is expected
def test_a_model_that_is_being_loaded_does_not_delay_the_end(tmp_path):
    settings = EngineSettings(devices=("cpu",))
    engine = Engine(tmp_path, settings, devices=[Loading("cpu", settings)])

    async def stopped() -> bool:
        stop = asyncio.Event()
        starting = asyncio.create_task(started(engine, stop))
        await asyncio.to_thread(Loading.begun.wait, 60)
        stop.set()
        return await starting

    assert not asyncio.run(stopped())
    engine.stop()
    Loading.end.set()
    for thread in threading.enumerate():
        if thread.name == "start":
            thread.join(60)
    assert not engine.running


@pytest.mark.slow
@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT])
def test_the_process_of_a_server_ends_with_status_0(tmp_path, kind):
    command = [sys.executable, "-m", "sigmafield", "serve", "--folder", str(tmp_path), "--port", "0", "--device", "cpu"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        try:
            assert server.stdout is not None
            line = server.stdout.readline()
            assert line.startswith("listening at http://127.0.0.1:"), line + server.stdout.read()
            found = begun(Client(line.split()[-1]))
            server.send_signal(kind)
            rest = server.communicate(timeout=60)[0]
            assert server.returncode == 0 and rest == ""
        finally:
            server.kill()
    check_ended(tmp_path, *found)


def test_what_cannot_be_served_is_one_line(tmp_path, monkeypatch):
    monkeypatch.delenv("SIGMAFIELD_TOKEN", raising=False)
    folder = ["--folder", tmp_path / "jobs"]
    cases = {
        "token": ["--host", "0.0.0.0"],
        "port": ["--port", "70000"],
        "no folder": ["--models", tmp_path / "none"],
        "max_steps": ["--max-steps", "0"],
        "No such file": ["--token-file", tmp_path / "none"],
    }
    for said, flags in cases.items():
        ran = run("serve", *folder, *flags)
        assert ran.exit_code == 2 and said in ran.stderr and ran.stderr.count("\n") == 1, ran
    assert not (tmp_path / "jobs").exists()


def test_help_shows_the_settings_with_their_defaults():
    text = " ".join(run("serve", "--help").stdout.split())
    for each in (
        "--host",
        "--token-file",
        "--models",
        "--inputs",
        "--max-pixels",
        "--exact",
        "127.0.0.1",
        "--allow-origin",
    ):
        assert each in text
