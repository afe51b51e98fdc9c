"""Jobs on an engine: they run, wait, stop, go on and are kept as they should, whatever they are."""

import dataclasses
import gc
import json
import logging.handlers
import queue
import sqlite3
import time
import weakref
from contextlib import ExitStack
from functools import cache
from hashlib import sha256
from unittest import mock

import pytest
from engines import LONG, Stops, digests, finished, full_disk, kinds, recipe, started, stepped, until, workflow

from sigmafield.comfyui.from_v1 import v1_definition
from sigmafield.comfyui.nodes import all_nodes
from sigmafield.recipes.image_io import open_image
from sigmafield.recipes.output import recipe_of
from sigmafield.recipes.recipe import Recipe
from sigmafield.serve import scheduler
from sigmafield.serve.device import Device
from sigmafield.serve.engine import Engine
from sigmafield.serve.jobs import Conflict, QueueFull, WrongState
from sigmafield.serve.scheduler import SUSPECT
from sigmafield.serve.settings import EngineSettings
from sigmafield.serve.workflow_job import Workflows
from small_network import few_channels, read_small

pytestmark = pytest.mark.typed_elsewhere  # test_whole_runs and others make the same calls of the engine's parts

REQUESTS = {
    "multistep": ("recipe", recipe(sampler="dpmpp_2m")),
    "sde": ("recipe", recipe(sampler="dpmpp_2m_sde", seed=3)),
    "workflow": ("workflow", workflow()),
}


