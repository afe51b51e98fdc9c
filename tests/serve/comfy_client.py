"""A client of ComfyUI's protocol: it posts prompts and reads its socket."""

from __future__ import annotations

import asyncio
import json
import struct
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

Seen = list[Any]
"""Frames of a socket, as `read_frame` gives them."""


def read_frame(data: str | bytes) -> dict[str, Any]:
    """A message as {"type", "data"}; of a binary one {"frame": its kind, "about", "image": its bytes}.

    Of a text it is {"frame": 3, "texts": …}: each part with a length before it, then the rest.
    """
    if isinstance(data, str):
        return json.loads(data)
    kind, size = struct.unpack(">II", data[:8])
    if kind == 3:
        texts, rest = [], data[4:]
        while rest[:2] == b"\0\0":
            size = struct.unpack(">I", rest[:4])[0]
            texts.append(rest[4 : 4 + size].decode())
            rest = rest[4 + size :]
        return {"frame": 3, "texts": [*texts, rest.decode()]}
    about = json.loads(data[8 : 8 + size]) if kind == 4 else {}
    return {"frame": kind, "about": about, "image": data[8 + size :] if kind == 4 else data[8:]}


@dataclass
class Talk:
    """A client with its socket.

    Args:
        http: Its session.
        url: The server's address.
        id: Its id.
        socket: Its socket.
    """

    http: aiohttp.ClientSession
    url: str
    id: str
    socket: aiohttp.ClientWebSocketResponse
    seen: Seen = field(default_factory=list)

    async def post(self, prompt: Mapping[str, Any], **more: Any) -> str:
        """The id of a prompt that is queued."""
        async with self.http.post(
            f"{self.url}/prompt", json={"prompt": prompt, "client_id": self.id, **more}
        ) as answer:
            body = await answer.json()
            assert answer.status == 200, body
            return body["prompt_id"]

    async def ask(self, method: str, path: str, body: Any = None) -> Any:
        """The JSON of an answer."""
        async with self.http.request(method, self.url + path, json=body) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.json() if "json" in answer.content_type else None

    async def until(self, done: Callable[[dict[str, Any]], bool], seconds: float = 60) -> dict[str, Any]:
        """The next message of which `done` is true; those before it are kept as well."""
        while True:
            message = await self.socket.receive(seconds)
            assert message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY), message
            found = read_frame(message.data)
            self.seen.append(found)
            if done(found):
                return found

    async def ended(self, prompts: Sequence[str]) -> None:
        """Read until all of some prompts have ended."""
        left = set(prompts)

        def end(message: dict[str, Any]) -> bool:
            if message.get("type") == "executing" and message["data"]["node"] is None:
                left.discard(message["data"]["prompt_id"])
            return not left

        await self.until(end)


@asynccontextmanager
async def talking(
    url: str, metadata: bool = False, id: str | None = None, features: Mapping[str, Any] = {}
) -> AsyncIterator[Talk]:
    """A client whose socket is open.

    Args:
        url: The server's address.
        metadata: Whether it reads what a preview is of.
        id: Its id; None draws one.
        features: What else it says that it can do.
    """
    id = id or uuid.uuid4().hex
    async with aiohttp.ClientSession() as http, http.ws_connect(f"{url}/ws?clientId={id}", max_msg_size=0) as socket:
        talk = Talk(http, url, id, socket)
        await talk.until(lambda message: message.get("type") == "status")
        said = {**({"supports_preview_metadata": True} if metadata else {}), **features}
        if said:
            await socket.send_json({"type": "feature_flags", "data": said})
            await talk.until(lambda message: message.get("type") == "feature_flags")
        yield talk


def run(talk: Callable[[], Any]) -> Any:
    """The result of an asynchronous function."""
    return asyncio.run(talk())
