"""ComfyUI's real page in a real browser, served by us: what a user does with it, and what its console says.

The page is not part of sigmafield. Its folders come from SIGMAFIELD_FRONTENDS, with the separator of PATH between them,
or from the installed package comfyui-frontend-package.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from comfy_serving import comfy_engine
from engines import workflow
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Response, sync_playwright
from serving import Client

from sigmafield.serve.comfyui.frontend_files import Frontend, find_frontend

pytestmark = [pytest.mark.browser, pytest.mark.typed_elsewhere]

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--no-sandbox", "--use-gl=swiftshader", "--enable-unsafe-swiftshader"]
SECONDS = 90_000
ELSEWHERE = "https://huggingface.co/"
"""Where new versions of the page look for the models of their first workflow; the server does not let them."""

SHOTS = os.environ.get("SIGMAFIELD_SHOTS")
"""Folder in which screenshots are saved; none is none."""


def frontends() -> list[Frontend]:
    """The pages that there are."""
    given = [Path(each) for each in os.environ.get("SIGMAFIELD_FRONTENDS", "").split(os.pathsep) if each]
    return [found for each in given or [None] if (found := find_frontend(each)) is not None]


PAGES = frontends()
NONE = pytest.param(None, marks=pytest.mark.skip(reason="comfyui-frontend-package is not installed"))


@dataclass
class Tab:
    """A tab of the browser, with what has happened in it.

    Args:
        page: The tab.
        faults: Errors of its console, and answers with statuses from 400.
        messages: Types of the messages of its socket; "frame N" for binary ones.
        answers: Addresses of what it was answered.
    """

    page: Page
    faults: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)

    def listen(self) -> None:
        """Begin to note."""
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.faults.append(f"exception: {error}"))
        self.page.on("response", self._answered)
        self.page.on("websocket", lambda socket: socket.on("framereceived", self._received))

    def _said(self, message: ConsoleMessage) -> None:
        if message.type == "error" and ELSEWHERE not in message.text:
            self.faults.append(f"console: {message.text}")

    def _answered(self, response: Response) -> None:
        if response.status == 200:
            self.answers.append(response.url)
        if response.status >= 400:
            self.faults.append(f"{response.status} {response.request.method} {response.url}")

    def _received(self, frame: str | bytes) -> None:
        if isinstance(frame, bytes):
            self.messages.append(f"frame {frame[3]}")
        else:
            found = json.loads(frame)
            self.messages.append(found["type"])

    def until(self, done: Callable[[], Any], what: str) -> Any:
        """What `done` gives once it is true."""
        for _ in range(SECONDS // 100):
            if found := done():
                return found
            self.page.wait_for_timeout(100)
        raise AssertionError(f"{what} has not happened; faults: {self.faults}; messages: {self.messages[-20:]}")

    def open(self, url: str) -> None:
        """Open ComfyUI's page, and wait until it can be used."""
        self.page.goto(f"{url}/")
        self.page.wait_for_function("() => window.app?.graph && window.app.extensionManager?.workflow", timeout=SECONDS)
        self.until(lambda: "status" in self.messages, "the socket's first message")

    def command(self, name: str) -> None:
        """Run one of the page's commands, as its menus and keys do."""
        self.page.evaluate("name => window.app.extensionManager.command.execute(name)", name)

    def load(self, prompt: dict[str, Any], path: Path) -> None:
        """Open a workflow from a file, as the menu does."""
        path.write_text(json.dumps(prompt))
        self.page.locator("#comfy-file-input").set_input_files(path)
        self.until(lambda: len(self.nodes()) == len(prompt), "loading the workflow")
        self.command("Comfy.Canvas.FitView")

    def nodes(self) -> dict[str, str]:
        """The types of the nodes by id."""
        return self.page.evaluate("() => Object.fromEntries(window.app.graph._nodes.map(n => [String(n.id), n.type]))")

    def set(self, type: str, widget: str, value: Any) -> None:
        """Give a widget another value."""
        script = """([type, name, value]) => {
            const node = window.app.graph._nodes.find(n => n.type === type)
            const widget = node.widgets.find(w => w.name === name)
            widget.value = value
            widget.callback?.(value)
        }"""
        self.page.evaluate(script, [type, widget, value])

    def run(self) -> None:
        """Press the button that queues the workflow."""
        self.messages.clear()
        self.page.get_by_test_id("queue-button").or_(
            self.page.get_by_role("button", name="Run", exact=True)
        ).first.click()

    def shot(self, name: str) -> None:
        """Save a screenshot, if they are asked for."""
        if SHOTS is not None:
            self.page.wait_for_timeout(1000)
            self.page.screenshot(path=f"{SHOTS}/{name}.png")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert CHROMIUM, "these tests need Chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module", params=PAGES or [NONE], ids=lambda page: page and page.version)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Client, Frontend]]:
    """A server with one of the pages, for a user who has been here before."""
    folder = tmp_path_factory.mktemp("page")
    with comfy_engine(
        folder, protocol={"front_end_root": request.param.root, "preview_method": "auto"}, active=1
    ) as made:
        settings = {
            "Comfy.TutorialCompleted": True,
            "Comfy.Validation.Workflows": False,
            "Comfy.Minimap.Visible": False,
        }
        assert made[0].post("/settings", {**settings, "Comfy.Workflow.ShowMissingModelsWarning": False}).status == 200
        yield made[0], request.param


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context(viewport={"width": 1400, "height": 850}, accept_downloads=True)
    context.set_default_timeout(SECONDS)
    yield context
    context.close()


