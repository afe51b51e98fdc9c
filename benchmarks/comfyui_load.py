"""ComfyUI's protocol under load: clients that poll, sockets with previews, and prompts that run at the same time.

A server in a process of its own draws with the embedded model. Each socket checks what it is sent: every step of every
prompt once and in order, a preview of each step, and the end as the last message. What is missing or comes too late is
counted. After each round the memory of the server is read.
"""

import asyncio
import json
import os
import re
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import aiohttp
import cyclopts
from rich.console import Console
from rich.table import Table


def prompt_of(seed: int, steps: int) -> dict[str, dict[str, object]]:
    """A prompt that draws an image with the embedded model."""
    sampler: dict[str, object] = {
        "seed": seed, "steps": steps, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0,
        "model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0],
    }  # fmt: skip
    nodes: dict[str, tuple[str, dict[str, object]]] = {
        "4": ("CheckpointLoaderSimple", {"ckpt_name": "tiny"}),
        "6": ("CLIPTextEncode", {"text": "a red heart", "clip": ["4", 1]}),
        "7": ("CLIPTextEncode", {"text": "", "clip": ["4", 1]}),
        "5": ("EmptyLatentImage", {"width": 64, "height": 64, "batch_size": 1}),
        "3": ("KSampler", sampler),
        "8": ("VAEDecode", {"samples": ["3", 0], "vae": ["4", 2]}),
        "9": ("SaveImage", {"images": ["8", 0], "filename_prefix": "load"}),
    }
    return {name: {"class_type": kind, "inputs": inputs} for name, (kind, inputs) in nodes.items()}


@dataclass
class Course:
    """What a socket was sent about one prompt."""

    kinds: list[str] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    previews: int = 0

    def faults(self, steps: int) -> Counter[str]:
        """What is missing or out of order."""
        found: Counter[str] = Counter()
        found["steps lost"] = len(set(range(1, steps + 1)) - set(self.steps))
        found["steps out of order"] = sum(b <= a for a, b in zip(self.steps, self.steps[1:]))
        found["previews lost"] = steps - self.previews
        outline = [kind for kind in self.kinds if kind not in ("progress", "progress_state", "executing", "executed")]
        found["outline wrong"] = outline != ["execution_start", "execution_cached", "execution_success", "end"]
        found["no result"] = self.kinds.count("executed") != 1
        found["after the end"] = len(self.kinds) - 1 - self.kinds.index("end") if "end" in self.kinds else 1
        return found


async def socket(url: str, prompts: list[dict[str, dict[str, object]]], steps: int) -> tuple[Counter[str], list[str]]:
    """(faults, ids) of prompts that one client posts and watches."""
    name = os.urandom(8).hex()
    courses: defaultdict[str, Course] = defaultdict(Course)
    async with aiohttp.ClientSession() as http, http.ws_connect(f"{url}/ws?clientId={name}", max_msg_size=0) as ws:
        await ws.send_json({"type": "feature_flags", "data": {"supports_preview_metadata": True}})
        ids: list[str] = []
        for prompt in prompts:
            body = {"prompt": prompt, "client_id": name, "extra_data": {"preview_method": "auto"}}
            async with http.post(f"{url}/prompt", json=body) as answer:
                ids.append((await answer.json())["prompt_id"])
        left = set(ids)
        while left:
            message = await ws.receive(120)
            if message.type is aiohttp.WSMsgType.BINARY:
                size = struct.unpack(">I", message.data[4:8])[0]
                courses[json.loads(message.data[8 : 8 + size])["prompt_id"]].previews += 1
                continue
            assert message.type is aiohttp.WSMsgType.TEXT, message
            found = json.loads(message.data)
            if (id := found["data"].get("prompt_id")) is None:
                continue
            if found["type"] == "executed" and found["data"]["output"] is None:
                continue  # a prompt that runs at the same time has made the node's result
            ended = found["type"] == "executing" and found["data"]["node"] is None
            courses[id].kinds.append("end" if ended else found["type"])
            if found["type"] == "progress":
                courses[id].steps.append(found["data"]["value"])
            if ended:
                left.discard(id)
    total: Counter[str] = Counter()
    for id in ids:
        total.update(courses[id].faults(steps))
    return total, ids


async def polling(url: str, k: int, seconds: list[float], stop: asyncio.Event) -> None:
    """Ask again and again until the round ends."""
    paths = ("/queue", "/prompt", "/history?max_items=8", "/api/jobs?status=pending,in_progress&limit=50")
    async with aiohttp.ClientSession() as http:
        while not stop.is_set():
            began = time.perf_counter()
            async with http.get(url + paths[k % len(paths)]) as answer:
                assert answer.status == 200
                await answer.read()
            seconds.append(time.perf_counter() - began)
            await asyncio.sleep(0.2)


async def memory(url: str) -> float:
    """MiB of memory that the server has."""
    async with aiohttp.ClientSession() as http, http.get(f"{url}/metrics") as answer:
        text = await answer.text()
    return float(re.findall(r"^sigmafield_memory_bytes (\S+)$", text, re.MULTILINE)[0]) / 2**20


@contextmanager
def server(active: int) -> Iterator[str]:
    """The address of a server in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-m", "sigmafield", "serve", "--comfyui", "--port", "0", "--folder", folder]
        words += ["--active", str(active), "--device", "cpu", "--keep-jobs", "50"]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            try:
                yield process.stdout.readline().split()[-1]
            finally:
                process.terminate()
                process.wait()


async def one_round(url: str, sockets: int, clients: int, jobs: int, steps: int, seed: int) -> list[object]:
    """(seconds, faults, median and 99th percentile of an answer's milliseconds, requests, MiB) of a round."""
    seconds: list[float] = []
    stop = asyncio.Event()
    pollers = [asyncio.create_task(polling(url, k, seconds, stop)) for k in range(clients)]
    shares = [[prompt_of(1000 * seed + k, steps) for k in range(jobs) if k % sockets == n] for n in range(sockets)]
    began = time.perf_counter()
    found = await asyncio.gather(*(socket(url, share, steps) for share in shares))
    took = time.perf_counter() - began
    stop.set()
    await asyncio.gather(*pollers)
    faults: Counter[str] = Counter()
    for each, _ in found:
        faults.update(each)
    ordered = sorted(seconds)
    said = ", ".join(f"{n} {name}" for name, n in faults.items() if n) or "none"
    return [took, said, 1e3 * ordered[len(ordered) // 2], 1e3 * ordered[int(0.99 * len(ordered))], len(ordered),
            await memory(url)]  # fmt: skip


def main(
    *, clients: int = 50, sockets: int = 5, jobs: int = 8, steps: int = 20, rounds: int = 6, active: int = 8
) -> None:
    """Print a line per round.

    Args:
        clients: Clients that poll.
        sockets: Clients with sockets, which post the prompts.
        jobs: Prompts per round.
        steps: Steps of each.
        rounds: How often.
        active: Prompts that run at the same time.
    """
    table = Table(title=f"{clients} polling clients, {sockets} sockets with previews, {jobs} prompts of {steps} steps")
    for name in ("round", "seconds", "lost or out of order", "answer p50, ms", "p99, ms", "requests", "memory, MiB"):
        table.add_column(name, justify="right")
    with server(active) as url:
        for k in range(rounds):
            took, said, *rest = asyncio.run(one_round(url, sockets, clients, jobs, steps, k))
            table.add_row(str(k + 1), f"{took:.1f}", str(said), *(f"{each:.0f}" for each in rest))
    Console(width=120).print(table)


if __name__ == "__main__":
    cyclopts.run(main)
