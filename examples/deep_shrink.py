"""Draws images at twice the embedded model's size, without and with deep shrink.

python examples/deep_shrink.py shrink.png
"""

import sys

import sigmafield as sf
from sigmafield.recipes.image_io import sheet

PROMPTS = [("red heart", 1), ("red heart", 2), ("green apple", 1), ("green apple", 2)]
SIDE = 128


def main(path: str) -> None:
    pipe = sf.load("tiny")
    images = [
        sf.generate(pipe, prompt, seed=seed, steps=16, cfg=4.0, height=SIDE, width=SIDE, guidance=guidance)[0]
        for guidance in ("", "deep_shrink(end_percent=0.6)")
        for prompt, seed in PROMPTS
    ]
    sheet(images, columns=len(PROMPTS), gap=4).save(path, optimize=True)
    print(path)


if __name__ == "__main__":
    main(*sys.argv[1:])
