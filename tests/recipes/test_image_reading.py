"""Images of every kind of file: nothing is cut off, turned or guessed, and what cannot be read is one clear error."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sigmafield.recipes.image_io import decoded, decoded_frames, open_image, to_mask, to_rgb, to_tensor


def stored(image, kind, **options):
    """An image after it was written to a file and read again."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return decoded(buffer.getvalue(), "file")


def tiff(pixels, number):
    """A TIFF of grey pixels as another program writes it; number: 1 unsigned, 2 signed, 3 floating point."""
    (height, width), data = pixels.shape, pixels.tobytes()
    tags = {256: width, 257: height, 258: 8 * pixels.itemsize, 259: 1, 262: 1, 273: 8, 277: 1, 278: height}
    tags |= {279: len(data), 339: number}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    body = struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + bytes(4)
    return decoded(b"II*\0" + body, "tiff")


def grey(value, dtype):
    return np.full((6, 5), value, dtype)


DEEP = {
    "16-bit PNG": (lambda v: stored(Image.fromarray(grey(v * 65535, np.uint16)), "PNG"), 1 / 65535),
    "16-bit TIFF": (lambda v: stored(Image.fromarray(grey(v * 65535, np.uint16)), "TIFF"), 1 / 65535),
    "16 bits in 32, TIFF": (lambda v: stored(Image.fromarray(grey(v * 65535, np.int32)), "TIFF"), 1 / 65535),
    "signed 16-bit TIFF": (lambda v: tiff(grey(v * 32767, np.int16), 2), 1 / 32767),
    "signed 32-bit TIFF": (lambda v: stored(Image.fromarray(grey(v * (2**31 - 1), np.int32)), "TIFF"), 1e-6),
    "unsigned 32-bit TIFF": (lambda v: tiff(grey(v * (2**32 - 1), np.uint32), 1), 1e-6),
    "float TIFF": (lambda v: stored(Image.fromarray(grey(v, np.float32)), "TIFF"), 1e-6),
    "float of 8 bits": (lambda v: stored(Image.fromarray(grey(v * 255, np.float32)), "TIFF"), 1e-6),
    "10-bit PGM": (lambda v: decoded(b"P5 5 6 1023\n" + grey(v * 1023, ">u2").tobytes(), "pgm"), 1 / 1023),
    "8-bit PNG": (lambda v: stored(Image.fromarray(grey(v * 255, np.uint8)), "PNG"), 1 / 255),
}


@pytest.mark.parametrize("kind", DEEP)
@pytest.mark.parametrize("value", [0.1, 0.5, 1.0])
def test_grey_values_are_scaled_by_what_their_file_can_hold(kind, value):
    make, step = DEEP[kind]
    image = make(value)
    assert to_mask(image).shape == (1, 6, 5)
    assert to_tensor(image).shape == (1, 3, 6, 5)
    for found in (to_mask(image), to_tensor(image)):
        assert (found - value).abs().max() <= max(step, 1e-6)
    assert np.abs(np.asarray(to_rgb(image)) / 255 - value).max() <= 1 / 255


def test_a_deep_ramp_keeps_all_of_its_levels():
    ramp = np.arange(1024, dtype=np.uint16).reshape(32, 32) * 64
    assert len(to_mask(stored(Image.fromarray(ramp), "PNG")).unique()) == 1024


@pytest.mark.parametrize(
    "image, message",
    [
        (lambda: tiff(grey(-5, np.int32), 2), r"grey values must be at least 0; got -5 … -5"),
        (lambda: stored(Image.fromarray(grey(1e9, np.float32)), "TIFF"), r"must be 0 … 1, 0 … 255 or 0 … 65535"),
        (lambda: stored(Image.fromarray(grey(np.nan, np.float32)), "TIFF"), r"got nan … nan"),
    ],
)
def test_grey_values_of_no_known_range_are_refused(image, message):
    for read in (to_mask, to_tensor):
        with pytest.raises(ValueError, match=message):
            read(image())


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_the_orientation_in_exif_data_is_applied(orientation, kind):
    """The image is stored as a camera does: turned and mirrored by the inverse of what its tag says."""
    upright = np.zeros((16, 24, 3), np.uint8)
    upright[:8, :12], upright[8:, 12:] = (255, 0, 0), (0, 0, 255)
    undo = {1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud}
    undo |= {5: lambda a: a.transpose(1, 0, 2), 6: lambda a: np.rot90(a, 1)}
    undo |= {7: lambda a: np.rot90(a.transpose(1, 0, 2), 2), 8: lambda a: np.rot90(a, -1)}
    exif = Image.Exif()
    exif[0x112] = orientation
    image = stored(Image.fromarray(np.ascontiguousarray(undo[orientation](upright))), kind, exif=exif)
    assert image.size == (24, 16)
    assert np.abs(np.asarray(to_rgb(image)).astype(int) - upright).mean() < 20 * (kind != "PNG") + 1


def layer(paint, alpha=255, ground=(0, 0, 0, 0)):
    """A layer with its left half painted."""
    image = Image.new("RGBA", (8, 8), ground)
    image.paste((*paint, alpha), (0, 0, 4, 8))
    return image


LEFT = torch.zeros(1, 8, 8)
LEFT[..., :4] = 1


