"""What stands between aiohttp and the handlers of requests."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from aiohttp import typedefs


@runtime_checkable
class Middleware(typedefs.Middleware, Protocol):
    """aiohttp's middleware as a protocol that a checker of calls can ask for."""
