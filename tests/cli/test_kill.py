"""`kill -9`: a run goes on from its last checkpoint, and a batch that is started again has every line once."""

import json
import os
from collections import Counter

import numpy as np
import pytest
from kills import killed_at_random, killed_at_step

from command_line import run
from forked import called
from sigmafield.recipes.image_io import open_image
from sigmafield.runs.checkpoint import load_state

SUBJECTS = ("a red heart", "green apple", "pizza", "rocket", "a red heart")
OPTIONS = ["--steps", "3", "--sampler", "dpmpp_2m_sde", "--cfg", "3", "--checkpoint-every", "0", "--size", "32x32"]


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
@pytest.mark.usefixtures("few_channels")
def test_kills_at_random_moments(kills, lines, tmp_path, capsys):
    """Kills cannot be caught: a run loses at most --checkpoint-every, here one step, and a batch the line it is at."""
    prompts, seed = tmp_path / "p.txt", int(os.environ.get("KILL_SEED", "0"))
    prompts.write_text("".join(f"{SUBJECTS[k % len(SUBJECTS)]}\n" for k in range(lines)))
    one, whole, checkpoint = (tmp_path / name for name in ("one.png", "whole.png", "one.checkpoint.safetensors"))
    single = ["sample", "rocket", "--steps", "10", *OPTIONS[2:], "-o"]
    called(killed_at_step, [*single, str(one)], 4)
    assert not one.exists() and load_state(checkpoint)[0].i == 3
    assert run("resume", checkpoint).exit_code == 0
    assert run(*single, whole).exit_code == 0
    assert (pixels(one) == pixels(whole)).all()
    assert not checkpoint.exists()
    command = ["sample", "--prompts", str(prompts), *OPTIONS, "--out-dir"]
    finished, hits = called(killed_at_random, command, tmp_path, kills, seed)
    for k in range(finished):
        check_finished(tmp_path / str(k), tmp_path / "whole", lines)
    with capsys.disabled():
        print(
            f"\n{kills} kills, {hits} of them after a further image, over {finished} batches of {lines} images: ",
            end="",
        )
        print("every line once, pixels equal")