@pytest.mark.parametrize(
    "image",
    [
        layer((0, 0, 0)),
        layer((255, 255, 255)),
        layer((200, 10, 10)),
        layer((0, 0, 0), ground=(255, 255, 255, 0)),
        layer((0, 0, 0)).convert("LA"),
        layer((255, 0, 0)).convert("RGBa"),
        stored(layer((0, 0, 0)), "PNG"),
        stored(layer((90, 90, 90)), "WEBP"),
        layer((255, 0, 0)).quantize(4),
    ],
    ids="black white red black-on-clear-white grey premultiplied png webp palette".split(),
)
def test_a_mask_that_was_painted_on_a_layer_is_its_alpha(image):
    assert torch.equal(to_mask(image), LEFT)
    assert torch.equal(to_mask(image, "alpha"), LEFT)
    assert torch.equal(to_mask(image, "inverted_alpha"), 1 - LEFT)  # as ComfyUI's LoadImage reads it


def test_half_a_stroke_is_half_a_mask():
    assert torch.equal(to_mask(layer((0, 0, 0), alpha=51)), LEFT * 0.2)


def test_a_mask_in_black_and_white_is_its_brightness_whatever_its_alpha():
    mask = Image.fromarray((LEFT[0].numpy() * 255).astype(np.uint8))
    for kind in ("L", "RGB", "RGBA", "P", "1", "CMYK", "LA", "F", "I"):
        assert torch.equal(to_mask(mask.convert(kind)), LEFT), kind
    veil = mask.convert("RGBA")
    veil.putalpha(100)
    assert torch.equal(to_mask(veil), LEFT)
    assert torch.equal(to_mask(mask.convert("RGBA"), "brightness"), LEFT)


def test_transparent_parts_of_a_mask_in_two_colours_are_not_painted():
    image = layer((255, 255, 255))
    image.paste((0, 0, 0, 255), (0, 0, 2, 8))
    expected = LEFT.clone()
    expected[..., :2] = 0
    assert torch.equal(to_mask(image), expected)


def test_alpha_of_an_image_without_transparency_is_refused():
    with pytest.raises(ValueError, match=r"mask_from 'alpha' needs an image with transparency; this one, L, has none"):
        to_mask(Image.new("L", (4, 4)), "alpha")


@pytest.mark.parametrize("mode", "1 L LA La P PA RGB RGBA RGBa RGBX CMYK YCbCr LAB HSV I F I;16 I;16B".split())
def test_every_mode_is_read(mode):
    image = Image.new(mode, (7, 5))
    assert to_tensor(image).shape == (1, 3, 5, 7)
    assert to_mask(image).shape == (1, 5, 7)
    assert to_rgb(image).mode == "RGB"


def huge():
    """A PNG whose header says 20000 x 20000."""
    buffer = io.BytesIO()
    Image.new("1", (1, 1)).save(buffer, "PNG")
    data = bytearray(buffer.getvalue())
    data[16:24] = struct.pack(">II", 20000, 20000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


def test_an_image_with_too_many_pixels_is_refused():
    with pytest.raises(ValueError, match=r"big.png has 400 million pixels, and at most 179 million are read"):
        decoded(huge(), "big.png")


def test_pages_and_frames(tmp_path):
    pages = [Image.new("L", (6, 4), level) for level in (10, 20, 30)]
    for kind in ("TIFF", "GIF", "PNG", "WEBP"):
        buffer = io.BytesIO()
        pages[0].save(buffer, kind, save_all=True, append_images=pages[1:])
        found = decoded_frames(buffer.getvalue(), kind)
        assert [frame.size for frame in found] == [(6, 4)] * 3, kind
        assert decoded(buffer.getvalue(), kind).size == (6, 4)
    camera = io.BytesIO()  # its second image is a preview
    pages[0].save(camera, "MPO", save_all=True, append_images=pages[1:])
    assert len(decoded_frames(camera.getvalue(), "MPO")) == 1


def test_paths_that_cannot_be_read(tmp_path):
    with pytest.raises(FileNotFoundError, match="no image at"):
        open_image(tmp_path / "none.png")
    with pytest.raises(ValueError, match="cannot read .* as an image"):
        open_image(tmp_path)


def samples():
    """Small files of many kinds, to be damaged."""
    image = Image.effect_noise((9, 7), 60)
    found = []
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "TGA", "ICO", "JPEG2000"):
        buffer = io.BytesIO()
        image.save(buffer, kind)
        found.append(buffer.getvalue())
    return found


@given(st.binary(max_size=200) | st.tuples(st.sampled_from(samples()), st.data()))
@settings(max_examples=150, deadline=None)
def test_any_bytes_are_an_image_or_a_value_error(given_):
    data = given_
    if isinstance(given_, tuple):
        whole, draw = bytearray(given_[0]), given_[1]
        for _ in range(draw.draw(st.integers(0, 4))):
            whole[draw.draw(st.integers(0, len(whole) - 1))] = draw.draw(st.integers(0, 255))
        data = bytes(whole[: draw.draw(st.integers(0, len(whole)))])
    for read in (decoded, decoded_frames):
        try:
            found = read(data, "x")
        except ValueError as error:
            assert str(error).startswith(("cannot read x as an image", "x has "))  # noqa: PT017
            continue
        for image in found if isinstance(found, list) else [found]:
            assert to_rgb(image).mode == "RGB"
