"""What the handlers of all routes share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from aiohttp import web

from sigmafield.serve.engine import Engine
from sigmafield.serve.http.feed import Feed
from sigmafield.serve.http.settings import HttpSettings
from sigmafield.serve.http.webhooks import Webhooks
from sigmafield.serve.jobs import JobRecord
from sigmafield.serve.requests import Requests

V = TypeVar("V")


@dataclass(frozen=True)
class Server:
    """What the handlers of all routes share.

    Args:
        engine: Runs the jobs.
        settings: Whom the server answers.
        requests: Translates between clients and the engine.
        feed: Wakes those who wait for events.
        webhooks: Sends what jobs have to say at their end.
    """

    engine: Engine
    settings: HttpSettings
    requests: Requests
    feed: Feed
    webhooks: Webhooks

    def job(self, id: str, owner: str) -> JobRecord:
        """A job of an owner. LookupError if it is another's, as if it did not exist."""
        record = self.engine.get(id)
        if record.owner != owner:
            raise LookupError(f"no job {id}")
        return record


SERVER = web.AppKey("server", Server)
OWNER = web.RequestKey("owner", str)


def server_of(request: web.Request) -> Server:
    """What the handlers share."""
    return request.app[SERVER]


async def in_thread(function: Callable[..., V], *args: Any, **kwargs: Any) -> V:
    """The result of a function that reads or writes files, without keeping other requests waiting."""
    return await asyncio.to_thread(function, *args, **kwargs)


async def job_of(request: web.Request) -> JobRecord:
    """The job that a request's address names. LookupError if its owner has no such job."""
    return await in_thread(server_of(request).job, request.match_info["id"], request[OWNER])