@pytest.fixture(scope="module", autouse=True)
def read_once():
    """The embedded model has few channels here: each test waits for the steps at which it acts."""
    with few_channels(cache(read_small)), mock.patch.object(scheduler, "LOOK", 0.05):
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Digests of the outputs of each request that was left alone."""
    with started(tmp_path_factory.mktemp("whole")) as engine:
        jobs = {name: engine.submit(kind, request) for name, (kind, request) in REQUESTS.items()}
        return {name: digests(finished(engine, job)[0]) for name, job in jobs.items()}


def test_a_recipe_becomes_images_that_carry_it(tmp_path):
    with started(tmp_path) as engine:
        job = engine.submit("recipe", recipe(batch=2, seed="random"), owner="ann", webhook="http://x")
        assert (job.status, job.owner, job.webhook, job.step) == ("queued", "ann", "http://x", 0)
        [record] = finished(engine, job)
        assert (record.status, record.step, record.steps, record.progress) == ("done", 4, 4, 1.0)
        assert record.created <= record.started <= record.ended
        assert isinstance(record.request["seed"], int)
        for n, output in enumerate(record.outputs):
            path = engine.output(job.id, n)
            assert sha256(path.read_bytes()).hexdigest() == output.sha256 and path.stat().st_size == output.size
            assert open_image(path).size == (output.width, output.height) == (64, 64)
            assert json.loads(recipe_of(path))["recipe"]["seed"] == record.request["seed"]
        with pytest.raises(LookupError, match="has 2 outputs"):
            engine.output(job.id, 2)


def test_events_ascend_over_restarts_and_can_be_taken_up(tmp_path):
    with started(tmp_path, preview_every=0.0) as engine:
        heard = []
        end = engine.listen(heard.append)
        job = engine.submit("recipe", recipe())
        finished(engine, job)
        assert kinds(engine, job, ()) == ["queued", "started", "step", "step", "step", "step", "done"]
        events = engine.events(job.id)
        assert len(heard) == len(events) and set(heard) == {job.id}
        assert [event.data["step"] for event in events if event.kind == "step"] == [1, 2, 3, 4]
        assert all(event.data["preview"] for event in events if event.kind == "step")
        assert engine.preview(job.id)[:2] == b"\xff\xd8"
        ids = [event.id for event in events]
        assert ids == sorted(set(ids))
        assert [event.id for event in engine.events(job.id, ids[3])] == ids[4:]
        end()
        paused = engine.submit("recipe", recipe(steps=200))
        engine.pause(paused.id)
        assert len(heard) == len(ids)
        last = engine.events(paused.id)[-1].id
    with started(tmp_path) as engine:
        engine.cancel(paused.id)
        assert engine.events(paused.id)[-1].id > last
        assert kinds(engine, job) == ["queued", "started", "done"]


@pytest.mark.parametrize("name", REQUESTS)
def test_a_paused_job_goes_on_in_another_process_as_if_it_had_not_been_stopped(name, whole, tmp_path):
    kind, request = REQUESTS[name]
    with started(tmp_path) as engine:
        stops, job = Stops(engine, 2), engine.submit(kind, request)
        with stops.reached():
            assert engine.pause(job.id).status == "paused"
        until(engine, lambda: engine.figures().devices[0].running == 0)
        assert engine.pause(job.id).status == "paused" and engine.saved(job.id) == [engine.get(job.id).step]
    with started(tmp_path) as engine:
        assert engine.get(job.id).status == "paused"
        assert engine.resume(job.id).status == "queued"
        [record] = finished(engine, job)
        assert digests(record) == whole[name]
        assert kinds(engine, job) == ["queued", "started", "paused", "queued", "resumed", "done"]


def test_a_job_that_is_paused_and_resumed_at_once_runs_in_one_thread(whole, tmp_path):
    with started(tmp_path) as engine:
        stops, job = Stops(engine, 1, 2), engine.submit(*REQUESTS["sde"])
        for _ in range(2):
            with stops.reached():
                engine.pause(job.id)
                engine.resume(job.id)
                engine.resume(job.id)
        assert digests(finished(engine, job)[0]) == whole["sde"]
        assert kinds(engine, job).count("done") == 1


def test_running_jobs_go_on_after_a_stop(whole, tmp_path):
    with started(tmp_path, active=3) as engine:
        stops = Stops(engine, 2)
        jobs = {name: engine.submit(kind, request) for name, (kind, request) in REQUESTS.items()}
        for _ in jobs:  # the last one is in its middle at the stop
            with stops.reached():
                pass
    with started(tmp_path) as engine:
        for name, job in jobs.items():
            assert digests(finished(engine, job)[0]) == whole[name]


def test_cancelled_jobs_are_over(tmp_path):
    with started(tmp_path, active=1, save_every=0.0) as engine:
        first, second = (engine.submit("recipe", recipe(steps=300)) for _ in range(2))
        stepped(engine, first, 3)
        for job in (second, first):
            assert engine.cancel(job.id).status == "cancelled"
            assert engine.cancel(job.id).ended is not None
        until(engine, lambda: engine.figures().devices[0].running == 0)
        assert engine.saved(first.id) == [] and list((tmp_path / "jobs").iterdir()) == []
        for forbidden in (engine.pause, engine.resume):
            with pytest.raises(WrongState, match="is cancelled already"):
                forbidden(first.id)
        with pytest.raises(WrongState):
            engine.prioritise(first.id, 3)


def test_a_higher_priority_takes_the_place_of_a_lower_one_between_two_steps(whole, tmp_path):
    with started(tmp_path, active=1) as engine:
        stops, low = Stops(engine, 1), engine.submit(*REQUESTS["sde"])
        with stops.reached():
            same = engine.submit("recipe", recipe(steps=2))
            high = engine.submit("recipe", recipe(steps=2), priority=1)
            time.sleep(0.2)  # the scheduler, which has nothing else to do, looks at it
        for _ in (high, same):
            with stops.reached():
                pass
        records = finished(engine, low, same, high)
        assert kinds(engine, low) == ["queued", "started", "queued", "resumed", "done"]
        assert records[2].ended < records[0].ended < records[1].ended
        assert digests(records[0]) == whole["sde"]


def test_priorities_can_change(tmp_path):
    with started(tmp_path, active=1) as engine:
        stops, first = Stops(engine, 3), engine.submit("recipe", recipe())
        with stops.reached():
            second, third = (engine.submit("recipe", recipe(steps=2)) for _ in range(2))
            assert engine.prioritise(third.id, 5).priority == 5
            assert engine.prioritise(first.id, 9).priority == 9
        records = finished(engine, first, second, third)
        assert records[0].ended < records[2].ended < records[1].ended
        assert "priority" in kinds(engine, third)
        for wrong in (10**7, 1.0, True):
            with pytest.raises(ValueError, match="priority must be a whole number"):
                engine.submit("recipe", recipe(), priority=wrong)
            with pytest.raises(ValueError, match="priority must be a whole number"):
                engine.prioritise(first.id, wrong)


def test_a_key_names_one_request_of_an_owner(tmp_path):
    with started(tmp_path) as engine:
        made = [engine.submit("recipe", recipe(seed="random"), key="k") for _ in range(3)]
        assert len({job.id for job in made}) == 1
        assert engine.submit("recipe", recipe(seed="random"), key="k", owner="ann").id != made[0].id
        with pytest.raises(Conflict, match="key 'k' was used before, for another request"):
            engine.submit("recipe", recipe(seed=1), key="k")
        finished(engine, made[0])
        assert engine.submit("recipe", recipe(seed="random"), key="k").status == "done"


def test_the_queue_and_each_owner_have_limits(tmp_path):
    with started(tmp_path, active=1, queue_length=2, jobs_per_owner=2) as engine:
        running = engine.submit("recipe", recipe(steps=1000), owner="ann")
        until(engine, lambda: engine.get(running.id).status == "running")
        waiting = engine.submit("recipe", recipe(), owner="ann")
        with pytest.raises(QueueFull, match="2 unfinished jobs of this owner") as error:
            engine.submit("recipe", recipe(), owner="ann")
        assert error.value.seconds >= 1
        engine.submit("recipe", recipe(), owner="bob")
        with pytest.raises(QueueFull, match="2 jobs wait already"):
            engine.submit("recipe", recipe(), owner="cleo")
        engine.cancel(waiting.id)
        engine.submit("recipe", recipe(), owner="cleo")
        engine.cancel(running.id)


def test_a_clone_from_a_saved_step_is_the_same_run(whole, tmp_path):
    with started(tmp_path, save_every=0.0, keep_states=2) as engine:
        job = engine.submit(*REQUESTS["sde"])
        finished(engine, job)
        assert engine.saved(job.id) == [2, 3]
        same = engine.clone(job.id, step=2, changes={})
        other = engine.clone(job.id, step=2, changes={"prompt": "a green apple", "negative": None})
        again = engine.clone(job.id, step=None, changes={"seed": 3, "steps": 4})
        records = finished(engine, same, other, again)
        assert digests(records[0]) == digests(records[2]) == whole["sde"] != digests(records[1])
        assert {record.cloned_from for record in records} == {job.id} and records[0].step == 4
        assert [event.data["step"] for event in engine.events(same.id) if event.kind == "step"] == [3, 4]
        assert records[1].request["prompt"] == "a green apple"
        for step, changes, message in (
            (1, {}, "no saved state of step 1; saved: 2, 3"),
            (2, {"steps": 9}, "may change what the network is asked, prompt, .*; got steps"),
            (None, {"steps": 0}, "the recipe needs 1 ≤ steps"),
            (None, {"stepz": 1}, "unknown entry 'stepz'"),
        ):
            with pytest.raises(ValueError, match=message):
                engine.clone(job.id, step=step, changes=changes)


def test_finished_jobs_are_kept_as_long_as_the_settings_say(tmp_path):
    with started(tmp_path, keep_jobs=1, active=1) as engine:
        jobs = [engine.submit("recipe", recipe(seed=seed, steps=1)) for seed in range(3)]
        until(engine, lambda: [job.id for job in engine.list()] == [jobs[-1].id])
        finished(engine, jobs[-1])
        until(engine, lambda: [path.name for path in (tmp_path / "jobs").iterdir()] == [jobs[-1].id])
        until(engine, lambda: engine.figures().devices[0].running == 0)
        engine.delete(jobs[-1].id)
        with pytest.raises(LookupError):
            engine.get(jobs[-1].id)
        assert list((tmp_path / "jobs").iterdir()) == []
    with started(tmp_path, keep_hours=1e-9) as engine:
        engine.submit("recipe", recipe(steps=1))
        until(engine, lambda: not engine.list())


def failing():
    """A workflow whose text encoder has fewer layers than it is asked for."""
    request = workflow()
    request["prompt"]["1"] = {"class_type": "CLIPSetLastLayer", "inputs": {"stop_at_clip_layer": -24, "clip": ["4", 1]}}
    request["prompt"]["6"]["inputs"]["clip"] = ["1", 0]
    return request


def too_long():
    """A workflow whose image has a name that no disk takes: the error of the system has the server's path in it."""
    request = workflow(steps=1)
    request["prompt"]["9"]["inputs"]["filename_prefix"] = "/".join(["x" * 200] * 25)
    return request


