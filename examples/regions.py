"""Draws regions, inpainting masks and a sweep of denoise on the embedded model.

python examples/regions.py regions.png
"""

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

import sigmafield as sf
from sigmafield.recipes.image_io import sheet
from sigmafield.recipes.output import save_image

PLAIN = sf.Recipe("red heart", cfg=3.0, seed=1)


def main(path: str) -> None:
    pipe, folder = sf.load("tiny"), Path(tempfile.mkdtemp())

    def draw(recipe: sf.Recipe) -> Image.Image:
        job = sf.open_job(recipe, pipe)
        return job.images(sf.finish(job.run, job.start))[0]

    def saved(drawn: Image.Image, name: str) -> str:
        drawn.save(folder / name)
        return str(folder / name)

    heart = draw(PLAIN)
    image = saved(heart, "heart.png")
    ramp = np.clip(np.linspace(-0.5, 1.5, 64), 0, 1)[None].repeat(64, 0)
    hard = saved(Image.fromarray((np.round(ramp) * 255).astype(np.uint8)), "hard.png")
    soft = saved(Image.fromarray((ramp * 255).astype(np.uint8)), "soft.png")
    apple = sf.Recipe("green apple", cfg=3.0, seed=4, image=image)
    left = [
        heart,
        draw(replace(PLAIN, regions=(sf.Region("green apple", 32, 0, 32, 64, strength=2.0),))),
        draw(replace(apple, mask=hard)),
        draw(replace(apple, mask=soft)),
    ]
    sweep = [draw(replace(apple, denoise=denoise)) for denoise in (0.4, 0.6, 0.8, 1.0)]
    all_of_them = sheet([*left, *sweep], columns=4, gap=2)
    save_image(all_of_them.resize((all_of_them.width * 3, all_of_them.height * 3), Image.Resampling.LANCZOS), path)
    print(path)


if __name__ == "__main__":
    main(*sys.argv[1:])
