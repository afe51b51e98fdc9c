"""Webhooks: the job is posted to an address when it has ended, signed, and again until it is accepted."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import json
import logging
import socket
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

from sigmafield.serve.engine import Engine
from sigmafield.serve.http.bodies import Webhook
from sigmafield.serve.http.feed import Feed
from sigmafield.serve.jobs import FINISHED, JobRecord
from sigmafield.serve.requests import BadRequest

LOG = logging.getLogger("sigmafield.serve")

TRIES = 8
"""How often a webhook is sent at most."""

FIRST_WAIT = 1.0
"""Seconds before the second try; each further one waits twice as long."""

SECONDS = 10.0
"""Seconds that the receiver may take to answer."""

SIGNATURE, STAMP = "X-Sigmafield-Signature", "X-Sigmafield-Timestamp"


def signature(secret: str, stamp: str, body: bytes) -> str:
    """What the header X-Sigmafield-Signature is: "sha256=" and HMAC-SHA256(secret, stamp + "." + body), in hex.

    Args:
        secret: The one that the job was posted with.
        stamp: The header X-Sigmafield-Timestamp, seconds since 1970; a receiver refuses old ones.
        body: The body as it was sent.
    """
    return "sha256=" + hmac.new(secret.encode(), stamp.encode() + b"." + body, hashlib.sha256).hexdigest()


def check_url(url: str, private: bool) -> None:
    """Raise BadRequest for an address that is not one of http or https, or is a private one.

    Args:
        url: The address.
        private: Whether private addresses are allowed.
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname
        _ = parts.port
    except ValueError as error:
        raise BadRequest(f"webhook.url is not an address: {error}", "webhook.url") from None
    if parts.scheme not in ("http", "https") or not host or parts.username is not None:
        raise BadRequest("webhook.url must be http://… or https://…, without a user", "webhook.url")
    if not private and (is_private(host) or host == "localhost" or host.endswith(".localhost")):
        raise BadRequest(f"webhook.url may not be the private address {host}", "webhook.url")


def is_private(host: str) -> bool:
    """Whether a host is an address that cannot be reached from the whole internet; False for names."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return not (mapped or address).is_global or address.is_multicast


class PublicResolver(AbstractResolver):
    """Resolves names to public addresses only, at the moment of the connection."""

    def __init__(self) -> None:
        self._inner = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The addresses of a name. OSError if one of them is private."""
        found = await self._inner.resolve(host, port, family)
        if any(is_private(each["host"]) for each in found):
            raise OSError(f"{host} is a private address")
        return found

    async def close(self) -> None:
        """Nothing is kept open."""
        await self._inner.close()


class Webhooks:
    """Sends the webhooks of jobs that end while the server runs, and of those that ended while it did not.

    Args:
        engine: The engine.
        feed: Says when a job changes.
        public: A job as clients see it.
        private: Whether webhooks may go to private addresses.
    """

    def __init__(self, engine: Engine, feed: Feed, public: Callable[[JobRecord], dict[str, Any]], private: bool):
        self._engine, self._feed, self._public, self._private = engine, feed, public, private
        self._sending: dict[str, asyncio.Task[None]] = {}
        self._session: aiohttp.ClientSession | None = None

    async def run(self) -> None:
        """Send webhooks until the task is cancelled."""
        resolver = None if self._private else PublicResolver()
        connector = aiohttp.TCPConnector(resolver=resolver, use_dns_cache=False)
        async with aiohttp.ClientSession(
            connector=connector, timeout=aiohttp.ClientTimeout(total=SECONDS), trust_env=False
        ) as self._session:
            with self._feed.watch() as watch:
                try:
                    while True:
                        for job in await watch.changed(60.0):
                            await self._begin(job)
                finally:
                    for task in self._sending.values():
                        task.cancel()

    async def _begin(self, job: str) -> None:
        try:
            record = await asyncio.to_thread(self._engine.get, job)
        except LookupError:
            return
        if record.webhook is not None and record.status in FINISHED and job not in self._sending:
            task = self._sending[job] = asyncio.create_task(self._send(record))
            task.add_done_callback(lambda _: self._sending.pop(job, None))

    async def _send(self, record: JobRecord) -> None:
        hook = msgspec.json.decode(record.webhook or "", type=Webhook)
        body = json.dumps(self._public(record)).encode()
        for k in range(TRIES):
            if k:
                await asyncio.sleep(FIRST_WAIT * 2 ** (k - 1))
            try:
                if await self._accepted(hook, body):
                    return
            except (aiohttp.ClientError, OSError, asyncio.TimeoutError, ValueError) as error:
                LOG.info("webhook of job %s, try %d: %s", record.id, k + 1, error or type(error).__name__)
        LOG.warning("webhook of job %s was not accepted in %d tries", record.id, TRIES)

    async def _accepted(self, hook: Webhook, body: bytes) -> bool:
        """Whether the receiver takes a webhook: any answer but an error that may pass."""
        assert self._session is not None
        check_url(hook.url, self._private)
        stamp = str(int(time.time()))
        headers = {"Content-Type": "application/json", STAMP: stamp, SIGNATURE: signature(hook.secret, stamp, body)}
        async with self._session.post(hook.url, data=body, headers=headers, allow_redirects=False) as answer:
            return answer.status < 500 and answer.status not in (408, 425, 429)
