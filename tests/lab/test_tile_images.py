"""Tiles over an image: frames where the boxes are, in the colour of their value."""

import xml.etree.ElementTree as ET

import pytest
from PIL import Image

from sigmafield.core.geometry import Box
from sigmafield.lab.tiles import draw_tiles, tiles_svg

BOXES, VALUES = [Box(0, 0, 4, 4), Box(0, 4, 4, 4), Box(4, 0, 4, 8)], [0.2, 0.8, 0.5]


def test_frames_are_where_the_boxes_are():
    white = Image.new("RGB", (64, 64), "white")
    out = draw_tiles(white, BOXES, VALUES, factor=8, line=2)
    assert out.getpixel((0, 0)) == (0, 0, 255) and out.getpixel((63, 0)) == (254, 0, 0)
    assert out.getpixel((1, 33)) == out.getpixel((62, 62)) == (127, 0, 127)
    assert out.getpixel((28, 28)) == (255, 255, 255) and white.getpixel((0, 0)) == (255, 255, 255)


def test_svg_has_a_frame_for_each_box():
    root = ET.fromstring(tiles_svg(Image.new("RGB", (64, 64)), BOXES, VALUES, factor=8))
    frames = root.findall("{http://www.w3.org/2000/svg}rect")
    assert [tuple(float(f.get(k)) for k in ("y", "x", "height", "width")) for f in frames] == [
        (1 + 8 * box.y, 1 + 8 * box.x, 8 * box.height - 2, 8 * box.width - 2) for box in BOXES
    ]
    assert [f[0].text for f in frames] == ["denoise 0.2", "denoise 0.8", "denoise 0.5"]


def test_each_box_needs_a_value():
    with pytest.raises(ValueError, match="got 3 boxes and 1 values"):
        draw_tiles(Image.new("RGB", (64, 64)), BOXES, [0.5])