@contextmanager
def tab_of(context: BrowserContext, url: str) -> Iterator[Tab]:
    tab = Tab(context.new_page())
    tab.listen()
    tab.open(url)
    yield tab


def drawn(steps: int = 6, size: int = 256) -> dict[str, Any]:
    """A workflow that draws an image, with titles as the page has them."""
    made = workflow(steps=steps)["prompt"]
    made["5"]["inputs"] |= {"width": size, "height": size}
    return made


def test_a_workflow_is_loaded_edited_and_drawn_with_previews_and_its_result(server, context, tmp_path):
    client, page = server
    with tab_of(context, client.url) as tab:
        tab.load(drawn(), tmp_path / "heart.json")
        tab.set("KSampler", "steps", 12)
        text = tab.page.locator("textarea").first
        text.fill("a green apple")
        tab.run()
        tab.until(lambda: any(each in ("frame 1", "frame 4") for each in tab.messages), "a preview")
        tab.shot(f"comfyui-running-{page.version}")
        tab.until(lambda: "execution_success" in tab.messages, "the end")
        assert "frame 4" in tab.messages and "frame 1" not in tab.messages
        assert tab.messages.count("progress") == 12
        shown = (
            "() => Object.values(window.app.nodeOutputs).flatMap(each => each.images ?? []).map(each => each.filename)"
        )
        [name] = tab.until(lambda: tab.page.evaluate(shown), "the result in its node")
        tab.until(lambda: any(f"/view?filename={name}" in each for each in tab.answers), "the image in the page")
        history = ("/api/jobs?status=completed", "/api/history?")
        tab.until(lambda: any(part in each for each in tab.answers for part in history), "the history in the page")
        tab.shot(f"comfyui-{page.version}")
        [entry] = client.get("/history?max_items=1").json.values()
        prompt, extra = entry["prompt"][2], entry["prompt"][3]
        assert {node["inputs"].get("steps") for node in prompt.values()} >= {12}
        assert "a green apple" in [node["inputs"].get("text") for node in prompt.values()]
        assert extra["extra_pnginfo"]["workflow"]["nodes"]
        assert tab.faults == []


def test_a_template_is_loaded(server, context):
    client, page = server
    if not page.templates:
        pytest.skip("comfyui-workflow-templates is not installed")
    with tab_of(context, client.url) as tab:
        tab.command("Comfy.NewBlankWorkflow")
        tab.until(lambda: not tab.nodes(), "an empty workflow")
        tab.command("Comfy.BrowseTemplates")
        card = tab.page.locator('[data-testid^="template-workflow-"]').first
        card.wait_for()
        tab.shot(f"comfyui-templates-{page.version}")
        card.click()
        tab.until(tab.nodes, "the template")
        assert any("/templates/" in each and each.endswith(".json") for each in tab.answers)
        assert not any(re.match("5[0-9][0-9] ", fault) for fault in tab.faults)


