"""Draws 24 prompts with the embedded model on one labelled sheet.

python examples/contact_sheet.py sheet.png
"""

import sys

from PIL import Image, ImageDraw, ImageFont
from rich.progress import track

import sigmafield as sf
from sigmafield.recipes.image_io import sheet
from sigmafield.recipes.output import save_image

PROMPTS = (
    "red heart,pizza,rocket,dog face,rainbow,strawberry,house,soccer ball,"
    "blue whale,hamburger,sun,cat face,fire,penguin,airplane,cactus,"
    "crown,butterfly,green apple,snowman,octopus,sunflower,automobile,tiger face"
).split(",")


def labelled(image: Image.Image, text: str) -> Image.Image:
    """The image at twice its size, with its prompt below it."""
    width, height = image.size[0] * 2, image.size[1] * 2
    card = Image.new("RGB", (width, height + 18), "white")
    card.paste(image.resize((width, height), Image.Resampling.LANCZOS))
    ImageDraw.Draw(card).text((width / 2, height + 9), text, "black", ImageFont.load_default(13), anchor="mm")
    return card


def main(path: str) -> None:
    pipe = sf.load("tiny")
    settings = {"sampler": "dpmpp_2m", "schedule": "karras", "steps": 20, "cfg": 3.0}
    cards = []
    for prompt in track(PROMPTS, "24 prompts"):
        (image,) = sf.generate(pipe, prompt, seed=len(cards), **settings)
        cards.append(labelled(image, prompt))
    save_image(sheet(cards, columns=8), path)
    print(path)


if __name__ == "__main__":
    main(*sys.argv[1:])
