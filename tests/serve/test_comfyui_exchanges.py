"""ComfyUI's protocol: recorded exchanges of a real server, replayed with the embedded model."""

from __future__ import annotations

import io
import json
import re
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import pytest
from comfy_client import run, talking
from engines import workflow
from PIL import Image
from serving import Client, serving, settings_of

from sigmafield.comfyui.context import Expanded, Shown
from sigmafield.comfyui.declare import NODES, node
from sigmafield.comfyui.nodes import all_nodes
from sigmafield.comfyui.sockets import Socket
from sigmafield.comfyui.values import AnyValue
from sigmafield.comfyui.values import Image as ImageValue
from sigmafield.serve.comfyui.settings import ComfyUISettings
from sigmafield.serve.engine import Engine
from sigmafield.serve.http.run import workflows_of
from sigmafield.serve.settings import EngineSettings

DATA = Path(__file__).parents[1] / "data" / "comfyui"
RECORDED = json.loads((DATA / "exchanges.json").read_text("utf-8"))
ORDERS = json.loads((DATA / "events.json").read_text("utf-8"))
"""The same recordings with the nodes that their messages name, without the queue's length."""

BEFORE = set(all_nodes())
OPEN, GONE_ON = threading.Event(), threading.Event()


@node("ProbeBroken", "probe")
def broken(image: ImageValue) -> ImageValue:
    """Raises."""
    raise RuntimeError("no image")


@node("ProbeGate", "probe", fresh=True)
def gate(image: ImageValue) -> ImageValue:
    """Waits until the test lets it go on."""
    GONE_ON.set()
    assert OPEN.wait(60)
    return image


@node("ProbeTwice", "probe")
def twice(image: ImageValue) -> Expanded[AnyValue]:
    """Is replaced by two nodes."""
    first = {"class_type": "ImageInvert", "inputs": {"image": image}}
    return Expanded(["b", 0], {"a": first, "b": {"class_type": "ImageInvert", "inputs": {"image": ["a", 0]}}})


@node("ProbeNumbers", "probe")
def numbers(value1: float, value2: float, value3: float) -> Annotated[list[float], Socket("FLOAT", listed=True)]:
    """Three values, for each of which the nodes after it run."""
    return [value1, value2, value3]


@node("ProbeLists", "probe", shows=True, takes_lists=True)
def lists(a: Sequence[AnyValue]) -> Shown[None]:
    """Says how many values come."""
    return Shown(None, {"text": ["..."], "n": [len(a)]})


PROBES = {name: NODES[name] for name in set(NODES) - BEFORE}
for name in PROBES:
    NODES.remove(name)


def drawn(seed: int = 1, steps: int = 2, prefix: str = "ComfyUI") -> dict[str, Any]:
    """The prompt of the recordings: nodes and inputs sorted by name."""
    made = workflow(seed=seed, steps=steps)["prompt"]
    made["9"]["inputs"]["filename_prefix"] = prefix
    return {name: {**made[name], "inputs": dict(sorted(made[name]["inputs"].items()))} for name in sorted(made)}


def image_prompt(kind: str) -> dict[str, Any]:
    """An image, a node of a class, and a preview."""
    return {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 16, "height": 8, "batch_size": 1, "color": 0}},
        "2": {"class_type": kind, "inputs": {"image": ["1", 0]}},
        "3": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}},
    }


