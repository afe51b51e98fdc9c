"""The Python in the README and in the docs runs as it stands, page by page."""

import re
from importlib import import_module
from pathlib import Path

import pytest

from sigmafield.recipes.mods import MODS
from sigmafield.samplers import SAMPLERS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if BLOCK.search(page.read_text("utf-8"))], ids=lambda p: p.name
)
def test_python_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if page.name == "control.md":
        pytest.importorskip("diffusers")
        monkeypatch.syspath_prepend(ROOT / "tests" / "models")
        import_module("small_models").write_page(tmp_path)
    before, names = dict(SAMPLERS), {"__name__": "__docs__"}
    try:
        for block in BLOCK.findall(page.read_text("utf-8")):
            exec(compile(block, str(page), "exec"), names)
    finally:
        SAMPLERS.clear()
        SAMPLERS.update(before)  # a page may register a sampler of its own


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_and_images_exist(page):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
        assert (page.parent / target).exists(), f"{page.name} points to {target}"


def test_every_mod_is_on_the_page_of_guidance():
    page = (ROOT / "docs" / "guidance.md").read_text("utf-8")
    for name, mod in MODS.items():
        assert f"`{name}({', '.join(mod.defaults)})`" in page or (not mod.defaults and f"`{name}`" in page), name


def test_proofs_of_the_table_of_models_exist():
    page = (ROOT / "docs" / "models.md").read_text("utf-8")
    tests = "".join(path.read_text("utf-8") for path in (ROOT / "tests" / "models").glob("test_*.py"))
    names = set(re.findall(r"`(test_\w+)", page))
    assert len(names) > 8
    for name in names:
        assert f"def {name}(" in tests, f"docs/models.md names a test that is not there: {name}"
