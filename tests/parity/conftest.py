"""Golden vectors: `NAME.json` lists cases, `NAME.safetensors` next to it holds their tensors."""

import importlib.util
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from safetensors import safe_open


@cache
def opened(path):
    """A file of golden tensors; its table of contents is read once."""
    return safe_open(path, "pt")


@dataclass(frozen=True)
class Case:
    """One golden case; `tensor(key)` reads a tensor that it names."""

    directory: Path
    file: str
    row: dict

    def __getitem__(self, key):
        return self.row[key]

    def tensor(self, key):
        return opened(self.directory / f"{self.file}.safetensors").get_tensor(key)

    def expected(self, name):
        return self.tensor(self.row["out"][name])


def cases(config, file, quick):
    """All cases of a golden file, as pytest parameters; none where the directory lacks the file.

    quick: case → whether the default suite runs it.
    """
    directory = config.getoption("golden")
    path = directory / f"{file}.json"
    rows = json.loads(path.read_text()) if path.exists() else []
    found = [(Case(directory, file, row), row["id"]) for row in rows]
    return [pytest.param(case, id=name, marks=() if quick(case) else pytest.mark.slow) for case, name in found]


def grouped(config):
    """The cases of schedules, of which there are many quick ones, by what they are of: {name: cases}."""
    found = {}
    for parameter in cases(config, "schedules", lambda case: True):
        [case] = parameter.values
        found.setdefault(case.row.get("scheduler") or case.row.get("node") or case["kind"], []).append(case)
    return found


def pytest_generate_tests(metafunc):
    if "schedules_cases" in metafunc.fixturenames:
        groups = grouped(metafunc.config)
        metafunc.parametrize("schedules_cases", groups.values(), ids=groups)
    mark = metafunc.definition.get_closest_marker("quick")
    quick = mark.kwargs["which"] if mark else lambda case: True
    for file in ("samplers", "samplers_f64", "engine", "guidance", "distance", "mixing", "tiled"):
        if f"{file}_case" in metafunc.fixturenames:
            metafunc.parametrize(f"{file}_case", cases(metafunc.config, file, quick))


@pytest.fixture(scope="session")
def reference(request):
    """The closed-form denoiser with which the golden vectors were made."""
    path = Path(__file__).parents[1] / "data" / "golden" / "reference_denoiser.py"
    spec = importlib.util.spec_from_file_location("reference_denoiser", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def worst():
    """Largest error seen per name, printed at the end of the session."""
    errors = {}
    yield errors
    for name, error in sorted(errors.items()):
        print(f"\n{name:40s} max error / max |expected| = {error:.1e}", end="")


@pytest.fixture(scope="session")
def work():
    """[our calls, the reference's, our rows, the reference's] of the network per name, printed at the end."""
    counts = {}
    yield counts
    row = "\n{:40s} {:>8} {:>10} {:>8} {:>10}"
    if counts:
        print(row.format("network", "calls", "reference", "rows", "reference"), end="")
    for name, numbers in sorted(counts.items()):
        print(row.format(name, *numbers), end="")