BAD = {
    "a path that is too long": ("workflow", too_long(), "node 9 (SaveImage): the server cannot read or write a file"),
    "a file that is missing": ("recipe", recipe(image="/nowhere.png"), "no image at /nowhere.png"),
    "a model that is missing": ("recipe", recipe(model="/nowhere"), "no such directory"),
    "a LoRA that is missing": ("recipe", recipe(loras=[{"path": "/nowhere.safetensors"}]), "/nowhere.safetensors"),
    "a node that fails": ("workflow", failing(), "node 6 (CLIPTextEncode): "),
}


def test_bad_jobs_fail_with_one_line_and_the_others_go_on(tmp_path):
    with started(tmp_path, active=None) as engine:
        jobs = [engine.submit(kind, request) for kind, request, _ in BAD.values()]
        good = engine.submit("recipe", recipe())
        *records, last = finished(engine, *jobs, good)
        assert last.status == "done"
        for record, (_, _, message) in zip(records, BAD.values()):
            assert record.status == "failed" and message in record.error and "\n" not in record.error
            assert str(tmp_path) not in record.error
            assert engine.events(record.id)[-1].data == {"error": record.error}
        for kind, request, message in (
            ("recipe", {"prompt": 3}, "prompt must be text"),
            ("recipe", recipe(steps=0), "1 ≤ steps"),
            ("recipe", [], "must be an object"),
            ("workflow", {"prompt": {}}, "outputs"),
            (
                "workflow",
                {"prompt": workflow()["prompt"], "x": 1},
                "has prompt, extra, targets and extra_data; got 'x'",
            ),
            ("video", {}, "kind must be recipe or workflow; got 'video'"),
        ):
            with pytest.raises(ValueError, match=message):
                engine.submit(kind, request)


