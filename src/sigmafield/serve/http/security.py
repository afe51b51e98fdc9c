"""Who is answered: the right token, a known host, and no page of another site."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Awaitable, Callable, Collection
from urllib.parse import urlsplit

from aiohttp import hdrs, web

from sigmafield.serve.http.context import OWNER
from sigmafield.serve.http.errors import Handler, failed
from sigmafield.serve.http.middleware import Middleware
from sigmafield.serve.http.settings import HttpSettings

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' blob: data:; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
    ),
}
"""Headers of every answer."""

COOKIE = "sigmafield_token"
"""The cookie with the token of a browser that has signed in."""


def guard(settings: HttpSettings, free: Collection[str]) -> Middleware:
    """The middleware that refuses requests which are not for this server, or not from its clients.

    Args:
        settings: Names, sites and tokens that are allowed.
        free: Paths of routes that need no token.
    """

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        origin = request.headers.get(hdrs.ORIGIN)
        allowed = origin is not None and origin in settings.allow_origin
        if not known_host(request.headers.get(hdrs.HOST, ""), settings.allow_host):
            name = request.headers.get(hdrs.HOST, "")
            return failed(403, f"this server is not known by the name {name[:100]!r}: start it with --allow-host")
        if not allowed and is_foreign(request):
            return failed(403, "pages of other sites may not use this server: start it with --allow-origin")
        if allowed and request.method == hdrs.METH_OPTIONS:
            return web.Response(status=204)
        owner = owner_of(request, settings)
        resource = request.match_info.route.resource
        if owner is None and not (resource is not None and resource.canonical in free):
            return failed(401, "a token is needed: Authorization: Bearer TOKEN", headers={"WWW-Authenticate": "Bearer"})
        request[OWNER] = owner or ""
        return await handler(request)

    return guarded


def owner_of(request: web.Request, settings: HttpSettings) -> str | None:
    """Whose token a request has, in its header or else in its cookie; "" where none is needed, None for a wrong one."""
    if not settings.tokens:
        return ""
    if hdrs.AUTHORIZATION not in request.headers:
        return owner_with(request.cookies.get(COOKIE, ""), settings)
    kind, _, given = request.headers[hdrs.AUTHORIZATION].partition(" ")
    return owner_with(given.strip() if kind.lower() == "bearer" else "", settings)


def owner_with(given: str, settings: HttpSettings) -> str | None:
    """Whose token this is; None for a wrong one.

    Every token is compared, in a time that does not depend on where they differ.
    """
    found = None
    for owner, token in settings.tokens.items():
        if hmac.compare_digest(_digest(token), _digest(given)):
            found = owner
    return found


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def known_host(header: str, names: Collection[str]) -> bool:
    """Whether a Host header is an address, localhost, or one of the names.

    A page that has its own name resolve to this server's address sends that name, and is refused.
    """
    try:
        parts = urlsplit(f"//{header}")
        host = (parts.hostname or "").rstrip(".")
        _ = parts.port  # ValueError if it is not a number
    except ValueError:
        return False
    if parts.path or parts.query or parts.fragment or parts.username is not None:
        return False
    if host == "localhost" or host in [name.lower() for name in names] or header.lower() in names:
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_foreign(request: web.Request) -> bool:
    """Whether a page of another site makes the request, other than by a link to this one."""
    origin = request.headers.get(hdrs.ORIGIN)
    if origin is not None:
        return origin == "null" or urlsplit(origin).netloc.lower() != request.headers.get(hdrs.HOST, "").lower()
    site, mode = request.headers.get("Sec-Fetch-Site"), request.headers.get("Sec-Fetch-Mode")
    return site in ("cross-site", "same-site") and not (mode == "navigate" and request.method == hdrs.METH_GET)


def add_headers(settings: HttpSettings) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    """What gives every answer its headers, and those of pages that may use the server."""

    async def prepare(request: web.Request, response: web.StreamResponse) -> None:
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        origin = request.headers.get(hdrs.ORIGIN)
        if origin is not None and origin in settings.allow_origin:
            response.headers.update({
                "Access-Control-Allow-Origin": origin,
                "Access-Control-Allow-Methods": "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS",
                "Access-Control-Allow-Headers": "Authorization, Content-Type, Idempotency-Key, Last-Event-ID",
                "Access-Control-Expose-Headers": "Location, Retry-After, X-Job-Id, Content-Range, Accept-Ranges",
                "Access-Control-Max-Age": "600",
                "Cross-Origin-Resource-Policy": "cross-origin",
                "Vary": ", ".join([*response.headers.getall(hdrs.VARY, ()), "Origin"]),
            })  # fmt: skip

    return prepare
