"""The command line as a user meets it: files, reproducible images, interruption, one-line errors."""

import json
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import sigmafield as sf
from command_line import run
from forked import Command, heard
from sigmafield.cli.parse import parse_lora
from sigmafield.recipes.image_io import open_image
from sigmafield.recipes.output import recipe_of, save_image
from small_network import shipped_model

few_channels = pytest.mark.usefixtures("few_channels")


def pixels(path):
    return np.asarray(open_image(path))


@pytest.fixture(scope="module")
def heart(tmp_path_factory):
    """A image drawn by the command line."""
    path = tmp_path_factory.mktemp("cli") / "heart.png"
    result = run("sample", "a red heart", "-o", path, "--steps", 6, "--cfg", 3, "--seed", 5)
    assert result.exit_code == 0, result.output
    return path


def test_sample_writes_a_image_with_its_recipe(heart):
    assert open_image(heart).size == (64, 64)
    carried = json.loads(recipe_of(heart))
    assert carried["recipe"]["prompt"] == "a red heart"
    assert carried["recipe"]["seed"] == 5


def test_replay_makes_the_same_pixels(heart, tmp_path):
    result = run("replay", heart, "-o", tmp_path / "again.png")
    assert result.exit_code == 0, result.output
    assert "every pixel is the same" in result.output
    assert (pixels(heart) == pixels(tmp_path / "again.png")).all()


def test_replay_says_when_pixels_differ(heart, tmp_path):
    changed = pixels(heart).copy()
    changed[0, 0] ^= 64
    save_image(Image.fromarray(changed), tmp_path / "changed.png", recipe_of(heart))
    result = run("replay", tmp_path / "changed.png")
    assert result.exit_code == 1
    assert "differs" in result.output


@few_channels
def test_batch_writes_a_sheet_and_each_image(tmp_path):
    result = run("sample", "pizza", "-o", tmp_path / "p.png", "--steps", 3, "--batch", 3, "--json")
    assert result.exit_code == 0, result.output
    facts = json.loads(result.output)
    assert [open_image(file).size for file in facts["files"]] == [(132, 132)] + [(64, 64)] * 3
    assert facts["nfe"] == 3
    for file in facts["files"][:2]:
        assert run("replay", file).exit_code == 0


def test_image_to_image(heart, tmp_path):
    """Less denoising stays nearer to the input image; a replay notices a changed input."""
    copy = tmp_path / "in.png"
    copy.write_bytes(heart.read_bytes())
    distance = {}
    for denoise in (0.2, 0.9):
        out = tmp_path / f"{denoise}.png"
        result = run("sample", "green apple", "-o", out, "--image", copy, "--denoise", denoise, "--steps", 6)
        assert result.exit_code == 0, result.output
        distance[denoise] = np.abs(pixels(out).astype(int) - pixels(heart)).mean()
    assert distance[0.2] < distance[0.9]
    assert run("replay", tmp_path / "0.2.png").exit_code == 0
    copy.write_bytes((tmp_path / "0.9.png").read_bytes())
    result = run("replay", tmp_path / "0.2.png")
    assert result.exit_code == 2
    assert "has changed since" in result.stderr
    assert run("replay", tmp_path / "0.2.png", "--image", heart).exit_code == 0  # the input's bytes, moved


@few_channels
@pytest.mark.parametrize(
    "how, times", [(signal.SIGINT, 3), pytest.param(signal.SIGTERM, 1, marks=pytest.mark.slow)],
    ids=["ctrl-c-ctrl-c", "kill"],
)  # fmt: skip
@pytest.mark.typed_elsewhere
def test_interrupted_run_resumes_to_the_same_pixels(how, times, tmp_path):
    """A real process in a real terminal, a real signal: the checkpoint finishes to the uninterrupted pixels."""
    out, checkpoint, whole = (tmp_path / name for name in ("i.png", "i.checkpoint.safetensors", "whole.png"))
    options = ["--steps", "8", "--sampler", "dpmpp_2m_sde", "--seed", "9", "--cfg", "3"]
    command = Command(["sample", "rocket", "-o", out, *options], tmp_path, held_at=3)
    command.read(until=r"[1-9]\d? %")
    for _ in range(times):
        command.send(how)
    command.read()
    assert command.close() == 128 + how, command.shown
    assert f"sigmafield resume {checkpoint}" in command.shown
    assert "Traceback" not in command.shown
    assert not out.exists()
    assert 0 < sf.load_state(checkpoint)[0].i <= 3
    result = run("resume", checkpoint)
    assert result.exit_code == 0, result.output
    assert run("sample", "rocket", "-o", whole, *options).exit_code == 0
    assert (pixels(out) == pixels(whole)).all()
    assert sorted(tmp_path.iterdir()) == sorted([out, whole])  # the checkpoint goes when its run is finished


