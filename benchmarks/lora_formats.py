"""Which LoRA files are read, and the largest error against the merge by hand, relative to the largest change.

The files and the merges by hand are those of the tests: small random networks of each family, float32.
"""

from __future__ import annotations

import sys
import tempfile
from functools import cache
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "models"))

import lora_files as files
import small_models
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file

import sigmafield as sf

SAVE = {
    "sd1": lambda folder: small_models.save_sd(folder, small_models.unet(), small_models.vae(), "epsilon"),
    "sdxl": small_models.save_xl,
    "sd3": small_models.save_sd3,
    "flux dev": lambda folder: small_models.save_flux(folder, guided=True),
    "lumina2": small_models.save_lumina,
    "wan": small_models.save_wan,
}


@cache
def model(family: str) -> sf.Pipeline:
    """A small random model of a family."""
    folder = Path(tempfile.mkdtemp())
    SAVE[family](folder)
    return sf.load(folder / "model", device="cpu")


def weights(pipe: sf.Pipeline, family: str, published: bool) -> files.Tensors:
    """The weights of a model's network by their published names, or by those of its class."""
    return files.weights(family, pipe.modules[pipe.model.part], published)


def error(family: str, published: bool, tensors: files.Tensors, want: files.Tensors) -> float:
    """The largest error of the merged weights, relative to the largest change of one."""
    base, path = model(family), Path(tempfile.mkdtemp()) / "a.safetensors"
    save_file(tensors, path)
    before, after = (weights(pipe, family, published) for pipe in (base, base.with_loras([path])))
    change = max(float((want[name] - before[name]).abs().max()) for name in want)
    return max(float((want.get(name, before[name].double()) - after[name]).abs().max()) for name in after) / change


def main() -> None:
    """Prints one table of formats and one of kinds."""
    formats = Table("format", "a name in such a file", "tensors", "error")
    for name, (family, published, _, _) in files.FORMATS.items():
        tensors, want = files.file_of_format(name, weights(model(family), family, published))
        first = min((name for name in tensors if not name.endswith("alpha")), key=len)
        formats.add_row(name, first, str(len(tensors)), f"{error(family, published, tensors, want):.0e}")
    kinds = Table("kind", "layers", "error")
    for kind, (_, on) in files.KINDS.items():
        for target in (on, "cut") if on == "any" else (on,):
            family, published, _ = files.TARGETS[target]
            state = weights(model(family), family, published)
            kinds.add_row(
                kind, target, f"{error(family, published, *files.file_of_kind(kind, target, 1.0, state)):.0e}"
            )
    console = Console(width=160)
    console.print(formats, kinds)


if __name__ == "__main__":
    main()
