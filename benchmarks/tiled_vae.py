"""What the ways to decode a large image cost and change, on the embedded model's VAE.

For each size and each way: the largest difference of a colour's mean level from that of the whole decode, the mean
difference of a pixel, both of 255, the peak of the process's memory above what it had before, and the seconds. Each is
measured in a process of its own; the latent is that of a drawing of the documentation, enlarged.

    python benchmarks/tiled_vae.py [SIDE …]
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from importlib.resources import files
from pathlib import Path
from typing import Any

import cyclopts
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import sigmafield as sf
from sigmafield.models.vae.tiled import tiled_decode, tiled_encode
from sigmafield.recipes.image_io import to_tensor

DRAWING = Path(__file__).parent.parent / "docs" / "images" / "upscale.png"
WAYS = ("whole", "exact", "pooled", "estimated", "diffusers")
TILE, PAD = 32, 11
app = cyclopts.App(help=__doc__)


def resident() -> float:
    """MiB of memory that this process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def theirs(tile: int) -> Any:
    """The same VAE in diffusers, with its own tiling."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(str(files("sigmafield") / "data" / "tiny" / "vae")).eval()
    vae.enable_tiling()
    vae.tile_latent_min_size, vae.tile_sample_min_size = tile, 4 * tile
    return vae


@app.command(show=False)
@torch.no_grad()
def child(way: str, folder: Path) -> None:
    """Decode in one way, write the image and print what it took."""
    z = load_file(folder / "latent.safetensors")["z"]
    vae: Any = theirs(TILE) if way == "diffusers" else sf.load("tiny", device="cpu").vae.module.float()
    vae.decode(z[..., :8, :8])  # what the first call sets up
    before, began = resident(), time.perf_counter()
    if way == "whole":
        out = vae.decode(z)
    elif way == "diffusers":
        out = vae.decode(z).sample
    else:
        out = tiled_decode(vae, z, TILE, pad=PAD, collected=way)  # type: ignore[arg-type]
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    save_file({"image": out.contiguous()}, folder / f"{way}.safetensors")
    print(json.dumps({"peak": peak - before, "seconds": seconds}))


def measured(way: str, folder: Path) -> list[str]:
    """A row of the table."""
    command = [sys.executable, __file__, "child", way, str(folder)]
    facts = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    image, whole = (
        (load_file(folder / f"{name}.safetensors")["image"] / 2 + 0.5).clamp(0, 1) * 255 for name in (way, "whole")
    )
    level = float((image.mean((0, 2, 3)) - whole.mean((0, 2, 3))).abs().max())
    pixel = float((image - whole).abs().mean())
    return [way, f"{level:.2f}", f"{pixel:.2f}", f"{facts['peak']:.0f}", f"{facts['seconds']:.1f}"]


@app.default
@torch.no_grad()
def main(*sides: int) -> None:
    """Print the table for latents of these sides in positions: 64, 128 and 192."""
    module = sf.load("tiny", device="cpu").vae.module
    print("| positions | way | mean level, of 255 | pixels, of 255 | peak MiB | seconds |\n|---|---|---|---|---|---|")
    for side in sides or (64, 128, 192):
        with Image.open(DRAWING) as drawing:
            large = (
                drawing.convert("RGB").crop((256, 0, 512, 256)).resize((4 * side, 4 * side), Image.Resampling.LANCZOS)
            )
        with tempfile.TemporaryDirectory() as name:
            save_file({"z": tiled_encode(module, to_tensor(large) * 2 - 1)}, Path(name) / "latent.safetensors")
            for way in WAYS:
                print("|", " | ".join([f"{side}×{side}", *measured(way, Path(name))]), "|", flush=True)


if __name__ == "__main__":
    app()
