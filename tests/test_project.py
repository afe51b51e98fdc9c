"""What the project says in several files is the same everywhere."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def read(name):
    return (ROOT / name).read_text("utf-8")


def pinned(package):
    """The version that constraints.txt pins."""
    return re.search(rf"^{package}==(\S+)", read("constraints.txt"), re.MULTILINE)[1]


def test_pre_commit_runs_the_pinned_ruff():
    [rev] = re.findall(r"ruff-pre-commit\n\s+rev: v(\S+)", read(".pre-commit-config.yaml"))
    assert rev == pinned("ruff")


def test_every_version_of_python_that_is_supported_is_tested():
    least = re.search(r'requires-python = ">=(3\.\d+)"', read("pyproject.toml"))[1]
    tested = re.findall(r'"(3\.\d+)"', re.search(r"python: \[(.*)\]", read(".github/workflows/ci.yml"))[1])
    assert tested[0] == least
    assert f'pythonVersion = "{least}"' in read("pyproject.toml")


def test_the_changelog_begins_with_the_version():
    version = re.search(r'^version = "(\S+)"', read("pyproject.toml"), re.MULTILINE)[1]
    assert re.search(r"^## (?:\[)?([\w.]+)", read("CHANGELOG.md"), re.MULTILINE)[1] in (version, "Unreleased")


def test_make_help_lists_every_target():
    targets = set(re.findall(r"^([a-z-]+):(?!=)", read("Makefile"), re.MULTILINE))
    assert targets == set(re.findall(r"^([a-z-]+):.*## ", read("Makefile"), re.MULTILINE))
    assert targets <= set(re.search(r"^\.PHONY: (.*)", read("Makefile"), re.MULTILINE)[1].split())