def test_a_closed_terminal_leaves_a_checkpoint(tmp_path):
    """The terminal that the process runs in is closed: SIGHUP, and nothing can be printed any more."""
    command = Command(["sample", "rocket", "-o", tmp_path / "i.png", "--steps", "1000"], tmp_path)
    command.read(until=r" [1-9] %")
    assert command.close() == 128 + signal.SIGHUP
    assert 1 < sf.load_state(tmp_path / "i.checkpoint.safetensors")[0].i < 1000
    assert len(list(tmp_path.iterdir())) == 1


def catches(process, kind):
    """Whether a process has a handler for a signal."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return bool(int(re.search(r"SigCgt:\s*(\w+)", status)[1], 16) >> (kind - 1) & 1)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    "how, after",
    [
        pytest.param(signal.SIGINT, 1, id="ctrl-c-torch"),
        pytest.param(signal.SIGHUP, 0, id="hang-up-first-imports"),
        pytest.param(signal.SIGINT, 0, id="ctrl-c-first-imports", marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, 1, id="hang-up-torch", marks=pytest.mark.slow),
    ],
)
def test_a_signal_during_start_up_leaves_nothing(how, after, tmp_path):
    """From the first line of the program on, a signal ends it without a word; before, Python has its own handler."""
    command = [sys.executable, "-m", "sigmafield", "sample", "rocket", "-o", tmp_path / "i.png", "--steps", "1000"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, preexec_fn=heard
    ) as process:
        for python_runs in (True, False):
            while catches(process, signal.SIGINT) != python_runs:
                time.sleep(0.001)
        time.sleep(after)
        process.send_signal(how)
        shown, _ = process.communicate(timeout=60)
    assert process.returncode == -how, shown  # as shells expect of a program that a signal ends
    assert shown == "" and list(tmp_path.iterdir()) == []


@few_channels
def test_a_run_is_resumed_where_its_input_has_moved(heart, tmp_path):
    """The same bytes under another name are taken, other bytes are not, and the machine is that of the checkpoint."""
    source, mask, other = (tmp_path / name for name in ("in.png", "mask.png", "other.png"))
    source.write_bytes(heart.read_bytes())
    Image.fromarray(np.eye(16, dtype=np.uint8) * 255).save(mask)
    options = ["--image", source, "--mask", mask, "--steps", 4, "--seed", 1]
    assert run("sample", "green apple", "-o", tmp_path / "whole.png", *options).exit_code == 0
    recipe = sf.Recipe("green apple", image=str(source), mask=str(mask), steps=4, seed=1)
    job = sf.open_job(recipe, shipped_model())
    state = job.run.step(job.run.step(job.start))
    meta = {"recipe": job.recipe.to_json(), "output": str(tmp_path / "gone" / "o.png"), "machine": '{"device": "cpux"}'}
    sf.save_state(state, tmp_path / "s.safetensors", meta)
    source.rename(tmp_path / "moved.png")
    mask.rename(tmp_path / "m.png")
    Image.new("RGB", (64, 64)).save(other)
    moved, there = ["--image", tmp_path / "moved.png", "--mask", tmp_path / "m.png"], ["-o", tmp_path / "o.png"]
    for given, message in [
        ([], "no folder"),
        (there, "no image at"),
        ([*there, "--image", other], "has changed since this recipe was made"),
        ([*there, *moved[:2]], "no image at"),
        ([*there, *moved], "unknown device 'cpux'"),
        ([*there, *moved, "--denoise-map", other], "denoise_map cannot have moved: the recipe has none"),
        ([*there, *moved, "--lora-files", other], "--lora-files must be given 0 times, in the recipe's order; got 1"),
    ]:
        result = run("resume", tmp_path / "s.safetensors", *given)
        assert result.exit_code == 2 and message in result.stderr, result.stderr
    result = run("resume", tmp_path / "s.safetensors", *there, *moved, "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert (pixels(tmp_path / "o.png") == pixels(tmp_path / "whole.png")).all()
    assert not (tmp_path / "s.safetensors").exists()


def test_a_mask_keeps_the_black_part_and_a_region_changes_its_box(heart, tmp_path):
    mask, out = tmp_path / "mask.png", tmp_path / "out.png"
    half = np.zeros((32, 32), np.uint8)
    half[:, 16:] = 255
    Image.fromarray(half).save(mask)
    options = ["-o", out, "--overwrite", "--steps", 6, "--cfg", 3]
    assert run("sample", "green apple", "--image", heart, "--mask", mask, *options, "--seed", 4).exit_code == 0
    change = np.abs(pixels(out).astype(int) - pixels(heart)).mean((0, 2))
    assert change[:28].mean() < change[36:].mean() / 3  # not 0: the kept half goes through the VAE too
    region = ["--positive-region", "32,0,32,64:green apple:strength=4"]
    assert run("sample", "a red heart", *region, *options, "--seed", 5).exit_code == 0
    change = np.abs(pixels(out).astype(int) - pixels(heart)).mean((0, 2))
    assert change[:24].mean() < change[40:].mean() / 2
    again = run("replay", out)
    assert again.exit_code == 0, again.output


@pytest.mark.parametrize("way, steps", [("delayed", 6), ("own", 3)])  # the delayed one has as many strengths as steps
@pytest.mark.typed_elsewhere
def test_a_denoise_map_changes_each_place_as_much_as_it_says(heart, tmp_path, way, steps):
    ramp, out = tmp_path / "ramp.png", tmp_path / "out.png"
    Image.fromarray((np.clip(np.linspace(-0.5, 1.5, 64), 0, 1)[None].repeat(64, 0) * 255).astype(np.uint8)).save(ramp)
    options = ["--denoise-map", ramp, "--map-schedule", way, "--steps", steps, "--cfg", 3, "--seed", 4]
    assert run("sample", "green apple", "--image", heart, "-o", out, *options).exit_code == 0
    change = np.abs(pixels(out).astype(int) - pixels(heart)).mean((0, 2))
    assert change[:8].mean() < change[16:].mean() / 2  # not 0: the decoder looks around
    again = run("replay", out)
    assert again.exit_code == 0, again.output


@few_channels
def test_a_run_of_some_steps_stops_there(tmp_path):
    assert (
        "6 evaluations" in run("sample", "x", "-o", tmp_path / "a.png", "--start", 2, "--end", 8, "--steps", 10).output
    )


def lora_file(path, strength=1.0):
    """A LoRA for the embedded model: it turns one layer's answer round."""
    weight = shipped_model().modules["unet"].state_dict()["conv_out.weight"]
    down = torch.eye(weight[0].numel()).reshape(-1, *weight.shape[1:])
    stem = "lora_unet_conv_out"
    up = (-2 * strength * weight.flatten(1))[..., None, None]
    save_file({f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up.contiguous()}, path)
    return path