def test_what_was_loaded_for_a_model_goes_with_it():
    """A network that steers is kept by its model, which it would keep in memory."""

    def steers(pipe):
        return (pipe,)

    def reads(steering, by):
        return steering, by

    device = Device("cpu", EngineSettings(devices=["cpu"], keep_models=1))
    pipe = device.pipe(Recipe("x", model="tiny"))
    inner = device.once(steers, pipe)
    device.once(reads, inner, by="name")
    assert device.once(steers, pipe) is inner
    gone = weakref.ref(pipe)
    del pipe, inner
    device.load("tiny-flow")
    gc.collect()
    assert gone() is None and device.loaded == ["tiny-flow"]
    device.close()


class Late(Device):
    """A device that has room only after a while, as one of a cluster whose process is started again."""

    asked = 0

    def has_room(self, runs):
        self.asked += 1
        return self.asked > 3 and super().has_room(runs)


def test_jobs_wait_for_a_device_that_is_not_ready(tmp_path):
    settings = EngineSettings(devices=["cpu"])
    engine = Engine(tmp_path, settings, devices=[Late("cpu", settings)])
    engine.start()
    [record] = finished(engine, engine.submit("recipe", recipe(steps=1)))
    engine.stop()
    assert record.status == "done"


def test_a_full_disk_stops_no_job_for_good(tmp_path):
    log, seen = logging.getLogger("sigmafield.serve"), queue.SimpleQueue()
    noted = logging.handlers.QueueHandler(seen)
    log.addHandler(noted)
    with started(tmp_path, active=1) as engine:
        stops = Stops(engine, 2)
        running, waiting = engine.submit("recipe", recipe()), engine.submit("recipe", recipe(steps=1))
        with ExitStack() as disk:
            with stops.reached():
                disk.enter_context(full_disk())
            while "the store of jobs cannot be written" not in seen.get(timeout=LONG).getMessage():
                pass
            assert engine.running
            with pytest.raises(sqlite3.OperationalError):
                engine.submit("recipe", recipe())
        assert [record.status for record in finished(engine, running, waiting)] == ["done", "done"]
    log.removeHandler(noted)


