"""The command line with a server: what it writes and prints is what it does without one."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from engines import network_waits, workflow
from PIL import Image

from command_line import Pressing, heard, run
from sigmafield.client import Client
from sigmafield.comfyui.paused import load_paused
from sigmafield.recipes.label import read_label
from sigmafield.recipes.output import recipe_of

QUICK = ("--steps", 2, "--sampler", "euler", "--cfg", 1, "--seed", 1)


@pytest.fixture(scope="module")
def client(server):
    with Client(server.url) as client:
        yield client


def recipe_in(path):
    return read_label(recipe_of(path)).recipe


def same(a, b) -> bool:
    return bool((np.asarray(Image.open(a)) == np.asarray(Image.open(b))).all())


def test_jobs_are_listed_and_steered(server, client, tmp_path):
    there = ("--server", server.url)
    job = client.submit("a slow\nheart", steps=400, priority=-3)
    ran = run("jobs", *there)
    assert ran.exit_code == 0 and job.id in ran.stdout and "a slow\\nheart" in ran.stdout
    assert run("jobs", "pause", job.id, *there).exit_code == 0 and job.refresh().status == "paused"
    [listed] = json.loads(run("jobs", "--status", "paused", "--limit", 1, "--json", *there).stdout)["jobs"]
    assert listed["id"] == job.id and listed["priority"] == -3
    assert run("jobs", "priority", 4, job.id, *there).exit_code == 0 and job.refresh().priority == 4
    made = run("jobs", "clone", job.id, "--set", "steps=2", "--set", "prompt=a cloned heart", "--json", *there)
    [clone] = json.loads(made.stdout)["jobs"]
    assert (clone["request"]["steps"], clone["request"]["prompt"]) == (2, "a cloned heart")
    ran = run("jobs", "fetch", clone["id"], "-o", tmp_path / "heart.webp", *there)
    assert ran.exit_code == 0 and recipe_in(tmp_path / "heart.webp").prompt == "a cloned heart", ran
    ran = run("jobs", "fetch", clone["id"], "-o", tmp_path / "all", *there)
    assert ran.stdout.split() == [str(tmp_path / "all" / f"{clone['id']}-0.png")]
    assert run("jobs", "resume", job.id, *there).exit_code == 0
    assert run("jobs", "cancel", job.id, *there).exit_code == 0
    assert "cancelled" in run("jobs", job.id, "--watch", *there).stdout
    assert run("jobs", "delete", job.id, *there).exit_code == 0
    gone = run("jobs", job.id, *there)
    assert gone.exit_code == 2 and gone.stderr.startswith("error: no job") and gone.stderr.count("\n") == 1
    assert run("jobs", "pause", *there).exit_code == 2 and run("jobs", "--server", "http://127.0.0.1:9").exit_code == 2


def test_sample_writes_what_it_writes_here(server, tmp_path, monkeypatch):
    here = run("sample", "a red heart", *QUICK, "--batch", 2, "-o", tmp_path / "here.png", "--json")
    monkeypatch.setenv("SIGMAFIELD_SERVER", server.url)
    there = run("sample", "a red heart", *QUICK, "--batch", 2, "-o", tmp_path / "there.png", "--json")
    assert (here.exit_code, there.exit_code) == (0, 0), there
    ours, theirs = json.loads(here.stdout), json.loads(there.stdout)
    assert ours["recipe"] == theirs["recipe"] and len(theirs["files"]) == 3
    for a, b in zip(ours["files"], theirs["files"]):
        assert same(a, b) and recipe_of(a) == recipe_of(b)
        assert Image.open(a).info == Image.open(b).info and "workflow" in Image.open(b).info
    again = run(
        "sample", "a green heart", *QUICK, "--image", tmp_path / "here-1.png", "--denoise", 0.6, "-o",
        tmp_path / "green.jpg", "--preview-every", 1,
    )  # fmt: skip
    assert again.exit_code == 0 and again.stdout.startswith(str(tmp_path / "green.jpg")), again
    recipe = recipe_in(tmp_path / "green.jpg")
    assert recipe.image == str(tmp_path / "here-1.png") and recipe.image_sha256
    ran = run("sample", "a heart", "--device", "cpu")
    assert ran.exit_code == 2 and "--device is about this machine" in ran.stderr
    ran = run("sample", "a heart", "--steps", 401)
    assert ran.exit_code == 2 and ran.stderr == "error: steps must be at most 400 on this server; got 401\n"


def test_weights_of_this_machine_are_not_uploaded(server, tmp_path):
    """The refusal of a name that is a file here says what to do; that of another name is the server's own."""
    (tmp_path / "mine.safetensors").write_bytes(b"")
    here = run("sample", "a heart", *QUICK, "--lora", tmp_path / "mine.safetensors", "--server", server.url)
    assert here.exit_code == 2 and "mine.safetensors is on this machine, and weights are not uploaded" in here.stderr
    assert "copy it into the server's folder of models (sigmafield serve --models FOLDER)" in here.stderr
    there = run("sample", "a heart", *QUICK, "--lora", "theirs.safetensors", "--server", server.url)
    assert there.exit_code == 2 and "loras" in there.stderr and "this machine" not in there.stderr


