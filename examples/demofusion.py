"""Four times the embedded model's size, in four ways: python examples/demofusion.py demofusion.png.

Columns: its 64x64 picture enlarged by Lanczos; DemoFusion with the paper's parameters; DemoFusion that holds on to the
phase before, cosine_scale_1 = 0.3; plain sampling at 256x256. Some minutes on a CPU.
"""

import sys

import torch
from PIL import Image

import sigmafield as sf
from sigmafield.demofusion import DemoFusion, open_demofusion
from sigmafield.images import save_png, sheet
from sigmafield.models.running import tiled_pictures

SCALE = 4
ROWS = {"red heart": 1, "dog face": 2, "green apple": 3}
WAYS = [DemoFusion(SCALE), DemoFusion(SCALE, cosine_scale_1=0.3)]


@torch.no_grad()
def main(path: str) -> None:
    pipe = tiled_pictures(sf.load("tiny"))
    pictures = []
    for prompt, seed in ROWS.items():
        recipe = sf.Recipe(prompt, steps=20, cfg=3.0, seed=seed)
        ends = []
        for way in WAYS:
            demo = open_demofusion(recipe, pipe, way)
            ends.append([demo.pictures(state)[0] for _, state in demo.phases()])
        large = ends[0][-1].size
        [plain] = sf.generate(pipe, prompt, steps=20, cfg=3.0, seed=seed, width=large[0], height=large[1])
        pictures += [ends[0][0].resize(large, Image.Resampling.LANCZOS), *(pngs[-1] for pngs in ends), plain]
    save_png(sheet(pictures, columns=2 + len(WAYS), gap=4), path)
    print(path)


if __name__ == "__main__":
    main(*sys.argv[1:])
