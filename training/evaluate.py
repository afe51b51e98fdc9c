"""Measure a model folder: retrieval of the training captions, spread over seeds, and contact sheets.

Retrieval: one image of each of --captions captions; the share whose nearest training image (or one of the five
nearest) by latent distance bears that caption. Images with a turned hue are left out of the candidates.
Spread: mean distance between the seeds of a prompt / mean distance between prompts of the same seed, in latent space.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

import sigmafield as sf
from sigmafield.models.tiny.flow import load_tiny_flow
from sigmafield.parameterization.prediction import shifted

SHEET = """red heart, cat face, rainbow, pizza, rocket, whale, grinning face, dog face, sun, green apple, strawberry,
hamburger, car, airplane, house, christmas tree, soccer ball, guitar, crown, key, ghost, octopus, fire, penguin"""
SHEET = [name.strip() for name in SHEET.split(",")]
SEEDED = ["dog face", "car", "red apple", "butterfly"]
COLOURED = ["a blue pizza", "a green dog face", "a purple car", "a red whale", "a pink octopus", "a blue strawberry",
            "a green heart", "a yellow rocket"]  # fmt: skip


def loaded(model):
    """A shipped model, or that of a folder; a transformer gets the text encoder and the VAE of the shipped one."""
    if not (Path(model) / "transformer").is_dir():
        return sf.load(model)
    shipped = Path(sf.__file__).parent / "data" / "tiny"
    return load_tiny_flow(Path(model), shipped, torch.device("cpu"), torch.float32)


class Sampler:
    """Draws latents and images; every row has a prompt and a seed of its own."""

    def __init__(self, model, sampler, schedule, steps, cfg, shift):
        self.pipe = loaded(model)
        self.sampler, self.cfg = sf.SAMPLERS[sampler], cfg
        if shift is not None:
            sampling = shifted(self.pipe.model.sampling, shift)
            self.pipe = replace(self.pipe, model=replace(self.pipe.model, sampling=sampling))
        self.schedule = schedule or self.pipe.model.schedule
        sigmas = sf.SCHEDULES[self.schedule](steps, self.pipe.model.sampling.levels)
        self.grid = sf.Grid(sigmas, self.pipe.model.sampling.process)

    def latents(self, prompts, seeds):
        """One latent per (prompt, seed)."""
        return torch.cat([self.some(prompts[i : i + 32], seeds[i : i + 32]) for i in range(0, len(prompts), 32)])

    def some(self, prompts, seeds):
        """The same for one batch."""
        height, width = self.pipe.model.size
        factor, process = self.pipe.model.latent.factor, self.grid.process
        shape = (1, self.pipe.model.latent.channels, height // factor, width // factor)
        noise = torch.cat([sf.Gaussian(s, shape).draw() for s in seeds])
        positive = self.pipe.text.encode(prompts, self.pipe.model.size)
        negative = self.pipe.text.encode([""] * len(prompts), self.pipe.model.size)
        run = sf.Run(sf.Guider(self.pipe.model, positive, negative, self.cfg), self.sampler, self.grid)
        last = sf.finish(run, process.start(self.grid.sigmas[0], noise, torch.zeros_like(noise)))
        return process.finish(self.grid.sigmas[-1], last.x)

    def images(self, latents):
        """The latents decoded to uint8 RGB."""
        y = torch.cat([self.pipe.decode(z) for z in latents.split(32)])
        return (y.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()


def distances(a, b):
    """Root mean square differences between the rows of a and b."""
    return torch.cdist(a.flatten(1), b.flatten(1)) / a[0].numel() ** 0.5


def sheet(path, images, columns, names=()):
    """A contact sheet, with the names under the images where there are some."""
    high = 64 + (14 if names else 0)
    rows = -(-len(images) // columns)
    page = Image.new("RGB", (columns * 68, rows * (high + 4)), "white")
    draw = ImageDraw.Draw(page)
    for i, image in enumerate(images):
        x, y = i % columns * 68 + 2, i // columns * (high + 4) + 2
        page.paste(Image.fromarray(image), (x, y))
        if names:
            draw.text((x, y + 65), names[i][:12], fill="black")
    page.resize((page.width * 2, page.height * 2), Image.LANCZOS).save(path)


def off_diagonal(d):
    """The mean of a square matrix without its diagonal."""
    n = len(d)
    return ((d.sum() - d.diagonal().sum()) / (n * (n - 1))).item()


def main():
    """Command line."""
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--model", default="tiny", help='"tiny" or "tiny-flow", the models in the package; or a folder')
    ap.add_argument("--data", type=Path, default=Path("data"), help="the output of prepare.py and encode_pool.py")
    ap.add_argument("--out", type=Path, default=Path("sheets"))
    ap.add_argument("--sampler", default="dpmpp_2m")
    ap.add_argument("--schedule", help="that of the model, if not given")
    ap.add_argument("--shift", type=float, help="time shift of a flow; that of the model, if not given")
    ap.add_argument("--steps", type=int, default=20)
    ap.add_argument("--cfg", type=float, default=3.0)
    ap.add_argument("--captions", type=int, default=200, help="captions of the retrieval, evenly over the list")
    ap.add_argument("--seed", type=int, default=0, help="the first seed")
    args = ap.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    sampler = Sampler(args.model, args.sampler, args.schedule, args.steps, args.cfg, args.shift)
    print(f"{args.sampler}, {sampler.schedule}, {args.steps} steps, guidance {args.cfg}")

    sheet(args.out / "prompts.png", sampler.images(sampler.latents(SHEET, [args.seed] * len(SHEET))), 8, SHEET)
    coloured = [p for p in COLOURED for _ in range(4)]
    latents = sampler.latents(coloured, [args.seed + i % 4 for i in range(len(coloured))])
    sheet(args.out / "colours.png", sampler.images(latents), 8, coloured)
    many = [p for p in SEEDED for _ in range(16)]
    seeds = [args.seed + i for _ in SEEDED for i in range(16)]
    sheet(args.out / "seeds.png", sampler.images(sampler.latents(many, seeds)), 16)

    pool = np.load(args.data / "pool.npz")
    caption = np.load(args.data / "masters.npz")["caption"][pool["master"]]
    keep = pool["word"] == ""
    known, owner = torch.from_numpy(np.load(args.data / "latents.npy")[keep]), caption[keep]

    labels = [row["caption"] for row in json.loads((args.data / "captions.json").read_text())]
    picks = np.linspace(0, len(labels) - 1, args.captions).round().astype(int)
    made = sampler.latents([labels[i] for i in picks], [args.seed + int(i) for i in picks])
    nearest = distances(made, known).topk(5, largest=False).indices.numpy()
    hits = owner[nearest] == picks[:, None]
    print(f"retrieval over {len(picks)} captions: top-1 {hits[:, 0].mean():.1%}, top-5 {hits.any(1).mean():.1%}")
    print("missed:", ", ".join(labels[i] for i, h in zip(picks, hits.any(1), strict=True) if not h))
    sheet(args.out / "retrieval.png", sampler.images(made), 20, [labels[i] for i in picks])

    some = [labels[i] for i in np.linspace(0, len(labels) - 1, 24).round().astype(int)]
    z = sampler.latents([p for p in some for _ in range(16)], [args.seed + i for _ in some for i in range(16)])
    z = z.reshape(24, 16, *z.shape[1:])
    within = np.mean([off_diagonal(distances(a, a)) for a in z])
    between = np.mean([off_diagonal(distances(z[:, i], z[:, i])) for i in range(16)])
    print(f"spread over 24 prompts x 16 seeds: {within:.3f} / {between:.3f} = {within / between:.1%}")
    rng = np.random.default_rng(0)
    drawn = torch.stack([known[rng.choice(np.where(owner == c)[0], 16)] for c in range(len(labels))])
    within = np.mean([off_diagonal(distances(a, a)) for a in drawn])
    between = np.mean([off_diagonal(distances(drawn[:, i], drawn[:, i])) for i in range(16)])
    print(f"spread of the training images: {within:.3f} / {between:.3f} = {within / between:.1%}")


if __name__ == "__main__":
    main()