@few_channels
def test_model_with_additions_is_replayed(tmp_path):
    """LoRA, textual inversion and clip skip change the image, and a replay has them again."""
    pytest.importorskip("diffusers")
    lora, words = lora_file(tmp_path / "a:b.safetensors"), tmp_path / "words"
    words.mkdir()
    save_file({"emb_params": 0.1 * torch.randn(3, 160)}, words / "odd.safetensors")
    shot = ["--steps", 1, "--seed", 1]
    additions = [[], ["--lora", f"{lora}:0.05"], ["--lora", lora], ["--embeddings", words], ["--clip-skip", -2]]
    images = []
    for i, options in enumerate(additions):
        prompt = "red heart" + ", embedding:odd" * ("--embeddings" in options)
        result = run("sample", prompt, "-o", tmp_path / f"{i}.png", *shot, *options)
        assert result.exit_code == 0, result.output
        assert run("replay", tmp_path / f"{i}.png").exit_code == 0
        images.append(pixels(tmp_path / f"{i}.png").tobytes())
    assert len(set(images)) == len(images)
    lora_file(lora, strength=0.5)
    result = run("replay", tmp_path / "1.png")
    assert result.exit_code == 2
    assert "a:b.safetensors has changed since this recipe was made" in result.stderr


@few_channels
def test_unknown_embeddings_can_be_left_out(tmp_path):
    """With the flag a note, once, instead of an error; the recipe carries the flag."""
    a, b = tmp_path / "a.png", tmp_path / "b.png"
    shot = ["--steps", 1, "--seed", 1]
    result = run("sample", "red embedding:odd heart", "-o", a, *shot, "--skip-unknown-embeddings")
    assert result.exit_code == 0 and result.stderr.count("note: the prompt asks for embedding:odd") == 1
    assert run("replay", a).exit_code == 0
    assert run("sample", "red heart", "-o", b, *shot).exit_code == 0
    assert (pixels(a) == pixels(b)).all()


