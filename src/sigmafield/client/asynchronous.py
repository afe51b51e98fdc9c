"""The client for programs with an event loop; the other one runs this one."""

from __future__ import annotations

import asyncio
import hashlib
import json
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image
from typing_extensions import Unpack

from sigmafield.client.connection import Connection
from sigmafield.client.errors import JobFailed, Refused, Unavailable
from sigmafield.client.outputs import below, frames_of
from sigmafield.client.requests import Request, renamed, request_of, whole_of, with_advice
from sigmafield.client.values import Event, JobInfo
from sigmafield.recipes.jobs import FINISHED, Status

if TYPE_CHECKING:
    from sigmafield.recipes.recipe import Recipe
    from sigmafield.recipes.settings import Seed, Settings


class AsyncClient:
    """A client of a server of `sigmafield serve`; also a context, which closes it.

        async with AsyncClient("http://127.0.0.1:8188") as client:
            job = await client.submit("a red heart", steps=20, seed=1)
            async for event in job.events():
                print(event.kind, event.data)
            [heart] = await job.images()

    Args:
        url: The server's address.
        token: Sent with each request; None where the server needs none.
        patience: Seconds for which a busy server, or one that was there before, is tried again.

    Raises:
        ValueError: The address is not one of HTTP, or the token has characters that a header cannot have.
    """

    def __init__(self, url: str, token: str | None = None, *, patience: float = 60.0):
        self.server = Connection(url, token, patience)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End all connections; jobs go on."""
        await self.server.close()

    async def submit(
        self,
        what: str | Recipe | Mapping[str, Any],
        *,
        seed: Seed | None = None,
        model: str | None = None,
        priority: int = 0,
        key: str | None = None,
        **settings: Unpack[Settings],
    ) -> AsyncJob:
        """A new job that draws a recipe. Its images are uploaded, from paths or from memory.

        Args:
            what: A prompt, to which `seed`, `model` and `settings` belong; or a whole recipe, also as JSON holds it.
            seed: Seed of the noise; None is 0.
            model: A model by the name that the server has for it; None is the server's default.
            priority: Jobs of a higher one run first.
            key: The same key with the same recipe gives the job that was made first; None is a new one, so that a
                request whose answer is lost makes one job.
            settings: Further fields of `Recipe`, as for `sf.generate`.

        Raises:
            ValueError: A value is wrong; as for `sf.generate` if this is known here, `Refused` if the server says so.
            TypeError: A setting is unknown, or goes with a whole recipe.
            FileNotFoundError: An image is not there.
            OSError: `Denied` if a token is needed, `Unavailable` if the server does not answer, or its queue is full
                for as long as patience lasts.
        """
        whole = whole_of(what, seed, model, settings)
        return await self._post("/v1/jobs", "recipe", await asyncio.to_thread(request_of, whole), priority, key)

    async def submit_workflow(
        self,
        prompt: Mapping[str, Any],
        *,
        extra: Mapping[str, Any] | None = None,
        priority: int = 0,
        key: str | None = None,
    ) -> AsyncJob:
        """A new job that runs a ComfyUI workflow in API form; errors and arguments as for `submit`.

        Args:
            prompt: Its nodes by id; an image is named as `upload` says.
            extra: Further values that are written into its images.
            priority: Jobs of a higher one run first.
            key: See `submit`.
        """
        more = {} if extra is None else {"extra": dict(extra)}
        return await self._post("/v1/jobs", "workflow", Request(prompt), priority, key, more)

    async def _post(
        self, path: str, kind: str, request: Request, priority: int, key: str | None, more: Mapping[str, Any] = {}
    ) -> AsyncJob:
        names = await self._uploaded(request)
        entries = renamed(request.entries, names) if kind == "recipe" else request.entries
        body = {kind: entries, "priority": priority, **more}
        headers = {"Idempotency-Key": key or uuid.uuid4().hex}
        try:
            answer = await self.server.ask("POST", path, body=body, headers=headers)
        except Refused as error:
            raise with_advice(error, request.entries) from None
        return AsyncJob(self, JobInfo.of(json.loads(answer)), {there: here for here, there in names.items()})

    async def _uploaded(self, request: Request) -> dict[str, str]:
        """Upload a recipe's images: the server's names by those of the recipe."""
        return {str(name): await self.upload(data) for name, data in request.files.items()}

    async def upload(self, image: bytes) -> str:
        """Upload a file with an image: the name that a recipe, or a `LoadImage` node, has for it."""
        return json.loads(await self.server.ask("POST", "/v1/uploads", body=image))["image"]

    async def generate(
        self,
        prompt: str | Sequence[str],
        *,
        seed: Seed | Sequence[Seed] = 0,
        model: str | None = None,
        **settings: Unpack[Settings],
    ) -> list[Image.Image]:
        """Images for a prompt, or for several at once, as `sf.generate` gives them; errors as for `submit` and `wait`.

        Args:
            prompt: What to draw; of several prompts, each is drawn as if it were given alone.
            seed: Seed of the noise, one for all prompts or one for each; with one prompt, an image for each seed.
            model: A model by the name that the server has for it; None is the server's default.
            settings: Further fields of `Recipe`.
        """
        from sigmafield.recipes.generate import pairs

        jobs = [await self.submit(text, seed=one, model=model, **settings) for text, one in pairs(prompt, seed)]
        return [image for job in jobs for image in await job.images()]

    async def job(self, id: str) -> AsyncJob:
        """A job by its id. NotThere if it does not exist."""
        return AsyncJob(self, JobInfo.of(json.loads(await self.server.ask("GET", job_path(id)))), {})

    async def jobs(self, *, status: Status | None = None, limit: int = 100, before: str | None = None) -> list[JobInfo]:
        """The jobs of this token, the latest first.

        Args:
            status: Only jobs that have it.
            limit: Their number at most, 1 … 1000.
            before: Only jobs that were submitted before the one with this id.
        """
        query = {"limit": str(limit), "status": status, "before": before}
        given = {name: value for name, value in query.items() if value is not None}
        answer = json.loads(await self.server.ask("GET", "/v1/jobs", query=given))
        return [JobInfo.of(each) for each in answer["jobs"]]

    async def models(self) -> list[str]:
        """The names of the models that recipes may have, the default first."""
        return [each["id"] for each in json.loads(await self.server.ask("GET", "/v1/models"))["data"]]


class AsyncJob:
    """A job of a server, which goes on whether or not a client looks.

    Args:
        client: Its server's.
        info: The job as it was last.
        names: The recipe's own names of uploaded images, by the server's.
    """

    def __init__(self, client: AsyncClient, info: JobInfo, names: Mapping[str, str]):
        self.client, self.info, self.names = client, info, names

    @property
    def id(self) -> str:
        """What the server calls it."""
        return self.info.id

    async def _ask(self, method: str, what: str = "", **more: Any) -> bytes:
        return await self.client.server.ask(method, job_path(self.id) + what, **more)

    async def _changed(self, method: str, what: str = "", **more: Any) -> JobInfo:
        self.info = JobInfo.of(json.loads(await self._ask(method, what, **more)))
        return self.info

    async def refresh(self) -> JobInfo:
        """Ask how it is now."""
        return await self._changed("GET")

    async def events(self, after: int = 0, *, previews: bool = True) -> AsyncIterator[Event]:
        """What happens to it, from its beginning until it ends; a broken connection is made again.

        Args:
            after: Id of the last event that is known.
            previews: Whether steps carry previews.
        """
        path, query = f"{job_path(self.id)}/events", {"previews": str(int(previews))}
        async for event in self.client.server.events(path, after, query):
            yield event

    async def wait(self) -> JobInfo:
        """The job once it is done; a paused one is waited for as well. JobFailed if it fails or is cancelled."""
        if self.info.status not in FINISHED:
            async for _ in self.events(previews=False):
                pass
            await self.refresh()
        if self.info.status != "done":
            raise JobFailed(self.info.error or f"job {self.id} was cancelled", self.id)
        return self.info

    async def images(self) -> list[Image.Image]:
        """Its images once it is done, of videos the frames of each; they carry their recipe into files."""
        outputs = (await self.wait()).outputs
        found = [await self.output(n) for n, each in enumerate(outputs) if each.media_type.startswith("image/")]
        return [image for data in found for image in await asyncio.to_thread(frames_of, data, self.names)]

    async def output(self, n: int = 0) -> bytes:
        """The bytes of an output, as the server has written it. Unavailable if they are not what it says they are."""
        data = await self._ask("GET", f"/outputs/{n}")
        if n < len(self.info.outputs) and hashlib.sha256(data).hexdigest() != self.info.outputs[n].sha256:
            raise Unavailable(f"output {n} of job {self.id} is damaged: its SHA-256 differs")
        return data

    async def preview(self) -> bytes | None:
        """A JPEG of what it saw last; None before its first preview."""
        return await self._ask("GET", "/preview") or None

    async def paused_file(self) -> bytes:
        """A paused workflow, as a file that `sigmafield run` finishes here. Refused if it is not one."""
        return await self._ask("GET", "/paused")

    async def fetch(self, folder: Path | str) -> list[Path]:
        """Write its outputs into a folder once it is done, under names that are free; a recipe's begin with its id."""
        from sigmafield.runs.files import write_new

        info, paths = await self.wait(), []
        for n, output in enumerate(info.outputs):
            name = f"{self.id}-{output.name}" if info.kind == "recipe" else output.name
            path = below(Path(folder), name)
            path.parent.mkdir(parents=True, exist_ok=True)
            paths += await asyncio.to_thread(write_new, path, {"": await self.output(n)})
        return paths

    async def pause(self) -> JobInfo:
        """Let it wait; its state is saved. Refused if it has ended."""
        return await self._changed("POST", "/pause", repeat=False)

    async def resume(self) -> JobInfo:
        """Let it go on after a pause. Refused if it has ended."""
        return await self._changed("POST", "/resume", repeat=False)

    async def cancel(self) -> JobInfo:
        """End it for good."""
        return await self._changed("POST", "/cancel", repeat=False)

    async def prioritise(self, priority: int) -> JobInfo:
        """Give it another priority, -1000000 … 1000000."""
        return await self._changed("POST", "/priority", body={"priority": priority})

    async def clone(self, *, step: int | None = None, changes: Mapping[str, Any] | None = None) -> AsyncJob:
        """A new job that draws the same with some entries changed.

        Args:
            step: One of the saved steps, `refresh().saved`, to go on from; None is the start.
            changes: Other values of entries of the recipe.
        """
        request = request_of(changes or {})
        names = await self.client._uploaded(request)
        body = {"step": step, "changes": renamed(request.entries, names)}
        info = JobInfo.of(json.loads(await self._ask("POST", "/clone", body=body, repeat=False)))
        return AsyncJob(self.client, info, {**self.names, **{there: here for here, there in names.items()}})

    async def delete(self) -> None:
        """Delete it with its files. Refused while it runs."""
        await self._ask("DELETE", repeat=False)


def job_path(id: str) -> str:
    """The route of a job. ValueError for a text that cannot be an id."""
    if not id.isascii() or not id.isalnum():
        raise ValueError(f"a job's id is letters and digits; got {id!r}")
    return f"/v1/jobs/{id}"
