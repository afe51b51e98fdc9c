"""A job while a thread works on it: how far it is, and whether it should stop."""

from __future__ import annotations

import io
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from time import monotonic
from typing import Literal

from PIL import Image

from sigmafield.recipes.image_io import sheet
from sigmafield.serve.files import JobFiles
from sigmafield.serve.jobs import UNFINISHED, JobRecord
from sigmafield.serve.recent import Recent
from sigmafield.serve.settings import EngineSettings
from sigmafield.serve.store import Store

Stop = Literal["paused", "cancelled", "displaced", "shutdown"]
"""Why a job leaves its thread before its end."""


class Stopped(Exception):
    """A job leaves its thread between two steps."""


@dataclass(frozen=True)
class Point:
    """How far a job is; fields as those of `JobRecord`."""

    step: int = 0
    steps: int = 0
    progress: float = 0.0
    label: str = ""


class Live:
    """What the thread of a job and the engine share.

    The thread calls `step` after each step, and the engine asks for `stop`.

    Args:
        record: The job.
        files: Its folder.
        store: Where what is saved is noted.
        recent: Where steps and previews are noted.
        settings: How often states and previews are made.
        notify: Called with the job's id after a step.
    """

    def __init__(
        self,
        record: JobRecord,
        files: JobFiles,
        store: Store,
        recent: Recent,
        settings: EngineSettings,
        notify: Callable[[str], None],
    ):
        self.record, self.files = record, files
        self.point = Point(record.step, record.steps, record.progress, record.label)
        self.stop: Stop | None = None
        self._store, self._recent, self._settings, self._notify = store, recent, settings, notify
        self._begun: tuple[float, float] | None = None
        self._last = self._saved = self._shown = monotonic()

    def now(self, record: JobRecord) -> JobRecord:
        """A record of the job with how far it is."""
        return replace(record, **vars(self.point))

    def begin(self, point: Point) -> None:
        """Note where the thread begins."""
        self.point = point
        self._last = self._saved = monotonic()
        self._begun = self._last, point.progress

    def move(self, point: Point) -> None:
        """Note how far the job is, between two steps."""
        self.point = point

    def step(self, point: Point, preview: Callable[[], Sequence[Image.Image]]) -> None:
        """Note a step, and make a preview when it is time for one.

        Args:
            point: How far the job is.
            preview: Makes the preview's images.
        """
        time = monotonic()
        seconds, self.point, self._last = time - self._last, point, time
        image: bytes | None = None
        if time - self._shown >= self._settings.preview_every:
            self._shown = time
            with suppress(MemoryError, RuntimeError):  # torch's error where memory does not suffice is a RuntimeError
                image = jpeg(preview())
        data = {**vars(point), "seconds_left": self.left(time), "preview": image is not None}
        self._recent.add(self._store.event(self.record.id, "step", data), image, seconds)
        self._notify(self.record.id)

    def left(self, time: float) -> float | None:
        """Seconds that the rest will take if it goes on as so far; None before the first step."""
        if self._begun is None or self.point.progress <= self._begun[1]:
            return None
        began, progress = self._begun
        return (1 - self.point.progress) * (time - began) / (self.point.progress - progress)

    @property
    def should_save(self) -> bool:
        """Whether it is time to save a state."""
        return monotonic() - self._saved >= self._settings.save_every

    def save(self, data: bytes) -> bool:
        """Save the state of this point; False where the disk does not take it, and the job goes on without."""
        self._saved = monotonic()
        try:
            self.files.save_state(self.point.step, data, self._settings.keep_states)
            self._store.change(self.record.id, UNFINISHED, crashes=0, **vars(self.point))
        except (OSError, sqlite3.Error):
            return False
        return True


def jpeg(images: Sequence[Image.Image]) -> bytes | None:
    """Images in one JPEG; None for none."""
    if not images:
        return None
    buffer = io.BytesIO()
    sheet(images).convert("RGB").save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
