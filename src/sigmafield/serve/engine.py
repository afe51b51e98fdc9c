"""The engine of a server: jobs that wait, run side by side on devices, and survive the process."""

from __future__ import annotations

import secrets
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from sigmafield.recipes.recipe import Recipe
from sigmafield.serve.cloning import cloned
from sigmafield.serve.device import Device
from sigmafield.serve.figures import EngineFigures, own_memory
from sigmafield.serve.files import JobFiles, owned
from sigmafield.serve.intake import admit, digest_of, settled
from sigmafield.serve.jobs import FINISHED, UNFINISHED, Event, JobRecord, Kind, Status, WrongState, check_priority
from sigmafield.serve.listeners import Listeners
from sigmafield.serve.recent import Recent, happened
from sigmafield.serve.remote import RemoteDevice
from sigmafield.serve.scheduler import Scheduler
from sigmafield.serve.settings import EngineSettings
from sigmafield.serve.store import Store
from sigmafield.serve.taking import paused_file
from sigmafield.serve.workflow_job import Workflows


class Engine:
    """Keeps jobs in a folder and runs them on devices; any thread may call any method.

        engine = Engine(Path("jobs"), EngineSettings())
        engine.start()
        job = engine.submit("recipe", Recipe("a red heart").to_plain())

    Args:
        folder: Where jobs, states and outputs are; it is made if it does not exist.
        settings: What jobs run on, how many at a time, and what is kept.
        workflows: What workflows find: models, input images and node classes.
        shown: A recipe as it is written into its images, for a server that hides where its files are.
        devices: Devices in other processes; none are those of the settings, in this one.

    Raises:
        ValueError: Another process uses the folder, it holds the jobs of another version, or a device does not exist.
    """

    def __init__(
        self,
        folder: Path,
        settings: EngineSettings,
        workflows: Workflows = Workflows(),
        shown: Callable[[Recipe], Recipe] = lambda recipe: recipe,
        devices: Sequence[RemoteDevice] = (),
    ):
        self.settings, self.workflows = settings, workflows
        self._root = folder / "jobs"
        self._root.mkdir(parents=True, exist_ok=True)
        self._own = owned(folder)
        self._listeners = Listeners()
        self._recent = Recent()
        with ExitStack() as undo:
            undo.callback(self._own.release)
            self._store = Store(folder / "jobs.sqlite", self._listeners.notify)
            undo.callback(self._store.close)
            self._scheduler = Scheduler(
                self._root, self._store, self._recent, workflows, shown, settings, self._listeners.notify, devices
            )
            undo.pop_all()

    def start(self) -> None:
        """Load the models and begin to run jobs; those that ran when the last process ended go on from their states.

        Raises:
            ValueError: A model is not supported.
            FileNotFoundError: A model's file is missing.
        """
        self._scheduler.start()

    @property
    def running(self) -> bool:
        """Whether models are loaded, and jobs are run."""
        return self._scheduler.running

    def stop(self) -> None:
        """Save the states of all running jobs and end; they go on at the next start."""
        self._scheduler.stop()
        self._store.close()
        self._own.release()

    def submit(
        self,
        kind: Kind,
        request: Mapping[str, object],
        *,
        priority: int = 0,
        owner: str = "",
        key: str | None = None,
        webhook: str | None = None,
        id: str | None = None,
        place: float | None = None,
        client: str | None = None,
    ) -> JobRecord:
        """Add a job to the queue.

        Args:
            kind: What the request is.
            request: As JSON holds it; see `JobRecord`. A recipe without a model has the first of the settings.
            priority: Jobs of a higher one run first.
            owner: Who submits it.
            key: The same key with the same request, from the same owner, gives the job that was made first.
            webhook: Where to say that it has ended.
            id: What it is called; None draws one.
            place: As `JobRecord` has it; -inf is before all that wait now.
            client: As `JobRecord` has it.

        Raises:
            ValueError: The request is not a recipe, or not a workflow that can run, the priority is out of range, or
                there is a job with this id.
            Conflict: The key was used for another request.
            QueueFull: There are as many jobs as there may be.
        """
        check_priority(priority)
        kept = settled(kind, request, self.settings.models[0], self.workflows, owner, client)
        record = JobRecord(
            id or secrets.token_hex(8), kind, kept, "queued", priority, owner, time.time(), key=key, webhook=webhook,
            place=place, client=client,
        )  # fmt: skip
        return self._added(record, digest_of(kind, request))

    def _added(self, record: JobRecord, digest: str) -> JobRecord:
        """A record in the store, or the one there with the same key."""
        seconds = self._scheduler.seconds(1)  # not in the transaction: who has the scheduler's lock may wait for it
        found = admit(record, digest, self._store, self.settings, seconds)
        if found is not None:
            return self._scheduler.now(found)
        self._scheduler.wake()
        return record

    def get(self, id: str) -> JobRecord:
        """A job as it is now. LookupError if it does not exist."""
        return self._scheduler.now(self._store.get(id))

    def list(
        self, *, status: Status | None = None, owner: str | None = None, limit: int = 100, before: str | None = None
    ) -> list[JobRecord]:
        """Jobs, the latest first.

        Args:
            status: Those with it; None is all.
            owner: Those of it; None is all.
            limit: How many at most.
            before: Those that were submitted before this job.

        Raises:
            LookupError: The job `before` does not exist.
        """
        return [self._scheduler.now(record) for record in self._store.list(status, owner, limit, before)]

    def posted(
        self, owner: str, statuses: Sequence[Status], *, limit: int = -1, offset: int = 0, latest: bool = False
    ) -> list[JobRecord]:
        """The prompts of ComfyUI's protocol that wait, run, or have a place in its history; see `Store.posted`."""
        found = self._store.posted(owner, statuses, limit, offset, latest)
        return [self._scheduler.now(record) for record in found]

    def count_posted(self, owner: str, statuses: Sequence[Status]) -> int:
        """Number of the prompts that `posted` gives."""
        return self._store.count_posted(owner, statuses)

    def unload(self) -> None:
        """Drop the loaded models; runs that use them keep them until they end."""
        for device in self._scheduler.devices:
            if isinstance(device, Device):
                device.unload()

    def counts(self) -> dict[Status, int]:
        """Number of jobs by status."""
        return self._store.counts()

    def pause(self, id: str) -> JobRecord:
        """Let a job wait until it is resumed; one that runs saves its state and stops after its step.

        A job that decodes its images already is done nevertheless. A paused job stays so.

        Raises:
            LookupError: The job does not exist.
            WrongState: It has ended.
        """
        return self._changed(id, self._scheduler.halt(id, "paused", ["queued", "running"]), "paused")

    def cancel(self, id: str) -> JobRecord:
        """End a job for good; one that runs stops after its step, and states are removed. Errors as for `pause`."""
        return self._changed(id, self._scheduler.halt(id, "cancelled", UNFINISHED), "cancelled")

    def resume(self, id: str) -> JobRecord:
        """Let a paused job wait for its turn again; one that waits or runs does so. Errors as for `pause`."""
        found = self._store.change(id, ["paused"], "queued", {}, status="queued")
        self._scheduler.wake()
        return self._changed(id, found, "queued", "running")

    def prioritise(self, id: str, priority: int) -> JobRecord:
        """Give a job another priority. Errors as for `pause`; ValueError for a priority out of range."""
        check_priority(priority)
        found = self._store.change(id, UNFINISHED, "priority", {"priority": priority}, priority=priority)
        record = self._changed(id, found)
        self._scheduler.prioritise(record)
        return self._scheduler.now(record)

    def _changed(self, id: str, found: JobRecord | None, *allowed: Status) -> JobRecord:
        """A job that was found and changed; else as it is, with a status that is allowed, or WrongState."""
        record = found or self.get(id)
        if found is None and record.status not in allowed:
            raise WrongState(f"job {id} is {record.status} already")
        return record

    def clone(self, id: str, *, step: int | None, changes: Mapping[str, object]) -> JobRecord:
        """Submit a job again, from its start or from a saved state, with some entries changed.

        Args:
            id: The job.
            step: Of the state, one of `saved`; None is the start.
            changes: Entries of the request; None leaves one out.

        Raises:
            LookupError: The job does not exist.
            ValueError: The state does not exist, or the changed request is not valid.
            QueueFull: There are as many jobs as there may be.
        """
        source, files = self.get(id), JobFiles(self._root, id)
        request, data = cloned(source, files, step, changes, self.workflows)
        record = JobRecord(
            secrets.token_hex(8), source.kind, request, "queued", source.priority, source.owner, time.time(),
            step=step or 0, cloned_from=id, client=source.client,
        )  # fmt: skip
        if data is not None:
            JobFiles(self._root, record.id).save_state(record.step, data, self.settings.keep_states)
        return self._added(record, "")

    def saved(self, id: str) -> list[int]:
        """The steps after which a job's state is saved. LookupError if it does not exist."""
        self._store.get(id)
        return list(JobFiles(self._root, id).states())

    def paused_file(self, id: str) -> bytes:
        """A paused workflow as a file that finishes it on another machine, see `comfyui.paused`; it stays paused here.

        Raises:
            LookupError: The job does not exist.
            WrongState: It is not a paused workflow, or its thread has not saved its state yet.
        """
        record, running = self.get(id), self._scheduler.point(id) is not None
        return paused_file(record, running, JobFiles(self._root, id), self.workflows)

    def delete(self, id: str) -> None:
        """Delete a job with its files. LookupError if it does not exist; WrongState while it runs."""
        since: list[Status] = [*FINISHED, "queued", "paused"]
        try:
            gone = self._scheduler.delete(id, since)
        except sqlite3.OperationalError:  # the disk is full: the job's files make room
            if self._store.get(id).status not in FINISHED:
                raise
            JobFiles(self._root, id).remove()
            gone = self._scheduler.delete(id, since)
        if not gone:
            raise WrongState(f"job {id} is {self.get(id).status}: cancel it first")

    def events(self, id: str, after: int = 0) -> list[Event]:
        """What has happened to a job after the event with an id, oldest first. LookupError if the job does not exist.

        Steps are known of the jobs that ran last, since the server was started; all else is kept with the job.
        """
        return happened(self._store, self._recent, id, after)

    def preview(self, id: str) -> bytes | None:
        """The latest preview of a job, a JPEG; None before the first one. LookupError if the job does not exist."""
        self._store.get(id)
        return self._recent.preview(id)

    def listen(self, notify: Callable[[str], None]) -> Callable[[], None]:
        """Call a function after each event; what ends it is returned. See `Listeners.add`."""
        return self._listeners.add(notify)

    def output(self, id: str, n: int) -> Path:
        """The file of a job's output. LookupError if the job or the output does not exist."""
        record = self._store.get(id)
        if not 0 <= n < len(record.outputs):
            raise LookupError(f"job {id} has {len(record.outputs)} outputs, numbered from 0; got {n}")
        return JobFiles(self._root, id).outputs / record.outputs[n].name

    def pipelines(self) -> list[str]:
        """Names of the loaded models."""
        return sorted({name for device in self._scheduler.devices for name in device.loaded})

    def figures(self) -> EngineFigures:
        """What there is to measure."""
        devices = [device.figures(load) for device, load in zip(self._scheduler.devices, self._scheduler.loads())]
        return EngineFigures(self.counts(), devices, self._recent.seconds, own_memory())
