"""The engine of a server: jobs that wait, run side by side on devices, and survive the process."""

from __future__ import annotations

import hashlib
import json
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sigmafield.recipes.recipe import Recipe
from sigmafield.serve.device import Device
from sigmafield.serve.files import JobFiles
from sigmafield.serve.jobs import (
    FINISHED,
    Conflict,
    Event,
    JobRecord,
    Kind,
    QueueFull,
    Status,
    WrongState,
)
from sigmafield.serve.live import Live, Stop
from sigmafield.serve.recent import Recent
from sigmafield.serve.recipe_job import copied_state
from sigmafield.serve.settings import EngineSettings
from sigmafield.serve.store import Store
from sigmafield.serve.worker import Worker

CRASHES = 10
"""Times that the process may end while a job runs, without a saved state in between, before the job is failed."""


@dataclass(frozen=True)
class EngineFigures:
    """What there is to measure.

    Args:
        counts: Jobs by status.
        running: Jobs that have a thread, by device.
        models: Loaded models by device.
    """

    counts: Mapping[Status, int]
    running: Mapping[str, int]
    models: Mapping[str, list[str]]


class Engine:
    """Keeps jobs in a folder and runs them on devices; any thread may call any method.

        engine = Engine(Path("jobs"), EngineSettings())
        engine.start()
        job = engine.submit("recipe", Recipe("a red heart").to_plain())

    Args:
        folder: Where jobs, states and outputs are; it is made if it does not exist.
        settings: What jobs run on, how many at a time, and what is kept.

    Raises:
        ValueError: Another process uses the folder, or it holds the jobs of another version.
    """

    def __init__(self, folder: Path, settings: EngineSettings):
        self.settings = settings
        self._root = folder / "jobs"
        self._root.mkdir(parents=True, exist_ok=True)
        self._own = FileLock(folder / "lock")
        try:
            self._own.acquire(timeout=0)
        except Timeout:
            raise ValueError(f"another server uses the jobs in {folder}") from None
        self._listeners: set[Callable[[str], None]] = set()
        self._store = Store(folder / "jobs.sqlite", self._notify)
        self._recent = Recent()
        self._devices = [Device(name, settings) for name in settings.devices or [None]]
        self._lock = threading.RLock()
        self._wake = threading.Condition(self._lock)
        self._workers: dict[str, Worker] = {}
        self._scheduler: threading.Thread | None = None
        self._stopping = False

    def start(self) -> None:
        """Load the models and begin to run jobs: those that ran when the process ended go on first."""
        self._recover()
        self._scheduler = threading.Thread(target=self._schedule, name="scheduler", daemon=True)
        self._scheduler.start()

    def stop(self) -> None:
        """Save the states of all running jobs and end; they go on at the next start."""
        with self._lock:
            self._stopping = True
            for worker in self._workers.values():
                worker.live.stop = worker.live.stop or "shutdown"
            self._wake.notify_all()
            workers = list(self._workers.values())
        for worker in workers:
            worker.join()
        if self._scheduler is not None:
            self._scheduler.join()
        self._store.close()
        self._own.release()

    def _recover(self) -> None:
        known = self._store.ids()
        for folder in self._root.iterdir():
            files = JobFiles(self._root, folder.name)
            files.sweep() if folder.name in known else files.remove()
        message = f"the server's process ended {CRASHES} times while this job ran, without any progress"
        for id in self._store.recover(CRASHES):
            self._store.change(
                id, ["queued"], "failed", {"error": message}, status="failed", error=message, ended=time.time()
            )

    # what is asked of it

    def submit(
        self,
        kind: Kind,
        request: Mapping[str, Any],
        *,
        priority: int = 0,
        owner: str = "",
        key: str | None = None,
        webhook: str | None = None,
    ) -> JobRecord:
        """Add a job to the queue.

        Args:
            kind: What the request is.
            request: As JSON holds it; see `JobRecord`.
            priority: Jobs of a higher one run first.
            owner: Who submits it.
            key: The same key with the same request, from the same owner, gives the job that there is.
            webhook: Where to say that it has ended.

        Raises:
            ValueError: The request is not a recipe.
            Conflict: The key was used for another request.
            QueueFull: There are as many jobs as there may be.
        """
        digest = hashlib.sha256(json.dumps([kind, request], sort_keys=True).encode()).hexdigest()
        return self._add(kind, settled(kind, request), digest, priority, owner, key, webhook, None)

    def _add(
        self,
        kind: Kind,
        request: Mapping[str, Any],
        digest: str,
        priority: int,
        owner: str,
        key: str | None,
        webhook: str | None,
        source: tuple[str, int, bytes] | None,
    ) -> JobRecord:
        id = secrets.token_hex(8)
        step = 0
        if source is not None and source[2]:
            step = source[1]
            JobFiles(self._root, id).save_state(step, source[2], self.settings.keep_states)
        record = JobRecord(
            id, kind, request, "queued", priority, owner, time.time(), step=step,
            cloned_from=source[0] if source else None, key=key, webhook=webhook,
        )  # fmt: skip
        found = self._store.add(record, digest, lambda: self._allow(owner))
        if found is not None:
            if self._store.digest(found.id) != digest:
                raise Conflict(f"key {key!r} was used before, for another request: job {found.id}")
            return self.get(found.id)
        with self._wake:
            self._wake.notify_all()
        return record

    def _allow(self, owner: str) -> None:
        counts, most = self._store.counts(), self.settings.queue_length
        if counts["queued"] + counts["paused"] >= most:
            raise QueueFull(f"{most} jobs wait already", 5)
        if self.settings.jobs_per_owner is not None:
            counts = self._store.counts(owner)
            if sum(n for status, n in counts.items() if status not in FINISHED) >= self.settings.jobs_per_owner:
                raise QueueFull(f"{owner or 'there'} has {self.settings.jobs_per_owner} unfinished jobs already", 5)

    def get(self, id: str) -> JobRecord:
        """A job as it is now. LookupError if it does not exist."""
        return self._now(self._store.get(id))

    def _now(self, record: JobRecord) -> JobRecord:
        with self._lock:
            worker = self._workers.get(record.id)
        return worker.live.now(record) if worker is not None and record.status not in FINISHED else record

    def list(
        self, *, status: Status | None = None, owner: str | None = None, limit: int = 100, before: str | None = None
    ) -> list[JobRecord]:
        """Jobs, the latest first.

        Args:
            status: Those with it; None is all.
            owner: Those of it; None is all.
            limit: How many at most.
            before: Those that were submitted before this job.
        """
        return [self._now(record) for record in self._store.list(status, owner, limit, before)]

    def counts(self) -> dict[Status, int]:
        """Number of jobs by status."""
        return self._store.counts()

    def pause(self, id: str) -> JobRecord:
        """Let a job wait until it is resumed; one that runs saves its state and stops after its step.

        Raises:
            LookupError: There is no such job.
            WrongState: It has ended. A job that is paused stays so.
        """
        return self._stopped(id, "paused", "paused", ["queued", "running"])

    def cancel(self, id: str) -> JobRecord:
        """End a job for good; one that runs stops after its step. Errors as for `pause`."""
        return self._stopped(id, "cancelled", "cancelled", ["queued", "running", "paused"])

    def _stopped(self, id: str, status: Status, stop: Stop, since: list[Status]) -> JobRecord:
        with self._lock:
            to: dict[str, Any] = {"ended": time.time()} if status in FINISHED else {}
            worker = self._workers.get(id)
            point = vars(worker.live.point) if worker is not None else {}
            found = self._store.change(id, since, status, {}, status=status, **to, **point)  # type: ignore[arg-type]
            if found is None:
                record = self.get(id)
                if record.status == status:
                    return record
                raise WrongState(f"job {id} is {record.status} already")
            if worker is not None:
                worker.live.stop = stop
            elif status == "cancelled":
                JobFiles(self._root, id).remove()
            self._wake.notify_all()
            return found

    def resume(self, id: str) -> JobRecord:
        """Let a paused job wait for its turn again. Errors as for `pause`; a job that is not paused goes on."""
        with self._lock:
            found = self._store.change(id, ["paused"], "queued", {}, status="queued")
            if found is None:
                record = self.get(id)
                if record.status in FINISHED:
                    raise WrongState(f"job {id} is {record.status} already")
                return record
            self._wake.notify_all()
            return found

    def prioritise(self, id: str, priority: int) -> JobRecord:
        """Give a job another priority. Errors as for `pause`."""
        with self._lock:
            since: list[Status] = ["queued", "running", "paused"]
            found = self._store.change(id, since, "priority", {"priority": priority}, priority=priority)
            if found is None:
                raise WrongState(f"job {id} is {self.get(id).status} already")
            self._wake.notify_all()
            return self._now(found)

    def clone(self, id: str, *, step: int | None, changes: Mapping[str, Any]) -> JobRecord:
        """Submit a job again, from its start or from a saved state, with some entries changed.

        Args:
            id: The job.
            step: Of the state, one of `saved`; None is the start.
            changes: Entries of the request.

        Raises:
            LookupError: There is no such job.
            ValueError: There is no such state, or the changed request is not valid.
            QueueFull: There are as many jobs as there may be.
        """
        record = self.get(id)
        data = b""
        request = {**record.request, **changes}
        if step is not None:
            states = self.saved(id)
            if step not in states:
                known = ", ".join(map(str, states)) or "none"
                raise ValueError(f"job {id} has no saved state of step {step}; saved: {known}")
            recipe, data = copied_state(JobFiles(self._root, id).state(step), dict(changes))
            request = recipe.to_plain()
        request = settled(record.kind, request)
        return self._add(record.kind, request, "", record.priority, record.owner, None, None, (id, step or 0, data))

    def saved(self, id: str) -> list[int]:
        """The steps after which a job's state is saved. LookupError if it does not exist."""
        self._store.get(id)
        return list(JobFiles(self._root, id).states())

    def delete(self, id: str) -> None:
        """Delete a job with its files. LookupError if it does not exist; WrongState while it runs."""
        if not self._store.delete(id, [*FINISHED, "queued", "paused"]):
            raise WrongState(f"job {id} is {self.get(id).status}: cancel it first")
        with self._lock:
            worker = self._workers.get(id)
            if worker is not None:
                worker.live.stop = "cancelled"
        self._recent.forget(id)
        JobFiles(self._root, id).remove()

    # what is seen of it

    def events(self, id: str, after: int = 0) -> list[Event]:
        """What has happened to a job, oldest first, after the event with an id. LookupError if there is no such job.

        Steps are kept of the jobs that ran last and of this start of the server; all else is kept with the job.
        """
        found = [*self._store.events(id, after), *self._recent.steps(id, after)]
        if not found:
            self._store.get(id)
        return sorted(found, key=lambda event: event.id)

    def preview(self, id: str) -> bytes | None:
        """The latest preview of a job, a JPEG; None where there is none. LookupError if there is no such job."""
        self._store.get(id)
        return self._recent.preview(id)

    def listen(self, notify: Callable[[str], None]) -> Callable[[], None]:
        """Be told of events.

        Args:
            notify: Called with a job's id after an event of it is recorded, from any thread; it must be quick.

        Returns:
            What ends it.
        """
        with self._lock:
            self._listeners = {*self._listeners, notify}

        def end() -> None:
            with self._lock:
                self._listeners = self._listeners - {notify}

        return end

    def _notify(self, id: str) -> None:
        for notify in self._listeners:
            notify(id)

    def output(self, id: str, n: int) -> Path:
        """The file of a job's output. LookupError if there is no such job or output."""
        record = self._store.get(id)
        if not 0 <= n < len(record.outputs):
            raise LookupError(f"job {id} has {len(record.outputs)} outputs, numbered from 0; got {n}")
        return JobFiles(self._root, id).outputs / record.outputs[n].name

    def pipelines(self) -> list[str]:
        """Names of the loaded models."""
        return sorted({name for device in self._devices for name in device.loaded})

    def figures(self) -> EngineFigures:
        """What there is to measure."""
        with self._lock:
            workers = list(self._workers.values())
        names = [f"{k}:{device.machine.device or 'best'}" for k, device in enumerate(self._devices)]
        running = {name: sum(w.device is device for w in workers) for name, device in zip(names, self._devices)}
        models = {name: device.loaded for name, device in zip(names, self._devices)}
        return EngineFigures(self.counts(), running, models)

    # what it does meanwhile

    def _schedule(self) -> None:
        with self._wake:
            while not self._stopping:
                self._assign()
                self._wake.wait(1.0)

    def _assign(self) -> None:
        """Start the jobs for which there is room."""
        while (record := self._store.next_queued(self._workers.keys())) is not None:
            device = min(self._devices, key=self._load)
            if self._load(device) >= (self.settings.active or 4):
                return
            kind = "started" if record.started is None else "resumed"
            started = time.time() if record.started is None else record.started
            found = self._store.change(
                record.id, ["queued"], kind, {"step": record.step}, status="running", started=started
            )
            if found is None:
                continue
            files = JobFiles(self._root, record.id)
            live = Live(found, files, self._store, self._recent, self.settings, self._notify)
            worker = self._workers[record.id] = Worker(live, device, self._store, self._ended)
            worker.start()

    def _load(self, device: Device) -> int:
        return sum(worker.device is device for worker in self._workers.values())

    def _ended(self, worker: Worker) -> None:
        with self._wake:
            del self._workers[worker.id]
            if worker.live.stop == "cancelled":
                worker.live.files.remove()
            self._wake.notify_all()


def settled(kind: Kind, request: Mapping[str, Any]) -> dict[str, Any]:
    """The request as it is kept: a recipe with its seed drawn. ValueError if it is not valid."""
    if kind == "recipe":
        return Recipe.from_plain(request).to_plain()
    raise ValueError(f"kind must be recipe; got {kind!r}")
