"""`kill -9` at random moments: a batch that is started again until it is finished has every line once."""

import json
import random
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pytest

from sigmafield.recipes.image_io import open_image

SUBJECTS = ("a red heart", "green apple", "pizza", "rocket", "a red heart")
OPTIONS = ["--steps", "3", "--sampler", "dpmpp_2m_sde", "--cfg", "3", "--checkpoint-every", "0"]


def pixels(path):
    return np.asarray(open_image(path))


def check_finished(folder, whole, lines):
    """Every line once, with the pixels of a batch that was left alone, and nothing else in the folder."""
    names = sorted(path.name for path in whole.iterdir())
    assert sorted(path.name for path in folder.iterdir()) == names
    images = [name for name in names if name.endswith(".png")]
    assert len(images) == lines
    for name in images:
        assert (pixels(folder / name) == pixels(whole / name)).all()
    entries = [
        json.loads(text) for text in (folder / "p.txt.manifest.jsonl").read_bytes().splitlines() if whole_line(text)
    ]
    written = Counter(entry["line"] for entry in entries if entry["status"] == "written")
    assert written == dict.fromkeys(range(1, lines + 1), 1)


def whole_line(text):
    """Whether a line of the manifest is an entry, and not torn by a kill."""
    try:
        return bool(json.loads(text))
    except ValueError:
        return False


@pytest.mark.parametrize("kills, lines", [(2, 5), (100, 40)])
@pytest.mark.slow
@pytest.mark.typed_elsewhere
def test_kills_at_random_moments(kills, lines, tmp_path, capsys):
    prompts, whole, moments = tmp_path / "p.txt", tmp_path / "whole", random.Random(kills)
    prompts.write_text("".join(f"{SUBJECTS[k % len(SUBJECTS)]}\n" for k in range(lines)))
    command = [sys.executable, "-m", "sigmafield", "sample", "--prompts", prompts, *OPTIONS, "--out-dir"]
    began = time.monotonic()
    subprocess.run([*command, whole], check=True, capture_output=True, timeout=300)
    longest = time.monotonic() - began
    killed = Counter()
    finished = 0
    while sum(killed.values()) < kills or (tmp_path / str(finished)).exists():
        folder = tmp_path / str(finished)
        before = len(list(folder.glob("*.png")))
        last = sum(killed.values()) >= kills
        with subprocess.Popen([*command, folder], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            try:
                _, errors = process.communicate(timeout=300 if last else moments.uniform(0, longest))
            except subprocess.TimeoutExpired:
                process.kill()
                killed["while drawing" if len(list(folder.glob("*.png"))) > before else "before the first image"] += 1
                continue
        assert process.returncode == 0, errors.decode()
        check_finished(folder, whole, lines)
        finished += 1
    with capsys.disabled():
        print(f"\n{kills} kills {dict(killed)} over {finished} batches of {lines}: every line once, pixels equal")
