"""Draws some images on a server of its own and takes pictures of its page, in Chromium, into docs/images.

python benchmarks/page.py [FOLDER [NAME …]], NAME one of page-light, page-dark, page-phone-light, page-phone-dark
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, ViewportSize, expect, sync_playwright

CHROMIUM = "/usr/bin/chromium"
DONE = ("a red heart", "a green apple", "a blue star", "a yellow moon", "a purple flower", "an orange fish")
RUNNING = ("a red heart on a blue star", "two green apples, one of them in the shade", "a yellow moon")  # fmt: skip
SIZES = {"page": (1280, 860), "page-phone": (360, 780)}
OF_THE_DOCS = ("page-light", "page-phone-dark")


def asked(url: str, body: Any = None) -> Any:
    """The JSON that a server answers."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def submit(url: str, prompt: str, **entries: Any) -> None:
    """Put a recipe into a server's queue."""
    asked(f"{url}/v1/jobs", {"recipe": {"prompt": prompt, "cfg": 3, **entries}})


def take(browser: Browser, url: str, name: str, scheme: str) -> bytes:
    """A PNG of the page with few colours, so that it is small."""
    width, height = SIZES[name]
    context = browser.new_context(
        viewport=ViewportSize(width=width, height=height), color_scheme="dark" if scheme == "dark" else "light"
    )
    page = context.new_page()
    page.goto(url)
    expect(page.locator("#connection")).to_have_text("connected", timeout=60_000)
    expect(page.locator("#queue img").first).to_be_visible(timeout=60_000)
    expect(page.locator("#figures dd").first).to_be_visible(timeout=60_000)
    if name == "page-phone":
        page.locator("#queue-title").scroll_into_view_if_needed()
        page.evaluate("document.getElementById('queue-title').scrollIntoView()")
    else:
        page.get_by_label("Prompt", exact=True).fill("a red heart, watercolour")
    page.wait_for_timeout(1500)
    data = page.screenshot()
    context.close()
    buffer = io.BytesIO()
    Image.open(io.BytesIO(data)).convert("RGB").quantize(256).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def main(folder: Path, names: Sequence[str]) -> None:
    """Take pictures by their names."""
    with tempfile.TemporaryDirectory() as jobs:
        flags = ["--port", "0", "--folder", jobs, "--device", "cpu", "--preview-every", "0.2", "--active", "2"]
        command = [sys.executable, "-m", "sigmafield", "serve", *flags]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            try:
                assert server.stdout is not None
                url = server.stdout.readline().split()[-1]
                for seed, prompt in enumerate(DONE):
                    submit(url, prompt, steps=12, seed=seed)
                while len(asked(f"{url}/v1/jobs?status=done")["jobs"]) < len(DONE):
                    time.sleep(0.5)
                for seed, prompt in enumerate(RUNNING):
                    submit(url, prompt, steps=400, seed=seed, sampler="dpmpp_2m_sde")
                time.sleep(5)
                with sync_playwright() as playwright:
                    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
                    for name in names:
                        data = take(browser, url, *name.rsplit("-", 1))
                        (folder / f"{name}.png").write_bytes(data)
                        print(f"{name}: {len(data) / 1000:.0f} kB")
                    browser.close()
            finally:
                server.terminate()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("docs/images"), sys.argv[2:] or OF_THE_DOCS)
