"""Webhooks: sent when a job ends, signed, again until they are accepted, and not into the private network."""

from __future__ import annotations

import hashlib
import hmac
import json
import socketserver
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from serving import LONG, RECIPE, Client, serving, settings_of

from sigmafield.serve.engine import Engine
from sigmafield.serve.http import webhooks
from sigmafield.serve.http.run import make_engine
from sigmafield.serve.http.webhooks import AT_ONCE, SIGNATURE, STAMP, is_private
from sigmafield.serve.settings import EngineSettings

SECRET = "a secret of the receiver"


class Receiver(HTTPServer):
    """Takes webhooks, after it has refused some.

    Args:
        refusals: How many it refuses first.
    """

    def __init__(self, refusals: int):
        super().__init__(("127.0.0.1", 0), Handler)
        self.refusals, self.taken, self.seen = refusals, threading.Event(), []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/done"


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.seen.append((dict(self.headers), body))
        accepted = len(self.server.seen) > self.server.refusals
        self.send_response(204 if accepted else 503)
        self.end_headers()
        if accepted:
            self.server.taken.set()

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver(1)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def check_signature(headers: dict[str, str], body: bytes) -> None:
    expected = hmac.new(SECRET.encode(), headers[STAMP].encode() + b"." + body, hashlib.sha256).hexdigest()
    assert headers[SIGNATURE] == f"sha256={expected}"


def test_the_end_of_a_job_is_posted_until_it_is_accepted(
    server: Client, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(webhooks, "FIRST_WAIT", 0.1)
    answer = server.post("/v1/jobs", {"recipe": RECIPE, "webhook": {"url": receiver.url, "secret": SECRET}})
    assert answer.json["webhook"] == receiver.url and SECRET.encode() not in answer.body
    assert receiver.taken.wait(30)
    assert len(receiver.seen) == 2
    headers, body = receiver.seen[-1]
    check_signature(headers, body)
    told = json.loads(body)
    assert told["id"] == answer.json["id"] and told["status"] == "done" and told["outputs"]


def test_a_job_that_is_cancelled_while_it_runs_is_posted_once(server: Client, engine: Engine, receiver: Receiver):
    receiver.refusals = 0
    hook = {"url": receiver.url, "secret": SECRET}
    job = server.post("/v1/jobs", {"recipe": LONG, "webhook": hook}).json["id"]
    while not engine.get(job).step:
        time.sleep(0.01)
    server.post(f"/v1/jobs/{job}/cancel")
    assert receiver.taken.wait(30)
    while sum(device.running for device in engine.figures().devices):  # its thread takes a step to the end
        time.sleep(0.01)
    server.until(server.submit(), "done")
    assert [json.loads(body)["status"] for _, body in receiver.seen] == ["cancelled"]


def test_a_webhook_that_a_stopped_server_has_not_sent_is_sent_by_the_next(root, tmp_path, receiver: Receiver):
    receiver.refusals = 0
    settings = settings_of(root, private_webhooks=True)
    engine = make_engine(tmp_path, EngineSettings(devices=("cpu",)), settings)
    with serving(engine, settings, tmp_path) as client:  # the engine has not started: the job waits
        job = client.post("/v1/jobs", {"recipe": RECIPE, "webhook": {"url": receiver.url, "secret": SECRET}}).json["id"]
    engine.cancel(job)
    engine.stop()
    assert not receiver.seen
    engine = Engine(tmp_path, EngineSettings(devices=("cpu",)))
    with serving(engine, settings, tmp_path):
        assert receiver.taken.wait(30)
    engine.stop()
    assert json.loads(receiver.seen[0][1])["status"] == "cancelled"


class Silent(socketserver.ThreadingTCPServer):
    """Takes connections and never answers."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), socketserver.BaseRequestHandler)
        self.open, self.release = [], threading.Event()

    def finish_request(self, request, client_address) -> None:
        self.open.append(client_address)
        self.release.wait(60)


def test_a_receiver_that_does_not_answer_leaves_room_for_others(root, tmp_path, receiver: Receiver):
    receiver.refusals = 0
    settings = settings_of(root, private_webhooks=True)
    engine = make_engine(tmp_path, EngineSettings(devices=("cpu",)), settings)
    with Silent() as silent, serving(engine, settings, tmp_path) as client:  # the engine has not started: jobs wait
        threading.Thread(target=silent.serve_forever, daemon=True).start()
        urls = [*[f"http://127.0.0.1:{silent.server_address[1]}/"] * 3 * AT_ONCE, receiver.url]
        for url in urls:
            hook = {"url": url, "secret": SECRET}
            job = client.post("/v1/jobs", {"recipe": RECIPE, "webhook": hook}).json["id"]
            client.post(f"/v1/jobs/{job}/cancel")
        assert receiver.taken.wait(30)
        assert len(silent.open) == AT_ONCE
        silent.release.set()
        silent.shutdown()
    engine.stop()


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/x", "http://localhost:8188/v1/jobs", "http://[::1]/", "http://10.0.0.1/", "http://192.168.1.1/",
        "http://169.254.169.254/latest/meta-data", "http://[::ffff:127.0.0.1]/", "http://[fd00::1]/", "http://0.0.0.0/",
        "http://100.64.0.1/", "http://a.localhost/", "ftp://example.org/", "file:///etc/passwd", "http://u:p@example.org/",
        "//example.org", "x", "http://example.org:x/", "http://2130706433/", "http://127.1/", "http://0x7f000001/",
    ],
)  # fmt: skip
def test_a_webhook_goes_to_public_addresses_only(alice: Client, url: str):
    answer = alice.post("/v1/jobs", {"recipe": RECIPE, "webhook": {"url": url, "secret": SECRET}})
    assert answer.status == 400 and answer.error["field"] == "webhook.url"


def test_which_addresses_are_private():
    assert not any(map(is_private, ("93.184.216.34", "2606:2800:220:1::1", "example.org")))
    assert all(map(is_private, ("127.0.0.1", "::1", "10.1.2.3", "::ffff:10.0.0.1", "224.0.0.1", "64:ff9b::7f00:1")))