def test_a_job_on_a_full_disk_can_be_deleted_for_the_room_of_its_files(tmp_path):
    with started(tmp_path, active=1) as engine:
        [record] = finished(engine, engine.submit("recipe", recipe(steps=1)))
        until(engine, lambda: engine.figures().devices[0].running == 0)
        files = engine.output(record.id, 0).parent
        with full_disk(), pytest.raises(sqlite3.OperationalError):
            engine.delete(record.id)  # no file can be written here, whatever is removed
        assert not files.exists()
        engine.delete(record.id)
        assert engine.list() == []


def test_jobs_that_ran_when_the_process_ended_more_than_once_run_alone(tmp_path):
    engine = Engine(tmp_path, EngineSettings(devices=["cpu"]))
    jobs = [engine.submit("recipe", recipe()).id for _ in range(5)]
    suspects = jobs[1:3]
    engine.stop()
    with sqlite3.connect(tmp_path / "jobs.sqlite") as db:
        db.execute(f"UPDATE jobs SET crashes = {SUSPECT} WHERE id IN (?, ?)", suspects)
    with started(tmp_path, active=4, save_every=100.0) as engine:
        records = finished(engine, *map(engine.get, jobs))
        assert [record.status for record in records] == ["done"] * 5
        times = {id: [event.id for event in engine.events(id) if event.kind in ("started", "done")] for id in jobs}
    for id in suspects:
        begun, ended = times.pop(id)
        assert not any(begun < other < ended for pair in times.values() for other in pair)
    assert times[jobs[3]][0] < times[jobs[4]][0] < times[jobs[3]][1]  # the others run side by side


FULL = "the server cannot read or write a file of this job: Not a directory"


class Exit:
    """A custom node that ends the program, if it is let."""

    RETURN_TYPES, FUNCTION, OUTPUT_NODE = (), "end", True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"image": ("IMAGE",)}}

    def end(self, image):
        raise SystemExit("good bye")


def test_whatever_a_job_raises_and_wherever_the_engine_goes_on(tmp_path):
    nodes = {**all_nodes(), "Exit": v1_definition("Exit", Exit)}
    exits = workflow(steps=1)
    exits["prompt"]["9"] = {"class_type": "Exit", "inputs": {"image": ["8", 0]}}
    with started(tmp_path, Workflows(nodes=nodes), active=1, save_every=0.0) as engine:
        first = engine.submit("workflow", exits)
        second = engine.submit("recipe", recipe())
        (tmp_path / "jobs" / second.id).write_text("no folder: nothing can be saved")
        third = engine.submit("recipe", recipe(steps=1))
        records = finished(engine, first, second, third)
        assert [record.status for record in records] == ["failed", "failed", "done"]
        assert records[0].error == "SystemExit: good bye" and records[1].error == FULL
        assert records[1].step == 4


def test_several_devices_share_the_jobs(whole, tmp_path):
    with started(tmp_path, devices=["cpu", "cpu"], active=1) as engine:
        stops = Stops(engine, 1)
        jobs = [engine.submit(*REQUESTS[name]) for name in ("multistep", "sde")]
        with stops.reached(), stops.reached():
            assert [device.running for device in engine.figures().devices] == [1, 1]
        assert [digests(record) for record in finished(engine, *jobs)] == [whole["multistep"], whole["sde"]]
        assert all(device.batch.calls for device in engine.figures().devices)


