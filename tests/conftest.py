"""Options and data that every test folder shares."""

from pathlib import Path

DATA = Path(__file__).parent / "data"


def pytest_addoption(parser):
    parser.addoption("--golden", type=Path, default=DATA / "golden", help="directory of golden vectors to compare with")
