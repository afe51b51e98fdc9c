"""Prompts of ComfyUI's protocol while they run: where their files go, what is kept between them, and who is told."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sigmafield.comfyui import events as happened
from sigmafield.comfyui.cache import Cache
from sigmafield.comfyui.context import Folders
from sigmafield.comfyui.entries import Entry
from sigmafield.comfyui.previews import Decoder, Previews, SmallDecoders, linear
from sigmafield.comfyui.run import files_of
from sigmafield.core.registry import shown
from sigmafield.parameterization.latent_format import LatentFormat
from sigmafield.serve.comfyui.messages import TO_ALL, Course, Frame, Message
from sigmafield.serve.jobs import JobRecord

LOG = logging.getLogger(__name__)

METHODS = ("none", "auto", "latent2rgb", "taesd")
"""Ways to make previews, by ComfyUI's names; taesd is as latent2rgb where the small decoder's file is missing."""


@dataclass(frozen=True)
class Sent:
    """A message on its way.

    Args:
        owner: Whose clients may get it.
        client: Which one; None is all.
        message: The message.
    """

    owner: str
    client: str | None
    message: Message | Frame


class Shared:
    """A cache that several prompts use at the same time.

    Args:
        cache: Where results are kept.
        folders: Where the files are that they show.
    """

    def __init__(self, cache: Cache, folders: Folders):
        self._cache, self._folders, self._lock = cache, folders, threading.Lock()

    def begin(self, wanted: Collection[str]) -> None:
        """A prompt begins."""
        with self._lock:
            self._cache.begin(wanted)

    def get(self, key: str) -> Entry | None:
        """The result of that key; None if a file that it shows was deleted, as old previews are."""
        with self._lock:
            found = self._cache.get(key)
        there = found is None or all(path.is_file() for path in files_of(found.ui or {}, self._folders))
        return found if there else None

    def put(self, key: str, entry: Entry, owner: str | None) -> None:
        """Keep a result."""
        with self._lock:
            self._cache.put(key, entry, owner)


class PromptRun:
    """A prompt that runs.

    Args:
        record: Its job.
        folders: Where its files are.
        cache: What is kept between prompts.
        previews: Which steps have previews; None is no step.
        send: Sends a message.
        metadata: Whether its files say what they come from.
    """

    def __init__(
        self,
        record: JobRecord,
        folders: Folders,
        cache: Cache,
        previews: Previews | None,
        send: Callable[[Sent], None],
        metadata: bool = True,
    ):
        self.record, self.folders, self.cache, self.previews = record, folders, cache, previews
        self.metadata = metadata
        self.course = Course(record.id, folders)
        self._send = send

    def tell(self, event: happened.Event) -> None:
        """Send the messages of an event."""
        for message in self.course.of(event):
            self.send(message)

    def fail(self, error: BaseException) -> None:
        """Send that the prompt has failed, unless that is known."""
        if not self.course.ended:
            self.send(self.course.failed(error))

    def send(self, message: Message | Frame) -> None:
        """Send a message to the client of the prompt."""
        if self.record.client:
            self._send(Sent(self.record.owner, self.record.client, message))
        elif isinstance(message, Message) and message.type in TO_ALL:
            self._send(Sent(self.record.owner, None, message))


def small_or_linear(folders: Sequence[Path]) -> Callable[[LatentFormat], Decoder | None]:
    """What makes previews of a format's latents: its small decoder, or the linear map where it is not there."""
    small = SmallDecoders(folders)
    return lambda latents: linear(latents) if small.folder(latents) is None else small(latents)


class Prompts:
    """The prompts of ComfyUI's protocol that run now; any thread may call any method.

    Args:
        folders: Where the files of an owner's prompts are.
        cache: Makes what keeps results from one prompt to the next.
        method: How previews are made for prompts that do not say it.
        size: Pixels of the square that a preview fits.
        metadata: Whether files say which prompt they come from.
    """

    def __init__(
        self,
        folders: Callable[[str], Folders],
        cache: Callable[[], Cache],
        method: str,
        size: int,
        metadata: bool = True,
    ):
        self.folders = folders
        self.running: dict[str, PromptRun] = {}
        self.queueing = threading.RLock()
        self._cache, self._method, self._size, self._metadata = cache, method, size, metadata
        self._caches: dict[str, Shared] = {}
        self._listener: Callable[[Sent], None] | None = None

    def listen(self, listener: Callable[[Sent], None] | None) -> None:
        """Have a function called with each message, from any thread; None ends it."""
        self._listener = listener

    def send(self, sent: Sent) -> None:
        """Send a message."""
        if self._listener is not None:
            self._listener(sent)

    def status(self, owner: str, remaining: int) -> None:
        """Send how many prompts of an owner wait or run."""
        self.send(Sent(owner, None, status_message(remaining)))

    def begin(self, record: JobRecord, remaining: int) -> PromptRun:
        """A prompt begins to run.

        Args:
            record: Its job.
            remaining: How many prompts of its owner wait or run.
        """
        extra: Mapping[str, Any] = record.request.get("extra_data") or {}
        method = extra.get("preview_method")
        if method not in METHODS:
            if method not in (None, "default"):
                known = ", ".join(METHODS)
                LOG.warning("unknown preview_method %s: %s is used; known: %s", shown(method), self._method, known)
            method = self._method
        folders = self.folders(record.owner)
        decoder = small_or_linear(folders.models.get("vae_approx", ())) if method == "taesd" else linear
        previews = None if method == "none" else Previews(size=self._size, decoder=decoder)
        with self.queueing:  # after the message that it waits
            if record.owner not in self._caches:
                self._caches[record.owner] = Shared(self._cache(), folders)
            run = PromptRun(record, folders, self._caches[record.owner], previews, self.send, self._metadata)
            self.running[record.id] = run
            self.status(record.owner, remaining)
        return run

    def end(self, run: PromptRun, remaining: int) -> None:
        """A prompt runs no longer: it has ended, or waits again."""
        with self.queueing:
            self.running.pop(run.record.id, None)
            self.status(run.record.owner, remaining)
            if run.course.ended:
                run.send(run.course.end())

    def forget(self) -> None:
        """Drop all results that are kept."""
        with self.queueing:
            self._caches.clear()


def status_message(remaining: int, sid: str | None = None) -> Message:
    """The message of how many prompts wait or run; `sid`: the id of the client that has connected."""
    data: dict[str, Any] = {"status": {"exec_info": {"queue_remaining": remaining}}}
    return Message("status", data if sid is None else {**data, "sid": sid})
