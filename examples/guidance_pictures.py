"""Each guidance mod at cfg 10, with and without it: python examples/guidance_pictures.py guidance.png."""

import sys

from PIL import Image, ImageDraw, ImageFont
from rich.progress import track

import sigmafield as sf
from sigmafield.images import sheet

PROMPTS = {"dog face": 1, "strawberry": 3}
SETTINGS = {"steps": 20, "cfg": 10.0}
MODS = (
    "rescale",
    "renorm(renorm_cfg=1.4)",
    "cfg_norm",
    "apg(eta=0, form=paper)",
    "tcfg",
    "zero_star(space=residual)",
    "mahiro",
    "raag(alpha=4)",
    "fresca(scale_low=0.5, freq_cutoff=3)",
    "tonemap(multiplier=0.3)",
    "sharpen(alpha=0.03)",
    "epsilon_scaling(scaling_factor=1.05)",
    "tsr(tsr_k=0.8)",
    "perp_neg",
    "interval(start=0.3, end=0.8)",
    "sigma_interval(low=0.5, high=4)",
    "ramp",
    "cosine_ramp",
)
NEGATIVE = {"perp_neg": "red heart"}  # what it changes is a negative prompt


def card(text: str, without: list[Image.Image], with_it: list[Image.Image]) -> Image.Image:
    """Four pictures, without the mod above and with it below, under its name."""
    four = sheet([*without, *with_it], columns=2, gap=2)
    four = four.resize((four.width * 3 // 2, four.height * 3 // 2), Image.Resampling.LANCZOS)
    out = Image.new("RGB", (four.width, four.height + 18), "white")
    out.paste(four, (0, 18))
    ImageDraw.Draw(out).text((four.width / 2, 9), text, "black", ImageFont.load_default(10), anchor="mm")
    return out


def main(path: str) -> None:
    pipe = sf.load("tiny")

    def draw(guidance: str, negative: str) -> list[Image.Image]:
        return [
            sf.generate(pipe, prompt, seed=seed, negative=negative, guidance=guidance, **SETTINGS)[0]
            for prompt, seed in PROMPTS.items()
        ]

    plain = {negative: draw("", negative) for negative in {"", *NEGATIVE.values()}}
    cards = []
    for text in track(MODS, f"{len(MODS)} mods"):
        negative = NEGATIVE.get(text, "")
        cards.append(card(text, plain[negative], draw(text, negative)))
    few_colours = sheet(cards, columns=6, gap=6).quantize(256, dither=Image.Dither.NONE)
    few_colours.save(path, optimize=True)
    print(path)


if __name__ == "__main__":
    main(*sys.argv[1:])
