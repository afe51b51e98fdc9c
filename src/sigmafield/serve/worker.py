"""The thread of one job: from queued to done, failed, or back to where it can go on later."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from sigmafield.recipes.recipe import Recipe
from sigmafield.serve.comfyui.messages import without_folders
from sigmafield.serve.comfyui.prompt_runs import PromptRun
from sigmafield.serve.device import Device
from sigmafield.serve.failure import failure_text
from sigmafield.serve.jobs import UNFINISHED
from sigmafield.serve.live import Live, Stopped
from sigmafield.serve.recipe_job import run_recipe
from sigmafield.serve.remote import Lost, RemoteDevice
from sigmafield.serve.store import Store
from sigmafield.serve.workflow_job import Workflows, run_workflow


class Worker(threading.Thread):
    """Runs one job on a device; whatever the job raises, its end is noted and the thread ends.

    Args:
        live: The job.
        device: What it runs on.
        workflows: What workflows find.
        shown: A recipe as it is written into its images.
        store: Where its end is noted.
        ended: Called as the last thing.
    """

    def __init__(
        self,
        live: Live,
        device: Device | RemoteDevice,
        workflows: Workflows,
        shown: Callable[[Recipe], Recipe],
        store: Store,
        ended: Callable[[Worker], None],
    ):
        super().__init__(name=f"job {live.record.id}", daemon=True)
        self.live, self.device, self.id, self.began = live, device, live.record.id, time.monotonic()
        self._workflows, self._shown, self._store, self._ended = workflows, shown, store, ended

    def run(self) -> None:
        """Run the job."""
        try:
            self._run()
        finally:
            self._ended(self)

    def _run(self) -> None:
        prompts, record = self._workflows.prompts, self.live.record
        run = prompts.begin(record, self._remaining()) if prompts and record.client is not None else None
        try:
            self._work(run)
        except BaseException as error:  # a custom node may raise SystemExit; the server goes on
            if run is not None:
                run.fail(error)
            self._fail(error, run)
        finally:
            if prompts is not None and run is not None:
                self._note(run)
                prompts.end(run, self._remaining())

    def _note(self, run: PromptRun) -> None:
        """Note the history of a prompt that was cancelled while it ran."""
        with suppress(sqlite3.Error):  # the disk is full: the history says that it is cancelled, without its outputs
            self._store.change(self.id, ["cancelled"], **_shown(run))

    def _remaining(self) -> int:
        """Prompts of the owner, of ComfyUI's protocol, that wait or run."""
        return self._store.count_posted(self.live.record.owner, UNFINISHED)

    def _work(self, run: PromptRun | None) -> None:
        live = self.live
        try:
            if isinstance(self.device, RemoteDevice):
                names = self.device.run(live, self._shown)
            elif live.record.kind == "recipe":
                names = run_recipe(live, self.device, self._shown)
            else:
                names = run_workflow(live, self.device, self._workflows, run)
        except Stopped:
            self._leave()
            return
        except Lost:  # the scheduler finds that the job has no thread, and queues it again
            return
        outputs = live.files.listed(names)  # of a job that is paused while its last step is taken as well
        self._store.change(
            self.id, UNFINISHED, "done", {"outputs": len(outputs)},
            status="done", ended=time.time(), outputs=outputs, **{**vars(live.point), **_shown(run), "progress": 1.0},
        )  # fmt: skip

    def _leave(self) -> None:
        """Note where the job was stopped; a displaced one waits in the queue again."""
        point, why = vars(self.live.point), {"why": self.live.stop}
        if self._store.change(self.id, ["running"], "queued", why, status="queued", **point) is None:
            self._store.change(self.id, ["paused", "queued"], **point)

    def _fail(self, error: BaseException, run: PromptRun | None) -> None:
        message = failure_text(self.id, error)
        if run is not None:
            message = without_folders(message, run.folders)
        try:
            self._store.change(
                self.id, UNFINISHED, "failed", {"error": message},
                status="failed", error=message, ended=time.time(), **vars(self.live.point), **_shown(run),
            )  # fmt: skip
        except Exception:  # the disk is full: the scheduler finds that the job has no thread, and queues it again
            return


def _shown(run: PromptRun | None) -> dict[str, Any]:
    """The field of the record that has the history of a prompt of ComfyUI's protocol."""
    return {} if run is None else {"shown": run.course.shown()}
