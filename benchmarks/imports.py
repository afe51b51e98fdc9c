"""What `import sigmafield` costs compared with `import torch`, and how long a first image takes."""

import statistics
import subprocess
import sys
import time
from importlib.metadata import files
from pathlib import Path

from rich.console import Console
from rich.table import Table

RUNS = 7
EVERYTHING = "import torch, sigmafield\nfor name in sigmafield.__all__: getattr(sigmafield, name)"
OTHERS = (
    "import torch\nfrom diffusers import AutoencoderKL, UNet2DConditionModel\nfrom transformers import CLIPTextModel"
)
PACKAGES = ["diffusers", "transformers", "tokenizers", "huggingface-hub", "hf-xet"]
CASES = {
    "import torch": "import torch",
    "… and diffusers' and transformers' classes": OTHERS,
    "import torch, sigmafield": "import torch, sigmafield",
    "… and every public name": EVERYTHING,
    '… and load("tiny")': EVERYTHING + '\nsigmafield.load("tiny")',
    "… and an image in 10 steps": f'{EVERYTHING}\nsigmafield.generate(sigmafield.load("tiny"), "a heart", steps=10)',
}


def seconds(code: str) -> float:
    """Wall time of a fresh interpreter that runs the code."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - began


def main() -> None:
    times = {name: [] for name in CASES}
    for _ in range(RUNS):  # in turn, so that a change of the machine's speed meets all alike
        for name, code in CASES.items():
            times[name].append(seconds(code))
    base = statistics.median(times["import torch"])
    table = Table("a fresh interpreter", "median s", "min … max s", "over torch", title=f"{RUNS} runs each")
    for name, values in times.items():
        median = statistics.median(values)
        table.add_row(name, f"{median:.2f}", f"{min(values):.2f} … {max(values):.2f}", f"{(median / base - 1):+.0%}")
    Console().print(table)
    paths = [Path(str(path.locate())) for name in PACKAGES for path in files(name) or []]
    size = sum(path.stat().st_size for path in paths if path.exists())
    print(f"{', '.join(PACKAGES)}: {size / 1e6:.0f} MB installed")


if __name__ == "__main__":
    main()
