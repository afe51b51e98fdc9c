"""`kill -9`: a run goes on from its last checkpoint, and a batch that is started again has every line once."""

import json
import os
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from command_line import run
from sigmafield.recipes.image_io import open_image
from sigmafield.runs.checkpoint import load_state

SUBJECTS = ("a red heart", "green apple", "pizza", "rocket", "a red heart")
OPTIONS = ["--steps", "3", "--sampler", "dpmpp_2m_sde", "--cfg", "3", "--checkpoint-every", "0", "--size", "32x32"]

LAUNCHER = """
import glob, json, os, random, signal, sys, time
import sigmafield.cli.sample  # a child begins with torch imported, so that most kills hit the work and not the start
from sigmafield.cli import main

root, kills, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
middle = sys.argv.index("then")
single, command = sys.argv[4:middle], sys.argv[middle + 1 :]
moments = random.Random(seed)

def begun(words):
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        try:
            main(words)
            os._exit(0)
        except SystemExit as end:
            os._exit(end.code or 0)
    return child

def start(folder):
    return begun([*command, folder])

def written(path):
    try:
        return os.stat(path).st_mtime_ns
    except FileNotFoundError:
        return None

child, seen, checkpoint = begun(single), {None}, f"{root}/one.checkpoint.safetensors"
while len(seen) <= 3:  # three checkpoints, one for each step
    seen.add(written(checkpoint))
    time.sleep(0.001)
    assert not os.waitpid(child, os.WNOHANG)[0]
os.kill(child, signal.SIGKILL)
assert os.waitpid(child, 0)[1] == signal.SIGKILL

def done(folder):
    return len(glob.glob(folder + "/*.png"))

began = time.monotonic()
assert os.waitpid(start(root + "/whole"), 0)[1] == 0
longest = time.monotonic() - began
killed, finished, hits = 0, 0, 0
while killed < kills or os.path.exists(f"{root}/{finished}"):
    folder = f"{root}/{finished}"
    before, child = done(folder), start(folder)
    end = time.monotonic() + (moments.uniform(0, longest / 4) if killed < kills else 600)
    while not (over := os.waitpid(child, os.WNOHANG))[0] and time.monotonic() < end:
        time.sleep(0.002)
    if over[0]:
        assert over[1] == 0
        finished += 1
    else:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        killed, hits = killed + 1, hits + (done(folder) > before)
print(json.dumps([finished, hits]))
"""
"""Kills one run in its middle; draws a batch whole, then batches that are killed at random moments and started again
until they are finished."""


def pixels(path):
    return np.asarray(open_image(path))


def entries(manifest):
    """The entries of a manifest, without what a kill has torn."""
    for line in manifest.read_bytes().splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            continue


def check_finished(folder, whole, lines):
    """Every line once, with the pixels of a batch that was left alone, and nothing else in the folder."""
    names = sorted(path.name for path in whole.iterdir())
    assert sorted(path.name for path in folder.iterdir()) == names
    images = [name for name in names if name.endswith(".png")]
    assert len(images) == lines
    for name in images:
        assert (pixels(folder / name) == pixels(whole / name)).all()
    noted = Counter(entry["line"] for entry in entries(folder / "p.txt.manifest.jsonl") if entry["status"] == "written")
    assert noted == dict.fromkeys(range(1, lines + 1), 1)


@pytest.mark.parametrize("kills, lines", [(2, 3), pytest.param(100, 40, marks=pytest.mark.slow)])
@pytest.mark.typed_elsewhere
def test_kills_at_random_moments(kills, lines, tmp_path, capsys):
    """Kills cannot be caught: a run loses at most --checkpoint-every, here one step, and a batch the line it is at."""
    prompts, seed = tmp_path / "p.txt", int(os.environ.get("KILL_SEED", "0"))
    prompts.write_text("".join(f"{SUBJECTS[k % len(SUBJECTS)]}\n" for k in range(lines)))
    command = ["sample", "--prompts", prompts, *OPTIONS, "--out-dir"]
    single = ["sample", "rocket", "--steps", 10, *OPTIONS[2:], "-o"]
    words = [sys.executable, "-c", LAUNCHER, tmp_path, kills, seed, *single, tmp_path / "one.png", "then", *command]
    ran = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    one, whole = tmp_path / "one.png", tmp_path / "whole.png"
    assert not one.exists() and 3 <= load_state(tmp_path / "one.checkpoint.safetensors")[0].i < 10
    assert run("resume", tmp_path / "one.checkpoint.safetensors").exit_code == 0
    assert run(*single, whole).exit_code == 0
    assert (pixels(one) == pixels(whole)).all()
    assert not (tmp_path / "one.checkpoint.safetensors").exists()
    finished, hits = json.loads(ran.stdout.splitlines()[-1])
    for k in range(finished):
        check_finished(tmp_path / str(k), tmp_path / "whole", lines)
    with capsys.disabled():
        print(
            f"\n{kills} kills, {hits} of them after a further image, over {finished} batches of {lines} images: ",
            end="",
        )
        print("every line once, pixels equal")
