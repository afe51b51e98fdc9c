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
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import aiohttp
import msgspec
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

from sigmafield.serve.engine import Engine
from sigmafield.serve.jobs import FINISHED, JobRecord
from sigmafield.serve.requests import BadRequest

LOG = logging.getLogger("sigmafield.serve")

TRIES = 8
"""How often a webhook is sent at most."""

FIRST_WAIT = 1.0
"""Seconds before the second try; each further one waits twice as long."""

SECONDS = 10.0
"""Seconds that the receiver may take to answer."""

AT_ONCE = 4
"""Connections to one receiver at a time: one that does not answer leaves room for the others."""

SIGNATURE, STAMP = "X-Sigmafield-Signature", "X-Sigmafield-Timestamp"


class Webhook(msgspec.Struct, forbid_unknown_fields=True):
    """Where to say that a job has ended.

    Args:
        url: An http or https address, to which the job is posted.
        secret: Key of the signature that the post carries.
    """

    url: Annotated[str, msgspec.Meta(max_length=2000)]
    secret: Annotated[str, msgspec.Meta(min_length=8, max_length=200)]


def signature(secret: str, stamp: str, body: bytes) -> str:
    """What the header X-Sigmafield-Signature is: "sha256=" and HMAC-SHA256(secret, stamp + "." + body), in hex.

    Args:
        secret: The one that the job was posted with.
        stamp: The header X-Sigmafield-Timestamp, seconds since 1970; a receiver refuses old ones.
        body: The body as it was sent.
    """
    return "sha256=" + hmac.new(secret.encode(), stamp.encode() + b"." + body, hashlib.sha256).hexdigest()


NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
"""Addresses that a translator turns into those of IPv4, private ones included."""


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
        try:
            address = ipaddress.IPv4Address(socket.inet_aton(host))  # 127.1, 2130706433, 0x7f000001
        except OSError:
            return False
    if isinstance(address, ipaddress.IPv6Address):
        address = address.ipv4_mapped or address.sixtofour or address
    return not address.is_global or address.is_multicast or (address.version == 6 and address in NAT64)


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
    """Sends the webhooks of jobs; those that a shutdown or a crash prevented are sent at the next start.

    Args:
        folder: Where the jobs are noted that have a webhook to be sent.
        engine: The engine.
        public: A job as clients see it.
        private: Whether webhooks may go to private addresses.
    """

    def __init__(self, folder: Path, engine: Engine, public: Callable[[JobRecord], dict[str, Any]], private: bool):
        self._folder, self._engine, self._public, self._private = folder, engine, public, private
        self._tasks: set[asyncio.Task[None]] = set()
        self._session: aiohttp.ClientSession | None = None

    def expect(self, record: JobRecord) -> None:
        """Note that a webhook is to be sent when this job ends."""
        if record.webhook is not None and record.status not in FINISHED:
            self._folder.mkdir(parents=True, exist_ok=True)
            (self._folder / record.id).touch()

    async def open(self) -> None:
        """Begin, with the webhooks that were not sent by the last process."""
        resolver = None if self._private else PublicResolver()
        connector = aiohttp.TCPConnector(limit_per_host=AT_ONCE, resolver=resolver, use_dns_cache=False)
        self._session = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=SECONDS))
        for path in sorted(self._folder.glob("*")):
            try:
                record = await asyncio.to_thread(self._engine.get, path.name)
            except LookupError:
                path.unlink(missing_ok=True)
                continue
            if record.status in FINISHED:
                self.send(record)

    async def close(self) -> None:
        """End; what is not sent yet is sent at the next start."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    def send(self, record: JobRecord) -> None:
        """Send the webhook of a job that has ended, if it has one, again and again until it is accepted."""
        if record.webhook is not None:
            task = asyncio.create_task(self._send(record, record.webhook))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _send(self, record: JobRecord, webhook: str) -> None:
        hook = msgspec.json.decode(webhook, type=Webhook)
        body = json.dumps(self._public(record)).encode()
        for k in range(TRIES):
            if k:
                await asyncio.sleep(FIRST_WAIT * 2 ** (k - 1))
            try:
                if await self._accepted(hook, body):
                    break
            except (aiohttp.ClientError, OSError, asyncio.TimeoutError, ValueError) as error:
                LOG.info("webhook of job %s, try %d: %s", record.id, k + 1, error or type(error).__name__)
        else:
            LOG.warning("webhook of job %s was not accepted in %d tries", record.id, TRIES)
        (self._folder / record.id).unlink(missing_ok=True)

    async def _accepted(self, hook: Webhook, body: bytes) -> bool:
        """Whether the receiver takes a webhook: any answer except an error that may pass."""
        assert self._session is not None
        check_url(hook.url, self._private)
        stamp = str(int(time.time()))
        headers = {"Content-Type": "application/json", STAMP: stamp, SIGNATURE: signature(hook.secret, stamp, body)}
        async with self._session.post(hook.url, data=body, headers=headers, allow_redirects=False) as answer:
            return answer.status < 500 and answer.status not in (408, 425, 429)