def test_an_interrupted_command_leaves_the_job_to_the_server(server, client, tmp_path, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    path = tmp_path / "cat.png"
    with heard():
        ran = run("sample", "a cat", "--steps", 12, "-o", path, "--server", server.url, stderr=Pressing("%"))
    assert ran.exit_code == 130 and not path.exists()
    [job] = client.jobs(limit=1)
    assert f"sigmafield jobs fetch {job.id} -o {path} --server {server.url}" in " ".join(ran.stderr.split())
    assert run("jobs", "fetch", job.id, "-o", path, "--server", server.url).exit_code == 0
    assert recipe_in(path).prompt == "a cat"


@pytest.mark.slow
def test_upscale_and_replay_draw_what_they_draw_here(server, tmp_path):
    run("sample", "a red heart", *QUICK, "--batch", 2, "-o", tmp_path / "heart.png")
    shape = ("a red heart", "--size", "96x96", "--steps", 4, "--tile", 64, "--seed", 2)
    for name, more in (("here", ()), ("there", ("--server", server.url))):
        ran = run("upscale", tmp_path / "heart-1.png", *shape, "-o", tmp_path / f"{name}.png", *more)
        assert ran.exit_code == 0, ran
    assert same(tmp_path / "here.png", tmp_path / "there.png")
    assert recipe_of(tmp_path / "here.png") == recipe_of(tmp_path / "there.png")
    for file in ("heart-2.png", "heart.png", "there.png"):
        ran = run("replay", tmp_path / file, "--server", server.url)
        assert ran.exit_code == 0 and "every pixel is the same" in ran.stdout, ran
    refused = run("upscale", tmp_path / "heart.png", "x", "--show-tiles", tmp_path / "t.png", "--server", server.url)
    assert refused.exit_code == 2 and "--show-tiles is about this machine" in refused.stderr


def test_a_batch_is_drawn_by_a_server_and_goes_on_with_its_jobs(server, client, tmp_path):
    lines = tmp_path / "lines.txt"
    long = json.dumps({"prompt": "a pizza " * 130, "steps": 1})  # more text than the server takes
    lines.write_text(f'a red heart\n{long}\n{{"prompt": "a cat", "seed": 9}}\n')
    words = ("sample", "--prompts", lines, *QUICK, "--json")
    here = json.loads(run(*words, "--out-dir", tmp_path / "here").stdout)
    there = run(*words, "--out-dir", tmp_path / "there", "--server", server.url)
    found = json.loads(there.stdout)
    assert there.exit_code == 2 and [each["line"] for each in found["failed"]] == [2]
    assert [each["recipe"] for each in found["images"]] == [here["images"][k]["recipe"] for k in (0, 2)]
    for each, own in zip(found["images"], (here["images"][0], here["images"][2])):
        assert same(each["files"][0], own["files"][0])
    [last] = client.jobs(limit=1)
    (tmp_path / "there" / "a-cat-9.png").unlink()
    again = json.loads(run(*words, "--out-dir", tmp_path / "there", "--server", server.url).stdout)
    assert [each["line"] for each in again["skipped"]] == [1]
    assert [each["job"] for each in again["images"]] == [last.id] and client.jobs(limit=1)[0].id == last.id


def test_a_workflow_runs_at_a_server(server, tmp_path):
    nodes = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "there.png"}},
        "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "x"}},
    }
    (tmp_path / "flow.json").write_text(json.dumps(nodes))
    Image.new("RGB", (16, 8), "red").save(tmp_path / "red.png")
    words = (
        "run",
        tmp_path / "flow.json",
        "--set",
        "3.filename_prefix=inverted",
        "--input",
        f"image={tmp_path}/red.png",
    )
    ran = run(*words, "-o", tmp_path / "out", "--server", server.url)
    assert ran.exit_code == 0 and ran.stdout == f"{tmp_path}/out/inverted_00001_.png\n", ran
    assert Image.open(ran.stdout.strip()).getpixel((0, 0)) == (0, 255, 255)
    ran = run(*words, "--device", "cpu", "--server", server.url)
    assert ran.exit_code == 2 and "--device is about this machine" in ran.stderr
    ran = run("run", tmp_path / "flow.json", "--server", server.url)
    assert ran.exit_code == 2 and "there.png" in ran.stderr and ran.stderr.count("\n") == 1


def test_a_paused_workflow_of_a_server_is_finished_here(server, client, tmp_path):
    """In the middle of a sampler, with an uploaded image: the file has all of it, and the pixels are the server's."""
    image = client.upload(encoded_png("red"))
    nodes = workflow(steps=8, side=64)["prompt"] | {
        "10": {"class_type": "LoadImage", "inputs": {"image": image}},
        "11": {"class_type": "VAEEncode", "inputs": {"pixels": ["10", 0], "vae": ["4", 2]}},
    }
    nodes["3"]["inputs"] |= {"latent_image": ["11", 0], "denoise": 0.9}
    with network_waits(4) as go:
        job = client.submit_workflow(nodes)
        for event in job.events():
            if event.kind == "step":
                break
        job.pause()
        go.set()
    ran = run("jobs", "take", job.id, "-o", tmp_path / "taken.safetensors", "--server", server.url)
    while ran.exit_code and "ask again" in ran.stderr:
        ran = run("jobs", "take", job.id, "-o", tmp_path / "taken.safetensors", "--server", server.url)
    assert ran.exit_code == 0 and ran.stdout == f"{tmp_path}/taken.safetensors\n", ran
    paused = load_paused(tmp_path / "taken.safetensors")
    assert paused.state is not None and 0 < paused.state.i < 8 and len(paused.files) == 1
    here = run("run", tmp_path / "taken.safetensors", "-o", tmp_path / "out")
    assert here.exit_code == 0, here
    job.resume()
    [there] = job.images()
    ours = np.asarray(Image.open(here.stdout.strip())).astype(int)
    assert abs(ours - np.asarray(there)).max() <= 1  # runs of other tests may share the server's calls
    refused = run("jobs", "take", job.id, "--server", server.url)
    assert refused.exit_code == 2 and "is a workflow that is done, and not a paused workflow" in refused.stderr


def encoded_png(colour):
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), colour).save(buffer, "PNG")
    return buffer.getvalue()
