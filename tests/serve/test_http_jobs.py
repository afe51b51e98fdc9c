"""Jobs over HTTP: submitted, watched, steered, fetched, cloned, deleted."""

from __future__ import annotations

import base64
import io
import json
import time

import pytest
from engines import full_disk
from PIL import Image
from serving import ALICE, BOB, LONG, RECIPE, Client, png, serving, settings_of

import sigmafield as sf
from sigmafield.serve.engine import Engine
from sigmafield.serve.settings import EngineSettings


def test_a_job_gives_the_image_that_its_recipe_gives(server, done):
    [output] = done["outputs"]
    answer = server.get(output["url"])
    assert answer.status == 200 and answer.headers["Content-Type"] == output["media_type"] == "image/png"
    [image] = sf.generate(sf.load("tiny"), RECIPE["prompt"], **{k: v for k, v in RECIPE.items() if k != "prompt"})
    assert Image.open(io.BytesIO(answer.body)).tobytes() == image.tobytes()


def test_events_tell_all_steps_and_go_on_after_the_last_one_that_the_client_has(server, done):
    events = server.events(done["id"])
    assert [each["event"] for each in events] == ["queued", "started", "step", "step", "done"]
    assert [each["data"]["step"] for each in events if each["event"] == "step"] == [1, 2]
    last = events[2]["id"]
    assert server.events(done["id"], Last_Event_ID=str(last)) == [each for each in events if each["id"] > last]
    assert server.get(f"/v1/jobs/{done['id']}/events", Last_Event_ID=str(events[-1]["id"])).status == 204


def test_a_step_carries_its_preview(server):
    job = server.submit(steps=12)
    steps = [each["data"] for each in server.events(job) if each["event"] == "step"]
    previews = [step["preview"] for step in steps if step["preview"]]
    assert [step["step"] for step in steps] == list(range(1, 13)) and previews
    head, _, data = previews[-1].partition(",")
    assert head == "data:image/jpeg;base64" and Image.open(io.BytesIO(base64.b64decode(data))).format == "JPEG"
    assert server.get(f"/v1/jobs/{job}/preview").headers["Content-Type"] == "image/jpeg"


def test_a_job_is_paused_resumed_prioritised_and_cancelled(server):
    job = server.submit(steps=LONG["steps"])
    server.until(job, "running")
    assert server.post(f"/v1/jobs/{job}/pause").json["status"] == "paused"
    time.sleep(0.05)
    held = server.get(f"/v1/jobs/{job}").json
    assert held["status"] == "paused" and held["step"] < 400
    assert server.post(f"/v1/jobs/{job}/priority", {"priority": 5}).json["priority"] == 5
    assert server.post(f"/v1/jobs/{job}/resume").status == 200
    assert server.post(f"/v1/jobs/{job}/cancel").json["status"] == "cancelled"
    assert server.post(f"/v1/jobs/{job}/resume").status == 409
    assert server.ask("DELETE", f"/v1/jobs/{job}").status == 204
    assert server.get(f"/v1/jobs/{job}").status == 404


def test_a_clone_draws_with_changes(server, done):
    answer = server.post(f"/v1/jobs/{done['id']}/clone", {"changes": {"seed": 2}})
    assert answer.status == 202 and answer.json["cloned_from"] == done["id"]
    made = server.until(answer.json["id"], "done")
    assert made["recipe"] == {**done["recipe"], "seed": 2}
    assert made["outputs"][0]["sha256"] != done["outputs"][0]["sha256"]
    wrong = server.post(f"/v1/jobs/{done['id']}/clone", {"changes": {"steps": 0}}).error
    assert wrong["field"] == "steps"
    assert server.post(f"/v1/jobs/{done['id']}/clone", {"step": 12345}).status == 400


def test_what_is_public_of_a_recipe_can_be_posted_again(server, done):
    again = server.post("/v1/jobs", {"recipe": done["recipe"]})
    assert server.until(again.json["id"], "done")["outputs"][0]["sha256"] == done["outputs"][0]["sha256"]


