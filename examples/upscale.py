"""Enlarges images of the embedded model to four times their size.

    python examples/upscale.py upscale.png

Columns: the image; enlarged only; redrawn in tiles with one denoise strength; redrawn with strengths from a quadtree,
which is drawn on top. It prints how sharp edges and how rough smooth areas have become.
"""

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image

import sigmafield as sf
from sigmafield.lab.tiles import draw_tiles, tiles_of
from sigmafield.recipes.image_io import sheet, to_tensor
from sigmafield.recipes.inputs import read_inputs
from sigmafield.recipes.output import save_image

SCALE, SIDE = 4, 256
SUBJECTS = {"red heart": 1, "rocket": 2}


def slopes(image: Image.Image) -> torch.Tensor:
    """Length of the step to the next pixel (right and down) of the grey image, in 0 … 255."""
    grey = 255 * to_tensor(image).mean(1)[0]
    return torch.hypot(grey[1:, 1:] - grey[1:, :-1], grey[1:, 1:] - grey[:-1, 1:])


def measured(image: Image.Image, plain: Image.Image, small: Image.Image) -> str:
    """Steepness of edges, roughness of smooth areas, and distance from the small image."""
    before, after = slopes(plain), slopes(image)
    edge = F.max_pool2d(before[None], 9, stride=1, padding=4)[0]
    steep = F.max_pool2d(after[None], 9, stride=1, padding=4)[0][edge > 30].mean() / edge[edge > 30].mean()
    away = (to_tensor(image.resize(small.size, Image.Resampling.BOX)) - to_tensor(small)).abs().mean()
    return f"edges {steep:.2f} times as steep, roughness of smooth parts {after[edge < 6].mean():.2f}, " + (
        f"made small again {255 * away:.1f} of 255 from the input"
    )


def main(path: str) -> None:
    pipe, folder, rows = sf.load("tiny"), Path(tempfile.mkdtemp()), []
    for subject, seed in SUBJECTS.items():
        [small] = sf.generate(pipe, subject, cfg=3.0, seed=seed)
        small.save(folder / "small.png")
        plain = small.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
        tiles = sf.Tiling(tile=64, overlap=32)
        uniform = sf.Recipe(
            subject, cfg=3.0, seed=1, image=str(folder / "small.png"), scale=float(SCALE), tiling=tiles, denoise=0.28
        )
        detail = sf.Detail(threshold=0.1, depth=5, smallest=8)
        ways = {"uniform": uniform, "auto": replace(uniform, denoise_map="auto", min_denoise=0.08, detail=detail)}
        print(f"{subject}, plain: {measured(plain, plain, small)}")
        images = [small.resize((SIDE, SIDE), Image.Resampling.NEAREST), plain]
        for name, recipe in ways.items():
            recipe, inputs = read_inputs(recipe)
            job = sf.open_job(recipe, pipe, inputs)
            end = sf.finish(job.run, job.start)
            [image] = job.images(end)
            spent, whole = job.rows(end)
            print(f"{subject}, {name}: {spent} of {whole} network rows; {measured(image, plain, small)}")
            images.append(image)
        rows += [*images, draw_tiles(*tiles_of(job, inputs), line=1)]
    save_image(sheet(rows, columns=5), path)
    print(path)


if __name__ == "__main__":
    with torch.no_grad():
        main(*sys.argv[1:])
