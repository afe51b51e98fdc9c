"""What browsers need of a server that speaks ComfyUI's protocol: preflight answers, and a way to sign in with a token.

ComfyUI's page and its socket cannot send a token in a header, so a browser has it in a cookie, which no page of another
site can have sent: the cookie is for requests of this site alone, and the server refuses those of others in any case.
"""

from __future__ import annotations

from aiohttp import hdrs, web

from sigmafield.serve.http.context import server_of
from sigmafield.serve.http.errors import Handler, failed
from sigmafield.serve.http.middleware import Middleware
from sigmafield.serve.http.security import COOKIE, owner_with

SIGN_IN = "/sign-in"
"""Where a browser gives its token."""

KEPT = 30 * 24 * 3600
"""Seconds for which a browser keeps its token."""

FORM = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Sign in</title>
<form method="post" action="/sign-in">
<p><label>Token <input type="password" name="token" autocomplete="current-password" autofocus required></label>
<button>Sign in</button></p>
<p>{message}</p>
</form>
</html>
"""


def browsers(comfyui: bool) -> Middleware:
    """The middleware that answers preflights, and leads a browser without a token to where it can give one.

    Args:
        comfyui: Whether ComfyUI's protocol is served; otherwise it does nothing.
    """

    @web.middleware
    async def answered(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not comfyui:
            return await handler(request)
        if request.method == hdrs.METH_OPTIONS and hdrs.ORIGIN not in request.headers:
            return web.Response()
        answer = await handler(request)
        page = request.method == hdrs.METH_GET and request.path == "/"
        if answer.status == 401 and page and "text/html" in request.headers.get(hdrs.ACCEPT, ""):
            return web.Response(status=303, headers={"Location": SIGN_IN})
        return answer

    return answered


async def sign_in_form(request: web.Request) -> web.Response:
    """The page on which a token is given."""
    return web.Response(text=FORM.format(message=""), content_type="text/html")


async def sign_in(request: web.Request) -> web.Response:
    """Keep a token in the browser."""
    given = (await request.post()).get("token")
    settings = server_of(request).settings
    if not isinstance(given, str) or (settings.tokens and owner_with(given.strip(), settings) is None):
        if request.content_type == "application/x-www-form-urlencoded":
            said = FORM.format(message="This token is not known here.")
            return web.Response(text=said, content_type="text/html", status=401)
        return failed(401, "this token is not known here")
    answer = web.Response(status=303, headers={"Location": "/"})
    answer.set_cookie(
        COOKIE, given.strip(), max_age=KEPT, httponly=True, samesite="Strict", secure=request.scheme == "https"
    )
    return answer


async def sign_out(request: web.Request) -> web.Response:
    """Forget a browser's token."""
    answer = web.Response(status=303, headers={"Location": SIGN_IN})
    answer.del_cookie(COOKIE)
    return answer


def routes() -> list[web.RouteDef]:
    """The routes of signing in, which need no token."""
    return [web.get(SIGN_IN, sign_in_form), web.post(SIGN_IN, sign_in), web.post("/sign-out", sign_out)]
