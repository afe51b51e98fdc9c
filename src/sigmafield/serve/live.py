"""A job while a thread works on it: how far it is, and whether it should stop."""

from __future__ import annotations

import io
import sqlite3
from abc import ABC, abstractmethod
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


class Live(ABC):
    """What the thread of a job and those who ask for its end share.

    The thread calls `step` after each step, and others set `stop`.

    Args:
        record: The job.
        files: Its folder.
        settings: How often states and previews are made.
    """

    def __init__(self, record: JobRecord, files: JobFiles, settings: EngineSettings):
        self.record, self.files = record, files
        self.point = Point(record.step, record.steps, record.progress, record.label)
        self.stop: Stop | None = None
        self.settings = settings
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
        seconds, self._last = time - self._last, time
        image: bytes | None = None
        if time - self._shown >= self.settings.preview_every:
            self._shown = time
            with suppress(MemoryError, RuntimeError):  # torch's error where memory does not suffice is a RuntimeError
                image = jpeg(preview())
        self.note(point, image, seconds)

    @abstractmethod
    def note(self, point: Point, preview: bytes | None, seconds: float) -> None:
        """Note a step with its preview, a JPEG, and the seconds that it took."""

    def left(self) -> float | None:
        """Seconds that the rest will take if it goes on as so far; None before the first step."""
        if self._begun is None or self.point.progress <= self._begun[1]:
            return None
        began, progress = self._begun
        return (1 - self.point.progress) * (monotonic() - began) / (self.point.progress - progress)

    @property
    def should_save(self) -> bool:
        """Whether it is time to save a state."""
        return monotonic() - self._saved >= self.settings.save_every

    def save(self, data: bytes) -> bool:
        """Save the state of this point; False where that is not possible, and the job goes on without."""
        self._saved = monotonic()
        return self.keep(data)

    @abstractmethod
    def keep(self, data: bytes) -> bool:
        """Write the state of this point; see `save`."""


class StoredLive(Live):
    """A job whose steps and states are noted in the store of this process.

    Args:
        record: The job.
        files: Its folder.
        settings: How often states and previews are made.
        store: Where what is saved is noted.
        recent: Where steps and previews are noted.
        notify: Called with the job's id after a step.
    """

    def __init__(
        self,
        record: JobRecord,
        files: JobFiles,
        settings: EngineSettings,
        store: Store,
        recent: Recent,
        notify: Callable[[str], None],
    ):
        super().__init__(record, files, settings)
        self._store, self._recent, self._notify = store, recent, notify

    def note(self, point: Point, preview: bytes | None, seconds: float) -> None:
        """Note a step where clients see it."""
        self.point = point
        data = {**vars(point), "seconds_left": self.left(), "preview": preview is not None}
        self._recent.add(self._store.event(self.record.id, "step", data), preview, seconds)
        self._notify(self.record.id)

    def keep(self, data: bytes) -> bool:
        """Write a state into the job's folder; False where the disk does not take it."""
        try:
            self.files.save_state(self.point.step, data, self.settings.keep_states)
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
