"""Encode the pool of images into latents with the trained autoencoder: data/latents.npy."""

import argparse
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL


@torch.no_grad()
def main():
    """Command line."""
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument("--data", type=Path, default=Path("data"))
    ap.add_argument("--vae", type=Path, default=Path("vae"))
    args = ap.parse_args()
    vae = AutoencoderKL.from_pretrained(args.vae).to(memory_format=torch.channels_last)
    pool = np.load(args.data / "pool.npz")["rgb"]
    out = np.empty((len(pool), 4, 16, 16), np.float32)
    for i in range(0, len(pool), 64):
        x = torch.from_numpy(pool[i : i + 64]).permute(0, 3, 1, 2).float() / 127.5 - 1
        out[i : i + 64] = vae.encode(x.contiguous(memory_format=torch.channels_last)).latent_dist.mean
    np.save(args.data / "latents.npy", out)
    print(out.shape, "mean", out.mean((0, 2, 3)).round(3), "deviation", out.std((0, 2, 3)).round(3))


if __name__ == "__main__":
    main()
