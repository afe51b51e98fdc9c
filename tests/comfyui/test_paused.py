"""A workflow that stops in the middle of a sampler ends elsewhere as it would have ended here, bit for bit."""

import json
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from probes import CLASSES, COUNTS
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sigmafield.comfyui import events as happened
from sigmafield.comfyui.context import Context, Folders
from sigmafield.comfyui.executor import execute
from sigmafield.comfyui.paused import load_paused, save_paused
from sigmafield.comfyui.validation import validate

STEPS = 5


def sampling(latent, seed):
    return {"class_type": "Sampling", "inputs": {"latent": [latent, 0], "seed": seed, "steps": STEPS}}


PROMPT = {
    "0": {"class_type": "Seeds", "inputs": {}},
    "1": {"class_type": "EmptyLatentImage", "inputs": {"width": 32, "height": 16, "batch_size": 2}},
    "2": sampling("1", 3),
    "3": {"class_type": "Sampling", "inputs": {"latent": ["2", 0], "seed": ["0", 0], "steps": STEPS}},
    "4": {"class_type": "Decoder", "inputs": {"samples": ["3", 0], "vae": ["5", 2]}},
    "5": {"class_type": "Loader", "inputs": {}},
    "6": {"class_type": "PreviewImage", "inputs": {"images": ["4", 0]}},
    "7": {"class_type": "Count", "inputs": {"word": "once"}},
    "8": {"class_type": "PreviewAny", "inputs": {"source": ["7", 0]}},
}
"""Two samplers, the second of which runs for three seeds."""


def images(found):
    """What the decoder gave."""
    return next(each.values[0] for each in found if isinstance(each, happened.Finished) and each.node == "4")


def run(paused=None, stop_after=None, path=None):
    """All events, from the start or from a paused prompt; stopped after that number of steps."""
    context, stop = Context(Folders(temp=path or Path(".")), extra={"workflow": {"a": 1}}), threading.Event()
    validated = paused.validated if paused else validate(PROMPT, CLASSES)
    found = []
    for event in execute(validated, CLASSES, context, stop=stop, paused=paused):
        found.append(event)
        if sum(isinstance(each, happened.Stepped) for each in found) == stop_after:
            stop.set()
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return images(run(path=tmp_path_factory.mktemp("whole")))


@pytest.mark.parametrize("cut", [1, STEPS, STEPS + 1, 2 * STEPS + 2, 4 * STEPS - 1])
def test_a_workflow_goes_on_where_it_was_stopped(cut, whole, tmp_path):
    COUNTS.clear()
    stopped = run(stop_after=cut, path=tmp_path)[-1]
    assert isinstance(stopped, happened.Interrupted)
    save_paused(stopped.paused, tmp_path / "cut.safetensors")
    again = load_paused(tmp_path / "cut.safetensors")
    assert again.prompt == stopped.paused.prompt and again.extra == {"workflow": {"a": 1}}
    counted = dict(COUNTS)
    found = run(again, path=tmp_path)
    assert isinstance(found[-1], happened.Succeeded)
    assert all(a.equal(b) for a, b in zip(images(found), whole, strict=True))
    steps = sum(isinstance(each, happened.Stepped) for each in found)
    assert steps == 4 * STEPS - cut
    assert counted == {"once": 1} and counted == COUNTS


def test_any_step_can_be_saved_without_a_stop(whole, tmp_path):
    steps = [each for each in run(path=tmp_path) if isinstance(each, happened.Stepped)]
    assert len(steps) == 4 * STEPS
    save_paused(steps[7].paused, tmp_path / "cut.safetensors")
    found = run(load_paused(tmp_path / "cut.safetensors"), path=tmp_path)
    assert all(a.equal(b) for a, b in zip(images(found), whole, strict=True))


PROGRAM = """
import sys
from pathlib import Path
from test_paused import images, run
from safetensors.torch import save_file
from sigmafield.comfyui.paused import load_paused
folder = Path(sys.argv[1])
found = run(load_paused(folder / "cut.safetensors"), path=folder)
save_file({str(k): each.contiguous() for k, each in enumerate(images(found))}, folder / "images.safetensors")
"""


@pytest.mark.slow
def test_another_process_ends_it(whole, tmp_path):
    stopped = run(stop_after=2 * STEPS + 2, path=tmp_path)[-1]
    save_paused(stopped.paused, tmp_path / "cut.safetensors")
    subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path)], check=True, cwd=Path(__file__).parent)
    made = load_file(tmp_path / "images.safetensors")
    assert [made[str(k)].equal(each) for k, each in enumerate(whole)] == [True] * 3


def test_other_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no paused workflow at"):
        load_paused(tmp_path / "none")
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="not a paused workflow"):
        load_paused(tmp_path / "other.safetensors")
    (tmp_path / "text").write_text("x")
    with pytest.raises(ValueError, match="not a safetensors file"):
        load_paused(tmp_path / "text")


def test_files_go_along_and_stay_in_their_folder(tmp_path):
    paused = run(stop_after=1, path=tmp_path)[-1].paused
    files = {"cat.png": bytes(range(256)), "empty": b""}
    save_paused(replace(paused, files=files), tmp_path / "cut.safetensors")
    assert load_paused(tmp_path / "cut.safetensors").files == files
    for name in ("../cat.png", "..", ".", ""):
        save_paused(replace(paused, files={name: b"x"}), tmp_path / "cut.safetensors")
        with pytest.raises(ValueError, match="leads out of its folder"):
            load_paused(tmp_path / "cut.safetensors")


def test_damaged_files_are_refused(tmp_path):
    save_paused(run(stop_after=1, path=tmp_path)[-1].paused, path := tmp_path / "cut.safetensors")
    with safe_open(str(path), "pt") as file:
        meta, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    header = json.loads(meta["workflow"])
    damaged = [{**meta, "workflow": text} for text in ("", "[]", "{}", json.dumps({**header, "files": ["none"]}))]
    damaged += [
        {**meta, "workflow": json.dumps({**header, name: 5})} for name in ("files", "done", "orders", "outputs")
    ]
    for each in [{"format": meta["format"]}, *damaged]:
        save_file(tensors, path, each)
        with pytest.raises(ValueError, match="cut.safetensors"):
            load_paused(path)
