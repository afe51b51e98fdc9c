"""A Ray cluster of two nodes on this machine, at two loopback addresses, for tests."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import closing, suppress
from pathlib import Path

HEAD, OTHER = "127.0.0.2", "127.0.0.3"
RAY = [sys.executable, "-c", "from ray.scripts.scripts import main; main()"]
STORE = 80_000_000
"""Bytes of shared memory of each node."""


def free_port(host):
    with closing(socket.socket()) as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]


class TwoNodes:
    """A head and another node, one CPU each, started by `ray start` and known to this process alone by a token."""

    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix="sf-ray-")  # paths of sockets are short
        port, client = free_port(HEAD), free_port(HEAD)
        self.address, self.client = f"{HEAD}:{port}", f"ray://{HEAD}:{client}"
        self.environment = {
            **os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32), "OMP_NUM_THREADS": "1", "SIGMAFIELD_TEST_CLUSTER": self.folder,
        }  # fmt: skip
        self.nodes = []
        head = ["--head", f"--node-ip-address={HEAD}", f"--port={port}", f"--ray-client-server-port={client}"]
        self._start(*head, "--include-dashboard=false", f"--temp-dir={self.folder}")
        self.add_node()

    def add_node(self):
        """Start the other node."""
        self._start(f"--address={self.address}", f"--node-ip-address={OTHER}")

    def kill_node(self):
        """End the other node as a power cut does: all of its processes at once."""
        self._kill(self.nodes.pop())

    def workers(self, kind="Worker"):
        """Process ids of the actors of a class."""
        found = []
        for entry in Path("/proc").iterdir():
            with suppress(OSError):
                if (entry / "cmdline").read_bytes().startswith(f"ray::{kind}".encode()) and self._ours(entry):
                    found.append(int(entry.name))
        return found

    def stop(self):
        """End everything."""
        while self.nodes:
            self._kill(self.nodes.pop())
        for entry in Path("/proc").iterdir():
            with suppress(OSError, ValueError):
                if int(entry.name) != os.getpid() and self._ours(entry):
                    os.kill(int(entry.name), signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _ours(self, entry):
        return f"SIGMAFIELD_TEST_CLUSTER={self.folder}".encode() in (entry / "environ").read_bytes().split(b"\0")

    def _start(self, *options):
        log = Path(self.folder) / f"node-{len(self.nodes)}.log"
        command = [*RAY, "start", "--block", "--num-cpus=1", f"--object-store-memory={STORE}", *options]
        with log.open("wb") as out:
            node = subprocess.Popen(command, env=self.environment, stdout=out, stderr=out, start_new_session=True)
        self.nodes.append(node)
        end = time.monotonic() + 120
        while "Ray runtime started" not in log.read_text():
            assert node.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.2)

    def _kill(self, node):
        with suppress(ProcessLookupError):
            os.killpg(node.pid, signal.SIGKILL)
        node.wait()
