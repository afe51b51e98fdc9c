"""Compares Euler's sampler, DPM++ 2M and the distance samplers at equal network calls on the embedded model.

    python examples/distance.py distance.png

Each sampler is a row.
"""

import sys

import torch
from PIL import Image, ImageDraw, ImageFont

import sigmafield as sf
from sigmafield.recipes.image_io import sheet
from sigmafield.recipes.output import save_image

PROMPTS = ["red heart", "dog face", "car", "house", "strawberry", "rocket", "penguin", "hamburger"]
ROWS = {"euler": 17, "dpmpp_2m": 17, "distance": 7, "distance_n": 7, "distance_c2": 6}
"""Steps of each sampler for 17 network calls, or 16."""


def labelled(row: Image.Image, text: str) -> Image.Image:
    """The row with its name on the left."""
    out = Image.new("RGB", (row.width + 150, row.height), "white")
    out.paste(row, (150, 0))
    ImageDraw.Draw(out).multiline_text((8, row.height / 2), text, "black", ImageFont.load_default(15), anchor="lm")
    return out


@torch.no_grad()
def main(path: str) -> None:
    pipe, rows = sf.load("tiny"), []
    for sampler, steps in ROWS.items():
        images, calls = [], 0
        for seed, prompt in enumerate(PROMPTS):
            job = sf.open_job(
                sf.Recipe(prompt, sampler=sampler, schedule="beta", steps=steps, cfg=3.0, seed=seed), pipe
            )
            end = sf.finish(job.run, job.start)
            images += job.images(end)
            calls = end.nfe
        row = sheet(images, columns=len(PROMPTS), gap=2)
        row = row.resize((row.width * 3 // 2, row.height * 3 // 2), Image.Resampling.LANCZOS)
        rows.append(labelled(row, f"{sampler}\n{steps} steps\n{calls} calls"))
    save_image(sheet(rows, columns=1), path)
    print(path)


if __name__ == "__main__":
    main(*sys.argv[1:])
