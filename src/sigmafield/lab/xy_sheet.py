"""Images in rows and columns with the values that they were drawn with as labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont

GAP = 4
"""Pixels between two images."""

FONT_SIZE = 13
"""Size of the labels in pixels."""


def xy_sheet(
    images: Mapping[tuple[int, int], Image.Image], columns: Sequence[str], rows: Sequence[str], title: str = ""
) -> Image.Image:
    """A sheet with a label above each column, one at the left of each row, and a title.

    Args:
        images: Images by (row, column); where one is missing the sheet is empty.
        columns: Labels of the columns.
        rows: Labels of the rows; of a single row it may be "".
        title: Line above the sheet; "" for none.

    Raises:
        ValueError: There is no image.
    """
    if not images:
        raise ValueError("a sheet needs at least one image")
    font = ImageFont.load_default(FONT_SIZE)
    high = FONT_SIZE + 5
    width = max(max(image.width for image in images.values()), *(int(font.getlength(c)) + 4 for c in columns))
    height = max(image.height for image in images.values())
    left = max((int(font.getlength(label)) + 8 for label in rows if label), default=0)
    top = high * (1 + bool(title))
    wide = max(left + len(columns) * (width + GAP), int(font.getlength(title)) + 8)
    page = Image.new("RGB", (wide, top + len(rows) * (height + GAP)), "white")
    pen = ImageDraw.Draw(page)
    if title:
        pen.text((4, 2), title, fill="black", font=font)
    for k, label in enumerate(columns):
        pen.text((left + k * (width + GAP) + 2, top - high + 2), label, fill="black", font=font)
    for k, label in enumerate(rows):
        pen.text((4, top + k * (height + GAP) + height // 2 - high // 2), label, fill="black", font=font)
    for (row, column), image in images.items():
        page.paste(image.convert("RGB"), (left + column * (width + GAP), top + row * (height + GAP)))
    return page
