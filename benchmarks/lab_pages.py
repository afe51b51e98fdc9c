"""The designs of the lab's pages: measures them, copies their figures to docs/images/lab, and prints what they show.

Each design is a command of `sigmafield lab` that a page names; its numbers and figures are from it. All take about 50
minutes of one core of a busy machine; a design that was stopped goes on, and one that is done is only read again. Pairs
are arms whose ratio a page claims.

    python benchmarks/lab_pages.py [NAME …]        (into out/lab-pages/NAME; without names: all)
"""

import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sigmafield.lab.pairs import pair
from sigmafield.lab.rows import RowFile, frame

OUT = Path("out") / "lab-pages"
IMAGES = Path(__file__).parents[1] / "docs" / "images" / "lab"
APG = "apg(form=paper,eta=0)"


@dataclass(frozen=True)
class Design:
    """A command, the figures that a page shows of it, and the pairs of arms that it compares."""

    command: str
    figures: Mapping[str, str] = field(default_factory=dict[str, str])
    pairs: Sequence[tuple[str, str, str]] = ()


def arm(sampler: str, schedule: str, steps: int) -> str:
    """An arm of `lab schedules`."""
    return f"sampler={sampler},schedule={schedule},steps={steps}"


KNOWN = [("error", arm("euler", "beta", n), arm("dpmpp_2m", "karras", n)) for n in (6, 10, 20)]
SPACING = [("error", arm(name, "beta", 20), arm(name, "karras", 20)) for name in ("euler", "dpmpp_2m")]
PROMISE = [
    ("error", arm("distance", "beta", 7), arm(name, "beta", n))
    for name, n in (("dpmpp_2m", 20), ("dpmpp_2m", 17), ("euler", 17))
]
"""Do 7 steps of `distance`, which are 17 network calls, equal 20 of `dpmpp_2m`?"""

DESIGNS: dict[str, Design] = {
    "schedules": Design(
        "schedules --schedules karras,beta,normal,sgm_uniform,kl_optimal --steps 6,10,20 --local-steps 0 --seeds 16",
        {"error.png": "schedules.png"},
        [*KNOWN, *SPACING],
    ),
    "schedules-added": Design(
        "schedules --schedules karras,beta,normal --steps 20 --particles 32", {"added.png": "schedules-added.png"}
    ),
    "schedules-tiny": Design(
        "schedules --model tiny --samplers euler,dpmpp_2m,distance --schedules karras,beta --steps 7,20 "
        "--local-steps 0 --seeds 16",
        {},
        [KNOWN[-1], *SPACING, PROMISE[0]],
    ),
    "distance": Design(
        "schedules --model images --samplers euler,heun,dpmpp_2m,distance,distance_n --schedules beta "
        "--steps 7,10,17,20 --local-steps 0 --particles 64 --seeds 16",
        {"error.png": "distance.png"},
        PROMISE,
    ),
    "solvers": Design("solvers --steps 8,16,32,64 --seeds 16", {"error.png": "solvers.png"}),
    "solvers-gaussian": Design("solvers --model gaussian --steps 8,16,32,64 --seeds 16"),
    "noise": Design(
        "noise --samplers euler_ancestral,dpmpp_2m_sde --etas 0,0.5,1 --s-noises 1,1.05 --seeds 16",
        {"noise.png": "noise.png"},
    ),
    "noise-tiny": Design(
        'noise --model tiny --prompts "a red heart;dog face;pizza" --samplers euler_ancestral,dpmpp_2m_sde '
        "--etas 0,1 --s-noises 1 --steps 12 --cfg 3 --seeds 16"
    ),
    "guidance": Design(
        f'guidance --cfgs 1,3,5,8,12,20 --mods "none,rescale,{APG}" --steps 10 --seeds 16',
        {"norms.png": "guidance-norms.png", "scales.png": "guidance-scales.png"},
    ),
    "guidance-mixture": Design(f'guidance --model mixture --prompt 0 --mods "none,rescale,{APG}" --seeds 16'),
    "adaptive": Design(
        "adaptive --atols 0.0078 --pids 0/1/0 --particles 128 --seeds 16", {"error.png": "adaptive.png"}
    ),
    "marginals": Design(
        "marginals --samplers dpmpp_2m,euler_ancestral,dpmpp_2m_sde --etas 0,1 --steps 8,32 --particles 500 --seeds 16",
        {"marginals.png": "marginals.png"},
    ),
    "transport": Design(
        "transport --model ring --cfgs 1 --schedules exponential --particles 200 --seeds 16",
        {"transport.png": "transport.png"},
    ),
    "inpaint": Design("inpaint --steps 10,20 --seeds 16", {"inpaint.png": "inpaint.png"}),
    "inpaint-tiny": Design("inpaint --model tiny --steps 10"),
    "schedules-flow": Design(
        "schedules --model tiny-flow --samplers euler,dpmpp_2m --schedules karras,beta,simple --steps 10,20 "
        "--local-steps 0 --seeds 16"
    ),
    "noise-flow": Design(
        'noise --model tiny-flow --prompts "a red heart;dog face;pizza" --samplers euler_ancestral --etas 0,1 '
        "--s-noises 1 --schedule simple --steps 12 --cfg 3 --seeds 16"
    ),
    "guidance-flow": Design(
        f'guidance --model tiny-flow --schedule simple --cfgs 1,3,5,8,12,20 --mods "none,{APG}" --steps 10 --seeds 16'
    ),
    "inpaint-flow": Design("inpaint --model tiny-flow --schedule simple --steps 10"),
}
"""The designs by name, in the order of what people argue about."""


def measure(name: str, design: Design) -> None:
    """Measure a design, copy its figures, and print its pairs; SystemExit where it was stopped."""
    folder = OUT / name
    print(f"\n{name}: sigmafield lab {design.command}", flush=True)
    command = [sys.executable, "-m", "sigmafield", "lab", *shlex.split(design.command), "-o", str(folder)]
    if status := subprocess.run(command).returncode:
        sys.exit(status)
    for own, shown in design.figures.items():
        shutil.copyfile(folder / own, IMAGES / shown)
    table = frame(RowFile(folder / "rows.jsonl").known.values()) if design.pairs else None
    for column, a, b in design.pairs:
        assert table is not None
        found = pair(table, column, a, b)
        print(f"- {column}: {a} {found.a}; {b} {found.b}; ratio {found.ratio}")


def main(names: Sequence[str]) -> None:
    """Measure the designs with these names, or all."""
    if unknown := set(names) - set(DESIGNS):
        sys.exit(f"no design {', '.join(sorted(unknown))}: there are {', '.join(DESIGNS)}")
    for name in names or DESIGNS:
        measure(name, DESIGNS[name])


if __name__ == "__main__":
    main(sys.argv[1:])