def test_an_image_that_is_dropped_opens_its_workflow(server, context, tmp_path):
    client, _ = server
    with tab_of(context, client.url) as tab:
        tab.load(drawn(2), tmp_path / "heart.json")
        tab.run()
        tab.until(lambda: "execution_success" in tab.messages, "the end")
        [entry] = client.get("/history?max_items=1").json.values()
        [[image]] = [ui["images"] for ui in entry["outputs"].values()]
        before = tab.nodes()
        tab.command("Comfy.NewBlankWorkflow")
        tab.until(lambda: not tab.nodes(), "an empty workflow")
        drop = """async address => {
            const blob = await (await fetch(address)).blob()
            const transfer = new DataTransfer()
            transfer.items.add(new File([blob], 'image.png', { type: 'image/png' }))
            const at = { bubbles: true, cancelable: true, clientX: 600, clientY: 400, dataTransfer: transfer }
            const target = document.getElementById('graph-canvas') ?? document.body
            target.dispatchEvent(new DragEvent('dragover', at))
            target.dispatchEvent(new DragEvent('drop', at))
        }"""
        tab.page.evaluate(drop, f"/view?filename={image['filename']}&type=output")
        tab.until(lambda: sorted(tab.nodes().values()) == sorted(before.values()), "the workflow of the image")
        assert tab.faults == []


def test_a_subgraph_runs_with_progress_of_its_inner_nodes(server, context, tmp_path):
    client, page = server
    with tab_of(context, client.url) as tab:
        tab.load(drawn(3), tmp_path / "heart.json")
        select = """() => {
            const inner = window.app.graph._nodes.filter(n => ['KSampler', 'EmptyLatentImage'].includes(n.type))
            window.app.canvas.selectItems(inner)
        }"""
        tab.page.evaluate(select)
        tab.command("Comfy.Graph.ConvertToSubgraph")
        tab.until(lambda: len(tab.nodes()) == 6, "the subgraph")
        tab.run()
        tab.until(lambda: "execution_success" in tab.messages, "the end")
        [entry] = client.get("/history?max_items=1").json.values()
        assert [name for name in entry["prompt"][2] if ":" in name]
        tab.shot(f"comfyui-subgraph-{page.version}")
        assert tab.faults == []


def test_errors_are_shown_at_their_nodes(server, context, tmp_path):
    client, page = server
    with tab_of(context, client.url) as tab:
        prompt = drawn(2)
        del prompt["3"]["inputs"]["positive"]
        tab.load(prompt, tmp_path / "broken.json")
        tab.run()
        marked = "() => window.app.graph._nodes.filter(n => n.has_errors).map(n => n.type)"
        tab.until(lambda: tab.page.evaluate(marked) == ["KSampler"], "the error at its node")
        tab.shot(f"comfyui-error-{page.version}")
        assert any(fault.startswith("400 POST") for fault in tab.faults)
        assert not any(re.match("5[0-9][0-9] ", fault) for fault in tab.faults)


def test_the_stop_button_interrupts_and_a_second_tab_sees_the_queue_and_the_history(server, context, tmp_path):
    client, _ = server
    with tab_of(context, client.url) as tab, tab_of(context, client.url) as second:
        tab.load(drawn(300), tmp_path / "long.json")
        second.messages.clear()
        tab.run()
        tab.until(lambda: "progress" in tab.messages, "a step")
        second.until(lambda: "status" in second.messages, "the queue's length in the second tab")
        tab.page.bring_to_front()
        tab.command("Comfy.Interrupt")
        tab.until(lambda: "execution_interrupted" in tab.messages, "the interruption")
        assert set(second.messages) == {"status"}
        ended = client.get("/api/jobs?status=cancelled&limit=1").json["jobs"]
        assert ended[0]["status"] == "cancelled"
        second.load(drawn(2), tmp_path / "short.json")
        second.run()
        second.until(lambda: "execution_success" in second.messages, "the end in the second tab")
        assert tab.faults == [] and second.faults == []


def test_a_node_shows_the_text_that_it_is_sent(server, context, tmp_path):
    client, page = server
    prompt = {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 32, "batch_size": 1, "color": 255}},
        "2": {"class_type": "GetImageSize", "inputs": {"image": ["1", 0]}},
        "3": {"class_type": "PreviewAny", "inputs": {"source": ["2", 0]}},
    }
    with tab_of(context, client.url) as tab:
        tab.load(prompt, tmp_path / "size.json")
        tab.run()
        tab.until(lambda: "execution_success" in tab.messages, "the end")
        assert tab.messages.count("frame 3") == 1
        tab.until(lambda: tab.page.get_by_text("width: 64, height: 32").count(), "the text at its node")
        tab.shot(f"comfyui-text-{page.version}")
        assert tab.faults == []
