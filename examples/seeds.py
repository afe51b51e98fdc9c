"""Draws sixteen seeds of four prompts, one row per prompt.

python examples/seeds.py seeds.png
"""

import sys

import sigmafield as sf
from sigmafield.recipes.image_io import sheet
from sigmafield.recipes.output import save_image

PROMPTS = ["red heart", "dog face", "car", "house"]


def main(path: str) -> None:
    pipe = sf.load("tiny")
    rows = [sf.generate(pipe, prompt, steps=20, cfg=3.0, seed=1, batch=16) for prompt in PROMPTS]
    save_image(sheet([image for row in rows for image in row], columns=16, gap=2), path)
    print(path)


if __name__ == "__main__":
    main(*sys.argv[1:])
