"""The thread of one job: from queued to done, failed, or back to where it can go on later."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Sequence

from sigmafield.serve.device import Device
from sigmafield.serve.jobs import Output
from sigmafield.serve.live import Live, Stopped
from sigmafield.serve.recipe_job import Made, run_recipe
from sigmafield.serve.store import Store


class Worker(threading.Thread):
    """Runs one job on a device; whatever the job raises, its end is noted and the thread ends.

    Args:
        live: The job.
        device: What it runs on.
        store: Where its end is noted.
        ended: Called as the last thing.
    """

    def __init__(self, live: Live, device: Device, store: Store, ended: Callable[[Worker], None]):
        super().__init__(name=f"job {live.record.id}", daemon=True)
        self.live, self.device, self.id = live, device, live.record.id
        self._store, self._ended = store, ended

    def run(self) -> None:
        """Run the job."""
        try:
            self._work()
        except BaseException as error:  # a custom node may raise SystemExit; the server goes on
            self._fail(error)
        finally:
            self._ended(self)

    def _work(self) -> None:
        try:
            made = run_recipe(self.live, self.device)
        except Stopped:
            self._leave()
            return
        self.live.files.save_outputs({each.name: each.data for each in made})
        outputs = outputs_of(made)
        self._store.change(
            self.id, ["running"], "done", {"outputs": len(outputs)},
            status="done", ended=time.time(), outputs=outputs, **{**vars(self.live.point), "progress": 1.0},
        )  # fmt: skip

    def _leave(self) -> None:
        """Note where the job was stopped; a displaced one waits in the queue again."""
        point = vars(self.live.point)
        if (
            self._store.change(self.id, ["running"], "queued", {"why": self.live.stop}, status="queued", **point)
            is None
        ):
            self._store.change(self.id, ["paused", "queued"], **point)

    def _fail(self, error: BaseException) -> None:
        message = " ".join(str(error).split()) or type(error).__name__
        try:
            self._store.change(
                self.id, ["running"], "failed", {"error": message},
                status="failed", error=message, ended=time.time(), **vars(self.live.point),
            )  # fmt: skip
        except Exception:  # the disk is full: the job is queued again when its thread is found to have ended
            return


def outputs_of(made: Sequence[Made]) -> tuple[Output, ...]:
    """The files as a job's record lists them."""
    return tuple(
        Output(each.name, each.media_type, *each.size, len(each.data), hashlib.sha256(each.data).hexdigest())
        for each in made
    )
