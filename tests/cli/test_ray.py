"""The lines of a file drawn by a cluster of two nodes: the same files as without it, whatever dies."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from cluster_of_two import TwoNodes
from command_line import run
from forked import heard
from sigmafield.recipes.image_io import open_image
from sigmafield.runs.checkpoint import load_state

pytestmark = [pytest.mark.ray, pytest.mark.typed_elsewhere]
LONG = ["--steps", 80, "--sampler", "dpmpp_2m_sde", "--cfg", 3, "--checkpoint-every", 0]
"""Some seconds a line, and every state is sent to the driver."""


@pytest.fixture(scope="module")
def cluster():
    nodes = TwoNodes()
    yield nodes
    nodes.stop()


def start(cluster, folder, *options, ray=None):
    """`sigmafield sample` as a process of its own."""
    address = cluster.address if ray is None else ray
    words = ["sample", "--prompts", "p.txt", "--ray", address, *options]
    return subprocess.Popen(
        [sys.executable, "-m", "sigmafield", *map(str, words)],
        cwd=folder, env=cluster.environment, preexec_fn=heard,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finished(process):
    """(status, stdout, stderr) of a process at its end."""
    out, err = process.communicate(timeout=200)
    return process.returncode, out, err


def until(condition, seconds=100.0):
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


def here(folder, *options):
    """The same lines drawn by this process: their folder."""
    assert run("sample", "--prompts", folder / "p.txt", "--out-dir", folder / "here", *options).exit_code in (0, 2)
    return folder / "here"


def check_same(one, other):
    """Two folders have the same files, and the images are equal byte by byte."""
    names = sorted(path.name for path in other.iterdir())
    assert sorted(path.name for path in one.iterdir()) == names
    for name in names:
        if name.endswith(".png"):
            assert (one / name).read_bytes() == (other / name).read_bytes()


def entries(folder):
    lines = (folder / "p.txt.manifest.jsonl").read_text().splitlines()
    return sorted(lines)


def test_files_and_manifest_are_those_of_one_process(cluster, tmp_path, monkeypatch):
    """Inputs with relative paths are sent, a bad line is named, and the same command skips what is written."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.full((64, 64, 3), 128, np.uint8)).save("in.png")
    Image.fromarray(np.eye(64, dtype=np.uint8) * 255).save("mask.png")
    lines = [
        "a red heart",
        '{"prompt": "x", "image": "in.png", "mask": "mask.png", "denoise": 0.7}',
        '{"prompt": "x", "stepz": 3}',
        '{"prompt": "x", "size": "66x64"}',
        '{"prompt": "green apple", "batch": 2, "tiling": {"tile": 32}}',
        '{"prompt": "x", "image": "nowhere.png"}',
    ]
    (tmp_path / "p.txt").write_text("\n".join(lines))
    options = ["--steps", 3, "--seed", 7]
    status, out, err = finished(start(cluster, tmp_path, "--out-dir", "out", *options, "--json"))
    assert status == 2, err
    facts, said = json.loads(out), [json.loads(line) for line in err.splitlines()]
    assert sorted(image["line"] for image in facts["images"]) == [1, 2, 5]
    assert {failure["line"] for failure in facts["failed"]} == {3, 4, 6}
    assert any("line 4: width must be a multiple of 4" in entry.get("error", "") for entry in said)
    check_same(tmp_path / "out", here(tmp_path, *options))
    assert entries(tmp_path / "out") == entries(tmp_path / "here")
    status, out, err = finished(start(cluster, tmp_path, "--out-dir", "out", *options))
    assert status == 2 and "0 written, 3 skipped, 3 failed" in out, err


def test_a_killed_worker_is_replaced_and_its_line_goes_on(cluster, tmp_path):
    """In the middle, from its last state: the pixels are those of a run that was left alone."""
    (tmp_path / "p.txt").write_text("a red heart\ngreen apple\n")
    process = start(cluster, tmp_path, "--out-dir", "out", *LONG)
    until(lambda: len(list((tmp_path / "out").glob("*.checkpoint.safetensors"))) == 2)
    os.kill(cluster.workers()[0], signal.SIGKILL)
    status, _, err = finished(process)
    assert status == 0, err
    assert re.search(r"line [12]: its worker died; another one goes on after \d+ steps?", err), err
    check_same(tmp_path / "out", here(tmp_path, *LONG))


def test_a_lost_node_loses_no_line(cluster, tmp_path):
    """The other node draws them all; and a node that comes back is used by the next batch."""
    (tmp_path / "p.txt").write_text("a red heart\ngreen apple\npizza\n")
    process = start(cluster, tmp_path, "--out-dir", "out", *LONG)
    until(lambda: len(list((tmp_path / "out").glob("*.checkpoint.safetensors"))) == 2)
    cluster.kill_node()
    status, _, err = finished(process)
    assert status == 0 and "its worker died" in err, err
    check_same(tmp_path / "out", here(tmp_path, *LONG))
    cluster.add_node()


def test_an_interrupted_batch_goes_on_without_the_cluster(cluster, tmp_path):
    """Ctrl-C keeps the states of all workers, and they are ended; the same command without --ray finishes."""
    (tmp_path / "p.txt").write_text("a red heart\ngreen apple\n")
    process = start(cluster, tmp_path, "--out-dir", "out", *LONG)
    until(lambda: len(list((tmp_path / "out").glob("*.checkpoint.safetensors"))) == 2)
    process.send_signal(signal.SIGINT)
    status, out, err = finished(process)
    assert status == 130 and "interrupted in the middle of 2 lines; finish with: the same command" in err, err
    assert "0 written, 2 left" in out
    for checkpoint in (tmp_path / "out").glob("*.checkpoint.safetensors"):
        assert load_state(checkpoint)[0].i > 0
    until(lambda: not cluster.workers())
    assert run("sample", "--prompts", tmp_path / "p.txt", "--out-dir", tmp_path / "out", *LONG).exit_code == 0
    check_same(tmp_path / "out", here(tmp_path, *LONG))


def test_the_client_and_a_pool_of_this_machine_draw_the_same(cluster, tmp_path):
    (tmp_path / "p.txt").write_text("a red heart\ngreen apple\n")
    whole = here(tmp_path, "--steps", 2)
    for name, address in (("client", cluster.client), ("local", "local")):
        process = start(cluster, tmp_path, "--out-dir", name, "--steps", 2, "--preview-every", 1, ray=address)
        status, out, err = finished(process)
        assert status == 0 and "2 written" in out and err == "", err
        for preview in (tmp_path / name).glob("*-preview.png"):
            assert open_image(preview).size == (64, 64)
            preview.unlink()
        check_same(tmp_path / name, whole)
