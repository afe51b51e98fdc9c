"""Memory of a process that draws 500 images with the embedded model: it must not grow.

Plain runs and runs with every mod of guidance for UNets, with all samplers in turn, at 64x64 pixels in two steps, by
four threads that share the model. The first 50 fill caches and pools; the drift is relative to the memory after them.
"""

import gc
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

import sigmafield as sf
from sigmafield.recipes.mods import MODS

IMAGES, EVERY, THREADS = 500, 50, 4
FOR_TRANSFORMERS = {"slg", "slg_simple"}
PARAMETERS = {"hypertile": "hypertile(tile_size=32, max_depth=2)", "tome": "tome(max_downsample=4)"}
"""Those with which mods find something to act on in a small network."""


def resident() -> float:
    """Resident memory of this process in MB, from Linux's /proc."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise OSError("/proc/self/status has no VmRSS")


def recipes() -> list[sf.Recipe]:
    """As many different recipes as there are images."""
    lines = [line for name in MODS if name not in FOR_TRANSFORMERS for line in ("", PARAMETERS.get(name, name))]
    pairs = zip(cycle(sf.SAMPLERS), cycle(lines), range(IMAGES))
    return [
        sf.Recipe("a red heart", steps=2, cfg=3.0, sampler=sampler, guidance=line, seed=seed)
        for sampler, line, seed in pairs
    ]


def main() -> None:
    torch.set_num_threads(1)
    pipe, left = sf.load("tiny", device="cpu"), iter(recipes())

    def draw(recipe: sf.Recipe) -> None:
        sf.execute(sf.open_job(recipe, pipe))

    table = Table("images", "MB", "drift", title="resident memory")
    first = 0.0
    with ThreadPoolExecutor(THREADS) as threads:
        for done in range(EVERY, IMAGES + 1, EVERY):
            list(threads.map(draw, islice(left, EVERY)))
            gc.collect()
            now = resident()
            first = first or now
            table.add_row(str(done), f"{now:.1f}", f"{now / first - 1:+.2%}")
    Console().print(table)


if __name__ == "__main__":
    main()