@pytest.fixture(scope="module")
def comfy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A server that runs one prompt at a time, as ComfyUI does."""
    folder = tmp_path_factory.mktemp("comfyui")
    http, protocol = settings_of(folder, model_folder=None, input_folder=None), ComfyUISettings()
    workflows = replace(workflows_of(folder, http, protocol), nodes={**all_nodes(), **PROBES})
    engine = Engine(folder, EngineSettings(devices=("cpu",), active=1), workflows)
    engine.start()
    with serving(engine, http, folder, protocol) as client:
        yield client
    engine.stop()


def row(message: Mapping[str, Any]) -> list[Any]:
    """A message as the recordings have it."""
    if "frame" in message:
        return ["frame", message["frame"], sorted(message.get("about", ()))]
    if message["type"] == "feature_flags":  # what a server can do is its own affair
        return ["feature_flags"]
    remaining = [message["data"]["status"]["exec_info"]["queue_remaining"]] if message["type"] == "status" else []
    return [message["type"], sorted(message["data"]), *remaining]


def rows(seen: list[Any], states: bool = True) -> list[Any]:
    return [each for each in map(row, seen) if states or each[0] != "progress_state"]


def recorded(case: str, states: bool = True) -> list[Any]:
    found = (each[:1] if each[0] == "feature_flags" else each for each in RECORDED["messages"][case])
    return [each for each in found if states or each[0] != "progress_state"]


@pytest.mark.parametrize("case", ["text_to_image", "previews_of_a_plain_client", "previews_with_metadata"])
def test_a_drawn_image_gives_the_recorded_messages(comfy, case):
    previews = {} if case == "text_to_image" else {"extra_data": {"preview_method": "latent2rgb"}}

    async def talk() -> list[Any]:
        comfy.post("/free", {"free_memory": True})
        async with talking(comfy.url, metadata=case.endswith("metadata")) as client:
            if previews:  # recorded with loaders and texts that were cached
                await client.ended([await client.post(drawn(seed=99))])
                del client.seen[2 if case.endswith("metadata") else 1 :]
            await client.ended([await client.post(drawn(), **previews)])
            return client.seen

    seen = run(talk)
    assert rows(seen) == recorded(case)
    for message in seen:
        if "frame" in message:
            assert max(Image.open(io.BytesIO(message["image"])).size) == 512
    about = [message["about"] for message in seen if message.get("frame") == 4]
    assert all(each["node_id"] == each["real_node_id"] == "3" and each["image_type"] == "image/jpeg" for each in about)


def test_the_same_prompt_again_is_wholly_cached_and_shows_the_same_files(comfy):
    async def talk() -> tuple[list[Any], Any, Any]:
        async with talking(comfy.url, metadata=True) as client:
            first = await client.post(drawn(seed=5))
            await client.ended([first])
            del client.seen[2:]
            second = await client.post(drawn(seed=5))
            await client.ended([second])
            return (
                client.seen,
                await client.ask("GET", f"/history/{first}"),
                await client.ask("GET", f"/history/{second}"),
            )

    seen, first, second = run(talk)
    assert rows(seen) == recorded("fully_cached")
    [one], [two] = first.values(), second.values()
    assert one["outputs"] == two["outputs"] and list(one["outputs"]) == ["9"]


def test_a_failing_node_gives_the_recorded_messages_and_leaves_the_server_well(comfy):
    async def talk() -> tuple[list[Any], Any]:
        async with talking(comfy.url) as client:
            id = await client.post(image_prompt("ProbeBroken"))
            await client.ended([id])
            return client.seen, await client.ask("GET", f"/history/{id}")

    seen, history = run(talk)
    ours, theirs = rows(seen, states=False), recorded("failed", states=False)
    assert [each for each in ours if each[0] != "executing"] == [each for each in theirs if each[0] != "executing"]
    [error] = [message["data"] for message in seen if message.get("type") == "execution_error"]
    assert (error["node_id"], error["node_type"], error["executed"]) == ("2", "ProbeBroken", ["1"])
    assert error["exception_message"] == "no image\n" and error["exception_type"] == "RuntimeError"
    assert any("in broken" in line for line in error["traceback"])
    assert not any(
        str(folder) in line for line in error["traceback"] for folder in (Path.home(), Path(__file__).parents[2])
    )
    [entry] = history.values()
    assert entry["status"]["status_str"] == "error" and not entry["status"]["completed"]
    assert [kind for kind, _ in entry["status"]["messages"]] == [
        "execution_start", "execution_cached", "execution_error",
    ]  # fmt: skip


def test_nodes_of_an_expansion_are_told_with_their_parents(comfy):
    async def talk() -> list[Any]:
        comfy.post("/free", {"free_memory": True})
        async with talking(comfy.url) as client:
            await client.ended([await client.post(image_prompt("ProbeTwice"))])
            return client.seen

    seen = run(talk)
    ours, theirs = rows(seen, states=False), recorded("expansion", states=False)
    assert [each for each in ours if each[0] != "executing"] == [each for each in theirs if each[0] != "executing"]
    running = [(m["data"]["node"], m["data"].get("display_node")) for m in seen if m.get("type") == "executing"]
    assert running == [("1", "1"), ("2", "2"), ("2.0.0.a", "2"), ("2.0.0.b", "2"), ("3", "3"), (None, None)]
    nodes = [message for message in seen if message.get("type") == "progress_state"][-1]["data"]["nodes"]
    assert nodes["2.0.0.a"]["parent_node_id"] == nodes["2.0.0.a"]["real_node_id"] == "2"
    assert {each["state"] for each in nodes.values()} == {"finished"}


def gated(client: Any) -> Any:
    OPEN.clear()
    GONE_ON.clear()
    return client.post(image_prompt("ProbeGate"))


def test_the_queue_lists_prompts_in_their_order_and_lets_them_be_taken_out(comfy):
    async def talk() -> None:
        async with talking(comfy.url) as client:
            running = await gated(client)
            await client.until(lambda message: message.get("type") == "executing" and message["data"]["node"] == "2")
            late = await client.post(drawn(seed=6))
            gone = await client.post(drawn(seed=7))
            first = await client.post(drawn(seed=8), front=True)
            queue = await client.ask("GET", "/queue")
            assert [each[1] for each in queue["queue_running"]] == [running]
            assert [each[1] for each in queue["queue_pending"]] == [first, late, gone]
            kinds = [[type(each).__name__ for each in five] for five in queue["queue_pending"]]
            assert kinds == [RECORDED["queue"][0]] * 3
            assert queue["queue_pending"][0][0] < 0 < queue["queue_pending"][1][0]
            assert queue["queue_pending"][0][3]["client_id"] == client.id
            assert (await client.ask("GET", "/prompt"))["exec_info"]["queue_remaining"] == 4
            listed = await client.ask("GET", "/api/jobs?status=pending,in_progress&sort_order=asc&limit=10")
            assert [job["status"] for job in listed["jobs"]] == ["in_progress", "pending", "pending", "pending"]
            await client.ask("POST", "/queue", {"delete": [gone]})
            client.seen.clear()
            OPEN.set()
            await client.ended([running, first, late])
            starts = [m["data"]["prompt_id"] for m in client.seen if m.get("type") == "execution_start"]
            assert starts == [first, late]
            assert await client.ask("GET", f"/history/{gone}") == {}
            await client.ask("POST", "/queue", {"clear": True})

    run(talk)


def test_an_interrupt_ends_the_prompt_that_runs_and_no_other(comfy):
    async def talk() -> tuple[list[Any], Any]:
        async with talking(comfy.url) as client:
            id = await client.post(drawn(seed=9, steps=300))
            await client.until(lambda message: message.get("type") == "progress")
            await client.ask("POST", "/interrupt", {"prompt_id": str(uuid.uuid4())})
            await client.until(lambda message: message.get("type") == "progress")
            await client.ask("POST", "/interrupt")
            await client.ended([id])
            return client.seen, await client.ask("GET", f"/api/jobs/{id}")

    seen, job = run(talk)
    ours = [each for each in rows(seen, states=False) if each[0] not in ("progress", "executing")]
    theirs = recorded("interrupted", states=False)
    end = next(k for k, each in enumerate(theirs) if each[0] == "execution_interrupted")
    assert [each[:2] for each in ours[-2:]] == [each[:2] for each in theirs[end : end + 2]]
    assert row(seen[-1]) == theirs[end + 2]
    [data] = [message["data"] for message in seen if message.get("type") == "execution_interrupted"]
    assert (data["node_id"], data["node_type"]) == ("3", "KSampler")
    assert job["status"] == "cancelled" and job["execution_status"]["status_str"] == "error"


def told(seen: list[Any]) -> list[Any]:
    """Messages as `ORDERS` has them, without the queue's length; of the steps of a node, the first."""
    found: list[Any] = []
    for message in seen:
        match message.get("type"), message.get("data"):
            case "executing", {"node": None}:
                found.append(["executing", None])
            case "executing", data:
                found.append(["executing", data["node"], data["display_node"]])
            case "executed", data:
                found.append(["executed", data["node"], data["display_node"], sorted(data["output"])])
            case "execution_cached", data:
                found.append(["execution_cached", data["nodes"]])
            case "execution_interrupted", data:
                found.append(["execution_interrupted", data["node_id"], data["node_type"], data["executed"]])
            case "progress", data:
                found.append(["progress", data["node"]])
            case "execution_start" | "execution_success" as kind, _:
                found.append([kind])
    return [each for each, _ in groupby(found)]


