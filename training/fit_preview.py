"""Fit the linear map from latents of the exported model to colours, for previews, and write it into the folder."""

import argparse
import json
from pathlib import Path

import torch
from torch.nn.functional import avg_pool2d

import sigmafield as sf
from sigmafield.recipes.image_io import to_tensor


def fit(folder):
    """Rows [R, G, B] per channel, the bias, and R², over images of 48 captions that the model draws itself."""
    pipe = sf.load(folder)
    captions = json.loads((Path(folder) / "labels.json").read_text())[::4][:48]
    images = torch.cat([to_tensor(image) for image in sf.generate(pipe, captions, steps=8, cfg=3.0)])
    latents = pipe.encode(images).movedim(1, -1).reshape(-1, pipe.model.latent.channels).double()
    colours = (avg_pool2d(images, pipe.model.latent.factor) * 2 - 1).movedim(1, -1).reshape(-1, 3).double()
    with_one = torch.cat([latents, torch.ones(len(latents), 1)], 1)
    found = torch.linalg.lstsq(with_one, colours).solution
    rest = colours - with_one @ found
    rows = [[round(value, 4) for value in row] for row in found.tolist()]
    return rows[:-1], rows[-1], 1 - float(rest.var() / colours.var())


def main():
    """Command line."""
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument("folder", type=Path, nargs="?", default=Path("tiny"))
    folder = ap.parse_args().folder
    rgb, bias, share = fit(folder)
    (folder / "latent_rgb.json").write_text(json.dumps({"rgb": rgb, "rgb_bias": bias}) + "\n")
    print(f"R² {share:.3f}")


if __name__ == "__main__":
    main()
