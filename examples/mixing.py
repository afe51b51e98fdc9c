"""Draws sources and their iterative mixing with another prompt, on the embedded model.

    python examples/mixing.py mixing.png

Columns: the source; mixing with three alphas; plain image to image over the last 16 of 20 steps. Rows: prompts and
samplers.
"""

import sys
from typing import Literal

import torch
from PIL import Image

import sigmafield as sf
from sigmafield.recipes.image_io import sheet
from sigmafield.recipes.output import save_image
from sigmafield.runs.blends import blending_weights
from sigmafield.runs.level_noise import KeyedLevels
from sigmafield.runs.mixing import Mixing

ALPHAS = (0.1, 0.3, 1.0)
STEPS, CFG = 20, 3.0
ROWS: list[tuple[str, str, str, Literal["after", "next"]]] = [
    ("red heart", "green apple", "euler", "next"),
    ("red heart", "green apple", "euler", "after"),
    ("dog face", "cat face", "dpmpp_2m", "next"),
    ("car", "bus", "distance", "next"),
]


@torch.no_grad()
def main(path: str) -> None:
    pipe, images = sf.load("tiny"), []

    def latent(prompt: str, seed: int) -> tuple[torch.Tensor, sf.Job]:
        job = sf.open_job(sf.Recipe(prompt, steps=STEPS, cfg=CFG, seed=seed), pipe)
        return sf.finish(job.run, job.start).x, job

    for seed, (before, after, sampler, align) in zip((1, 1, 2, 3), ROWS):
        source, first = latent(before, seed)
        job = sf.open_job(sf.Recipe(after, sampler=sampler, steps=STEPS, cfg=CFG, seed=seed), pipe)
        assert isinstance(job.run, sf.Run)  # a recipe without mixing or phases
        images += first.images(sf.State(0, source))
        for alpha in ALPHAS:
            c = blending_weights("cosine", STEPS, alpha_1=alpha)
            mixing = Mixing(job.run, KeyedLevels([seed], source.shape), c, align=align)
            images += job.images(sf.finish(mixing, source))
        tail = job.run.grid.sigmas[STEPS - 16 :]
        run = sf.Run(job.run.denoise, job.run.sampler, sf.Grid(tail, job.run.grid.process))
        noise = KeyedLevels([seed], source.shape)(0, 0)
        images += job.images(sf.finish(run, source + float(tail[0]) * noise))
    out = sheet(images, columns=2 + len(ALPHAS), gap=2)
    save_image(out.resize((out.width * 2, out.height * 2), Image.Resampling.LANCZOS), path)
    print(path)


if __name__ == "__main__":
    main(*sys.argv[1:])