def queue_lengths(seen: list[Any]) -> list[int]:
    return [row(message)[2] for message in seen if message.get("type") == "status"]


def test_two_interrupts_give_the_recorded_messages_in_their_order(comfy):
    """Three prompts are posted, the last one is deleted while it waits, and each of the others is interrupted."""

    def steps(id: str) -> Any:
        return lambda message: message.get("type") == "progress" and message["data"]["prompt_id"] == id

    async def talk() -> list[Any]:
        comfy.post("/free", {"free_memory": True})
        async with talking(comfy.url) as client:
            first, second, third = [await client.post(drawn(seed=seed, steps=300)) for seed in (77, 78, 79)]
            await client.ask("POST", "/queue", {"delete": [third]})
            for id in (first, second):
                await client.until(steps(id))
                await client.ask("POST", "/interrupt", {"prompt_id": id})
            await client.ended([second])
            return client.seen

    seen = run(talk)
    theirs = [each[:2] if each[0] == "progress" else each for each in ORDERS["ws_interrupt"]["events"]]
    assert told(seen) == theirs
    assert queue_lengths(seen) == [each[2] for each in recorded("interrupted") if each[0] == "status"]
    kinds = [message["type"] for message in seen if message["type"] != "progress_state"]
    between = kinds.index("execution_interrupted")
    ends = [each[0] for each in recorded("interrupted")][14:19]
    assert kinds[between : between + 5] == ends == ["execution_interrupted", "status", "executing", "status",
                                                    "execution_start"]  # fmt: skip