@few_channels
def test_a_recipe_has_its_loras_on_any_pipeline_whose_weights_are_kept(tmp_path):
    pytest.importorskip("diffusers")
    recipe = sf.Recipe("x", loras=(sf.Lora(str(lora_file(tmp_path / "a.safetensors"))),), steps=1)
    jobs = [sf.open_job(recipe, pipe) for pipe in (shipped_model(), sf.open_pipe(recipe, device="cpu"))]
    a, b = (sf.execute(job).images[0][0].tobytes() for job in jobs)
    assert a == b
    other = replace(recipe, loras=(sf.Lora(recipe.loras[0].path, 0.5),))
    with pytest.raises(ValueError, match="tiny was loaded with LoRAs in its weights: load it without them"):
        sf.open_job(other, jobs[1].pipe)


@pytest.mark.parametrize(
    "text, lora",
    [
        ("a.safetensors", sf.Lora("a.safetensors")),
        ("a.safetensors:0.5", sf.Lora("a.safetensors", 0.5)),
        ("a.safetensors:0.5:-1", sf.Lora("a.safetensors", 0.5, text_strength=-1.0)),
        ("C:\\a:b.safetensors:0.5", sf.Lora("C:\\a:b.safetensors", 0.5)),
        ("1:2:3:4", sf.Lora("1:2", 3.0, text_strength=4.0)),
        ("7", sf.Lora("7")),
    ],
)
def test_a_lora_in_a_line(text, lora):
    assert parse_lora(text) == lora


