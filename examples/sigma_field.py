"""Redraws one half of an image with masks and denoise maps on the embedded model, and draws a quadtree over it.

    python examples/sigma_field.py field.png

It prints how visible the seam between the halves is.
"""

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import sigmafield as sf
from sigmafield.lab.tiles import draw_tiles
from sigmafield.recipes.image_io import save_png, sheet, to_tensor
from sigmafield.spatial.quadtree import leaf_denoise, quadtree

HEART = sf.Recipe("red heart", cfg=3.0, seed=1)


def seam(job: sf.Job, end: sf.State, columns: slice) -> float:
    """Mean step from column to column of the latent at the seam, over that of the whole latent: 1 = no seam."""
    steps = (end.x[..., 1:] - end.x[..., :-1]).abs().mean((0, 1, 2))
    return float(steps[columns].mean() / steps.mean())


def main(path: str) -> None:
    pipe, folder = sf.load("tiny"), Path(tempfile.mkdtemp())

    def draw(recipe: sf.Recipe) -> tuple[sf.Job, sf.State, Image.Image]:
        job = sf.open_job(recipe, pipe)
        end = sf.finish(job.run, job.start)
        return job, end, job.images(end)[0]

    _, _, heart = draw(HEART)
    heart.save(folder / "heart.png")
    hard, smooth = np.linspace(0, 1, 64) > 0.5, np.clip(np.linspace(-0.5, 1.5, 64), 0, 1)
    for name, line in (("hard", hard), ("smooth", smooth)):
        Image.fromarray((line[None].repeat(64, 0) * 255).astype(np.uint8)).save(folder / f"{name}.png")
    apple = sf.Recipe("green apple", cfg=3.0, seed=4, image=str(folder / "heart.png"))
    ways = {
        "mask": replace(apple, mask=str(folder / "hard.png")),
        "hard map": replace(apple, denoise_map=str(folder / "hard.png")),
        "smooth map, delayed": replace(apple, denoise_map=str(folder / "smooth.png")),
        "smooth map, own": replace(apple, denoise_map=str(folder / "smooth.png"), map_schedule="own"),
    }
    images = [heart]
    for name, recipe in ways.items():
        job, end, image = draw(recipe)
        images.append(image)
        print(f"{name:20s} step across the middle, over the mean step: {seam(job, end, slice(6, 9)):.2f}")
    big = heart.resize((256, 256), Image.Resampling.LANCZOS)
    pixels = to_tensor(big)[0]
    leaves = quadtree(pixels, 0.05, max_depth=4, min_size=16)
    tiles = draw_tiles(big, leaves, leaf_denoise(pixels, leaves, 0.05, 0.2, 0.8), line=1)
    images = [image.resize((256, 256), Image.Resampling.LANCZOS) for image in images]
    save_png(sheet([*images, tiles], columns=3, gap=4), path)
    print(path)


if __name__ == "__main__":
    with torch.no_grad():
        main(*sys.argv[1:])