def test_jobs_are_listed_the_latest_first_in_pages(server, done):
    first, second = server.submit(), server.submit()
    jobs = server.get("/v1/jobs?limit=2").json["jobs"]
    assert [job["id"] for job in jobs] == [second, first]
    assert server.get(f"/v1/jobs?limit=1&before={second}").json["jobs"][0]["id"] == first
    assert server.get("/v1/jobs?before=unknown").error["message"] == "no job unknown"
    server.until(second, "done")
    assert all(job["status"] == "done" for job in server.get("/v1/jobs?status=done").json["jobs"])


def test_the_same_key_is_the_same_job_and_another_request_a_conflict(server):
    body = {"recipe": {**RECIPE, "seed": "random"}}
    first = server.post("/v1/jobs", body, Idempotency_Key="key 1")
    assert server.post("/v1/jobs", body, Idempotency_Key="key 1").json["id"] == first.json["id"]
    other = server.post("/v1/jobs", {"recipe": RECIPE}, Idempotency_Key="key 1")
    assert other.status == 409 and other.error["type"] == "conflict_error"
    for key in ("", "x" * 201, "\xe9"):
        assert server.post("/v1/jobs", body, Idempotency_Key=key).error["field"] == "Idempotency-Key"


def test_a_blocking_request_is_answered_with_the_image_or_the_job(server):
    answer = server.post("/v1/generate", {"recipe": RECIPE})
    assert answer.status == 200 and Image.open(io.BytesIO(answer.body)).size == (64, 64)
    job = server.post("/v1/generate", {"recipe": RECIPE}, Accept="application/json").json
    assert job["status"] == "done" and len(job["outputs"]) == 1


