"""Routes that the page uses for itself: the server's log, its directories and the files in them."""

from __future__ import annotations

import logging
import shutil
import threading
from collections import deque
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from aiohttp import web

from sigmafield.serve.comfyui.answers import body_of, plain, refused
from sigmafield.serve.comfyui.folders import KINDS
from sigmafield.serve.comfyui.models import paths
from sigmafield.serve.comfyui.owned import directories
from sigmafield.serve.comfyui.users import sees_all
from sigmafield.serve.http.context import in_thread

KEPT_LINES = 300
"""Lines of the log that are kept."""


class Log(logging.Handler):
    """The last lines of the server's log, and who wants to be sent new ones.

    Args:
        send: Called with the ids of clients and with entries, from any thread.
    """

    def __init__(self, send: Callable[[frozenset[str], list[dict[str, str]]], None] = lambda clients, entries: None):
        super().__init__(logging.INFO)
        self.setFormatter(logging.Formatter("[%(levelname)s] %(message)s"))
        self.send = send
        self._entries: deque[dict[str, str]] = deque(maxlen=KEPT_LINES)
        self._clients: frozenset[str] = frozenset()
        self._change = threading.Lock()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line, and send it to those who want it."""
        try:
            entry = {"t": datetime.fromtimestamp(record.created).isoformat(), "m": self.format(record) + "\n"}
        except Exception:
            self.handleError(record)
            return
        self._entries.append(entry)
        if self._clients:
            self.send(self._clients, [entry])

    def entries(self) -> list[dict[str, str]]:
        """The lines that are kept."""
        return list(self._entries)

    def subscribe(self, client: str, enabled: bool) -> None:
        """Send new lines to a client, or do not."""
        with self._change:
            self._clients = self._clients | {client} if enabled else self._clients - {client}


LOG = web.AppKey("comfyui log", Log)


def size() -> dict[str, int]:
    """The size of the terminal."""
    columns, rows = shutil.get_terminal_size((80, 24))
    return {"cols": columns, "rows": rows}


def lines(request: web.Request) -> list[dict[str, str]]:
    """The lines of the log that a client may see."""
    return request.app[LOG].entries() if sees_all(request) else []


async def text(request: web.Request) -> web.Response:
    """The log as a text."""
    return plain("".join(f"{entry['t']} - {entry['m']}" for entry in lines(request)))


async def raw(request: web.Request) -> web.Response:
    """The lines of the log."""
    return plain({"entries": lines(request), "size": size()})


async def subscribe(request: web.Request) -> web.Response:
    """Send a client the log's new lines, or do not."""
    body = await body_of(request)
    if not isinstance(body, dict) or not isinstance(client := body.get("clientId"), str):
        return refused("the body must have clientId and enabled")
    request.app[LOG].subscribe(client, bool(body.get("enabled")) and sees_all(request))
    return web.Response()


async def folder_paths(request: web.Request) -> web.Response:
    """The directories of each kind of model."""
    here = directories(request)
    return plain({kind: paths(request, here, kind) for kind in here.models})


async def files(request: web.Request) -> web.Response:
    """The files of a directory, the newest first."""
    kind = request.match_info["kind"]
    if kind not in KINDS:
        return refused("Invalid directory type")
    return plain(await in_thread(newest, directories(request).root(kind)))


def newest(folder: Path) -> list[str]:
    """The names of the files of a folder that are not hidden, the newest first."""
    found = folder.iterdir() if folder.is_dir() else ()
    there = [path for path in found if path.is_file() and not path.name.startswith(".")]
    return [path.name for path in sorted(there, key=_changed, reverse=True)]


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # deleted meanwhile
        return 0.0


def routes() -> list[web.RouteDef]:
    """The routes that the page uses for itself."""
    return [
        web.get("/internal/logs", text),
        web.get("/internal/logs/raw", raw),
        web.patch("/internal/logs/subscribe", subscribe),
        web.get("/internal/folder_paths", folder_paths),
        web.get("/internal/files/{kind}", files),
    ]
