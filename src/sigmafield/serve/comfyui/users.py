"""Who uses the page: the folder of settings and workflows of a request's user."""

from __future__ import annotations

import json
import re
import secrets
import threading
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from aiohttp import HttpVersion11, web

from sigmafield.runs.files import write_whole
from sigmafield.serve.comfyui.answers import body_of, plain, refused
from sigmafield.serve.comfyui.folders import Directories, inside, user_name
from sigmafield.serve.comfyui.owned import all_directories
from sigmafield.serve.http.context import OWNER, in_thread, server_of
from sigmafield.serve.http.settings import is_loopback

LONGEST_NAME = 100
"""Characters of a user's name."""

CHANGING = threading.RLock()
"""Held while a file of users or settings is read and written again."""


FORWARDED = ("Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP")
"""Headers with which a reverse proxy says that a request is another's."""


def sees_all(request: web.Request) -> bool:
    """Whether a client may see the log and where folders are: one on this machine, where there are no tokens."""
    return is_local(request) and not server_of(request).settings.tokens


def is_local(request: web.Request) -> bool:
    """Whether a client is on this machine, and not a proxy that passes on the requests of others.

    A proxy names the client in a header, or passes on a Host header with the site's name. nginx without further
    settings does neither, but speaks HTTP/1.0, unlike browsers and clients of ComfyUI.
    """
    host = urlsplit(f"//{request.host}").hostname or ""
    direct = request.version >= HttpVersion11 and not any(name in request.headers for name in FORWARDED)
    return direct and is_loopback(request.remote or "") and is_loopback(host.rstrip("."))


def user_folder(request: web.Request) -> Path:
    """The folder of a request's user: of its token, or the one that the page has chosen.

    Raises:
        web.HTTPUnauthorized: There is no such user.
    """
    here, owner = all_directories(request), request[OWNER]
    if not here.settings.multi_user or owner:
        return here.user / user_name(owner)
    name = request.headers.get("Comfy-User", "")
    if name not in users_of(here):
        raise web.HTTPUnauthorized(text="the header Comfy-User must have the id of a user of GET /users")
    return inside(here.user, name)


def users_of(here: Directories) -> dict[str, str]:
    """The names of users by their ids."""
    found = read_object(here.user / "users.json")
    return {id: str(name) for id, name in found.items() if not id.startswith("__")}


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; an empty one if the file does not exist or is damaged."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write_object(path: Path, value: dict[str, Any]) -> None:
    """Write an object as a JSON file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(value, indent=4).encode())


async def index(request: web.Request) -> web.Response:
    """How settings are kept, and of which users."""
    here = all_directories(request)
    if here.settings.multi_user and not request[OWNER]:
        return plain({"storage": "server", "users": await in_thread(users_of, here)})
    return plain({"storage": "server", "migrated": (here.user / user_name(request[OWNER])).is_dir()})


async def create(request: web.Request) -> web.Response:
    """Add a user."""
    body, here = await body_of(request), all_directories(request)
    name = body.get("username", "") if isinstance(body, dict) else ""
    name = name.strip() if isinstance(name, str) else ""
    if not here.settings.multi_user:
        return refused("this server has one user: start it with --multi-user")
    if not 0 < len(name) <= LONGEST_NAME:
        return refused(f"a user name must have 1 … {LONGEST_NAME} characters")
    made = await in_thread(added, here, name)
    return refused("Duplicate username.") if made is None else plain(made)


def added(here: Directories, name: str) -> str | None:
    """The id of a new user; None if the name is taken."""
    with CHANGING:
        known = read_object(here.user / "users.json")
        if name in known.values():
            return None
        made = f"{re.sub('[^A-Za-z0-9-]', '', name.replace('_', ''))[:40] or 'user'}_{secrets.token_hex(16)}"
        write_object(here.user / "users.json", {**known, made: name})
        (here.user / made).mkdir(parents=True, exist_ok=True)
    return made


def routes() -> list[web.RouteDef]:
    """The routes of users."""
    return [web.get("/users", index), web.post("/users", create)]