def test_a_blocking_request_of_a_workflow_that_saves_nothing_is_answered_with_the_job(server):
    image = {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0}}
    workflow = {"1": image, "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}}
    answer = server.post("/v1/generate", {"workflow": workflow})
    assert answer.status == 200 and answer.json["status"] == "done" and answer.json["outputs"] == []


def test_a_job_whose_blocking_client_goes_away_is_cancelled(server, engine: Engine):
    connection = server.connection()
    body = json.dumps({"recipe": LONG})
    connection.request("POST", "/v1/generate", body, {"Content-Type": "application/json"})
    for _ in range(500):
        if running := [job for job in engine.list(status="running") if job.request["steps"] == LONG["steps"]]:
            break
        time.sleep(0.01)
    connection.close()
    server.until(running[0].id, "cancelled")


def test_a_job_with_a_key_goes_on_when_its_blocking_client_goes_away(server):
    connection, body = server.connection(), {"recipe": {**RECIPE, "steps": 12}}
    headers = {"Content-Type": "application/json", "Idempotency-Key": "lost"}
    connection.request("POST", "/v1/generate", json.dumps(body), headers)
    job = until_key(server, "lost")
    connection.close()
    again = server.post("/v1/generate", body, Idempotency_Key="lost")
    assert again.status == 200 and again.headers["X-Job-Id"] == job


def until_key(server, key: str) -> str:
    """The job with an idempotency key, once it is there."""
    for _ in range(500):
        for job in server.get("/v1/jobs?limit=5").json["jobs"]:
            if job["key"] == key:
                return job["id"]
        time.sleep(0.01)
    raise AssertionError("no such job")


def test_nothing_comes_after_the_end_of_a_cancelled_job(server, engine: Engine):
    job = server.submit(steps=LONG["steps"])
    server.until(job, "running")
    while not engine.get(job).step:
        time.sleep(0.01)
    server.post(f"/v1/jobs/{job}/cancel")
    while sum(device.running for device in engine.figures().devices):  # its thread takes a step to the end
        time.sleep(0.01)
    last = server.events(job)[-1]
    assert last["event"] == "cancelled"
    assert server.get(f"/v1/jobs/{job}/events", Last_Event_ID=str(last["id"])).status == 204


def test_a_clone_of_a_job_whose_upload_is_deleted_is_refused(server):
    upload = server.ask("POST", "/v1/uploads", png(32, 32, "blue"), kind="image/png").json
    job = server.submit(image=upload["image"], denoise=0.5)
    server.until(job, "done")
    assert server.ask("DELETE", f"/v1/uploads/{upload['id']}").status == 204
    for changes in ({}, {"seed": 2}):
        error = server.post(f"/v1/jobs/{job}/clone", {"changes": changes}).error
        assert error["field"] == "image" and upload["image"][:20] in error["message"]
    assert server.post(f"/v1/jobs/{job}/clone", {"changes": {"image": None, "denoise": None}}).status == 202


def test_a_full_disk_is_said_in_one_line(server):
    with full_disk():
        for answer in (
            server.post("/v1/jobs", {"recipe": RECIPE}),
            server.ask("POST", "/v1/uploads", png(40, 24), kind="image/png"),
        ):
            assert answer.status == 503 and answer.error["message"] == "the server cannot write to its disk"
    server.until(server.submit(), "done")


def test_an_upload_is_where_a_recipe_starts(server):
    made = server.ask("POST", "/v1/uploads", png(32, 48), kind="image/png")
    assert made.status == 201
    assert {k: made.json[k] for k in ("media_type", "width", "height", "frames")} == {
        "media_type": "image/png", "width": 32, "height": 48, "frames": 1,
    }  # fmt: skip
    job = server.until(server.submit(image=made.json["image"], denoise=0.5), "done")
    assert job["recipe"]["image"] == made.json["image"]
    assert (job["outputs"][0]["width"], job["outputs"][0]["height"]) == (32, 48)
    url = f"data:image/png;base64,{base64.b64encode(png(32, 48)).decode()}"
    same = server.until(server.submit(image=url, denoise=0.5), "done")
    assert same["outputs"][0]["sha256"] == job["outputs"][0]["sha256"]
    assert server.ask("DELETE", f"/v1/uploads/{made.json['id']}").status == 204
    assert "no upload" in server.post("/v1/jobs", {"recipe": {**RECIPE, "image": made.json["image"]}}).error["message"]


def test_a_form_uploads_as_well(server):
    body = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n' + png() + b"\r\n--x--\r\n"
    assert server.ask("POST", "/v1/uploads", body, kind="multipart/form-data; boundary=x").status == 201


def test_an_image_below_the_folder_of_inputs_can_be_named(server):
    job = server.until(server.submit(image="more/heart.png", denoise=0.5), "done")
    assert job["recipe"]["image"] == "more/heart.png"


def test_a_workflow_runs_on_an_upload(server):
    image = server.ask("POST", "/v1/uploads", png(), kind="image/png").json["image"]
    workflow = {
        "1": {"class_type": "LoadImage", "inputs": {"image": image}},
        "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "inverted"}},
    }
    answer = server.post("/v1/jobs", {"workflow": workflow})
    assert answer.status == 202, answer.body
    job = server.until(answer.json["id"], "done")
    assert job["workflow"]["1"]["inputs"]["image"] == image
    image = Image.open(io.BytesIO(server.get(job["outputs"][0]["url"]).body))
    assert image.convert("RGB").getpixel((0, 0)) == (0, 255, 255)


@pytest.mark.parametrize(
    "body, field",
    [
        ({"recipe": {"prompt": "x", "steps": 0}}, "steps"),
        ({"recipe": {"prompt": "x", "stepz": 5}}, "stepz"),
        ({"recipe": {"prompt": 5}}, "prompt"),
        ({"recipe": {}}, "prompt"),
        ({"recipe": {"prompt": "x", "sampler": "eulr"}}, "sampler"),
        ({"recipe": {"prompt": "x", "width": 64}}, "width"),
        ({"recipe": {"prompt": "x", "version": 99}}, "version"),
        ({"recipe": {"prompt": "x", "model": "other"}}, "model"),
        ({"recipe": {"prompt": "x", "steps": 401}}, "steps"),
        ({"recipe": {"prompt": "x", "batch": 5}}, "batch"),
        ({"recipe": {"prompt": "x", "width": 512, "height": 512}}, "width"),
        ({"recipe": {"prompt": "x" * 2000}}, "prompt"),
        ({"recipe": RECIPE, "priority": "high"}, "priority"),
        ({"recipe": RECIPE, "other": 1}, "other"),
        ({"recipe": RECIPE, "webhook": {"url": "http://x.example"}}, "webhook.secret"),
        ({}, "recipe"),
        ({"workflow": {"1": {}}}, "workflow"),
    ],
)
def test_a_bad_request_gives_one_clear_error_with_the_field(server, body, field):
    answer = server.post("/v1/jobs", body)
    assert answer.status == 400 and answer.error["field"] == field
    assert "\n" not in answer.error["message"] and len(answer.error["message"]) > 10


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b"\xff", b'{"recipe": ' + b"[" * 5000, b"{}{}"])
def test_a_body_that_is_not_json_of_a_job_is_refused(server, body):
    assert server.ask("POST", "/v1/jobs", body).status == 400
    assert server.ask("POST", "/v1/jobs", body).error["message"]