def test_a_job_never_runs_on_two_devices(tmp_path):
    """Every step of every job is taken once, by one of two pools; a pause in between may move it to the other."""
    with started(tmp_path, devices=["cpu", "cpu"], active=2, save_every=0.0) as engine:
        stops = Stops(engine, 8)
        jobs = [engine.submit("recipe", recipe(seed=k, steps=4 if k else 12, width=32, height=32)) for k in range(6)]
        with stops.reached():
            engine.pause(jobs[0].id)
        until(engine, lambda: not engine.get(jobs[0].id).ended and engine.counts()["done"] == 5)
        engine.resume(jobs[0].id)
        finished(engine, *jobs)
        devices = engine.figures().devices
        assert sum(device.batch.rows for device in devices) == 12 + 4 * 5 and all(d.batch.rows for d in devices)
        assert all(kinds(engine, job).count("started") == kinds(engine, job).count("done") == 1 for job in jobs)


def test_jobs_share_a_model_and_its_calls_whatever_their_kind(tmp_path):
    with started(tmp_path, max_rows=None, active=3, window=1.0) as engine:
        jobs = [
            engine.submit("recipe", recipe(steps=6)),
            engine.submit("workflow", workflow(steps=6)),
            engine.submit("recipe", recipe(steps=3, sampler="heun")),
        ]
        finished(engine, *jobs)
        [device] = engine.figures().devices
        assert device.models == engine.pipelines() == ["tiny"]
        assert device.batch.rows == 6 + 12 + 5 and max(device.batch.by_rows) == 4


def test_records_are_listed_latest_first_page_by_page(tmp_path):
    with started(tmp_path, active=1) as engine:
        jobs = [engine.submit("recipe", recipe(steps=1), owner=f"{k % 2}") for k in range(5)]
        finished(engine, *jobs)
        ids = [job.id for job in reversed(jobs)]
        assert [job.id for job in engine.list()] == ids
        assert [job.id for job in engine.list(limit=2)] == ids[:2]
        assert [job.id for job in engine.list(limit=2, before=ids[1])] == ids[2:4]
        assert [job.id for job in engine.list(owner="1", status="done")] == [ids[1], ids[3]]
        assert engine.counts()["done"] == 5 and engine.list(status="failed") == []
        with pytest.raises(LookupError, match="no job 7"):
            engine.list(before="7")
        for call in (engine.get, engine.events, engine.preview, engine.saved, engine.delete, engine.pause):
            with pytest.raises(LookupError, match="no job 7"):
                call("7")


def test_a_folder_belongs_to_one_process_and_version(tmp_path):
    with started(tmp_path), pytest.raises(ValueError, match="another server uses the jobs"):
        Engine(tmp_path, EngineSettings())
    with sqlite3.connect(tmp_path / "jobs.sqlite") as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(ValueError, match="is of version 99"):
        Engine(tmp_path, EngineSettings())
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "jobs.sqlite").write_bytes(b"no database " * 100)
    for wrong, message in (({}, "is not a store of jobs"), ({"devices": ["cpv"]}, "unknown device 'cpv'")):
        for _ in range(2):  # the first one has left no lock
            with pytest.raises(ValueError, match=message):
                Engine(tmp_path / ("new" if wrong else "other"), EngineSettings(**wrong))


@pytest.mark.parametrize("wrong, message", [
    ({"models": ()}, "models needs at least one model"),
    ({"rows": 0}, "rows ≥ 1"),
    ({"save_every": -1.0}, "save_every ≥ 0"),
    ({"exact": True, "rows": 8, "max_rows": 4}, "rows ≤ max_rows"),
    ({"queue_length": "9"}, "queue_length to be a whole number"),
])  # fmt: skip
def test_settings_are_checked(wrong, message):
    with pytest.raises(ValueError, match=message):
        EngineSettings(**wrong)
    assert dataclasses.is_dataclass(EngineSettings())
