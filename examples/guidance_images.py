"""Draws images without and with each guidance mod that acts on the embedded model.

    python examples/guidance_images.py guidance.png

All pairs go on one sheet, and each pair also to a file of its own, guidance/NAME.png, in the folder of the sheet.
"""

import sys
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from rich.progress import track

import sigmafield as sf
from sigmafield.recipes.image_io import sheet

PROMPTS = {"dog face": 1, "strawberry": 3}
SETTINGS = {"steps": 20, "cfg": 10.0}
LINES = {
    "renorm": "renorm(renorm_cfg=1.4)",
    "apg": "apg(eta=0, form=paper)",
    "zero_star": "zero_star(space=residual)",
    "raag": "raag(alpha=4)",
    "fresca": "fresca(scale_low=0.5, freq_cutoff=3)",
    "tonemap": "tonemap(multiplier=0.3)",
    "sharpen": "sharpen(alpha=0.03)",
    "epsilon_scaling": "epsilon_scaling(scaling_factor=1.05)",
    "tsr": "tsr(tsr_k=0.8)",
    "interval": "interval(start=0.3, end=0.8)",
    "sigma_interval": "sigma_interval(low=0.5, high=4)",
    "pag": "pag(scale=10)",
    "seg": "seg(scale=10)",
    "sag": "sag(scale=3)",
    "deep_shrink": "deep_shrink(end_percent=0.6)",
    "nag": "nag(scale=20, alpha=1)",
    "easycache": "easycache(reuse_threshold=1)",
    "hypertile": "hypertile(tile_size=32, max_depth=2)",
    "tome": "tome(ratio=0.5, max_downsample=4)",
    "self_attention_multiply": "self_attention_multiply(q=1.5)",
    "cross_attention_multiply": "cross_attention_multiply(out=1.3)",
}
"""Parameters with which a mod's effect is visible; the other mods have their defaults."""

OWN: dict[str, dict[str, Any]] = {
    "perp_neg": {"negative": "red heart"},  # what it changes is a negative prompt
    "deep_shrink": {"width": 128, "height": 128, "cfg": 3.0},  # it is for more pixels than the model was trained for
    "hypertile": {"width": 128, "height": 128, "cfg": 3.0},  # with fewer there is nothing to cut
    **{name: {"cfg": 3.0} for name in ("pag", "seg", "sag", "slg", "nag", "freeu", "freeu_v2", "easycache")},
}
"""Settings of both images, for mods that are not meant for high scales."""

NOT_SHOWN = {"linear_frames", "triangle_frames", "context", "lazycache"}
"""Mods for videos and long latents, and a cache for flows: not drawn."""

ORDER = ("scale", "before", "combine", "after", "network", "against", "model", "around")
COLUMNS, SMALL, LARGE = 6, 198, 264


def card(text: str, four: Image.Image, side: int) -> Image.Image:
    """Four images under the mod's name: without the mod above, with it below."""
    out = Image.new("RGB", (side, side + 18), "white")
    out.paste(four.resize((side, side), Image.Resampling.LANCZOS), (0, 18))
    font = ImageFont.load_default(10 if len(text) < 37 * side / SMALL else 8)
    ImageDraw.Draw(out).text((side / 2, 9), text, "black", font, anchor="mm")
    return out


def save(image: Image.Image, path: Path, colours: int) -> None:
    image.quantize(colours, dither=Image.Dither.NONE).save(path, optimize=True)


def shown(pipe: sf.Pipeline) -> dict[str, str]:
    """Guidance lines by mod name, of the mods that have something to act on in the model."""
    lines = {}
    for name in sorted(sf.MODS, key=lambda name: ORDER.index(sf.MODS[name].stage)):
        line = LINES.get(name, name)
        try:
            sf.parse_mods(line).check(pipe.model.patchable())
        except ValueError as error:
            print(f"{name} is not shown: {error}")
            continue
        if name not in NOT_SHOWN:
            lines[name] = line
    return lines


def main(path: str) -> None:
    pipe, folder = sf.load("tiny"), Path(path).with_suffix("")
    folder.mkdir(exist_ok=True)

    def draw(guidance: str, own: dict[str, Any]) -> list[Image.Image]:
        return [
            sf.generate(pipe, prompt, seed=seed, guidance=guidance, **{**SETTINGS, **own})[0]
            for prompt, seed in PROMPTS.items()
        ]

    plain: dict[str, list[Image.Image]] = {}
    cards = []
    lines = shown(pipe)
    for name, line in track(lines.items(), f"{len(lines)} mods"):
        own = OWN.get(name, {})
        if str(own) not in plain:
            plain[str(own)] = draw("", own)
        cfg = f", cfg {own['cfg']:g}" if "cfg" in own else ""
        four = sheet([*plain[str(own)], *draw(line, own)], columns=2, gap=2)
        cards.append(card(line + cfg, four, SMALL))
        save(card(line + cfg, four, LARGE), folder / f"{name}.png", 128)
    save(sheet(cards, columns=COLUMNS, gap=6), Path(path), 256)
    print(path)


if __name__ == "__main__":
    main(*sys.argv[1:])
