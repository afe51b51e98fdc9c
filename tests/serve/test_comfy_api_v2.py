"""Comfy API v2: what its clients do, with the statuses, keys and kinds of recorded exchanges."""

from __future__ import annotations

import base64
import json
import re
import struct
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from blake3 import blake3
from comfy_serving import comfy_engine
from serving import ALICE, BOB, Answer, Client, png

from sigmafield.serve.comfyui.v2 import events
from sigmafield.serve.comfyui.v2.references import resolved
from sigmafield.serve.engine import Engine

RECORDED = json.loads((Path(__file__).parents[1] / "data" / "comfyui" / "v2.json").read_text())
"""Of each recorded exchange: its status, its error's code, and what each key of the answer holds."""

BASE = "/api/v2"
UNKNOWN = "7f3d2c1b-9a8e-4d6f-b012-3c4d5e6f7a8b"
ENDED = ("succeeded", "canceled", "failed", "expired")

NULLABLE = ("started_at", "completed_at", "queue_position", "progress", "error", "hash", "traceback")
RUNNING = ("step", "steps", "current_node")
"""Keys of progress that are there while a node runs."""

LEFT_OUT = {"upstream", "tags"}
"""Keys of the proxy alone."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Client, Engine]]:
    base = tmp_path_factory.mktemp("v2")
    with comfy_engine(base, active=1, queue_length=6) as found:
        yield found


@pytest.fixture(scope="module")
def client(served: tuple[Client, Engine]) -> Client:
    return served[0]


def fits(shape: Any, value: Any, name: str = "") -> None:
    """A value has what was recorded: the same keys with the same kinds of values."""
    if value is None and name.rpartition(".")[2] in NULLABLE:
        return
    if isinstance(shape, dict):
        assert isinstance(value, dict), name
        missing = set(shape) - set(value) - LEFT_OUT
        assert not missing, f"{name}: {missing}"
        for key in set(shape) & set(value):
            fits(shape[key], value[key], f"{name}.{key}")
    elif isinstance(shape, list):
        assert isinstance(value, list), name
        for each in value if shape else ():
            fits(shape[0], each, name)
    elif name.rpartition(".")[2] not in NULLABLE:
        kinds = {"text": str, "number": (int, float), "bool": bool, "null": type(None)}
        assert isinstance(value, kinds[shape]), (name, value)


def as_recorded(name: str, answer: Answer) -> Any:
    """The JSON of an answer, which has to be as the recorded one."""
    recorded = RECORDED[name]
    assert answer.status == recorded["status"], (name, answer.body)
    if "code" in recorded:
        assert answer.error["code"] == recorded["code"] and set(answer.error) == {"code", "message", "details"}
        assert answer.error["message"]
    elif "answer" in recorded:
        fits(recorded["answer"], answer.json, name)
    return answer.json if answer.body else None


def nodes(text: str = "hello", **sampler: Any) -> dict[str, Any]:
    """A workflow that draws an image, and shows a text."""
    settings = {"seed": 1, "steps": 2, "cfg": 1.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    made = {
        "4": ("CheckpointLoaderSimple", {"ckpt_name": "tiny"}),
        "6": ("CLIPTextEncode", {"text": "a red heart", "clip": ["4", 1]}),
        "5": ("EmptyLatentImage", {"width": 64, "height": 64, "batch_size": 1}),
        "3": ("KSampler", {
            **settings, "model": ["4", 0], "positive": ["6", 0], "negative": ["6", 0], "latent_image": ["5", 0],
            **sampler,
        }),
        "8": ("VAEDecode", {"samples": ["3", 0], "vae": ["4", 2]}),
        "9": ("SaveImage", {"images": ["8", 0], "filename_prefix": "v2/out"}),
        "10": ("PreviewAny", {"source": text}),
    }  # fmt: skip
    return {name: {"class_type": kind, "inputs": inputs} for name, (kind, inputs) in made.items()}


def copied(image: Any) -> dict[str, Any]:
    """A workflow that saves an image again."""
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": image}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "copy"}},
    }


def failing() -> dict[str, Any]:
    """A workflow of which a node fails: it divides by 0."""
    return {
        "3": {"class_type": "ComfyMathExpression", "inputs": {"expression": "1 / a", "values.a": 0}},
        "4": {"class_type": "PreviewAny", "inputs": {"source": ["3", 0]}},
    }


def submit(client: Client, workflow: Any, key: str | None = None, **more: Any) -> Answer:
    headers = {} if key is None else {"Idempotency-Key": key}
    return client.ask("POST", f"{BASE}/jobs", {"workflow": workflow, **more}, headers)


def job_of(client: Client, workflow: Any, **more: Any) -> str:
    answer = submit(client, workflow, **more)
    assert answer.status == 201, answer.body
    return answer.json["id"]


def until(client: Client, job: str, *states: str) -> dict[str, Any]:
    for _ in range(3000):
        found = client.get(f"{BASE}/jobs/{job}").json
        if found["status"] in (states or ENDED):
            return found
        assert found["status"] not in ENDED, found
        time.sleep(0.01)
    raise AssertionError(f"job {job} is {found['status']}")


def upload(client: Client, data: bytes, file_path: str, kind: str = "image/png", **fields: str) -> Answer:
    parts = {"content_type": kind, "file_path": file_path, **fields}
    body = b"".join(
        f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{text}\r\n'.encode()
        for name, text in parts.items()
    )
    body += f'--b\r\nContent-Disposition: form-data; name="file"; filename="{file_path}"\r\n\r\n'.encode()
    return client.ask("POST", f"{BASE}/assets", body + data + b"\r\n--b--\r\n", kind="multipart/form-data; boundary=b")


def frames(client: Client, job: str) -> list[tuple[str, dict[str, Any]]]:
    """The events of a job, until its stream ends."""
    text = client.get(f"{BASE}/jobs/{job}/events").body.decode()
    found = []
    for block in text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if lines:
            found.append((lines["event"], json.loads(lines["data"])))
    return found


def hash_of(data: bytes) -> str:
    return f"blake3:{blake3(data).hexdigest()}"


def test_an_asset_is_uploaded_once(client: Client) -> None:
    as_recorded("health", client.get(f"{BASE}/health"))
    data = png(8, 8, "red")
    known = f"{BASE}/assets/by-hash/{hash_of(data)}"
    as_recorded("by-hash miss", client.ask("HEAD", known))
    assert client.ask("POST", f"{BASE}/assets/from-hash", {"hash": hash_of(data)}).error["code"] == "blob_not_found"
    made = as_recorded("upload", upload(client, data, "red.png", expected_hash=hash_of(data)))
    assert made["hash"] == hash_of(data) and made["size_bytes"] == len(data) and made["created_new"] is True
    as_recorded(
        "by-hash hit", client.ask("HEAD", known.upper().replace("/API/V2/ASSETS/BY-HASH", f"{BASE}/assets/by-hash"))
    )
    again = as_recorded(
        "from-hash", client.post(f"{BASE}/assets/from-hash", {"hash": hash_of(data), "file_path": "red_again.png"})
    )
    assert again["id"] == made["id"] and again["created_new"] is False
    twice = upload(client, data, "other.png")
    assert twice.status == 200 and twice.json["created_new"] is False
    assert urlsplit(made["url"]).scheme == "http"
    content = client.get(urlsplit(made["url"]).path)
    assert content.body == data and content.headers["Content-Type"] == "image/png"
    part = client.get(urlsplit(made["url"]).path, Range="bytes=1-3")
    assert (part.status, part.body) == (RECORDED["content range"]["status"], b"PNG")
    assert part.headers["Content-Range"] == f"bytes 1-3/{len(data)}"
    assert client.get(f"{BASE}/assets/{made['id']}").json["file_path"] == "red.png"
    as_recorded("delete asset", client.ask("DELETE", f"{BASE}/assets/{made['id']}"))
    as_recorded("delete again", client.ask("DELETE", f"{BASE}/assets/{made['id']}"))


def test_uploads_that_are_refused(client: Client) -> None:
    as_recorded("hash mismatch", upload(client, b"abc", "abc.txt", "text/plain", expected_hash="blake3:00"))
    as_recorded("model upload refused", upload(client, b"abc", "models/loras/x.safetensors"))
    assert upload(client, b"abc", "loras/x.ckpt").status == 422
    for path in ("../a.png", "/a.png", "a\\b.png", "custom_nodes/a.py", "nope/a.png", "input/../a.png", "", "models/a"):
        assert upload(client, b"abc", path).error["code"] == "invalid_request", path
    assert client.ask("POST", f"{BASE}/assets", b"x", kind="text/plain").status == 422


def test_models_are_uploaded_to_their_folder(client: Client, served: tuple[Client, Engine]) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    data = struct.pack("<Q", len(header)) + header + bytes(4)
    made = upload(client, data, "loras/mine/one.safetensors", "application/octet-stream")
    assert made.status == 201 and made.json["file_path"] == "mine/one.safetensors"
    assert client.get("/models/loras").json == ["mine/one.safetensors"]
    assert upload(client, data[:-1] + b"\1", "loras/mine/one.safetensors").status == 409
    assert upload(client, data, "loras/mine/one.safetensors").status == 200
    lora = {"1": {"class_type": "LoraLoaderModelOnly", "inputs": {"lora_name": {
        "__type": "core/ASSET", "info": {"id": made.json["id"]}}}}}  # fmt: skip
    made = {**nodes(), **lora}
    made["1"]["inputs"] |= {"model": ["4", 0], "strength_model": 0.0}
    job = job_of(client, made)
    assert (
        client.get(f"{BASE}/jobs/{job}/workflow").json["workflow"]["1"]["inputs"]["lora_name"] == "mine/one.safetensors"
    )
    client.post(f"{BASE}/jobs/{job}/cancel")


def test_files_of_the_server_become_assets(client: Client, served: tuple[Client, Engine]) -> None:
    prompts = served[1].workflows.prompts
    assert prompts is not None
    path = prompts.folders("").input / "there.png"
    path.write_bytes(png(8, 8, "blue"))
    made = as_recorded("from-path", client.post(f"{BASE}/assets/from-path", {"path": str(path)}))
    assert made["file_path"] == "input/there.png"
    assert client.post(f"{BASE}/assets/from-path", {"path": str(path)}).status == 200
    as_recorded("from-path refused", client.post(f"{BASE}/assets/from-path", {"path": "/etc/passwd"}))
    assert client.post(f"{BASE}/assets/from-path", {"path": str(path.with_name("no.png"))}).status == 404
    path.write_bytes(png(8, 8, "green"))
    gone = client.get(f"{BASE}/assets/{made['id']}/content")
    assert (gone.status, gone.error["code"]) == (404, "output_unavailable")
    assert client.ask("HEAD", f"{BASE}/assets/by-hash/{made['hash']}").status == 404


def test_a_job_from_an_asset_to_its_outputs(client: Client) -> None:
    made = upload(client, png(16, 8, "red"), "start.png").json
    reference = {"__type": "core/ASSET", "info": {"id": made["id"], "hash": made["hash"], "file_path": "start.png"}}
    job = as_recorded("submit with asset reference", submit(client, {**copied(reference), **nodes("plain words")}))[
        "id"
    ]
    ended = as_recorded("poll succeeded", Answer(200, {}, json.dumps(until(client, job)).encode()))
    assert ended["status"] == "succeeded" and ended["progress"]["value"] == 1.0
    assert ended["progress"]["nodes_done"] == ended["progress"]["nodes_total"] == 9
    assert ended["metrics"]["queue_ms"] >= 0 and ended["metrics"]["execution_ms"] > 0
    found = {output["node_id"]: output for output in ended["outputs"]}
    assert set(found) == {"2", "9", "10"}
    assert (found["9"]["type"], found["9"]["content_type"]) == ("image", "image/png")
    assert (found["10"]["type"], found["10"]["content_type"]) == ("text", "text/plain; charset=utf-8")
    for output in found.values():
        bytes_ = client.get(urlsplit(output["url"]).path).body
        assert len(bytes_) == output["size_bytes"] and hash_of(bytes_) == output["hash"]
    assert client.get(urlsplit(found["10"]["url"]).path).body == b"plain words"
    described = as_recorded("output asset metadata", client.get(f"{BASE}/assets/{found['9']['id']}"))
    assert described["job_id"] == job
    workflow = as_recorded("workflow", client.get(f"{BASE}/jobs/{job}/workflow"))
    assert workflow["workflow"]["1"]["inputs"]["image"] == "start.png" and workflow["format"] == "api"
    as_recorded("minimal: no log", client.get(f"{BASE}/jobs/{job}/logs"))
    as_recorded("minimal: asset in use", client.ask("DELETE", f"{BASE}/assets/{found['9']['id']}"))
    assert client.get(f"/history/{job}").json[job]["status"]["status_str"] == "success"

    output = {"__type": "core/ASSET", "info": {"id": found["9"]["id"]}}  # an output is the next job's input
    second = until(client, job_of(client, copied(output)))
    assert second["status"] == "succeeded", second
    third = {"__type": "core/ASSET", "info": {"id": UNKNOWN, "hash": found["9"]["hash"]}}
    assert until(client, job_of(client, copied(third)))["status"] == "succeeded"


def test_the_events_of_a_job(client: Client) -> None:
    """Outputs come before the last state, which is the last frame; progress is a snapshot with all that is known."""
    job = job_of(client, nodes("seen", steps=40, seed=5))
    found = frames(client, job)
    names = [name for name, _ in found]
    assert set(names) == {"status", "progress", "preview", "output"}
    assert found[0][0] == "status" and found[-1] == ("status", {"status": "succeeded"})
    last_output = max(k for k, name in enumerate(names) if name == "output")
    assert last_output == len(found) - 2 and names.count("output") == 2
    shapes = dict(RECORDED["events"]["frames"])
    for name, data in found:
        always = {key: kind for key, kind in shapes.get(name, {}).items() if key not in RUNNING}
        fits(always, data, name)
    steps = [data for name, data in found if name == "progress" and "step" in data]
    assert [data["value"] for data in steps] == sorted(data["value"] for data in steps)
    assert steps[-1]["current_node_class"] == "KSampler" and steps[-1]["steps"] == 40
    assert all(0 <= data["value"] <= 1 and data["nodes_total"] == 7 for data in steps)
    preview = next(data for name, data in found if name == "preview")
    assert base64.b64decode(preview["data_base64"])[:2] == b"\xff\xd8"
    after = frames(client, job)
    assert [name for name, _ in after] == ["output", "output", "status"]
    assert [data["id"] for _, data in after[:2]] == [data["id"] for name, data in found if name == "output"]


def test_jobs_that_are_refused(client: Client) -> None:
    image = nodes()
    assert submit(client, image, "key-1").status == 201
    as_recorded("submit error: idempotency_key_reuse", submit(client, image, "key-1"))
    unknown = submit(client, {"1": {"class_type": "Nope", "inputs": {}}}, "key-2")
    as_recorded("submit error: invalid_workflow", unknown)
    assert submit(client, image, "key-2").status == 201  # a key whose request made no job
    missing = submit(client, {"3": {"class_type": "SaveImage", "inputs": {"filename_prefix": "x"}}})
    as_recorded("submit error: invalid_workflow", missing)
    assert missing.error["details"]["node_errors"]["3"]["errors"][0]["type"] == "required_input_missing"
    lost = submit(client, copied({"__type": "core/ASSET", "info": {"id": UNKNOWN}}))
    as_recorded("submit error: missing_asset", lost)
    assert lost.error["details"] == {"missing_ids": [UNKNOWN]}
    assert submit(client, copied({"__type": "core/ASSET"})).error["code"] == "missing_asset"
    page = submit(client, {"nodes": [], "links": [], "last_node_id": 0})
    assert (page.status, page.error["code"]) == (422, "workflow_format_ui")
    as_recorded("bad extra_data", client.post(f"{BASE}/jobs", {"workflow": {"1": {}}, "extra_data": {"foo": "x"}}))
    large = submit(client, nodes(steps=401))  # the server's limit is 400
    assert (large.status, large.error["code"]) == (422, "invalid_workflow") and "steps" in large.error["message"]
    for more, status, code in (
        ({"metadata": 3}, 422, "invalid_request"), ({"metadata": {"a": 1}}, 422, "metadata_invalid"),
        ({"metadata": {str(k): "" for k in range(17)}}, 422, "metadata_invalid"),
        ({"priority": True}, 422, "invalid_request"), ({"webhook_url": "http://a"}, 422, "invalid_workflow"),
        ({"extra_data": {"api_key_comfy_org": 1}}, 400, "invalid_request"),
    ):  # fmt: skip
        answer = submit(client, image, **more)
        assert (answer.status, answer.error["code"]) == (status, code), more
    assert client.ask("POST", f"{BASE}/jobs", b"{").error["code"] == "invalid_request"
    assert submit(client, image, "x" * 256).status == 400
    assert submit(client, 3).error["code"] == "invalid_workflow"
    for id in (UNKNOWN, "nope", UNKNOWN.upper(), "..%2Fx"):
        assert client.get(f"{BASE}/jobs/{id}").error["code"] == "not_found", id
    as_recorded("unknown job", client.get(f"{BASE}/jobs/{UNKNOWN}"))
    assert client.get(f"{BASE}/nowhere").error["code"] == "not_found"
    for job in client.get(f"{BASE}/jobs").json["jobs"]:
        client.post(f"{BASE}/jobs/{job['id']}/cancel")


def test_a_job_that_fails(client: Client) -> None:
    job = job_of(client, failing())
    ended = until(client, job)
    fits(RECORDED["poll failed job"].get("answer", {}), ended)
    assert ended["status"] == "failed" and ended["error"]["code"] == "node_execution_error"
    assert (ended["error"]["node_id"], ended["error"]["class_type"]) == ("3", "ComfyMathExpression")
    assert frames(client, job)[-1] == ("status", {"status": "failed"})


def test_jobs_are_cancelled(client: Client) -> None:
    """One that runs, one that waits, and one that has ended; and the queue has an end."""
    running, waiting = (job_of(client, nodes(steps=400, seed=seed)) for seed in (7, 8))
    until(client, running, "running")
    queued = as_recorded("poll queued job", client.get(f"{BASE}/jobs/{waiting}"))
    assert (queued["status"], queued["queue_position"]) == ("queued", 1)
    for seed in range(5):
        job_of(client, nodes(seed=seed, steps=400), priority=-1)
    full = submit(client, nodes(seed=100), "key-full")
    as_recorded("minimal: queue full", full)
    assert int(full.headers["Retry-After"]) >= 1
    first = client.post(f"{BASE}/jobs/{waiting}/cancel").json
    assert first["status"] == "canceled" and first["completed_at"] is not None
    assert submit(client, nodes(seed=100), "key-full").status == 201  # which a full queue has not used up
    second = as_recorded("cancel", client.post(f"{BASE}/jobs/{running}/cancel"))
    assert second["status"] in ("canceling", "canceled")
    ended = until(client, running)
    assert ended["status"] == "canceled"
    assert client.post(f"{BASE}/jobs/{running}/cancel").json["status"] == "canceled"
    for job in client.get(f"{BASE}/jobs?status=queued,running").json["jobs"]:
        client.post(f"{BASE}/jobs/{job['id']}/cancel")


def test_jobs_are_listed_by_page_and_label(client: Client) -> None:
    marked = [job_of(client, nodes(seed=k), metadata={"client": "acme", "k": str(k)}) for k in range(3)]
    other = job_of(client, nodes(seed=9), metadata={"client": "other"})
    for job in (*marked, other):
        until(client, job)
    page = as_recorded("minimal: list page 1", client.get(f"{BASE}/jobs?limit=2"))
    assert [job["id"] for job in page["jobs"]] == [other, marked[2]]
    following = as_recorded("minimal: list next page", client.get(f"{BASE}/jobs?limit=2&cursor={page['next_cursor']}"))
    assert [job["id"] for job in following["jobs"]] == [marked[1], marked[0]]
    labelled = client.get(f"{BASE}/jobs?metadata%5Bclient%5D=acme&limit=2").json
    assert [job["id"] for job in labelled["jobs"]] == [marked[2], marked[1]]
    rest = client.get(f"{BASE}/jobs?metadata%5Bclient%5D=acme&limit=2&cursor={labelled['next_cursor']}").json
    assert [job["id"] for job in rest["jobs"]] == [marked[0]] and "next_cursor" not in rest
    text = job_of(client, nodes(seed=9), metadata="a text")
    assert until(client, text)["metadata"] == "a text"
    as_recorded("list", client.get(f"{BASE}/jobs?limit=3"))
    as_recorded("list bad filter", client.get(f"{BASE}/jobs?status=foo"))
    for query in ("limit=0", "limit=101", "limit=x"):
        assert client.get(f"{BASE}/jobs?{query}").status == 400
    assert client.get(f"{BASE}/jobs?cursor=x").error["code"] == "invalid_cursor"


def test_every_answer_names_its_request(client: Client) -> None:
    """Errors as well, and streams; no two have the same name."""
    job = job_of(client, nodes(seed=77))
    paths = ("/health", f"/jobs/{job}", f"/jobs/{job}/events", "/jobs/nope", "/nope", "/assets/nope/content")
    found = [client.get(f"{BASE}{path}").headers["X-Comfy-Request-Id"] for path in paths]
    assert len(set(found)) == len(paths) and all(re.fullmatch(r"[\w.+:/=@-]{1,200}", each, re.ASCII) for each in found)
    assert "X-Comfy-Request-Id" not in client.get("/prompt").headers


def test_streams_of_one_owner_are_limited(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "MOST_STREAMS", 2)
    job = job_of(client, nodes(steps=400, seed=78))
    open_ones = [client.connection() for _ in range(2)]
    streams = []
    for connection in open_ones:
        connection.request("GET", f"{BASE}/jobs/{job}/events")
        streams.append(connection.getresponse())
    refused = client.get(f"{BASE}/jobs/{job}/events")
    assert (refused.status, refused.error["code"]) == (429, "too_many_streams") and refused.headers[
        "Retry-After"
    ] == "5"
    assert client.post(f"{BASE}/jobs/{job}/cancel").status == 200
    for stream, connection in zip(streams, open_ones):
        assert b'"canceled"' in stream.read()
        connection.close()
    assert frames(client, job)[-1] == ("status", {"status": "canceled"})  # there is room again


def test_owners_of_tokens_do_not_meet(tmp_path: Path) -> None:
    tokens: Mapping[str, str] = {"alice": ALICE, "bob": BOB}
    with comfy_engine(tmp_path, {"tokens": tokens}, start=False) as (client, _):
        alice, bob = (Client(client.url, {"Authorization": f"Bearer {token}"}) for token in (ALICE, BOB))
        as_recorded("no token", client.get(f"{BASE}/jobs"))
        assert client.get(f"{BASE}/health").status == 200
        made = upload(alice, png(8, 8), "mine.png").json
        assert alice.get(f"{BASE}/assets/{made['id']}").status == 200
        assert bob.get(f"{BASE}/assets/{made['id']}").status == 404
        assert bob.ask("HEAD", f"{BASE}/assets/by-hash/{made['hash']}").status == 404
        reference = {"__type": "core/ASSET", "info": {"id": made["id"], "hash": made["hash"]}}
        assert submit(bob, copied(reference)).error["code"] == "missing_asset"
        job = job_of(alice, copied(reference))
        assert bob.get(f"{BASE}/jobs/{job}").status == 404 and bob.get(f"{BASE}/jobs").json["jobs"] == []


def test_references_are_replaced_wherever_they_are() -> None:
    one, two = ({"__type": "core/ASSET", "info": {"id": id}} for id in "ab")
    made = resolved({"1": {"inputs": {"x": [one, {"y": two}], "z": 3}}}, lambda id, hash: f"{id}.png")
    assert made == {"1": {"inputs": {"x": ["a.png", {"y": "b.png"}], "z": 3}}}
