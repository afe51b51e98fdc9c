"""What the project says in several files is the same everywhere."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def read(name):
    return (ROOT / name).read_text("utf-8")


def found(pattern, name):
    """What the pattern's group matches in that file."""
    match = re.search(pattern, read(name), re.MULTILINE)
    assert match, f"{name} has nothing like {pattern}"
    return match[1]


def pinned(package):
    """The version that constraints.txt pins."""
    return found(rf"^{package}==(\S+)", "constraints.txt")


def test_pre_commit_runs_the_pinned_ruff():
    [rev] = re.findall(r"ruff-pre-commit\n\s+rev: v(\S+)", read(".pre-commit-config.yaml"))
    assert rev == pinned("ruff")


def test_every_version_of_python_that_is_supported_is_tested():
    least = found(r'requires-python = ">=(3\.\d+)"', "pyproject.toml")
    tested = re.findall(r'"(3\.\d+)"', found(r"python: \[(.*)\]", ".github/workflows/ci.yml"))
    assert tested[0] == least
    assert f'pythonVersion = "{least}"' in read("pyproject.toml")


def test_files_of_tests_have_names_of_their_own():
    """Pytest imports them by their names, whichever folder they are in."""
    names = sorted(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert sorted(set(names)) == names


def test_the_changelog_begins_with_the_version():
    version = found(r'^version = "(\S+)"', "pyproject.toml")
    assert found(r"^## (?:\[)?([\w.]+)", "CHANGELOG.md") in (version, "Unreleased")


def test_make_help_lists_every_target():
    targets = set(re.findall(r"^([a-z-]+):(?!=)", read("Makefile"), re.MULTILINE))
    assert targets == set(re.findall(r"^([a-z-]+):.*## ", read("Makefile"), re.MULTILINE))
    assert targets <= set(found(r"^\.PHONY: (.*)", "Makefile").split())