ERRORS = [
    (["--sampler", "dpmp_2m"], "unknown sampler 'dpmp_2m'; did you mean dpmpp_2m"),
    (["--schedule", "kerras"], "unknown schedule 'kerras'; did you mean karras?"),
    (["--steps", "0"], "the recipe needs 1 ≤ steps ≤ 10000; got 0"),
    (["--batch", "0"], "the recipe needs 1 ≤ batch ≤ 4096; got 0"),
    (["--denoise", "2"], "the recipe needs 0 < denoise ≤ 1; got 2"),
    (["--denoise", "0.5"], "denoise 0.5 needs an image to start from"),
    (["--seed", "-2"], "the recipe needs -1 ≤ seed ≤ 18446744073709551615; got -2"),
    (["--cfg", "nan"], "the recipe needs cfg to be finite; got nan"),
    (["--size", "64"], "size must be WIDTHxHEIGHT in pixels, such as 512x768; got '64'"),
    (["--size", "66x64"], "width must be a multiple of 4, the VAE's factor; got 66: try 64 or 68"),
    (["--image", "nowhere.png"], "no image at nowhere.png"),
    (["--image", __file__], "cannot read"),
    (["--sampler", "dpmpp_2m(eta=0.5)"], "dpmpp_2m has no parameter 'eta'"),
    (["--sampler", "euler(0.5)"], "sampler must be names with parameters, such as dpmpp_2m_sde(eta=0.5)"),
    (["--sampler", "euler(s_churn=much)"], "euler needs s_churn to be a number; got 'much'"),
    (["--sampler", "er_sde(noise_scaler=1)"], "er_sde needs noise_scaler to be a function; got 1"),
    (["--schedule", "karras(rh=5)"], "karras has no parameter 'rh'; did you mean rho?"),
    (["--noise", "pyramids"], "unknown noise 'pyramids'; did you mean pyramid?"),
    (["--stepz", "3"], "Unknown option: --stepz. Did you mean --steps?"),
    (["--steps", "many"], "--steps must be a whole number; got 'many'"),
    (["--schedule", "flux2"], "flux2 is for flows, whose noise levels end at 1; this network's go up to 14.6146"),
    (["--mask", "m.png"], "mask needs an image to start from"),
    (["--denoise-map", "m.png"], "denoise_map needs an image to start from"),
    (["--map-schedule", "owm"], 'Invalid value "owm" for --map-schedule. Choose from: "delayed", "own".'),
    (["--map-schedule", "own", "--start", "2"], "leave start_step and last_step out"),
    (["--positive-region", "apple"], "a region must be X,Y,W,H:PROMPT or X,Y,W,H:PROMPT:strength=S; got 'apple'"),
    (["--positive-region", "3,0,8,8:x"], "a region's x must be a multiple of 4, the VAE's factor; got 3"),
    (["--positive-region", "32,0,64,8:x"], "the region 32,0,64,8 is not within 64x64 pixels"),
    (["--positive-region", "0,0,8,8:x:strength=-1"], "a region needs strength ≥ 0; got -1"),
    (["--clip-skip", "0"], "the recipe needs -100 ≤ clip_skip ≤ -1; got 0"),
    (["--clip-skip", "-99"], "one of the 2 layers; got -99"),
    (["--lora", "no.safetensors:0.5"], "LoRA 'no.safetensors': no such file"),
    (["--lora", f"{__file__}:nan"], "a LoRA needs strength to be finite; got nan"),
    (["--embeddings", "nowhere"], "embeddings 'nowhere': no such directory"),
    (["--negative", "embedding:x"], "asks for embedding:x, but the model was loaded without a folder of embeddings"),
    (["--start", "20"], "start_step must be at least 0 and below last_step and steps = 20; got 20 and None"),
    (["--model", "nowhere/at/all"], "nowhere/at/all"),
    (["--device", "gpu"], "unknown device 'gpu'"),
    (["--dtype", "float61"], "unknown dtype 'float61'; did you mean float16"),
    (["-o", "nowhere/out.png"], "no folder nowhere to write out.png in"),
]


@few_channels
@pytest.mark.parametrize("options, message", ERRORS, ids=lambda v: " ".join(v) if isinstance(v, list) else "")
def test_bad_input_is_one_line_and_status_2(options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run("sample", "a red heart", *options)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []  # nothing half-written


def test_replay_and_resume_refuse_other_files(heart, tmp_path):
    plain = tmp_path / "plain.png"
    open_image(heart).save(plain)
    for command, path, message in [
        ("replay", plain, "carries no sigmafield recipe"),
        ("replay", tmp_path / "none.png", "no image at"),
        ("resume", plain, f"plain.png is an image, not a checkpoint; draw it again with: sigmafield replay {plain}"),
        ("resume", Path(__file__), "is not a safetensors file"),
        ("resume", tmp_path / "none", "no checkpoint at"),
    ]:
        result = run(command, path)
        assert result.exit_code == 2
        assert message in result.stderr


def test_lists(tmp_path):
    names = [row["name"] for row in json.loads(run("samplers", "--json").output)]
    assert {"euler", "heun", "dpmpp_2m", "dpmpp_2m_sde", "seeds_2", "dpm_adaptive"} <= set(names)
    assert "x' = " in run("samplers", "Euler a").output
    assert "did you mean euler" in run("samplers", "eular").stderr
    levels = json.loads(run("schedules", "--steps", "5", "--json").output)
    assert len(levels["karras"]) == 6
    assert run("schedules", "--plot", tmp_path / "s.png").exit_code == 0
    assert open_image(tmp_path / "s.png").size[0] > 600


def test_help_teaches():
    assert "a red heart" in run("--help").output
    text = " ".join(run("sample", "--help").output.split())
    for option in "negative sampler schedule steps cfg seed batch size model image denoise".split():
        assert f"--{option}" in text
