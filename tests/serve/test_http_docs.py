"""The commands of docs/http.md run as they are written there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from serving import Client

from sigmafield.serve.http.routes import ROUTES

PAGE = (Path(__file__).parents[2] / "docs" / "http.md").read_text("utf-8")


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_commands_of_the_page_run(server: Client, tmp_path: Path):
    script = "\n".join(re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)).replace("http://127.0.0.1:8188", server.url)
    script = re.sub(r"\bcurl -s", "curl --fail-with-body -sS", script).replace('"steps": 8', '"steps": 1')
    environment = {**os.environ, "no_proxy": "*", "NO_PROXY": "*"}
    command = ["bash", "-euo", "pipefail", "-c", script]
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr
    for name in ("heart.png", "pizza.png", "again.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_the_page_names_every_route():
    for route in ROUTES:
        last = [part for part in route.path.split("/") if part and not part.startswith("{")]
        assert not last or last[-1] in PAGE, route.path
