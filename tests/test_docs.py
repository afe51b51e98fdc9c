"""The Python in the README and in the docs runs as it stands, page by page."""

import re
from importlib import import_module
from pathlib import Path

import pytest

from sigmafield import MODS
from sigmafield.samplers import SAMPLERS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))]
GENERATED = {
    "api/index.md", "changelog.md", "cli.md", "contributing.md", "mods/index.md", "samplers/index.md",
    "schedules/index.md",
}  # fmt: skip
"""Pages that hooks of mkdocs make; `mkdocs build --strict` checks the links to them."""


def named(page):
    return page.relative_to(ROOT).as_posix().removeprefix("docs/")


BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


HEAVY = {"control.md", "upscale.md"}
"""Pages that take seconds, which are run by `make test-slow`."""
RUN = [page for page in PAGES if BLOCK.search(page.read_text("utf-8"))]


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=pytest.mark.slow if page.name in HEAVY else []) for page in RUN], ids=named
)
@pytest.mark.typed_elsewhere
def test_python_of_a_page_runs(page, tmp_path, monkeypatch, request):
    monkeypatch.chdir(tmp_path)
    if page.name != "upscale.md":  # which says how much less is computed of an image of the shipped model
        request.getfixturevalue("few_channels")
    if page.name == "control.md":
        pytest.importorskip("diffusers")
        monkeypatch.syspath_prepend(ROOT / "tests" / "models")
        import_module("small_models").write_page(tmp_path)
    before, names = set(SAMPLERS), {"__name__": "__docs__"}
    try:
        for block in BLOCK.findall(page.read_text("utf-8")):
            exec(compile(block, str(page), "exec"), names)
    finally:
        for name in set(SAMPLERS) - before:  # a page may register a sampler of its own
            SAMPLERS.remove(name)


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_and_images_exist(page):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
        made = page.parent == DOCS and target in GENERATED
        assert made or (page.parent / target).exists(), f"{page.name} points to {target}"


def test_every_page_is_in_the_navigation():
    listed = set(re.findall(r": ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.MULTILINE))
    assert listed - GENERATED == {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}


def test_every_mod_is_on_the_page_of_guidance():
    page = (DOCS / "guidance.md").read_text("utf-8")
    for name, mod in MODS.items():
        assert f"`{name}({', '.join(mod.defaults)})`" in page or (not mod.defaults and f"`{name}`" in page), name


def test_every_sampler_is_in_the_readme():
    page = (ROOT / "README.md").read_text("utf-8")
    for name in SAMPLERS:
        short = re.sub(r"_gpu$|_cfg_pp$", "", name)
        assert f"`{name}`" in page or f"`{short}`" in page, name


def test_troubleshooting_quotes_messages_of_the_code():
    code = "\n".join(path.read_text("utf-8") for path in (ROOT / "src").rglob("*.py"))
    code = re.sub(r'"\s*\n\s*f?"', "", code)  # a message may be written over several lines
    quoted = re.findall(r"^\| `([^`]+)` \|", (DOCS / "troubleshooting.md").read_text("utf-8"), re.MULTILINE)
    parts = [part.strip(" ;:") for message in quoted for part in message.split("…")]
    known = [part for part in parts if len(part) > 5]
    assert len(known) > 30
    for part in known:
        assert part in code, f"no error message of the code has {part!r}"


def test_the_way_of_a_prompt_is_true_to_the_code():
    """Each stop of "How a picture is made" names a file that exists, its module, and what that module defines."""
    page = (DOCS / "how-a-picture-is-made.md").read_text("utf-8")
    stops = re.findall(r"^\| \d+ \| \[([\w/.]+)\]\[([\w.]+)\] `(\w+)`", page, re.MULTILINE)
    assert len(stops) >= 12
    for file, module, name in stops:
        assert (ROOT / "src" / "sigmafield" / file).is_file(), file
        assert module == "sigmafield." + file.removesuffix(".py").replace("/", "."), file
        assert hasattr(import_module(module), name), f"{module}.{name}"
    for file, module in re.findall(r"\[([\w/]+\.py)\]\[([\w.]+)\]", page):
        assert module == "sigmafield." + file.removesuffix(".py").replace("/", "."), file
