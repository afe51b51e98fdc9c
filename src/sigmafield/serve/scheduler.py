"""Which jobs run when, and on which device; how they are stopped."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from sigmafield.recipes.recipe import Recipe
from sigmafield.serve.device import Device
from sigmafield.serve.files import JobFiles
from sigmafield.serve.jobs import FINISHED, JobRecord, Status
from sigmafield.serve.live import Point, Stop, StoredLive
from sigmafield.serve.recent import Recent
from sigmafield.serve.remote import RemoteDevice
from sigmafield.serve.settings import EngineSettings
from sigmafield.serve.store import Store
from sigmafield.serve.worker import Worker
from sigmafield.serve.workflow_job import Workflows

LOG = logging.getLogger("sigmafield.serve")

Halted = Literal["paused", "cancelled"]
"""The statuses that a user gives a job, at any time before its end."""

LOST = 10
"""How often a job's process may end while it runs, without a saved state in between, before the job is failed."""

SUSPECT = 2
"""How often that may happen before the job runs alone, so that what happens next is not blamed on others."""

LOOK = 1.0
"""Seconds between two looks at what changes by itself: the load of devices, and the age of finished jobs."""

SOON = 0.05
"""Seconds between two looks at whether another run would pay, while jobs wait for it."""

DURATIONS = 50
"""Jobs of which the duration is kept, to say how long the queue takes."""


