"""Files that the command line writes: formats, recipes in them, and what is never replaced."""

import json
import os
import re
import stat
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

import sigmafield as sf
from command_line import run
from sigmafield.recipes.image_io import open_image
from sigmafield.recipes.output import check_format, recipe_of, save_image
from sigmafield.runs.files import OwnFile, write_new, write_whole
from small_network import few_channels, shipped_model

pytestmark = pytest.mark.usefixtures("few_channels")

FEW = ["--steps", 1, "--cfg", 1]
FORMATS = ["png", "jpg", "webp", "avif"]


def pixels(path):
    return np.asarray(open_image(path).convert("RGB")).astype(int)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def pipe():
    with few_channels():
        return shipped_model()


@pytest.fixture(scope="module")
def drawn(pipe):
    """Two images from Python, of a prompt that XML and JSON have to escape."""
    return sf.generate(pipe, 'a <red> & "blue" heart, ñ 心\n]]>', steps=1, batch=2)


@pytest.mark.parametrize("ending", FORMATS)
def test_a_file_of_each_format_carries_its_recipe(ending, tmp_path):
    out = tmp_path / f"heart.{ending}"
    assert run("sample", "a <red> heart & ñ", "-o", out, *FEW).exit_code == 0
    assert open_image(out).format == {"jpg": "JPEG"}.get(ending, ending.upper())
    assert json.loads(recipe_of(out))["recipe"]["prompt"] == "a <red> heart & ñ"
    again = run("replay", out, "--json")
    assert again.exit_code == 0 and json.loads(again.stdout)["identical"], again.output


@pytest.mark.parametrize("ending", FORMATS)
def test_an_image_from_python_carries_its_recipe_into_any_file(drawn, ending, tmp_path):
    for k, image in enumerate(drawn):
        image.save(tmp_path / f"{k}.{ending}")
        carried = json.loads(recipe_of(tmp_path / f"{k}.{ending}"))
        assert carried["image"] == k
        assert sf.Recipe.from_json(json.dumps(carried["recipe"])).prompt == 'a <red> & "blue" heart, ñ 心\n]]>'
    assert (np.asarray(drawn[0]) == np.asarray(drawn[0].copy())).all()
    drawn[1].copy().save(tmp_path / f"copy.{ending}")
    assert recipe_of(tmp_path / f"copy.{ending}") == recipe_of(tmp_path / f"1.{ending}")
    drawn[0].resize((8, 8)).save(tmp_path / f"small.{ending}")  # which the recipe does not draw
    with pytest.raises(ValueError, match="carries no sigmafield recipe"):
        recipe_of(tmp_path / f"small.{ending}")


def test_what_python_saved_is_replayed(drawn, tmp_path):
    drawn[1].save(tmp_path / "b.png")
    result = run("replay", tmp_path / "b.png")
    assert result.exit_code == 0, result.output


def test_metadata_of_ones_own_wins(drawn, tmp_path):
    drawn[0].save(tmp_path / "a.jpg", xmp=b"<mine/>", comment=b"hello")
    image = open_image(tmp_path / "a.jpg")
    assert (image.info["xmp"], image.info["comment"]) == (b"<mine/>", b"hello")


def test_an_existing_file_is_kept(tmp_path):
    """NAME_2 is written, for all files of a batch; with --overwrite the files of that name are replaced."""
    (tmp_path / "q-1.png").write_bytes(b"mine")
    result = run("sample", "x", "-o", tmp_path / "q.png", *FEW, "--batch", 2, "--json")
    assert json.loads(result.stdout)["files"] == [str(tmp_path / f"q_2{part}.png") for part in ("", "-1", "-2")]
    assert run("sample", "x", "-o", tmp_path / "q.png", *FEW).exit_code == 0
    assert run("sample", "x", "-o", tmp_path / "q.png", *FEW).exit_code == 0
    assert names(tmp_path) == ["q-1.png", "q.png", "q_2-1.png", "q_2-2.png", "q_2.png", "q_3.png"]
    assert (tmp_path / "q-1.png").read_bytes() == b"mine"
    assert run("sample", "x", "-o", tmp_path / "q.png", *FEW, "--batch", 2, "--overwrite").exit_code == 0
    assert open_image(tmp_path / "q.png").size == (132, 64)
    assert open_image(tmp_path / "q-1.png").size == (64, 64)


def test_the_input_image_is_kept(tmp_path):
    source, link = tmp_path / "in.png", tmp_path / "link.png"
    Image.new("RGB", (64, 64), "red").save(source)
    link.symlink_to(source)
    before = source.read_bytes()
    options = ["--image", source, "--denoise", 0.5, *FEW]
    for out in (source, link):
        result = run("sample", "x", "-o", out, *options)
        assert result.exit_code == 2
        assert result.stderr == f"error: {out} is an input of this image: give another -o, or --overwrite\n"
    assert source.read_bytes() == before
    assert run("sample", "x", "-o", link, *options, "--overwrite").exit_code == 0
    assert link.is_symlink() and source.read_bytes() != before