def test_a_list_runs_nodes_for_each_value_with_the_recorded_messages(comfy):
    case = ORDERS["ws_list_mapping"]
    classes = {"TestMakeListNode": "ProbeNumbers", "StubMask": "SolidMask", "ProbeOut": "ProbeLists"}
    prompt = {
        name: {**each, "class_type": classes.get(each["class_type"], each["class_type"])}
        for name, each in case["prompt"].items()
    }
    prompt["2"]["inputs"] = {"value": ["1", 0], "height": 16, "width": 16}

    async def talk() -> list[Any]:
        async with talking(comfy.url) as client:
            await client.ended([await client.post(prompt)])
            return client.seen

    seen = run(talk)
    assert told(seen) == case["events"] and queue_lengths(seen) == [0, 1, 1, 0]
    outputs = {m["data"]["node"]: m["data"]["output"] for m in seen if m.get("type") == "executed"}
    assert outputs["5"] == {"text": ["..."], "n": [3]}
    names = {image["filename"] for image in outputs["4"]["images"]}
    assert len(names) == 3 and all(re.fullmatch(r"ComfyUI_temp_[a-z]{5}_0000\d_\.png", name) for name in names)
    assert {image["type"] for image in outputs["4"]["images"]} == {"temp"}


@pytest.mark.parametrize("features", [{}, {"supports_progress_text_metadata": True}])
def test_texts_of_nodes_are_sent_while_the_prompt_runs(comfy, features):
    """In the form of ComfyUI 0.8.0, or with the prompt's id for clients that say that they read it."""
    prompt = {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 16, "height": 8, "batch_size": 2, "color": 0}},
        "2": {"class_type": "GetImageSize", "inputs": {"image": ["1", 0]}},
        "3": {"class_type": "PreviewAny", "inputs": {"source": ["2", 0]}},
    }

    async def talk() -> tuple[str, list[Any]]:
        comfy.post("/free", {"free_memory": True})
        async with talking(comfy.url, features=features) as client:
            id = await client.post(prompt)
            await client.ended([id])
            return id, client.seen

    id, seen = run(talk)
    [text] = [message["texts"] for message in seen if "frame" in message]
    assert text == [*([id] if features else []), "2", "width: 16, height: 8\n batch size: 2"]
    kinds = [row(message)[:2] for message in seen]
    running = kinds.index(["frame", 3])
    assert [each[0] for each in kinds[running - 2 : running + 2]] == [
        "progress_state",
        "executing",
        "frame",
        "progress_state",
    ]