class Scheduler:
    """Starts jobs in threads while there is room, and stops them.

    The job of the highest priority is next, of these the oldest; it goes to the device with the fewest jobs. Where no
    device has room, it takes the place of the job of the lowest priority below its own, at that one's next step. A job
    during which the process has ended more than once runs alone until a state of it is saved.

    Args:
        root: Folder of the jobs' files.
        store: The jobs.
        recent: Where steps and previews are noted.
        workflows: What workflows find.
        shown: A recipe as it is written into its images.
        settings: How many jobs run at a time, on what.
        notify: Called with a job's id after a step of it.
        devices: Devices in other processes; none are those of the settings, in this one.

    Raises:
        ValueError: The device does not exist.
    """

    def __init__(
        self,
        root: Path,
        store: Store,
        recent: Recent,
        workflows: Workflows,
        shown: Callable[[Recipe], Recipe],
        settings: EngineSettings,
        notify: Callable[[str], None],
        devices: Sequence[RemoteDevice] = (),
    ):
        self.devices = devices or [Device(name, settings) for name in settings.devices or [None]]
        self._lock = threading.RLock()
        self._root, self._store, self._recent, self._workflows = root, store, recent, workflows
        self._shown, self._settings, self._notify = shown, settings, notify
        self._wake = threading.Condition(self._lock)
        self._workers: dict[str, Worker] = {}
        self._durations: deque[float] = deque(maxlen=DURATIONS)
        self._stopping = False
        self._alone = ""
        self._thread = threading.Thread(target=self._work, name="scheduler", daemon=True)

    def start(self) -> None:
        """Load the models of the settings, and begin, unless `stop` is called meanwhile; errors as for `load`."""
        for device in self.devices:
            for model in self._settings.models:
                if not self._stopping:
                    device.load(model)
        with self._lock:
            if not self._stopping:
                self._begin_work()

    def _begin_work(self) -> None:
        known = self._store.ids()
        for folder in self._root.iterdir():
            files = JobFiles(self._root, folder.name)
            files.sweep() if folder.name in known else files.remove()
        self._thread.start()

    def stop(self) -> None:
        """Let all jobs save their states and end."""
        with self._lock:
            self._stopping = True
            for worker in self._workers.values():
                worker.live.stop = worker.live.stop or "shutdown"
            workers = list(self._workers.values())
            self._wake.notify_all()
        for worker in workers:
            worker.join()
        if self._thread.is_alive():
            self._thread.join()
        for device in self.devices:
            device.close()

    @property
    def running(self) -> bool:
        """Whether models are loaded, and jobs are started."""
        return self._thread.is_alive() and not self._stopping

    def wake(self) -> None:
        """Look for jobs that can be started, now."""
        with self._wake:
            self._wake.notify_all()

    def ask(self, id: str, stop: Stop) -> bool:
        """Ask the thread of a job to stop; False if it has none."""
        with self._lock:
            worker = self._workers.get(id)
            if worker is not None:
                worker.live.stop = stop
            return worker is not None

    def halt(self, id: str, status: Halted, since: Sequence[Status]) -> JobRecord | None:
        """Pause a job, or cancel it and remove its files; one that has a thread stops after its step.

        Args:
            id: The job.
            status: Which it gets.
            since: Those that it may have before.

        Returns:
            The job as it is then; None if its status is another, or it does not exist.
        """
        ended = {"ended": time.time()} if status in FINISHED else {}
        with self._lock:
            at = self.point(id)
            point = {} if at is None else vars(at)
            found = self._store.change(id, since, status, point, status=status, **ended, **point)
            if found is not None and not self.ask(id, status) and status == "cancelled":
                JobFiles(self._root, id).remove()
        return found

    def delete(self, id: str, since: Sequence[Status]) -> bool:
        """Delete a job that has one of some statuses, with its files; False if it has another or does not exist."""
        if not self._store.delete(id, since):
            return False
        self._recent.forget(id)
        if not self.ask(id, "cancelled"):  # else they are removed when its thread ends
            JobFiles(self._root, id).remove()
        return True

    def point(self, id: str) -> Point | None:
        """How far the thread of a job is; None if it has none."""
        with self._lock:
            worker = self._workers.get(id)
            return None if worker is None else worker.live.point

    def now(self, record: JobRecord) -> JobRecord:
        """The record of a job with how far its thread is, if it has one."""
        with self._lock:
            worker = self._workers.get(record.id)
        return record if worker is None or record.status in FINISHED else worker.live.now(record)

    def loads(self) -> list[int]:
        """Number of jobs that each device runs."""
        with self._lock:
            return [self._load(device) for device in self.devices]

    def seconds(self, jobs: int) -> float:
        """How long it takes until some jobs are done, as far as the latest ones tell."""
        with self._lock:
            mean = sum(self._durations) / len(self._durations) if self._durations else 1.0
            return mean * jobs / max(1, len(self._workers))

    def _work(self) -> None:
        looked = 0.0
        with self._wake:
            while not self._stopping:
                waits = False
                try:
                    if time.monotonic() - looked >= LOOK:
                        looked = time.monotonic()
                        self._look()
                    waits = self._assign()
                except sqlite3.Error as error:  # the disk is full, for now
                    LOG.error("the store of jobs cannot be written: %s", error)
                self._wake.wait(SOON if waits and self._settings.active is None else LOOK)

    def _look(self) -> None:
        """Queue jobs that have lost their threads, and delete those that are kept no longer."""
        message = f"the server ended {LOST + 1} times while this job ran, without a step that was saved"
        for id in self._store.recover(self._workers.keys(), LOST):
            failed = {"status": "failed", "error": message, "ended": time.time()}
            self._store.change(id, ["queued"], "failed", {"error": message}, **failed)
        hours, most = self._settings.keep_hours, self._settings.keep_jobs
        for id in self._store.old(None if hours is None else time.time() - 3600 * hours, most):
            if id not in self._workers:
                self.delete(id, FINISHED)

    def _assign(self) -> bool:
        """Start the jobs for which there is room; whether others wait for it."""
        while (record := self._store.next_queued(self._workers.keys())) is not None:
            suspect = self._store.crashes(record.id) >= SUSPECT
            if self._is_alone() or (suspect and self._workers):
                return True
            self._alone = record.id if suspect else ""
            free = [device for device in self.devices if device.has_room(self._load(device))]
            if not free:
                self._displace(record)
                return True
            self._begin(record, min(free, key=self._load))
        return False

    def _is_alone(self) -> bool:
        """Whether a job runs that no other one may run next to."""
        return self._alone in self._workers and self._store.crashes(self._alone) >= SUSPECT

    def _begin(self, record: JobRecord, device: Device | RemoteDevice) -> None:
        kind, started = ("started", time.time()) if record.started is None else ("resumed", record.started)
        to = {"status": "running", "started": started}
        found = self._store.change(record.id, ["queued"], kind, {"step": record.step}, **to)
        if found is None:
            return
        files = JobFiles(self._root, record.id)
        live = StoredLive(found, files, self._settings, self._store, self._recent, self._notify)
        worker = self._workers[record.id] = Worker(live, device, self._workflows, self._shown, self._store, self._ended)
        worker.start()

    def _displace(self, record: JobRecord) -> None:
        """Let a job make place for one of a higher priority, unless one does already, or none runs yet."""
        if not self._workers or any(worker.live.stop for worker in self._workers.values()):
            return
        last = min(self._workers.values(), key=lambda worker: (worker.live.record.priority, -worker.began))
        if last.live.record.priority < record.priority:
            last.live.stop = "displaced"

    def prioritise(self, record: JobRecord) -> None:
        """Note the new priority of a job, which may make it start or be displaced."""
        with self._wake:
            if record.id in self._workers:
                self._workers[record.id].live.record = record
            self._wake.notify_all()

    def _load(self, device: Device | RemoteDevice) -> int:
        return sum(worker.device is device for worker in self._workers.values())

    def _ended(self, worker: Worker) -> None:
        with self._wake:
            del self._workers[worker.id]
            self._durations.append(time.monotonic() - worker.began)
            if worker.live.stop == "cancelled":
                worker.live.files.remove()
            self._wake.notify_all()
