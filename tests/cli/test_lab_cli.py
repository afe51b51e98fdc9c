"""`sigmafield lab` from the shell: reports, stopping and going on, sweeps, comparisons, and what it refuses."""

import json
import os
import signal
import subprocess
import sys
import time

import polars
import pytest

from command_line import run
from forked import heard

few_channels = pytest.mark.usefixtures("few_channels")

SMALL = ["--model", "gaussian", "--seeds", "3", "--particles", "8", "--samplers", "euler,heun", "--steps", "4,8"]


def test_a_study_writes_its_report_and_says_what_it_found(tmp_path):
    ran = run("lab", "solvers", *SMALL, "-o", tmp_path / "s", "--json")
    assert ran.exit_code == 0, ran.output
    said = json.loads(ran.stdout)
    assert said["rows"] == 12 and any("Observed orders" in finding for finding in said["findings"])
    text = (tmp_path / "s" / "report.md").read_text()
    assert "sigmafield lab solvers --model gaussian --seeds 3" in text
    assert polars.read_parquet(said["table.parquet"]).height == 12
    again = run("lab", "replay", tmp_path / "s", 12)
    assert again.exit_code == 0 and again.stdout == "sampler heun, steps 8, seed 2\nthe same values\n"
    assert run("lab", "replay", tmp_path / "s", 13).exit_code == 2
    two = ["sampler=euler,steps=8", "sampler=heun,steps=8"]
    paired = run("lab", "pair", tmp_path / "s", "error", *two, "--json")
    assert paired.exit_code == 0 and json.loads(paired.stdout)["ratio"]["low"] > 1, paired.output
    assert run("lab", "pair", tmp_path, "error", *two).exit_code == 2


@pytest.mark.slow  # two more processes' start; the stop itself is a law of tests/lab/test_experiment.py
def test_ctrl_c_and_go_on(tmp_path):
    """A command that is stopped keeps its rows, says how to go on, and the table is that of an undisturbed one."""
    options = ["lab", "solvers", "--seeds", "3", "--samplers", "heun,euler", "--steps", "4,8,80,82", "-o", "s"]
    command = [sys.executable, "-m", "sigmafield", *options, "--model", "mixture", "--particles", "16"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heard
    )
    rows = tmp_path / "s" / "rows.jsonl"
    end = time.monotonic() + 120
    while not (rows.exists() and rows.read_text().count("\n") >= 2):
        assert process.poll() is None and time.monotonic() < end, process.communicate()
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "go on with: sigmafield lab solvers" in said, said
    kept = rows.read_text().splitlines()
    assert 2 <= len(kept) < 24
    again = run(*[each if each != "s" else tmp_path / "s" for each in command[3:]])
    assert again.exit_code == 0, again.output
    assert rows.read_text().splitlines()[: len(kept)] == kept and polars.read_csv(tmp_path / "s/table.csv").height == 24


@few_channels
def test_sweep_and_compare(tmp_path):
    drawn = run("lab", "sweep", "a red heart", "--vary", "cfg=1,4", "--steps", 2, "--size", "32x32", "--seeds", 1,
                "-o", tmp_path / "w")  # fmt: skip
    assert drawn.exit_code == 0, drawn.output
    a, b = sorted((tmp_path / "w" / "images").iterdir())
    assert (tmp_path / "w" / "sheet-1.png").exists()
    said = run("lab", "compare", a, b, "--no-way", "--json")
    assert said.exit_code == 0 and json.loads(said.stdout)["recipe"] == {"cfg": [1.0, 4.0]}


WARMTH = """
import numpy as np

def warmth(images, recipe):
    \"\"\"Mean of red less blue, -1 to 1.\"\"\"
    return np.mean([np.asarray(image)[..., 0] / 255.0 - np.asarray(image)[..., 2] / 255.0 for image in images])
"""


@few_channels
def test_a_metric_of_a_file_in_this_folder(tmp_path, monkeypatch):
    """As the installed command finds it: without the folder that `python -m` puts on the path."""
    (tmp_path / "warm.py").write_text(WARMTH)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each not in ("", str(tmp_path))])
    options = ["--vary", "cfg=1,4", "--steps", 2, "--size", "32x32", "--seeds", 1, "--metrics", "warm:warmth"]
    ran = run("lab", "sweep", "a red heart", *options)
    assert ran.exit_code == 0 and "warm:warmth is largest at cfg" in ran.stdout, ran.stderr
    table = polars.read_csv(tmp_path / "lab-sweep" / "table.csv")
    assert table["warm:warmth"].is_between(-1, 1).all() and table["warm:warmth"].n_unique() == 2
    assert "warmth: Mean of red less blue" in (tmp_path / "lab-sweep" / "report.md").read_text()


@pytest.mark.parametrize(
    "words, message",
    [
        (["solvers", "--samplers", "eulr"], "unknown sampler 'eulr'; did you mean euler"),
        (["solvers", "--steps", "8,4"], "steps must be whole numbers in ascending order"),
        (["solvers", "--samplers", "lcm"], "lcm has no parameter that turns its noise off"),
        (["marginals", "--model", "tiny"], "marginals need a model whose marginals are known"),
        (["inpaint", "--model", "ring"], "inpainting needs images"),
        (["noise", "--samplers", "euler"], "euler has no parameter eta"),
        (["sweep"], "a sweep needs something that varies"),
        (["sweep", "--vary", "cfg=1,2", "--metrics", "x"], "unknown metric 'x'"),
        (["solvers", "--ray", "somewhere"], "a cluster's address is local, auto, HOST:PORT"),
    ],
)
def test_refusals_are_one_line(words, message, tmp_path):
    ran = run("lab", *words, "-o", tmp_path / "r")
    assert ran.exit_code == 2 and message in " ".join(ran.stderr.split()), ran.output
    assert len(ran.stderr.strip().splitlines()) == 1
