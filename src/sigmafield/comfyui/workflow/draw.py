"""The graph of a workflow as an image: nodes as boxes with their values, links in the colours of their types."""

from __future__ import annotations

import colorsys
import textwrap
import zlib
from collections.abc import Mapping
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from sigmafield.comfyui.workflow.classes import Classes
from sigmafield.comfyui.workflow.page import SLOT, WIDGET
from sigmafield.comfyui.workflow.scene import TITLE, Row, Scene, Shape, scene_of

BACKGROUND, TEXT, FAINT, FIELD = "#1f2023", "#e6e6e6", "#9a9da3", "#26282c"
BODIES = {"node": "#34363b", "note": "#5b5430", "muted": "#2a2b2e", "bypassed": "#463055"}
BARS = {"node": "#44474e", "note": "#6d6438", "muted": "#303134", "bypassed": "#573b69"}

HUES = {
    "MODEL": "#b6a0e8", "CLIP": "#f2cf3b", "VAE": "#f27878", "CONDITIONING": "#f0a64a", "LATENT": "#ee8fe6",
    "IMAGE": "#6ab4f0", "MASK": "#7fc88a", "CONTROL_NET": "#67d6c3", "SIGMAS": "#c9dd6a", "SAMPLER": "#d0b08c",
    "GUIDER": "#8fd6ee", "NOISE": "#b0b0b0", "INT": "#8fb0c8", "FLOAT": "#9ac0a0", "STRING": "#8fc29b",
}  # fmt: skip
"""Colours of links and slots by type; other types have one that their name decides."""

MARGIN, MOST, FINE = 40, 4096, 2
"""Pixels around the graph, at most on a side of the image, and drawn for each pixel and side."""


def draw(page: Mapping[str, Any], classes: Classes) -> Image.Image:
    """The graph of a workflow, with the positions of the file; at most 4096 pixels on a side.

    Args:
        page: A workflow of ComfyUI's page; of a prompt `to_page` makes one.
        classes: Entries of `/object_info`, which say the names of values.

    Raises:
        ValueError: It is not a workflow, or has no nodes.
    """
    scene = scene_of(page, classes)
    if not scene.shapes:
        raise ValueError("the workflow has no nodes to draw")
    boxes = [shape.box for shape in scene.shapes] + [box for box, _ in scene.groups]
    left, top = min(box.x for box in boxes) - MARGIN, min(box.y for box in boxes) - MARGIN - TITLE
    width = max(box.x + box.width for box in boxes) + MARGIN - left
    height = max(box.y + box.height for box in boxes) + MARGIN - top
    scale = min(1.0, MOST / max(width, height))
    pen = Pen(left, top, width, height, scale * FINE)
    _draw(pen, scene)
    return pen.image.reduce(FINE)