def test_only_regular_files_are_replaced(tmp_path):
    """A pipe or a device stays what it is, also if a link with the ending of an image leads to it."""
    pipe, link, folder = tmp_path / "pipe.png", tmp_path / "link.png", tmp_path / "folder.png"
    os.mkfifo(pipe)
    link.symlink_to("/dev/null")
    folder.mkdir()
    for out, message in ((pipe, "is a device or a pipe"), (link, "is a device or a pipe"), (folder, "is a folder")):
        for more in ([], ["--overwrite"]):
            result = run("sample", "x", "-o", out, *FEW, *more)
            assert result.exit_code == 2 and message in result.stderr and result.stderr.count("\n") == 1
        with pytest.raises(OSError, match=message):
            write_whole(out, b"data")
    assert stat.S_ISFIFO(os.stat(pipe).st_mode) and stat.S_ISCHR(os.stat("/dev/null").st_mode)
    assert names(tmp_path) == ["folder.png", "link.png", "pipe.png"]


REFUSED = [
    ("", ". is a folder: give the name of a file in it"),
    (".", ". is a folder"),
    ("nowhere/a.png", "no folder nowhere to write a.png in"),
    ("a", "an image file must end in one of .png, .jpg, .jpeg, .webp, .avif; a has no ending"),
    ("a.gif", "a.gif ends in '.gif'"),
    ("a.jpgg", "a.jpgg ends in '.jpgg'; did you mean .jpg"),
    ("/dev/null", "/dev/null is a device or a pipe: only regular files are replaced"),
    ("/proc/a.png", "cannot write in /proc"),
]


@pytest.mark.parametrize("out, message", REFUSED)
def test_what_cannot_be_written_is_refused_before_sampling(out, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run("sample", "x", "-o", out, "--model", "a model that is not there")
    assert result.exit_code == 2 and message in result.stderr, result.output
    assert result.stderr.count("\n") == 1
    assert names(tmp_path) == []


def test_processes_that_want_one_name_all_keep_their_files(tmp_path):
    """In threads, which take turns at any moment, as processes do."""
    data = [f"{k}".encode() * 20000 for k in range(24)]

    def write(k):
        return write_new(tmp_path / "a.png", {"": data[k], "-1": data[k] + b"1"})

    with ThreadPoolExecutor(8) as pool:
        files = list(pool.map(write, range(24)))
    assert len({file for pair in files for file in pair}) == 48 == len(names(tmp_path))
    for k, (first, second) in enumerate(files):
        assert first.read_bytes() == data[k] and second.read_bytes() == data[k] + b"1"
        assert second.name == first.name.replace(".png", "-1.png")


def test_a_run_writes_its_own_file_again_and_again(tmp_path):
    (tmp_path / "a.x").write_bytes(b"another's")
    own = OwnFile(tmp_path / "a.x")
    own.remove()
    for data in (b"one", b"two"):
        own.write(data)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a.x": b"another's", "a_2.x": b"two"}
    own.remove()
    assert names(tmp_path) == ["a.x"]


@pytest.fixture
def small_disk(tmp_path):
    """A file system with room for little more than the check before the run writes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_full_disk(small_disk, tmp_path, monkeypatch):
    """Found before sampling if it is full then; else the state is kept elsewhere, and finishes to the same image."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    options = ["--batch", 9, "--steps", 2, "--cfg", 1, "--seed", 3]
    result = run("sample", "x", "-o", small_disk / "a.png", *options)
    assert result.exit_code == 2 and "No space left on device" in result.stderr, result.output
    command = re.search(r"the state after 2 steps is kept: finish it with: sigmafield (resume \S+)", result.stderr)[1]
    assert names(small_disk) in ([], ["a.checkpoint.safetensors"])
    assert run(*command.split(), "-o", tmp_path / "a.png").exit_code == 0
    assert run("sample", "x", "-o", tmp_path / "b.png", *options).exit_code == 0
    assert (pixels(tmp_path / "a.png") == pixels(tmp_path / "b.png")).all()
    assert not list(tmp_path.rglob("*.safetensors"))
    (small_disk / "rest").write_bytes(bytes(90000))
    result = run("sample", "x", "-o", small_disk / "a.png", "--model", "a model that is not there")
    assert result.exit_code == 2
    assert result.stderr == f"error: cannot write in {small_disk}: No space left on device (64 KiB were tried)\n"
    assert names(small_disk) == ["rest"]


def test_an_image_is_written_in_the_format_of_its_name(tmp_path):
    image = Image.new("RGB", (8, 8), "red")
    for ending in FORMATS:
        save_image(image, tmp_path / f"a.{ending.upper()}")
        assert (abs(pixels(tmp_path / f"a.{ending.upper()}") - (255, 0, 0)) <= 3).all()
    with pytest.raises(ValueError, match="an image file must end in one of"):
        save_image(image, tmp_path / "a.bmp")
    with pytest.raises(ValueError, match="a JPEG holds one image and not a video"):
        save_image(image, tmp_path / "b.jpg", more=[image])
    with pytest.raises(ValueError, match="a JPEG has room for 65000 bytes of recipe"):
        check_format(tmp_path / "c.jpg", recipe=sf.Recipe("long " * 20000))
