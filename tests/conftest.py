"""Options and data that every test folder shares."""

from pathlib import Path

DATA = Path(__file__).parent / "data"


def pytest_collection_modifyitems(items):
    """Of a test that is marked thinned(k), all but every k-th case are slow."""
    seen = {}
    for item in items:
        if mark := item.get_closest_marker("thinned"):
            seen[item.originalname] = n = seen.get(item.originalname, -1) + 1
            if n % mark.args[0]:
                item.add_marker("slow")


def pytest_addoption(parser):
    parser.addoption("--golden", type=Path, default=DATA / "golden", help="directory of golden vectors to compare with")