class Pen:
    """Draws on an image in the coordinates of ComfyUI's page."""

    def __init__(self, left: float, top: float, width: float, height: float, scale: float):
        self.left, self.top, self.scale = left, top, scale
        self.image = Image.new("RGB", (max(1, round(width * scale)), max(1, round(height * scale))), BACKGROUND)
        self._draw = ImageDraw.Draw(self.image)
        self._fonts: dict[float, ImageFont.FreeTypeFont | ImageFont.ImageFont] = {}

    def at(self, x: float, y: float) -> tuple[float, float]:
        """A point in pixels of the image."""
        return (x - self.left) * self.scale, (y - self.top) * self.scale

    def box(self, x: float, y: float, width: float, height: float, fill: str | None, line: str | None = None) -> None:
        """A rectangle with round corners."""
        corners = (*self.at(x, y), *self.at(x + max(width, 1), y + max(height, 1)))
        self._draw.rounded_rectangle(corners, radius=5 * self.scale, fill=fill, outline=line)

    def dot(self, x: float, y: float, fill: str) -> None:
        """A slot."""
        self._draw.ellipse((*self.at(x - 5, y - 5), *self.at(x + 5, y + 5)), fill=fill)

    def curve(self, start: tuple[float, float], end: tuple[float, float], fill: str) -> None:
        """A link, a Bézier curve that leaves to the right and arrives from the left."""
        (x0, y0), (x3, y3) = start, end
        pull = max(30.0, min(abs(x3 - x0) / 2, 150.0))
        points = []
        for k in range(33):
            t = k / 32
            a, b, c, d = (1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3
            points.append(self.at(a * x0 + b * (x0 + pull) + c * (x3 - pull) + d * x3, (a + b) * y0 + (c + d) * y3))
        self._draw.line(points, fill=fill, width=max(1, round(2.5 * self.scale)), joint="curve")

    def text(self, x: float, y: float, text: str, room: float, fill: str = TEXT, anchor: str = "lm") -> None:
        """One line, cut to its room in pixels of the page."""
        font = self._font(13.0)
        shown = text.replace("\n", " ")
        if font.getlength(shown) > room * self.scale:
            while shown and font.getlength(shown + "…") > room * self.scale:
                shown = shown[: -max(1, len(shown) // 16)]
            shown += "…"
        self._draw.text(self.at(x, y), shown, fill=fill, font=font, anchor=anchor)

    def paragraph(self, x: float, y: float, text: str, room: tuple[float, float]) -> None:
        """Several lines, wrapped and cut to their room."""
        letters = max(4, int(room[0] / 6.4))
        lines = [line for part in text.splitlines() for line in textwrap.wrap(part, letters) or [""]]
        count = max(1, int(room[1] / 16))
        if len(lines) > count:
            lines = [*lines[: count - 1], lines[count - 1] + " …"]
        for k, line in enumerate(lines):
            self.text(x, y + 16 * k + 8, line, room[0])

    def _font(self, size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
        if size not in self._fonts:
            self._fonts[size] = ImageFont.load_default(size=max(1.0, size * self.scale))
        return self._fonts[size]


def _draw(pen: Pen, scene: Scene) -> None:
    for box, title in scene.groups:
        pen.box(box.x, box.y, box.width, box.height, "#27292e", "#3c4048")
        pen.text(box.x + 10, box.y + 16, title, box.width - 20, FAINT)
    for start, end, kind in scene.links:
        pen.curve(start, end, hue(kind))
    for shape in scene.shapes:
        _node(pen, shape)
    for start, end, kind in scene.links:
        pen.dot(*start, hue(kind))
        pen.dot(*end, hue(kind))


def _node(pen: Pen, shape: Shape) -> None:
    box = shape.box
    pen.box(box.x, box.y - TITLE, box.width, box.height + TITLE, BODIES[shape.kind], "#17181a")
    pen.box(box.x, box.y - TITLE, box.width, TITLE, BARS[shape.kind])
    suffix = {"muted": " (muted)", "bypassed": " (bypassed)"}.get(shape.kind, "")
    pen.text(box.x + 10, box.y - TITLE / 2, shape.title + suffix, box.width - 20)
    half = box.width / 2 - 14 if shape.inputs and shape.outputs else box.width - 24
    for k, (name, kind) in enumerate(shape.inputs):
        pen.dot(box.x, box.y + SLOT * (k + 0.5), hue(kind))
        pen.text(box.x + 12, box.y + SLOT * (k + 0.5), name, half, FAINT)
    for k, (name, kind) in enumerate(shape.outputs):
        pen.dot(*shape.output_at(k), hue(kind))
        pen.text(box.x + box.width - 12, box.y + SLOT * (k + 0.5), name, half, FAINT, "rm")
    y = shape.rows_top
    for row in shape.rows:
        if y + WIDGET > box.y + box.height + 12:
            break
        _widget(pen, shape, row, y)
        y += row.height


def _widget(pen: Pen, shape: Shape, row: Row, y: float) -> None:
    box = shape.box
    height = min(row.height, box.y + box.height - y) - 4
    if shape.kind != "note":
        pen.box(box.x + 8, y, box.width - 16, max(height, WIDGET - 4), FIELD)
    if row.height > WIDGET:
        pen.paragraph(box.x + 14, y + 3, row.text, (box.width - 28, height - 6))
        return
    middle, half = y + (WIDGET - 4) / 2, (box.width - 36) / 2
    pen.text(box.x + 14, middle, row.name, half if row.text else 2 * half, FAINT)
    value = "linked" if row.linked else row.text
    room = half if row.name else 2 * half
    pen.text(box.x + box.width - 14, middle, value, room, FAINT if row.linked else TEXT, "rm")


def hue(kind: str) -> str:
    """The colour of a type."""
    if kind in HUES:
        return HUES[kind]
    share = zlib.crc32(kind.encode()) / 2**32
    red, green, blue = (round(255 * part) for part in colorsys.hls_to_rgb(share, 0.68, 0.45))
    return f"#{red:02x}{green:02x}{blue:02x}" if kind != "*" else "#a8a8a8"