def test_a_node_that_equals_another_one_is_told_with_its_result_or_null(comfy):
    prompt = image_prompt("ImageInvert") | {
        "4": image_prompt("ImageInvert")["2"],
        "5": {"class_type": "PreviewImage", "inputs": {"images": ["4", 0]}},
    }

    async def talk() -> list[Any]:
        comfy.post("/free", {"free_memory": True})
        async with talking(comfy.url) as client:
            await client.ended([await client.post(prompt)])
            return client.seen

    seen = run(talk)
    outputs = {m["data"]["node"]: m["data"]["output"] for m in seen if m.get("type") == "executed"}
    ran = {m["data"]["node"] for m in seen if m.get("type") == "executing"} - {None}
    twins = sorted({"2", "4"} - ran), sorted({"3", "5"} - ran)
    assert [len(each) for each in twins] == [1, 1] and outputs[twins[0][0]] is None
    assert outputs["3"] == outputs["5"] and outputs["3"]["images"]


def test_answers_have_the_recorded_statuses_types_and_keys(comfy):
    for request, body, status, kind, keys in RECORDED["answers"]:
        method, path = request.split(" ")
        for address in {path, path if path.startswith("/api/jobs") else path.removeprefix("/api")}:
            answer = comfy.ask(method, address, b"" if body == "" else body)
            assert answer.status == status, (request, answer.body)
            found = answer.json if answer.body else ""
            assert not kind or answer.headers["Content-Type"].startswith(kind), request
            if keys is not None:
                assert (sorted(found) if isinstance(found, dict) else type(found).__name__) == keys, request


def test_history_and_jobs_have_the_recorded_form(comfy):
    id = str(uuid.uuid4())
    extra = {"extra_pnginfo": {"workflow": {"id": "w"}}, "api_key_comfy_org": "secret"}
    body = {"prompt": drawn(seed=11), "prompt_id": id, "extra_data": extra}
    assert comfy.post("/api/prompt", body).json["prompt_id"] == id
    waited(comfy, id)
    entry = comfy.get(f"/history/{id}").json[id]
    assert {key: sorted(entry[key]) for key in ("outputs", "meta")} == {"outputs": ["9"], "meta": ["9"]}
    assert sorted(entry) == sorted(RECORDED["history"]["entry"])
    assert [type(each).__name__ for each in entry["prompt"]] == RECORDED["history"]["prompt"]
    assert "secret" not in json.dumps(entry)
    job = comfy.get(f"/api/jobs/{id}").json
    assert set(RECORDED["job"]) <= set(job) and job["workflow_id"] == "w" and job["outputs_count"] == 1
    assert {"filename", "subfolder", "type", "nodeId", "mediaType"} == set(job["preview_output"])
    [image] = entry["outputs"]["9"]["images"]
    shown = comfy.get(f"/view?filename={image['filename']}&type={image['type']}&subfolder=")
    saved = Image.open(io.BytesIO(shown.body))
    assert json.loads(saved.info["prompt"]) == entry["prompt"][2] and json.loads(saved.info["workflow"]) == {"id": "w"}
    assert comfy.get("/history?max_items=1").json == {id: entry}
    assert comfy.get("/api/jobs?workflow_id=w&limit=5").json["pagination"]["total"] == 1
    own = comfy.get(f"/v1/jobs/{id}").json
    assert own["status"] == "done" and comfy.get(own["outputs"][0]["url"]).body == shown.body
    comfy.post("/history", {"delete": [id]})
    assert comfy.get(f"/history/{id}").json == {}


def waited(comfy: Client, id: str) -> None:
    """Wait as a client does that has no socket."""
    while not comfy.get(f"/history/{id}").json:
        threading.Event().wait(0.02)


def test_bad_prompts_are_refused_in_comfyuis_form(comfy):
    for body, status, kind in (
        ({}, 400, "no_prompt"),
        ({"prompt": {}}, 400, "prompt_no_outputs"),
        ({"prompt": image_prompt("Nope")}, 400, "invalid_prompt"),
        ({"prompt": image_prompt("ImageInvert") | {"2": {"class_type": "ImageInvert", "inputs": {}}}}, 400,
         "prompt_outputs_failed_validation"),
        ({"prompt": drawn(steps=401)}, 400, "limit_exceeded"),
        ({"prompt": drawn(), "prompt_id": "mine"}, 400, "invalid_prompt_id"),
        ({"prompt": drawn(), "number": "x"}, 400, "invalid_request"),
        ({"prompt": drawn(), "extra_data": []}, 200, None),
        ({"prompt": drawn(), "extra_data": [1]}, 400, "invalid_request"),
        ([], 400, "invalid_request"),
        (b"{", 400, "invalid_request"),
    ):  # fmt: skip
        answer = comfy.ask("POST", "/prompt", body, kind="application/x-www-form-urlencoded")
        assert answer.status == status, (body, answer.body)
        if kind is not None:
            assert answer.json["error"]["type"] == kind and answer.json["error"]["message"], answer.body
        assert isinstance(answer.json["node_errors"], dict)


