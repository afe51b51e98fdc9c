"""Threads of small networks on the CPU: limited for a call, restored after it, whoever else calls."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sigmafield import generate, load
from sigmafield.models.threads import SMALL, cpus, limited, most_threads, quota


@pytest.fixture(autouse=True)
def four() -> Iterator[None]:
    """Four threads for each test, so that a limit shows."""
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def test_the_number_holds_in_a_call_alone() -> None:
    with limited(1):
        assert torch.get_num_threads() == 1
        with limited(2):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 4
    with limited(8):
        assert torch.get_num_threads() == 4
    with pytest.raises(RuntimeError, match="out of memory"), limited(1):
        raise RuntimeError("out of memory")
    assert torch.get_num_threads() == 4


def test_calls_of_several_threads_overlap() -> None:
    """The first to enter leaves first; each thread, new to torch or not, ends with the number from before."""
    inside, left, seen = threading.Event(), threading.Event(), {}

    def second() -> None:
        with limited(1):
            inside.set()
            left.wait(60)
            seen["during"] = torch.get_num_threads()
        seen["after"] = torch.get_num_threads()

    other = threading.Thread(target=second)
    with limited(1):
        other.start()
        assert inside.wait(60)
    assert torch.get_num_threads() == 4
    left.set()
    other.join()
    assert seen == {"during": 1, "after": 4} and torch.get_num_threads() == 4


@pytest.mark.parametrize("set_by_hand", [False, True])
def test_a_small_model_runs_with_one_thread(monkeypatch: pytest.MonkeyPatch, set_by_hand: bool) -> None:
    """Text encoder, network and VAE; except where OMP_NUM_THREADS says how many there are."""
    if set_by_hand:
        monkeypatch.setenv("OMP_NUM_THREADS", "4")
    else:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    pipe, seen = load("tiny", device="cpu"), set()
    for module in pipe.modules.values():
        module.register_forward_hook(lambda *_: seen.add(torch.get_num_threads()))
    conv = pipe.vae.module.decoder.conv_in
    conv.register_forward_hook(lambda *_: seen.add(torch.get_num_threads()))
    generate(pipe, "a red heart", steps=1, width=32, height=32)
    assert seen == {4 if set_by_hand else 1} and torch.get_num_threads() == 4


def test_threads_change_no_pixel() -> None:
    pipe = load("tiny", device="cpu")
    parts = {name: replace(getattr(pipe, name), running=lambda: limited(2)) for name in ("model", "text", "vae")}
    a, b = (
        generate(p, "a red heart", steps=1, seed=1, width=32, height=32)[0].tobytes()
        for p in (pipe, replace(pipe, **parts))
    )
    assert a == b


def test_large_networks_use_the_cpus_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert most_threads(SMALL - 1) == 1 and most_threads(SMALL) == cpus()


GROUPS_2 = "0::/service/job\n"
GROUPS_1 = "5:memory:/service\n3:cpu,cpuacct:/service/job\n2:cpuset:/other\n"


@pytest.mark.parametrize(
    "groups, files, want",
    [
        (GROUPS_2, {"service/job/cpu.max": "150000 100000\n"}, 1.5),
        (GROUPS_2, {"service/job/cpu.max": "max 100000\n"}, None),
        (GROUPS_2, {"service/job/cpu.max": "max 100000\n", "service/cpu.max": "200000 100000\n"}, 2.0),
        (GROUPS_2, {"service/job/cpu.max": "400000 100000\n", "cpu.max": "50000 100000\n"}, 0.5),
        (GROUPS_2, {"cpu.max": "300000 100000\n"}, 3.0),  # a container's own mount
        (GROUPS_1, {"cpu,cpuacct/service/job/cpu.cfs_quota_us": "250000\n"}, 2.5),
        (GROUPS_1, {"cpu/cpu.cfs_quota_us": "100000\n"}, 1.0),
        (GROUPS_1, {"cpu/service/job/cpu.cfs_quota_us": "-1\n"}, None),
        (GROUPS_1, {"memory/service/cpu.cfs_quota_us": "100000\n", "cpuset/other/cpu.cfs_quota_us": "1\n"}, None),
        (GROUPS_2, {"service/job/cpu.max": "no numbers\n"}, None),
        ("garbage\n", {}, None),
        (None, {}, None),
    ],
)
def test_quotas(tmp_path: Path, groups: str | None, files: dict[str, str], want: float | None) -> None:
    own, root = tmp_path / "cgroup", tmp_path / "mounted"
    if groups is not None:
        own.write_text(groups)
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        if name.endswith("quota_us"):
            file.with_name("cpu.cfs_period_us").write_text("100000\n")
    assert quota(root, own) == want
    if want is not None:
        assert 1 <= cpus(root, own) <= max(1, -(-want // 1))
