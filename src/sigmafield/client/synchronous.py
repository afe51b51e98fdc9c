"""The client for programs without an event loop: `AsyncClient`, run by a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from PIL import Image
from typing_extensions import Unpack

from sigmafield.client.asynchronous import AsyncClient, AsyncJob
from sigmafield.client.values import Event, JobInfo
from sigmafield.recipes.jobs import Status

if TYPE_CHECKING:
    from sigmafield.recipes.recipe import Recipe
    from sigmafield.recipes.settings import Seed, Settings

V = TypeVar("V")


class Loop:
    """An event loop in a thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True, name="sigmafield client")
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, V]) -> V:
        """The result of a coroutine, which is cancelled if waiting for it is interrupted."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def each(self, items: AsyncIterator[V]) -> Iterator[V]:
        """The items of an asynchronous iterator."""
        end = object()

        async def following() -> Any:
            return await anext(items, end)

        while (item := self.run(following())) is not end:
            yield item

    def close(self) -> None:
        """End the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Client:
    """A client of a server of `sigmafield serve`; also a context, which closes it.

        with Client("http://127.0.0.1:8188") as client:
            [heart] = client.generate("a red heart", steps=20, seed=1)
            job = client.submit("a green apple", seed="random")
            for event in job.events():
                print(event.kind, event.data)
            job.fetch("images")

    Its methods are those of `AsyncClient`, which says what they raise.

    Args:
        url: The server's address.
        token: Sent with each request; None where the server needs none.
        patience: Seconds for which a busy server, or one that was there before, is tried again.

    Raises:
        ValueError: The address is not one of HTTP, or the token has characters that a header cannot have.
    """

    def __init__(self, url: str, token: str | None = None, *, patience: float = 60.0):
        self._client = AsyncClient(url, token, patience=patience)
        self._loop = Loop()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all connections; jobs go on."""
        self._loop.run(self._client.close())
        self._loop.close()

    def submit(
        self,
        what: str | Recipe | Mapping[str, Any],
        *,
        seed: Seed | None = None,
        model: str | None = None,
        priority: int = 0,
        key: str | None = None,
        **settings: Unpack[Settings],
    ) -> Job:
        """A new job that draws a recipe, see `AsyncClient.submit`."""
        work = self._client.submit(what, seed=seed, model=model, priority=priority, key=key, **settings)
        return Job(self._loop, self._loop.run(work))

    def submit_workflow(
        self,
        prompt: Mapping[str, Any],
        *,
        extra: Mapping[str, Any] | None = None,
        priority: int = 0,
        key: str | None = None,
    ) -> Job:
        """A new job that runs a ComfyUI workflow in API form, see `AsyncClient.submit_workflow`."""
        work = self._client.submit_workflow(prompt, extra=extra, priority=priority, key=key)
        return Job(self._loop, self._loop.run(work))

    def upload(self, image: bytes) -> str:
        """Upload a file with an image: the name that a recipe, or a `LoadImage` node, has for it."""
        return self._loop.run(self._client.upload(image))

    def generate(
        self,
        prompt: str | Sequence[str],
        *,
        seed: Seed | Sequence[Seed] = 0,
        model: str | None = None,
        **settings: Unpack[Settings],
    ) -> list[Image.Image]:
        """Images for a prompt, or for several at once, see `AsyncClient.generate`."""
        return self._loop.run(self._client.generate(prompt, seed=seed, model=model, **settings))

    def job(self, id: str) -> Job:
        """A job by its id. NotThere if it does not exist."""
        return Job(self._loop, self._loop.run(self._client.job(id)))

    def jobs(self, *, status: Status | None = None, limit: int = 100, before: str | None = None) -> list[JobInfo]:
        """The jobs of this token, the latest first, see `AsyncClient.jobs`."""
        return self._loop.run(self._client.jobs(status=status, limit=limit, before=before))

    def models(self) -> list[str]:
        """The names of the models that recipes may have, the default first."""
        return self._loop.run(self._client.models())


class Job:
    """A job of a server, which goes on whether or not a client looks; its methods are those of `AsyncJob`.

    Args:
        loop: The client's.
        job: The job.
    """

    def __init__(self, loop: Loop, job: AsyncJob):
        self._loop, self._job = loop, job

    @property
    def id(self) -> str:
        """What the server calls it."""
        return self._job.id

    @property
    def info(self) -> JobInfo:
        """The job as it was last."""
        return self._job.info

    @property
    def names(self) -> Mapping[str, str]:
        """The recipe's own names of uploaded images, by the server's."""
        return self._job.names

    def refresh(self) -> JobInfo:
        """Ask how it is now."""
        return self._loop.run(self._job.refresh())

    def events(self, after: int = 0, *, previews: bool = True) -> Iterator[Event]:
        """What happens to it, from its beginning until it ends; a broken connection is made again."""
        return self._loop.each(self._job.events(after, previews=previews))

    def wait(self) -> JobInfo:
        """The job once it is done; a paused one is waited for as well. JobFailed if it fails or is cancelled."""
        return self._loop.run(self._job.wait())

    def images(self) -> list[Image.Image]:
        """Its images once it is done, of videos the frames of each; they carry their recipe into files."""
        return self._loop.run(self._job.images())

    def output(self, n: int = 0) -> bytes:
        """The bytes of an output, as the server has written it."""
        return self._loop.run(self._job.output(n))

    def preview(self) -> bytes | None:
        """A JPEG of what it saw last; None before its first preview."""
        return self._loop.run(self._job.preview())

    def paused_file(self) -> bytes:
        """A paused workflow, as a file that `sigmafield run` finishes here. Refused if it is not one."""
        return self._loop.run(self._job.paused_file())

    def fetch(self, folder: Path | str) -> list[Path]:
        """Write its outputs into a folder once it is done, under names that are free; a recipe's begin with its id."""
        return self._loop.run(self._job.fetch(folder))

    def pause(self) -> JobInfo:
        """Let it wait; its state is saved."""
        return self._loop.run(self._job.pause())

    def resume(self) -> JobInfo:
        """Let it go on after a pause."""
        return self._loop.run(self._job.resume())

    def cancel(self) -> JobInfo:
        """End it for good."""
        return self._loop.run(self._job.cancel())

    def prioritise(self, priority: int) -> JobInfo:
        """Give it another priority, -1000000 … 1000000."""
        return self._loop.run(self._job.prioritise(priority))

    def clone(self, *, step: int | None = None, changes: Mapping[str, Any] | None = None) -> Job:
        """A new job that draws the same with some entries changed, see `AsyncJob.clone`."""
        return Job(self._loop, self._loop.run(self._job.clone(step=step, changes=changes)))

    def delete(self) -> None:
        """Delete it with its files. Refused while it runs."""
        self._loop.run(self._job.delete())