def test_a_limit_holds_for_a_value_that_comes_from_another_node(comfy):
    """A prompt cannot be refused for it when it is posted; it ends before the node that asks for too much."""
    prompt = drawn()
    prompt["20"] = {"class_type": "PrimitiveInt", "inputs": {"value": 401}}
    prompt["3"]["inputs"]["steps"] = ["20", 0]
    answer = comfy.post("/prompt", {"prompt": prompt}).json
    waited(comfy, answer["prompt_id"])
    entry = comfy.get(f"/history/{answer['prompt_id']}").json[answer["prompt_id"]]
    [said] = [about for kind, about in entry["status"]["messages"] if kind == "execution_error"]
    assert said["node_id"] == "3" and "steps must be at most 400 on this server; got 401" in said["exception_message"]


def test_a_prompt_with_one_bad_output_runs_the_others(comfy):
    prompt = image_prompt("ImageInvert")
    prompt["4"] = {"class_type": "PreviewImage", "inputs": {}}
    answer = comfy.post("/prompt", {"prompt": prompt}).json
    assert list(answer["node_errors"]) == ["4"]
    waited(comfy, answer["prompt_id"])
    entry = comfy.get(f"/history/{answer['prompt_id']}").json[answer["prompt_id"]]
    assert entry["prompt"][4] == ["3"] and list(entry["outputs"]) == ["3"]
    only = comfy.post("/prompt", {"prompt": image_prompt("ImageInvert"), "partial_execution_targets": ["4"]})
    assert only.status == 400


def test_without_a_client_id_every_socket_is_told_of_progress_alone(comfy):
    async def talk() -> list[Any]:
        async with talking(comfy.url) as client:
            comfy.post("/prompt", {"prompt": drawn(seed=12)})

            def idle(message: dict[str, Any]) -> bool:
                return row(message)[::2] == ["status", 0] and len(client.seen) > 3

            await client.until(idle)
            return client.seen

    assert {message["type"] for message in run(talk)} == {"status", "progress_state", "progress"}


def test_a_client_that_connects_again_learns_which_node_runs_and_gets_the_rest(comfy):
    async def talk() -> list[Any]:
        async with talking(comfy.url) as first:
            id = await gated(first)
            await first.until(lambda message: message.get("type") == "executing" and message["data"]["node"] == "2")
            async with talking(comfy.url, id=first.id) as again:
                await again.until(lambda message: message.get("type") == "executing")
                OPEN.set()
                await again.ended([id])
                return again.seen

    seen = run(talk)
    assert seen[1]["data"] == {"node": "2"} and seen[-1]["data"]["node"] is None


@pytest.mark.parametrize("metadata", [False, True])
def test_images_are_sent_through_the_socket_each_time(comfy, metadata):
    """As whole PNG files, by SaveImageWebsocket, in the place of previews; also when nothing has changed."""
    prompt = {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 4, "batch_size": 2, "color": 255}},
        "2": {"class_type": "SaveImageWebsocket", "inputs": {"images": ["1", 0]}},
    }

    async def talk() -> list[Any]:
        async with talking(comfy.url, metadata=metadata) as client:
            for _ in range(2):
                await client.ended([await client.post(prompt)])
            return client.seen

    seen = run(talk)
    frames = [message for message in seen if "frame" in message]
    assert [message["frame"] for message in frames] == [4 if metadata else 1] * 4
    for message in frames:
        image = Image.open(io.BytesIO(message["image"]))
        assert (image.format, image.size, image.getpixel((0, 0))) == ("PNG", (8, 4), (0, 0, 255))
    if metadata:
        assert all(message["about"]["image_type"] == "image/png" for message in frames)
        assert all(message["about"]["node_id"] == "2" for message in frames)
    steps = [message["data"]["value"] for message in seen if message.get("type") == "progress"]
    assert steps == [0, 1, 0, 1]
