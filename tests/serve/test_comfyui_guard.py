"""Who may use ComfyUI's routes: hosts, origins, preflights, tokens, and browsers that have signed in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from comfy_serving import comfy_engine, comfy_server
from serving import ALICE, BOB, Client, serving, settings_of

from sigmafield.serve.comfyui.guard import SIGN_IN
from sigmafield.serve.comfyui.settings import ComfyUISettings
from sigmafield.serve.http.run import make_engine
from sigmafield.serve.http.security import COOKIE
from sigmafield.serve.settings import EngineSettings

SITE = "https://app.example"
FORM = "application/x-www-form-urlencoded"
SOCKET = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "a" * 24}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A server that one other site may use."""
    with comfy_engine(tmp_path_factory.mktemp("guard"), {"allow_origin": (SITE,)}, start=False) as (client, _):
        yield client


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A server that needs a token."""
    with comfy_server(tmp_path_factory.mktemp("tokens"), tokens={"alice": ALICE, "bob": BOB}) as client:
        yield client


@pytest.mark.parametrize(
    "path", ["/prompt", "/api/prompt", "/ws", "/api/v2/jobs", "/internal/logs", "/view?filename=a"]
)
def test_pages_of_other_sites_are_refused(client: Client, path: str) -> None:
    """By their Origin, by what the browser says of them, and by a name that a page has made point to this server."""
    for headers in (
        {"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"},
        {"Host": "evil.example"}, {"Origin": "http://127.0.0.1:1"},
    ):  # fmt: skip
        answer = client.ask("GET", path, headers={**(SOCKET if path == "/ws" else {}), **headers})
        assert answer.status == 403, headers
        assert answer.json["error"]["message"]


def test_preflights(client: Client) -> None:
    plain = client.ask("OPTIONS", "/api/prompt")
    assert (plain.status, plain.body) == (200, b"") and "Access-Control-Allow-Origin" not in plain.headers
    assert client.ask("OPTIONS", "/api/prompt", headers={"Origin": "https://evil.example"}).status == 403
    for path in ("/api/v2/jobs", "/prompt"):
        answer = client.ask("OPTIONS", path, headers={"Origin": SITE})
        assert answer.status == 204
        assert answer.headers["Access-Control-Allow-Origin"] == SITE and answer.headers["Vary"] == "Origin"
        allowed = answer.headers["Access-Control-Allow-Methods"]
        assert allowed == "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
        assert "Idempotency-Key" in answer.headers["Access-Control-Allow-Headers"]
        assert answer.headers["Access-Control-Max-Age"] == "600"
    used = client.ask("GET", "/prompt", headers={"Origin": SITE})
    assert used.status == 200 and "Content-Range" in used.headers["Access-Control-Expose-Headers"]


def test_every_route_needs_the_token(guarded: Client) -> None:
    for path in ("/prompt", "/api/settings", "/ws", "/view?filename=a", "/object_info", "/api/v2/assets/a", "/users"):
        assert guarded.get(path).status == 401, path
    error = guarded.get("/api/v2/jobs").error
    assert error["code"] == "unauthorized"
    assert guarded.get("/prompt", Authorization=f"Bearer {ALICE}").status == 200
    assert guarded.get("/prompt", Authorization=f"Bearer {ALICE}x").status == 401


def test_a_browser_signs_in(guarded: Client) -> None:
    """Its token is in a cookie that scripts do not see and that other sites cannot have sent."""
    assert b"<form" in guarded.get(SIGN_IN).body
    wrong = guarded.ask("POST", SIGN_IN, b"token=nope", kind=FORM)
    assert wrong.status == 401 and "Set-Cookie" not in wrong.headers and b"<form" in wrong.body
    made = guarded.ask("POST", SIGN_IN, f"token={ALICE}".encode(), kind=FORM)
    assert (made.status, made.headers["Location"]) == (303, "/")
    kept = made.headers["Set-Cookie"]
    assert "HttpOnly" in kept and "SameSite=Strict" in kept and "Secure" not in kept
    cookie = kept.partition(";")[0]
    assert cookie == f"{COOKIE}={ALICE}"
    assert guarded.get("/prompt", Cookie=cookie).status == 200
    assert guarded.get("/prompt", Cookie=f"{COOKIE}={BOB}x").status == 401
    assert guarded.get("/prompt", Cookie=cookie, Authorization="Bearer nope").status == 401
    assert guarded.get("/prompt", Cookie=cookie, Origin="https://evil.example").status == 403
    guarded.ask("POST", "/settings/a", b"1", {"Cookie": cookie})
    assert guarded.get("/settings", Authorization=f"Bearer {ALICE}").json == {"a": 1}
    out = guarded.ask("POST", "/sign-out", headers={"Cookie": cookie})
    assert out.status == 303 and f'{COOKIE}="";' in out.headers["Set-Cookie"]


def test_comfyui_s_page_leads_to_the_form(tmp_path: Path) -> None:
    page = tmp_path / "page"
    page.mkdir()
    (page / "index.html").write_text("<title>the page</title>")
    settings = settings_of(tmp_path, model_folder=None, input_folder=None, tokens={"alice": ALICE})
    comfyui = ComfyUISettings(front_end_root=page)
    engine = make_engine(tmp_path, EngineSettings(devices=("cpu",)), settings, comfyui=comfyui)
    try:
        with serving(engine, settings, tmp_path, comfyui) as client:
            led = client.get("/", Accept="text/html")
            assert (led.status, led.headers["Location"]) == (303, SIGN_IN)
            assert client.get("/").status == 401 and client.get("/api/users").status == 401
            assert b"the page" in client.get("/", Cookie=f"{COOKIE}={ALICE}").body
            assert client.get("/sigmafield/").status == 200  # our own page asks for the token itself
    finally:
        engine.stop()
