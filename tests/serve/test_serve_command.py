"""`sigmafield serve` as a process: it listens, draws, and goes on where it was stopped."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from serving import Client, serving

from command_line import run
from sigmafield.serve.http.run import make_engine
from sigmafield.serve.http.settings import HttpSettings
from sigmafield.serve.settings import EngineSettings


@contextmanager
def process(folder: Path, *flags: str) -> Iterator[tuple[subprocess.Popen[str], Client]]:
    """A server's process, with a client of it."""
    command = [sys.executable, "-m", "sigmafield", "serve", "--folder", str(folder), "--port", "0", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        try:
            assert server.stdout is not None
            line = server.stdout.readline()
            assert line.startswith("listening at http://127.0.0.1:"), line + server.stdout.read()
            yield server, Client(line.split()[-1])
        finally:
            server.kill()


def test_a_stopped_server_saves_its_jobs_and_the_next_one_finishes_them(tmp_path):
    with process(tmp_path, "--device", "cpu") as (server, client):
        quick = client.until(client.submit(), "done")
        job = client.submit(steps=40)
        while not client.get(f"/v1/jobs/{job}").json["step"]:
            time.sleep(0.02)
        server.send_signal(signal.SIGTERM)
        rest = server.communicate(timeout=60)[0]
        assert server.returncode == 0, rest
        assert rest == ""
    settings = HttpSettings(port=0)
    engine = make_engine(tmp_path, EngineSettings(devices=("cpu",)), settings)
    assert engine.get(job).step > 0 and engine.get(job).status == "queued"
    engine.start()
    with serving(engine, settings, tmp_path) as client:
        client.until(job, "done")
        again = client.until(client.submit(), "done")
        assert again["outputs"][0]["sha256"] == quick["outputs"][0]["sha256"]
        events = [each["event"] for each in client.events(job) if each["event"] != "step"]
        assert events == ["queued", "started", "queued", "resumed", "done"]
    engine.stop()


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