def test_errors_of_http_have_the_same_form(server):
    assert server.get("/v1/nothing").error["type"] == "not_found_error"
    answer = server.ask("DELETE", "/v1/jobs")
    assert answer.status == 405 and answer.error and "POST" in answer.headers["Allow"]
    assert server.get("/v1/jobs/none").status == 404
    assert server.get("/v1/jobs?limit=x").error["field"] == "limit"
    assert server.ask("POST", "/v1/jobs", b"{}", kind="text/plain").status == 415
    assert server.ask("POST", "/v1/jobs", b"{}", {"Content-Encoding": "gzip"}).status == 415


def test_what_a_recipe_can_name_is_listed(server):
    models = server.get("/v1/models").json["data"]
    assert models[0]["id"] == "tiny" and models[0]["default"] and models[0]["loaded"]
    samplers = {each["name"]: each for each in server.get("/v1/samplers").json["samplers"]}
    assert samplers["dpmpp_2m_sde"]["parameters"]["eta"]["default"] == 1.0
    assert {each["name"] for each in server.get("/v1/schedules").json["schedules"]} >= {"karras"}
    assert {each["name"] for each in server.get("/v1/guidance").json["guidance"]} >= {"apg"}


def test_the_server_says_how_it_is(server, done):
    assert server.get("/healthz").status == server.get("/readyz").status == server.ask("HEAD", "/").status == 200
    text = server.get("/metrics").body.decode()
    names = "jobs queue_length rows_per_call_bucket step_seconds batch_efficiency http_request_seconds_count"
    for name in names.split():
        assert f"\nsigmafield_{name}" in text
    assert 'route="/v1/jobs/{id}"' in text and done["id"] not in text


def test_events_of_all_jobs_are_one_stream(server):
    connection = server.connection()
    connection.request("GET", "/v1/events")
    stream = connection.getresponse()
    job = server.submit()
    text = ""
    while "event: done" not in text:
        text += stream.fp.readline().decode()
    assert f'"job": "{job}"' in text and "event: step" in text
    connection.close()


def test_a_full_queue_says_when_to_come_again(root, tmp_path):
    limits = EngineSettings(devices=("cpu",), queue_length=2, jobs_per_owner=1)
    engine = Engine(tmp_path, limits)  # not started: no job leaves
    with serving(engine, settings_of(root, tokens={"alice": ALICE, "bob": BOB}), tmp_path) as client:
        alice, bob = (Client(client.url, {"Authorization": f"Bearer {token}"}) for token in (ALICE, BOB))
        assert client.get("/readyz").status == 503
        assert alice.submit()
        full = [alice.post("/v1/jobs", {"recipe": RECIPE})]
        assert bob.submit()
        full += [bob.post("/v1/generate", {"recipe": RECIPE}), bob.post("/v1/images/generations", {"prompt": "x"})]
    engine.stop()
    for answer in full:
        assert answer.status == 429 and int(answer.headers["Retry-After"]) >= 1
        assert answer.error["type"] == "rate_limit_error"


def test_an_image_carries_a_recipe_without_the_folders_of_the_server(server, root):
    job = server.until(server.submit(image="heart.png", denoise=0.5), "done")
    data = server.get(job["outputs"][0]["url"]).body
    assert b"heart.png" in data and str(root).encode() not in data
