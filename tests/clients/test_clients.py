"""Clients that were written for ComfyUI, installed as their makers publish them, use this server."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import pytest
from environments import Environment, node, python

pytestmark = pytest.mark.clients

SCRIPTS = Path(__file__).parent / "scripts"

NODE = pytest.mark.skipif(shutil.which("npm") is None, reason="needs Node and npm")


def test_a_script_that_polls(url: str, files: Path) -> None:
    printed = python("sockets", url, "websocket-client==1.9.2").run(
        "python", SCRIPTS / "basic.py", url, files / "api.json"
    )
    assert re.fullmatch(r"queued \d+ \{\}\nstatus success outputs \['9'\]\n", printed)


def test_a_script_that_listens(url: str, files: Path) -> None:
    here = python("sockets", url, "websocket-client==1.9.2")
    printed = here.run("python", SCRIPTS / "listener.py", url, files / "api.json")
    [first, second] = printed.splitlines()
    assert first.split()[:4] == ["messages", "status", "execution_start", "execution_cached"]
    assert first.split()[-2:] == ["execution_success", "executing"] and "binary" not in first
    assert re.fullmatch(r"image of 9 client_\d{5}_\.png b'\\x89PNG'", second)


def test_a_script_that_receives_images(url: str, files: Path) -> None:
    """SaveImageWebsocket sends each time, also when nothing has changed."""
    here = python("sockets", url, "websocket-client==1.9.2")
    for _ in range(2):
        printed = here.run("python", SCRIPTS / "socket_images.py", url, files / "api.json")
        assert printed == "images [b'\\x89PNG']\n"


def test_comfy_api_simplified(url: str, files: Path, tmp_path: Path) -> None:
    here = python("comfy-api-simplified", url, "comfy-api-simplified==1.6.0")
    printed = here.run("python", SCRIPTS / "simplified.py", f"{url}/", files / "api.json", tmp_path)
    [image, uploaded, queue] = printed.splitlines()
    assert re.fullmatch(r"image client_\d{5}_\.png b'\\x89PNG'", image)
    assert uploaded.startswith("uploaded {'name': 'again.png'")
    assert queue == "queue {'queue_running': [], 'queue_pending': []}"


def test_comfy_sdk(url: str, files: Path) -> None:
    here = python("comfy-sdk", url, "comfy-sdk==0.5.0")
    lines = sdk(here, files, url)
    assert "events OutputReady Preview Progress StatusChange" in lines
    assert "cancelled True" in lines and "listed [True]" in lines


def sdk(here: Environment, files: Path, base: str, **variables: str) -> list[str]:
    """What comfy-sdk prints."""
    words = ("python", SCRIPTS / "sdk.py", files / "api.json", files / "image.png", files / "slow.json")
    lines = here.run(*words, variables={"COMFY_BASE_URL": base, **variables}).splitlines()
    for line in (
        "ended succeeded", "output 21 image b'\\x89PNG'", "output 9 image b'\\x89PNG'",
        "workflow api image.png", "refused Cannot execute because node Nope does not exist.",
        "missing Unresolvable core/ASSET reference(s): no", "ended canceled",
    ):  # fmt: skip
        assert line in lines, lines
    return lines


@contextmanager
def proxy(url: str, port: int) -> Iterator[str]:
    """comfy-api-proxy in front of the server, at a port."""
    here = python("comfy-api-proxy", url, "comfy-api-proxy==0.1.6")
    words = [here.folder / "bin" / "comfy-api-proxy", "run", "--comfyui", url, "--port", str(port)]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            for _ in range(200):
                try:
                    urlopen(f"http://127.0.0.1:{port}/api/v2/health").close()
                    break
                except OSError:
                    time.sleep(0.1)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def test_comfy_sdk_through_comfy_api_proxy(url: str, files: Path, unused_port: int) -> None:
    here = python("comfy-sdk", url, "comfy-sdk==0.5.0")
    with proxy(url, unused_port) as base:
        lines = sdk(here, files, base, PROXY="1")
    assert "cancelled True" in lines and any(line.startswith("events OutputReady") for line in lines)


def test_comfy_script(url: str, files: Path) -> None:
    """Its nodes are functions that it makes from /object_info."""
    here = python("comfy-script", url, "comfy-script[client]==0.6.1", "tqdm==4.70.1")
    printed = here.run("python", SCRIPTS / "script.py", f"{url}/")
    assert re.search(r"^image \(\d+, \d+\)$", printed, re.MULTILINE) and "Queue remaining: 0" in printed


def test_comfyui_autograph(url: str, files: Path, tmp_path: Path) -> None:
    here = python("comfyui-autograph", url, "comfyui-autograph==2.3.0")
    printed = here.run("python", SCRIPTS / "graph.py", url, files / "api.json", files / "page.json", tmp_path)
    assert f"saved {tmp_path}/autograph.000.png" in printed and (tmp_path / "autograph.000.png").is_file()
    assert "converted EmptyImage ImageInvert SaveImage" in printed


def test_comfy_cli(url: str, files: Path) -> None:
    """Runs both forms of workflows, says what is wrong, uploads, and asks for memory."""
    here = python("comfy-cli", url, "comfy-cli==1.23.0")
    comfy = ("comfy", "--skip-prompt", "--no-json", "--where", "local")
    address = url.removeprefix("http://").split(":")
    to = ("--host", address[0], "--port", address[1])
    here.run(*comfy, "tracking", "disable")
    for name in ("api.json", "page.json"):
        printed = here.run(*comfy, "run", "--workflow", files / name, *to, "--wait")
        assert "Workflow execution completed" in printed and f"{url}/view?filename=" in printed
    wrong = here.run(*comfy, "run", "--workflow", files / "wrong.json", *to, "--wait", code=1)
    assert "node 3: 'nope' not in" in wrong and "did you mean" in wrong
    assert "uploaded image.png" in here.run(*comfy, "upload", files / "image.png", *to)
    assert "ComfyUI 0." in here.run(*comfy, "system-stats", variables={"COMFY_LOCAL_URL": url})
    assert "unload_models=True" in here.run(*comfy, "free", variables={"COMFY_LOCAL_URL": url})


@NODE
def test_stable_canvas_comfyui_client(url: str, files: Path) -> None:
    here = node("stable-canvas", url, "@stable-canvas/comfyui-client@1.5.9", "ws@8.23.0")
    printed = here.run("node", SCRIPTS / "stable.mjs", url, files / "api.json", here.folder).splitlines()
    assert printed[0] in ('images ["url"] steps 1/2 2/2', 'images ["url"] steps ')
    assert printed[1:4] == ["made 2", "polled 1", "samplers true models true"]
    assert printed[4].endswith('queue {"Running":[],"Pending":[]}')


@NODE
def test_saintno_comfyui_sdk(url: str, files: Path) -> None:
    here = node("saintno", url, "@saintno/comfyui-sdk@0.3.1")
    printed = here.run("node", SCRIPTS / "saintno.mjs", url, files / "api.json", here.folder).splitlines()
    assert printed[:3] == ["connected linux", "finished output", "steps true"]
    assert "failed Failed to queue prompt" in printed and "samplers true" in printed
    assert printed[-1] == 'queue {"queue_running":[],"queue_pending":[]}'


@pytest.fixture
def unused_port() -> int:
    import socket

    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return made.getsockname()[1]
