"""The page in a real browser: the system's Chromium, driven by Playwright."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, Playwright, expect, sync_playwright
from serving import ALICE, LONG, Client, png, serving, settings_of

from sigmafield.serve.engine import Engine
from sigmafield.serve.http.run import make_engine
from sigmafield.serve.settings import EngineSettings

pytestmark = [pytest.mark.browser, pytest.mark.typed_elsewhere]

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SECONDS = 30_000
PHONE = {"width": 360, "height": 740}


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as playwright:
        yield playwright


@pytest.fixture(scope="module")
def browser(playwright: Playwright) -> Iterator[Browser]:
    assert CHROMIUM, "these tests need Chromium"
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[Engine]:
    """An engine of its own, whose queue has no jobs of other tests; a preview at each step."""
    settings = EngineSettings(devices=("cpu",), preview_every=0.0, active=2)
    engine = make_engine(folder, settings, settings_of(folder, model_folder=None, input_folder=None))
    engine.start()
    yield engine
    engine.stop()


@pytest.fixture(scope="module")
def server(engine: Engine, folder: Path) -> Iterator[Client]:
    with serving(engine, settings_of(folder, model_folder=None, input_folder=None), folder) as client:
        yield client


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context()
    context.set_default_timeout(SECONDS)
    yield context
    context.close()


@pytest.fixture
def faults() -> list[str]:
    """What the console of a page says that is an error."""
    return []


@pytest.fixture
def page(context: BrowserContext, server: Client, faults: list[str]) -> Iterator[Page]:
    """The page, connected; at the end its queue is emptied, and it has made no error."""
    page = watched(context.new_page(), faults)
    opened(page, server)
    yield page
    for job in server.get("/v1/jobs?limit=1000").json["jobs"]:
        if job["status"] in ("queued", "running", "paused"):
            server.post(f"/v1/jobs/{job['id']}/cancel")
    assert faults == []


def watched(page: Page, faults: list[str]) -> Page:
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    return page


def opened(page: Page, server: Client) -> None:
    page.goto(server.url)
    expect(page.locator("#connection")).to_have_text("connected", timeout=SECONDS)


def entry(page: Page, name: str) -> Locator:
    """The input of an entry of the recipe itself; regions and others have entries of the same names."""
    return page.locator(f"#first [name={name}], #input [name={name}]")


def draw(page: Page, prompt: str, steps: int = 2) -> None:
    entry(page, "prompt").fill(prompt)
    entry(page, "steps").fill(str(steps))
    page.get_by_role("button", name="Draw").click()


def tile(page: Page, prompt: str) -> Locator:
    return page.get_by_role("button", name=f"Show image: {prompt}")


def card(page: Page, prompt: str) -> Locator:
    return page.locator("#queue .job").filter(has_text=prompt)


def long_job(page: Page, prompt: str) -> Locator:
    draw(page, prompt, LONG["steps"])
    expect(card(page, prompt).locator(".where")).to_contain_text("step", timeout=SECONDS)
    return card(page, prompt)


def test_an_image_is_drawn_with_a_preview_and_again_with_another_seed(page, server):
    draw(page, "a red heart", 15)
    running = card(page, "a red heart")
    expect(running.locator("img")).to_have_attribute("src", re.compile("^data:image/jpeg"), timeout=SECONDS)
    expect(running.get_by_label("Progress")).to_be_visible()
    expect(tile(page, "a red heart")).to_be_visible(timeout=SECONDS)
    expect(running).to_have_count(0)
    assert page.evaluate("document.querySelector('.tile img').decode().then(() => true)")
    tile(page, "a red heart").click()
    first = page.locator("#viewer-json").text_content()
    assert '"prompt": "a red heart"' in (first or "")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    [job] = server.get("/v1/jobs?status=done&limit=1").json["jobs"]
    assert Path(download.value.path()).read_bytes() == server.get(job["outputs"][0]["url"]).body
    page.get_by_role("button", name="Again with another seed").click()
    expect(tile(page, "a red heart")).to_have_count(2, timeout=SECONDS)
    one, two = server.get("/v1/jobs?status=done&limit=2").json["jobs"]
    assert one["cloned_from"] == two["id"] and one["recipe"]["seed"] != two["recipe"]["seed"]
    tile(page, "a red heart").first.click()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#viewer-json")).to_have_text(first or "")
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(tile(page, "a red heart")).to_have_count(1)


def test_a_recipe_goes_into_the_form_and_comes_back_the_same(page, server):
    """ "Again, changed" keeps every entry of a recipe, seeds beyond what a double holds included."""
    recipe = {
        "prompt": "a blue star", "negative": "blurred", "steps": 3, "cfg": 2.5, "seed": 2**64 - 1, "width": 72,
        "sampler": "dpmpp_2m_sde(eta=0.5)", "schedule": "karras(rho=5)", "guidance": "apg(eta=0.5)+cfg_norm",
        "tiling": {"tile": 48}, "regions": [{"prompt": "x", "x": 0, "y": 0, "width": 32, "height": 32}],
        "height": 64, "shift": None, "noise": "pyramid(discount=0.8)", "allow_nonfinite": True, "clip_skip": None,
    }  # fmt: skip
    answer = server.post("/v1/jobs", {"recipe": recipe})
    assert answer.status == 202, answer.body
    first = server.until(answer.json["id"], "done")
    tile(page, "a blue star").click()
    page.get_by_role("button", name="Again, changed").click()
    expect(entry(page, "prompt")).to_be_focused()
    expect(entry(page, "seed")).to_have_value(str(2**64 - 1))
    page.get_by_role("button", name="Draw").click()
    expect(tile(page, "a blue star")).to_have_count(2, timeout=SECONDS)
    again = server.get("/v1/jobs?limit=1").json["jobs"][0]
    assert again["id"] != first["id"] and again["recipe"] == first["recipe"]
    assert again["outputs"][0]["sha256"] == first["outputs"][0]["sha256"]


def test_a_job_is_paused_resumed_prioritised_and_cancelled(page, server):
    job = long_job(page, "a long one")
    job.get_by_role("button", name="Pause").click()
    expect(job).to_have_attribute("data-status", "paused")
    job.get_by_role("button", name="Raise the priority").click()
    expect(job.locator("output")).to_have_text("1")
    id = job.get_attribute("data-job")
    found = server.get(f"/v1/jobs/{id}").json
    assert found["status"] == "paused" and found["priority"] == 1
    job.get_by_role("button", name="Resume").click()
    expect(job).to_have_attribute("data-status", "running", timeout=SECONDS)
    job.get_by_role("button", name="Cancel").click()
    expect(job).to_have_count(0, timeout=SECONDS)
    assert server.get(f"/v1/jobs/{id}").json["status"] == "cancelled"
    expect(page.locator(f".tile[data-job='{id}']")).to_contain_text("cancelled")


def test_an_uploaded_image_is_what_a_run_starts_from(page, server, tmp_path):
    (tmp_path / "green.png").write_bytes(png(colour="green"))
    page.get_by_text("Start from an image").click()
    entry(page, "image").set_input_files(tmp_path / "green.png")
    expect(page.locator("[data-field=image] img")).to_be_visible()
    entry(page, "denoise").fill("0.5")
    draw(page, "from green")
    expect(tile(page, "from green")).to_be_visible(timeout=SECONDS)
    recipe = server.get("/v1/jobs?limit=1").json["jobs"][0]["recipe"]
    assert recipe["image"].startswith("upload:") and recipe["denoise"] == 0.5
    tile(page, "from green").click()
    page.get_by_role("button", name="Start from this image").click()
    expect(entry(page, "denoise")).to_be_focused()
    draw(page, "from that one")
    expect(tile(page, "from that one")).to_be_visible(timeout=SECONDS)
    assert server.get("/v1/jobs?limit=1").json["jobs"][0]["recipe"]["image"] != recipe["image"]


def test_an_error_is_shown_at_its_field(page, faults, tmp_path):
    draw(page, "too many steps", 100_000)
    error = page.locator("[data-field=steps] .field-error")
    expect(error).to_contain_text("100000")
    steps = entry(page, "steps")
    expect(steps).to_be_focused()
    expect(steps).to_have_attribute("aria-invalid", "true")
    steps.fill("2")
    page.get_by_text("More settings").click()
    page.get_by_label("Clip skip", exact=True).fill("3")
    page.get_by_text("More settings").click()
    page.get_by_role("button", name="Draw").click()
    expect(page.locator("[data-field=clip_skip] .field-error")).to_be_visible()
    expect(error).to_be_hidden()
    (tmp_path / "none.png").write_bytes(b"not an image")
    page.get_by_text("Start from an image").click()
    entry(page, "image").set_input_files(tmp_path / "none.png")
    expect(page.locator("[data-field=image] .field-error")).to_contain_text("not an image")
    assert [fault for fault in faults if "status of 400" not in fault] == []
    faults.clear()


def test_reloading_keeps_the_draft_and_shows_jobs_where_they_are(page):
    long_job(page, "still here")
    card(page, "still here").get_by_role("button", name="Pause").click()
    expect(card(page, "still here")).to_have_attribute("data-status", "paused")
    entry(page, "prompt").fill("a draft")
    entry(page, "sampler").select_option("heun")
    page.reload()
    expect(entry(page, "prompt")).to_have_value("a draft")
    expect(entry(page, "sampler")).to_have_value("heun")
    again = card(page, "still here")
    expect(again).to_have_attribute("data-status", "paused")
    expect(again.locator("img")).to_have_attribute("src", re.compile("^blob:"))
    page.get_by_role("button", name="Clear").click()
    expect(entry(page, "sampler")).to_have_value("dpmpp_2m")


def test_two_tabs_show_the_same_queue(page, context, server, faults):
    other = watched(context.new_page(), faults)
    opened(other, server)
    job = long_job(page, "in both tabs")
    there = card(other, "in both tabs")
    expect(there).to_have_attribute("data-status", "running", timeout=SECONDS)
    there.get_by_role("button", name="Pause").click()
    expect(job).to_have_attribute("data-status", "paused", timeout=SECONDS)
    job.get_by_role("button", name="Cancel").click()
    expect(there).to_have_count(0)


def test_text_of_users_is_never_markup(page, server):
    evil = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
    id = server.submit(prompt=evil)
    server.until(id, "done")
    shown = page.locator(f".tile[data-job='{id}'] button")
    expect(shown).to_be_visible(timeout=SECONDS)
    shown.click()
    expect(page.locator("#viewer-prompt")).to_have_text(evil)
    assert page.evaluate("document.querySelectorAll('#viewer-prompt *').length") == 0
    assert page.title() == "sigmafield"


def test_scripts_that_are_not_files_of_the_server_do_not_run(page, faults):
    """The Content-Security-Policy holds what markup would do if there were some."""
    page.evaluate("""() => {
        const script = document.createElement("script");
        script.textContent = "document.title = 'owned'";
        document.body.append(script);
    }""")
    assert page.title() == "sigmafield"
    assert any("Content Security Policy" in fault for fault in faults)
    faults.clear()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_has_no_horizontal_scroll(browser, server, faults, scheme):
    context = browser.new_context(viewport=PHONE, color_scheme=scheme, is_mobile=True, has_touch=True)
    page = watched(context.new_page(), faults)
    job = server.submit(prompt="averylongwordwithoutanyspaces" * 8)
    server.until(job, "done")
    opened(page, server)
    waiting = server.submit(prompt="anotherlongwordwithoutanyspaces" * 8, steps=LONG["steps"])
    expect(page.locator(f"#queue [data-job='{waiting}']")).to_be_visible()

    def overhang() -> int:
        return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")

    assert overhang() == 0
    for summary in page.locator("#form > details > summary").all():
        summary.click()
    assert overhang() == 0
    page.locator(f".tile[data-job='{job}'] button").click()
    box = page.locator("#viewer").bounding_box()
    assert box is not None and box["x"] >= 0 and box["x"] + box["width"] <= PHONE["width"]
    assert page.evaluate("(v => v.scrollWidth - v.clientWidth)(document.getElementById('viewer'))") == 0
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    light = sum(map(int, re.findall(r"\d+", background)[:3])) > 380
    assert light == (scheme == "light")
    server.post(f"/v1/jobs/{waiting}/cancel")
    context.close()
    assert faults == []


def test_everything_is_reached_by_keyboard_and_has_a_name(page):
    """Every control has a name that a screen reader reads, and tabbing goes from the prompt to the button."""
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    unnamed = page.evaluate("""() => [...document.querySelectorAll("#form input, #form select, #form textarea, button")]
        .filter((each) => !each.hidden && !each.labels?.length && !each.getAttribute("aria-label") && !each.textContent)
        .map((each) => each.outerHTML)""")
    assert unnamed == []
    entry(page, "prompt").fill("by keyboard")
    entry(page, "steps").fill("2")
    entry(page, "prompt").focus()
    page.keyboard.press("Control+Enter")
    expect(tile(page, "by keyboard")).to_be_visible(timeout=SECONDS)
    tile(page, "by keyboard").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#viewer")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#viewer")).to_be_hidden()
    expect(tile(page, "by keyboard")).to_be_focused()


def test_measurements_are_shown(page, server):
    server.until(server.submit(), "done")
    page.reload()
    expect(page.locator("#figures")).to_contain_text("rows per call")
    expect(page.locator("#figures")).not_to_contain_text("–")


def test_a_server_with_tokens_asks_for_one_and_keeps_it_in_the_tab(engine, context, tmp_path, faults):
    settings = settings_of(tmp_path, model_folder=None, input_folder=None, tokens={"alice": ALICE})
    with serving(engine, settings, tmp_path) as server:
        page = watched(context.new_page(), faults)
        page.goto(server.url)
        dialog = page.locator("#token")
        expect(dialog).to_be_visible()
        assert faults == [], "the page does not ask for anything before it has a token"
        page.get_by_label("Token", exact=True).fill("a wrong token of length")
        page.get_by_role("button", name="Continue").click()
        expect(dialog).to_contain_text("not known")
        page.get_by_label("Token", exact=True).fill(ALICE)
        page.get_by_role("button", name="Continue").click()
        expect(page.locator("#connection")).to_have_text("connected", timeout=SECONDS)
        draw(page, "with a token")
        expect(tile(page, "with a token")).to_be_visible(timeout=SECONDS)
        expect(tile(page, "with a token").locator("img")).to_have_attribute("src", re.compile("^blob:"))
        page.reload()
        expect(tile(page, "with a token")).to_be_visible(timeout=SECONDS)
        assert page.evaluate("localStorage.length") == 0
        assert [fault for fault in faults if "status of 401" not in fault] == []
        faults.clear()
        page.get_by_role("button", name="Forget token").click()
        expect(dialog).to_be_visible()
        page.close()


def test_a_lost_connection_is_said_and_made_again(page, context, faults):
    context.set_offline(True)
    page.evaluate("window.stop()")
    expect(page.locator("#connection")).to_have_text("no connection: trying again", timeout=SECONDS)
    context.set_offline(False)
    expect(page.locator("#connection")).to_have_text("connected", timeout=SECONDS)
    assert [fault for fault in faults if "ERR_INTERNET_DISCONNECTED" not in fault] == []
    faults.clear()
