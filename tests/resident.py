"""Memory of the tests' process, and how what they freed goes back to the system: the C library would keep it."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

STATM = Path("/proc/self/statm")


def resident() -> float:
    """Memory of this process in MB; 0 where the system does not say."""
    return int(STATM.read_text().split()[1]) * 4096 / 2**20 if STATM.exists() else 0.0


def give_back() -> None:
    """Gives the system the memory that is free."""
    release = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if release is not None:
        release(0)
