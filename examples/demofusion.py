"""Draws images at four times the embedded model's size in four ways.

    python examples/demofusion.py demofusion.png

Columns: its 64x64 image enlarged by Lanczos; DemoFusion with the paper's parameters; DemoFusion that stays closer
to the previous phase (cosine_scale_1 = 0.3); plain sampling at 256x256. Takes some minutes on a CPU.
"""

import sys

import torch
from PIL import Image, ImageDraw, ImageFont

import sigmafield as sf
from sigmafield.recipes.image_io import sheet

SCALE, GAP = 4, 4
ROWS = {"red heart": 1, "dog face": 2, "green apple": 3}
WAYS = {
    "DemoFusion": sf.DemoFusion(SCALE),
    "DemoFusion, cosine_scale_1=0.3": sf.DemoFusion(SCALE, cosine_scale_1=0.3),
}
TITLES = ["Lanczos", *WAYS, "plain sampling"]


def titled(page: Image.Image) -> Image.Image:
    """The page with a title above each column."""
    out = Image.new("RGB", (page.width, page.height + 22), "white")
    out.paste(page, (0, 22))
    step = (page.width + GAP) / len(TITLES)
    for k, title in enumerate(TITLES):
        middle = (k * step + (step - GAP) / 2, 11)
        ImageDraw.Draw(out).text(middle, title, "black", ImageFont.load_default(14), anchor="mm")
    return out


@torch.no_grad()
def main(path: str) -> None:
    pipe = sf.load("tiny")
    images = []
    for prompt, seed in ROWS.items():
        settings = {"steps": 20, "cfg": 3.0, "seed": seed}
        [small] = sf.generate(pipe, prompt, **settings)
        ends = [sf.generate(pipe, prompt, demofusion=way, **settings)[0] for way in WAYS.values()]
        size = ends[0].size
        [plain] = sf.generate(pipe, prompt, width=size[0], height=size[1], **settings)
        images += [small.resize(size, Image.Resampling.LANCZOS), *ends, plain]
    page = titled(sheet(images, columns=len(TITLES), gap=GAP))
    page.quantize(palette=page.quantize(256, kmeans=2)).save(path, optimize=True)  # with a palette it is dithered
    print(path)


if __name__ == "__main__":
    main(*sys.argv[1:])
