"""The sockets of ComfyUI's clients: what each is sent, in order, without waiting for slow ones."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ParamSpec

from aiohttp import WSMsgType, web

from sigmafield.comfyui.saving import as_json
from sigmafield.serve.comfyui.messages import Frame, Message
from sigmafield.serve.comfyui.prompt_runs import Sent, status_message

P = ParamSpec("P")

MOST = 4096
"""Messages that wait for a slow client; then its socket is closed, and it can connect again."""

MOST_PREVIEWS = 8
"""Messages that wait for a slow client when it is sent no further previews."""

HEARTBEAT = 30.0
"""Seconds between two looks at whether a client is still there."""


@dataclass(eq=False)
class Client:
    """A client's socket.

    Args:
        owner: Whose it is.
        id: Its id.
        socket: Its connection.
        features: What it has said that it can do, by ComfyUI's names.
        queue: Texts and bytes that it will be sent; None ends it.
    """

    owner: str
    id: str
    socket: web.WebSocketResponse
    features: frozenset[str] = frozenset()
    queue: asyncio.Queue[str | bytes | None] = field(default_factory=asyncio.Queue)

    def put(self, data: str | bytes, needed: bool = True) -> None:
        """Send a text or bytes after those that wait; what is not needed is left out where many wait."""
        if self.queue.qsize() >= MOST:
            self.end()
        elif needed or self.queue.qsize() < MOST_PREVIEWS:
            self.queue.put_nowait(data)

    def end(self) -> None:
        """Close the socket, without what waits."""
        while not self.queue.empty():
            self.queue.get_nowait()
        self.queue.put_nowait(None)


class Clients:
    """The clients that are connected; all methods are for the event loop except `receive` and `log`."""

    def __init__(self) -> None:
        self._clients: dict[tuple[str, str], Client] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing = False

    def open(self) -> None:
        """Begin to pass messages on, in the running event loop."""
        self._loop = asyncio.get_running_loop()

    def close(self) -> None:
        """End all sockets."""
        self._closing = True
        for client in list(self._clients.values()):
            client.end()

    def receive(self, sent: Sent) -> None:
        """Pass a message on, from any thread."""
        self._soon(self._deliver, sent)

    def log(self, ids: Collection[str], entries: Sequence[Mapping[str, str]]) -> None:
        """Send lines of the server's log to the clients with some ids, from any thread."""
        self._soon(self._deliver_log, ids, Message("logs", {"entries": entries, "size": {"cols": 80, "rows": 24}}))

    def _soon(self, call: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        loop = self._loop
        if loop is not None:
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(partial(call, *args, **kwargs))

    def _deliver_log(self, ids: Collection[str], message: Message) -> None:
        for client in self._clients.values():
            if client.id in ids:
                client.put(encoded(message))

    def _deliver(self, sent: Sent) -> None:
        """Put a message into the queues of those that it is for."""
        if sent.client is None:
            clients = [each for each in self._clients.values() if each.owner == sent.owner]
        else:
            clients = [each for each in (self._clients.get((sent.owner, sent.client)),) if each is not None]
        if isinstance(sent.message, Frame):
            clients = [each for each in clients if (sent.message.feature in each.features) == sent.message.longer]
        needed = isinstance(sent.message, Message) or sent.message.needed
        if clients:
            data = encoded(sent.message)
            for client in clients:
                client.put(data, needed)

    async def serve(
        self, request: web.Request, owner: str, remaining: int, node: str | None, features: dict[str, Any]
    ) -> web.WebSocketResponse:
        """Serve a socket until it ends.

        Args:
            request: Which asks for it.
            owner: Whose it is.
            remaining: How many prompts of the owner wait or run.
            node: The node that runs for this client; None for none.
            features: What the server can do.
        """
        socket = web.WebSocketResponse(heartbeat=HEARTBEAT, max_msg_size=2**20)
        await socket.prepare(request)
        client = Client(owner, request.query.get("clientId") or secrets.token_hex(16), socket)
        old = self._clients.pop((owner, client.id), None)
        if old is not None:
            old.end()
        self._clients[owner, client.id] = client
        client.put(encoded(status_message(remaining, client.id)))
        if node is not None:
            client.put(encoded(Message("executing", {"node": node})))
        if self._closing:
            client.end()
        writer = asyncio.create_task(written(client))
        try:
            await heard(client, features)
        finally:
            if self._clients.get((owner, client.id)) is client:
                del self._clients[owner, client.id]
            client.end()
            await asyncio.gather(writer, return_exceptions=True)
        return socket


async def written(client: Client) -> None:
    """Send what is in a client's queue until it ends."""
    with suppress(ConnectionError):
        while (data := await client.queue.get()) is not None:
            await (client.socket.send_str(data) if isinstance(data, str) else client.socket.send_bytes(data))
    await client.socket.close()


async def heard(client: Client, features: dict[str, Any]) -> None:
    """Read what a client says until it ends: in its first message it may say what it can do."""
    first = True
    async for message in client.socket:
        if message.type is WSMsgType.TEXT and first:
            first = False
            with suppress(ValueError, AttributeError, RecursionError):  # not of this form: it says nothing
                said = json.loads(message.data)
                if said.get("type") == "feature_flags":
                    client.features = frozenset(name for name, able in said["data"].items() if able)
                    client.put(encoded(Message("feature_flags", features)))


def encoded(message: Message | Frame) -> str | bytes:
    """A message as it is sent."""
    if isinstance(message, Frame):
        return message.data
    return as_json({"type": message.type, "data": message.data})
