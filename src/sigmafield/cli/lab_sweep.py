"""`sigmafield lab sweep`: a recipe at many values of any of its fields."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from sigmafield.cli.flags import Given, with_flags
from sigmafield.cli.groups import CANVAS, FILES, IMAGE, MODEL, SAMPLING, Json, Negative, Size
from sigmafield.cli.lab_run import Cluster, Folder, Quick, conduct
from sigmafield.cli.panels import panel
from sigmafield.cli.parse import parse_size
from sigmafield.lab.studies.sweep import axis_of
from sigmafield.lab.studies.sweep import sweep as experiment_of
from sigmafield.lab.subject import PROMPT, names_in
from sigmafield.recipes.recipe import Recipe

GROUP = panel("Experiment")


@with_flags(recipe=(SAMPLING, CANVAS, IMAGE, MODEL))
def sweep(
    prompt: Annotated[str, Parameter(name="PROMPT", help="What to draw.")] = PROMPT,
    /,
    *,
    recipe: Given,
    negative: Negative = "",
    size: Size = None,
    vary: Annotated[
        tuple[str, ...],
        Parameter(
            negative=(), group=GROUP,
            help="A field of the recipe with its values: cfg=1,3,5, 'sampler=euler,dpmpp_2m_sde(eta=0.5)'. The first "
            "is shown in columns, the second in rows, further ones on pages. Repeat for more.",
        ),
    ] = (),
    grid: Annotated[
        Path | None, Parameter(help="YAML file of fields with lists of values, in place of --vary.", group=FILES)
    ] = None,
    metrics: Annotated[
        str,
        Parameter(
            help="Metrics, with commas between them: brightness, colourfulness, contrast, saturated, sharpness, or "
            "module:function, also of a file in this folder, which is given the images and the recipe.",
            group=GROUP,
        ),
    ] = "sharpness,saturated",
    seeds: Annotated[int, Parameter(help="Number of seeds, from --seed on; a page each.", group=GROUP)] = 4,
    output: Folder = None,
    quick: Quick = False,
    ray: Cluster = None,
    json: Json = False,
) -> None:  # fmt: skip
    """Draw a recipe at all combinations of some values, as labelled sheets and a table of metrics.

    For example:  sigmafield lab sweep "a red heart" --vary cfg=1,3,8 --vary sampler=euler,dpmpp_2m --seeds 4
    """
    base = Recipe(prompt, negative, **{**recipe, **parse_size(size)})
    axes = axes_of(vary, grid)
    if seeds < 1:
        raise ValueError(f"seeds must be at least 1; got {seeds}")
    seeds = min(seeds, 3) if quick else seeds
    if quick:
        axes = {name: values[:3] for name, values in axes.items()}
    folder, first = output or Path("lab-sweep"), int(base.seed)
    names = names_in("metrics", metrics) if metrics else ()
    sys.path.append(str(Path.cwd()))  # where metrics of one's own are; `python -m` has it, an installed command has not
    experiment = experiment_of(base, axes, range(first, first + seeds), names, folder)
    words = [word for text in vary for word in ("--vary", text)] + ["--seeds", str(seeds)]
    given = [word for name, value in recipe.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    conduct(experiment, folder, ["sigmafield", "lab", "sweep", prompt, *given, *words], ray, as_json=json)


def axes_of(vary: Sequence[str], grid: Path | None) -> dict[str, list[Any]]:
    """The fields that vary with their values, from texts and from a YAML file.

    Raises:
        ValueError: A text is not FIELD=VALUES, a field comes twice, or the file is not a grid.
    """
    pairs = [*map(axis_of, vary), *(grid_of(grid).items() if grid else ())]
    names = [name for name, _ in pairs]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"{twice} varies twice: give all of its values at once, such as {twice}=VALUE,VALUE")
    return dict(pairs)


def grid_of(path: Path) -> dict[str, list[Any]]:
    """The fields and values of a YAML file.

    Raises:
        ImportError: PyYAML is not installed.
        ValueError: It is not a mapping of fields to lists.
    """
    try:
        import yaml
    except ImportError as error:
        raise ImportError('a grid needs PyYAML: pip install "sigmafield[lab]"') from error
    try:
        read = yaml.safe_load(path.read_text("utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from None
    if not isinstance(read, dict) or not all(isinstance(values, list) and values for values in read.values()):
        raise ValueError(f"{path} must have fields of a recipe with lists of values, such as cfg: [1, 3, 5]")
    return dict(axis_of(f"{name}={','.join(map(str, values))}") for name, values in read.items())
