"""Requests to a server: its errors as exceptions, repeated where the server is busy or a connection breaks."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from sigmafield.client.errors import Unavailable, refusal
from sigmafield.client.values import Event

BROKEN = (aiohttp.ClientError, asyncio.TimeoutError, ConnectionError)
"""Errors of aiohttp for an answer that is missing or incomplete."""

SILENCE = 60.0
"""Seconds without a byte after which a connection counts as broken; the server's streams say something every 15."""


class Connection:
    """A server, which is asked in one event loop.

    Args:
        url: Its address.
        token: Sent with each request; None where the server needs none.
        patience: Seconds for which a busy server, or one that was there before, is tried again.

    Raises:
        ValueError: It is not an address of HTTP, or the token has characters that a header cannot have.
    """

    def __init__(self, url: str, token: str | None, patience: float):
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"a server's address must be one of HTTP, such as http://127.0.0.1:8188; got {url!r}")
        if token is not None and not (token.isascii() and token.isprintable() and token.strip()):
            raise ValueError("token must be printable ASCII")
        if not patience >= 0:
            raise ValueError(f"patience must be seconds ≥ 0; got {patience}")
        self.url, self.patience = url.rstrip("/"), patience
        self._headers = {} if token is None else {"Authorization": f"Bearer {token.strip()}"}
        self._session: aiohttp.ClientSession | None = None
        self._reached = False

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=SILENCE)
            self._session = aiohttp.ClientSession(headers=self._headers, timeout=timeout)
        return self._session

    async def close(self) -> None:
        """End all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def ask(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | bytes | None = None,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
        repeat: bool = True,
    ) -> bytes:
        """The body of an answer.

        Args:
            method: HTTP's method.
            path: The route.
            body: Bytes of an image, or an object that is sent as JSON.
            headers: Further headers.
            query: Of the address.
            repeat: Whether the request may reach the server twice.

        Raises:
            Refused: The request is wrong.
            Denied: A token is needed.
            Unavailable: The server did not answer, or answered that it is busy, for as long as patience lasts.
        """
        kind = "application/octet-stream" if isinstance(body, bytes) else "application/json"
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        sent = {**(headers or {}), **({} if data is None else {"Content-Type": kind})}
        retry = Retry(self.patience)
        while True:
            try:
                async with self._open().request(
                    method, self.url + path, data=data, headers=sent, params=query
                ) as answer:
                    self._reached = True
                    text = await answer.read()
                    if answer.status < 400:
                        return text
                    error, again = failure(answer, text), answer.status == 429
                    pause = float(answer.headers.get("Retry-After", 1)) if again else None
            except BROKEN as broken:
                unsent = isinstance(broken, aiohttp.ClientConnectorError)
                error, again, pause = self.lost(broken), self._reached and (unsent or repeat), None
            if not again or not await retry.wait(pause):
                raise error

    async def events(self, path: str, after: int, query: Mapping[str, str]) -> AsyncIterator[Event]:
        """The events of a job until it ends; a broken connection is made again, and goes on after the last event.

        Args:
            path: The route.
            after: Id of the last event that is known.
            query: Of the address.

        Raises:
            NotThere: The job does not exist.
            Denied: A token is needed.
            Unavailable: The server is not there for as long as patience lasts.
        """
        retry, error = Retry(self.patience), Unavailable(f"{self.url} ended the stream of events")
        while True:
            try:
                headers = {"Last-Event-ID": str(after)}
                async with self._open().get(self.url + path, headers=headers, params=query) as answer:
                    self._reached = True
                    if answer.status >= 400:
                        raise failure(answer, await answer.read())
                    if answer.status == 204:
                        return
                    async for event in blocks(answer.content):
                        retry, after = Retry(self.patience), event.id
                        yield event
                        if event.last:
                            return
            except BROKEN as broken:
                if isinstance(broken, Unavailable) or not self._reached:
                    raise self.lost(broken) from None
                error = self.lost(broken)
            if not await retry.wait():
                raise error

    def lost(self, error: BaseException) -> Unavailable:
        """The exception of a connection that failed."""
        if isinstance(error, Unavailable):
            return error
        why = " ".join(str(error).split()) or type(error).__name__
        return Unavailable(f"no answer from the server at {self.url}: {why}")


class Retry:
    """Waits between requests, longer each time, for as long as patience lasts.

    Args:
        patience: Seconds.
    """

    def __init__(self, patience: float):
        self._end, self._pause = time.monotonic() + patience, 0.1

    async def wait(self, seconds: float | None = None) -> bool:
        """Wait for some seconds, or for twice the time of before; False, at once, where patience does not last."""
        pause, self._pause = self._pause if seconds is None else seconds, min(2 * self._pause, 5.0)
        if time.monotonic() + pause > self._end:
            return False
        await asyncio.sleep(pause)
        return True


def failure(answer: aiohttp.ClientResponse, text: bytes) -> Exception:
    """The exception of an answer with an error, which need not be this server's: a proxy's is not JSON."""
    try:
        error = json.loads(text)["error"]
        message, field = str(error["message"]), error.get("field")
    except (ValueError, TypeError, LookupError):
        message, field = f"{answer.url} answered {answer.status} {answer.reason}", None
    return refusal(answer.status, message, field)


async def blocks(content: aiohttp.StreamReader) -> AsyncIterator[Event]:
    """The events of a stream; previews make them longer than a line that aiohttp reads."""
    rest = b""
    async for data in content.iter_any():
        *whole, rest = (rest + data).split(b"\n\n")
        for block in whole:
            if (event := Event.of(block)) is not None:
                yield event
