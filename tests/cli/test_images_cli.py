"""What people bring to the command line: deep maps, photographs, painted layers, large files; and pasting back."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from command_line import run
from sigmafield.recipes.image_io import open_image

pytestmark = pytest.mark.usefixtures("few_channels")

SHOT = ["--steps", 3, "--cfg", 3, "--seed", 3]


def pixels(path):
    return np.asarray(open_image(path).convert("RGB")).astype(int)


def change(a, b):
    """How much each position differs."""
    return np.abs(pixels(a) - pixels(b)).max(-1)


@pytest.fixture(scope="module")
def heart(tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "heart.png"
    assert run("sample", "red heart", "-o", path, "--steps", 4, "--cfg", 3, "--seed", 1).exit_code == 0
    return path


@pytest.fixture(scope="module")
def layer(tmp_path_factory):
    """The left half painted black on a transparent layer."""
    path = tmp_path_factory.mktemp("layer") / "mask.png"
    mask = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    mask.paste((0, 0, 0, 255), (0, 0, 32, 64))
    mask.save(path)
    return path


def sample(heart, out, *options):
    ran = run("sample", "green apple", "--image", heart, "-o", out, *SHOT, *options)
    assert ran.exit_code == 0, ran.output
    return ran


def test_a_map_of_16_bits_acts_as_that_of_8_bits(heart, tmp_path):
    ramp = np.arange(64, dtype=np.uint16)[None].repeat(64, 0) * 4
    Image.fromarray(ramp.astype(np.uint8)).save(tmp_path / "8.png")
    Image.fromarray(ramp * 257).save(tmp_path / "16.png")
    Image.fromarray(ramp / np.float32(255)).save(tmp_path / "32.tiff")
    for depth in ("8.png", "16.png", "32.tiff"):
        sample(heart, tmp_path / f"out-{depth}.png", "--denoise-map", tmp_path / depth)
    assert not change(tmp_path / "out-8.png.png", tmp_path / "out-16.png.png").any()
    assert not change(tmp_path / "out-8.png.png", tmp_path / "out-32.tiff.png").any()


def test_a_photograph_is_drawn_upright(tmp_path):
    tag = Image.Exif()
    tag[0x112] = 6
    Image.new("RGB", (96, 64), "red").save(tmp_path / "photo.jpg", exif=tag)
    sample(tmp_path / "photo.jpg", tmp_path / "out.png", "--denoise", 0.3)
    assert open_image(tmp_path / "out.png").size == (64, 96)


def test_paint_on_a_layer_is_drawn_and_the_rest_kept(heart, layer, tmp_path):
    out, other = tmp_path / "out.png", tmp_path / "other.png"
    assert sample(heart, out, "--mask", layer, "--paste-back").stderr == ""
    changed = change(out, heart)
    assert changed[:, :32].mean() > 10
    assert not changed[:, 32:].any()
    sample(heart, other, "--mask", layer, "--mask-from", "inverted_alpha", "--paste-back", "--match-colours")
    changed = change(other, heart)
    assert not changed[:, :32].any()
    assert changed[:, 32:].mean() > 10
    for path in (out, other):
        assert run("replay", path).exit_code == 0


def test_a_mask_without_paint_is_said(heart, tmp_path):
    Image.new("L", (64, 64)).save(tmp_path / "empty.png")
    ran = sample(heart, tmp_path / "out.png", "--mask", tmp_path / "empty.png")
    assert ran.stderr.startswith("note: the mask keeps everything")
    assert sample(heart, tmp_path / "o.png", "--mask", tmp_path / "empty.png", "--json").stderr == ""


def test_padding_keeps_the_image_and_is_replayed(heart, tmp_path):
    out = tmp_path / "wide.png"
    sample(heart, out, "--pad", "0,0,32,0", "--mask-feather", 4, "--paste-back")
    assert open_image(out).size == (96, 64)
    assert (pixels(out)[:, :60] == pixels(heart)[:, :60]).all()
    assert run("replay", out).exit_code == 0


def test_an_image_of_any_size_is_drawn(heart, tmp_path):
    open_image(heart).crop((0, 0, 62, 61)).save(tmp_path / "odd.png")
    ran = sample(tmp_path / "odd.png", tmp_path / "out.png", "--denoise", 0.5)
    assert "note: of the image's 62x61 pixels the middle 60x60 are drawn" in " ".join(ran.stderr.split())
    assert open_image(tmp_path / "out.png").size == (60, 60)


def test_an_upscale_takes_a_mask_and_pastes_back(heart, layer, tmp_path):
    out = tmp_path / "large.png"
    options = ["--mask", layer, "--paste-back", "--denoise", 0.5, "--steps", 2, "-o", out]
    assert run("upscale", heart, "red heart", *options).exit_code == 0
    large = open_image(heart).resize((128, 128), Image.Resampling.LANCZOS)
    assert (pixels(out)[:, 72:] == np.asarray(large).astype(int)[:, 72:]).all()


def broken(path):
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(50))


def too_large(path):
    Image.new("1", (1, 1)).save(path)
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", 20000, 20000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    path.write_bytes(data)


@pytest.mark.parametrize(
    "write, options, message",
    [
        (broken, [], "cannot read"),
        (too_large, [], "has 400 million pixels, and at most 179 million are read: make it smaller first"),
        (lambda path: Image.new("L", (4, 4)).save(path), ["--mask-from", "alpha"], "needs an image with transparency"),
    ],
    ids=["broken", "too large", "no alpha"],
)
@pytest.mark.parametrize("what", ["--image", "--mask", "--denoise-map"])
def test_an_image_that_cannot_be_used_is_one_line(heart, tmp_path, what, write, options, message):
    if options and what != "--mask":
        options = [*options, "--mask", tmp_path / "bad.png"]
    write(tmp_path / "bad.png")
    image = [] if what == "--image" else ["--image", heart]
    ran = run("sample", "x", *image, what, tmp_path / "bad.png", "-o", tmp_path / "out.png", *options)
    assert ran.exit_code == 2
    assert message in ran.stderr
    assert ran.stderr.startswith("error: ") and ran.stderr.count("\n") == 1
    assert not (tmp_path / "out.png").exists()
