"""Joining a Ray cluster, or starting one on this machine, and leaving it."""

from __future__ import annotations

import logging
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from sigmafield.core.registry import near_miss

LOCAL = "local"
"""The address of a cluster of this machine alone, which is started for the occasion."""

NAMES = (LOCAL, "auto")
HOST = re.compile(r"(ray://)?(?P<host>\[[0-9a-fA-F:]+\]|[\w.-]+):(?P<port>\d{1,5})")
"""The addresses that there are: these names, HOST:PORT, and ray://HOST:PORT."""

STORE = 256 * 1024**2
"""Bytes of shared memory for values on their way, in a cluster that is started here."""

QUIET = {"RAY_USAGE_STATS_ENABLED": "0"}
"""Ray's settings, where the user has none: nothing is reported to anybody."""


@dataclass(frozen=True)
class Room:
    """What one worker takes of a cluster.

    Args:
        gpu: Whether it takes a GPU; otherwise a CPU.
    """

    gpu: bool

    @property
    def resource(self) -> str:
        """Ray's name of what is counted."""
        return "GPU" if self.gpu else "CPU"

    def options(self) -> dict[str, Any]:
        """Arguments of Ray's `remote` for one worker."""
        return {"num_gpus": 1, "num_cpus": 0} if self.gpu else {"num_cpus": 1}


def needs_ray() -> ModuleType:
    """The package `ray`.

    Raises:
        ImportError: It is not installed; the message says how to install it.
    """
    try:
        import ray
    except ImportError as error:
        raise ImportError(f'a Ray cluster needs the package ray: pip install "sigmafield[ray]" ({error})') from None
    return ray


@contextmanager
def joined(address: str = LOCAL) -> Iterator[ModuleType]:
    """The package `ray`, connected to a cluster inside of this context.

    Args:
        address: "local" starts one on this machine and stops it at the end; "auto" joins the one that runs on this
            machine, HOST:PORT and ray://HOST:PORT one elsewhere.

    Raises:
        ValueError: It is not an address.
        ImportError: Ray is not installed.
        ConnectionError: No cluster answers at the address.
    """
    check_address(address)
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    ray = needs_ray()
    check_listening(address)
    logging.getLogger("ray").setLevel(logging.ERROR)  # what it says of itself, such as how it authenticates
    local = {"object_store_memory": STORE, "include_dashboard": False} if address == LOCAL else {}
    try:
        ray.init(address, configure_logging=False, log_to_driver=False, **local)
    except (ConnectionError, ValueError, RuntimeError) as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ConnectionError(f"no Ray cluster at {address}: {first}") from None
    try:
        yield ray
    finally:
        ray.shutdown()


def check_address(address: str) -> None:
    """Raise ValueError for what is not the address of a cluster."""
    if address not in NAMES and not HOST.fullmatch(address):
        raise ValueError(
            f"a cluster's address is {', '.join(NAMES)}, HOST:PORT or ray://HOST:PORT; "
            f"got {address!r}{near_miss(address, NAMES)}"
        )


def check_listening(address: str) -> None:
    """Raise ConnectionError where nobody listens at HOST:PORT: Ray itself would try for minutes."""
    if found := HOST.fullmatch(address):
        host, port = found["host"].strip("[]"), int(found["port"])
        try:
            socket.create_connection((host, port), timeout=10).close()
        except OSError as error:
            raise ConnectionError(f"no Ray cluster at {address}: {error.strerror or error}") from None
