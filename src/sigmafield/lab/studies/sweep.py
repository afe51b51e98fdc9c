"""Anything else: a recipe with lists of values for any of its fields, as sheets of images and a table of metrics."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from sigmafield.core.annotations import WORDS
from sigmafield.core.parameters import fields_of
from sigmafield.core.registry import near_miss, shown
from sigmafield.lab.bench import Bench
from sigmafield.lab.columns import NFE, Column, label_of
from sigmafield.lab.drawing import distinct, lines, mean, rows_of, shortest, summary, values
from sigmafield.lab.experiment import Arm, Experiment, Reading, Shown, Value
from sigmafield.lab.metrics import column_of, measured_by
from sigmafield.lab.plot import figure
from sigmafield.lab.problems import law_of
from sigmafield.lab.statistics import difference
from sigmafield.lab.subject import names_in
from sigmafield.lab.xy_sheet import xy_sheet
from sigmafield.recipes.execute import execute, open_job
from sigmafield.recipes.image_io import open_image
from sigmafield.recipes.output import files_of
from sigmafield.recipes.recipe import Recipe

if TYPE_CHECKING:
    from polars import DataFrame

Axes = Mapping[str, Sequence[Any]]
"""Fields of a recipe with the values that each takes."""

TYPES: Mapping[type, Any] = {int: int, float: float, bool: lambda text: {"true": True, "false": False}[text.lower()]}
"""How texts become values."""


def axis_of(text: str) -> tuple[str, list[Any]]:
    """A field of a recipe with its values from "cfg=1,3,5"; names and texts may have brackets and quoted commas.

    Raises:
        ValueError: The text has another form, the field does not exist, or a value is not one of it.
    """
    name, equals, rest = text.partition("=")
    name = name.strip()
    known = fields_of(Recipe)
    if not equals or not rest.strip():
        raise ValueError(f"what varies must be FIELD=VALUE,VALUE,…, such as cfg=1,3,5; got {shown(text)}")
    if name not in known or name == "seed" or name.endswith("sha256"):
        hint = "; seeds are given with --seeds" if name == "seed" else near_miss(name, known)
        raise ValueError(f"a recipe has no field {name!r} that can vary{hint}")
    kind = known[name].kind
    return name, [_value(name, part, kind if kind is not None else str) for part in names_in(name, rest)]


def _value(name: str, text: str, kind: type) -> Any:
    if text.lower() == "none":
        return None
    try:
        return TYPES.get(kind, str)(text)
    except (KeyError, ValueError):
        raise ValueError(f"{name} must be {WORDS.get(kind, kind.__name__)}; got {text!r}") from None


@dataclass(frozen=True)
class Measured:
    """Draws an arm, and gives its image and metrics.

    Args:
        metrics: Names of the metrics.
    """

    metrics: Sequence[str]

    def __call__(self, bench: Bench, arm: Arm) -> Mapping[str, Value]:
        job = open_job(arm.recipe, bench.pipe(arm.recipe))
        result = execute(job)
        images = [image for frames in result.images for image in frames]
        found: dict[str, Value] = {"nfe": result.state.nfe}
        for name in self.metrics:
            found[name] = measured_by(name, images, arm.recipe)
        return {**found, "image": files_of(result.images, ".png", arm.recipe)[""]}


def sweep(base: Recipe, axes: Axes, seeds: Sequence[int], metrics: Sequence[str], folder: Path) -> Experiment:
    """A recipe at all combinations of the values of some fields.

    Args:
        base: The recipe.
        axes: Fields with their values: the first is shown in columns, the second in rows, further ones on pages.
        seeds: Seeds of each combination, a page each.
        metrics: Metrics, see `metric_of`.
        folder: Folder of the experiment, where the sheets find their images.

    Raises:
        ValueError: There is no axis, a combination is not a recipe, or a metric is unknown.
    """
    if not axes:
        raise ValueError("a sweep needs something that varies, such as --vary cfg=1,3,5")
    if law_of(str(base.model)) is not None:
        raise ValueError("a sweep draws images, which analytic models do not have")
    columns = {name: column_of(name) for name in metrics}
    arms: list[Arm] = []
    for combination in itertools.product(*axes.values()):
        entries = dict(zip(axes, combination))
        labels = {name: _label(value) for name, value in entries.items()}
        arms.append(Arm(labels, Recipe.from_plain({**base.to_plain(), **entries})))
    return Experiment(
        "sweep",
        f"What do {', '.join(axes)} change?",
        {
            "recipe": base.to_json(), "seeds": list(seeds), "metrics": list(metrics),
            **{f"vary {name}": [_label(v) for v in each] for name, each in axes.items()},
        },
        arms,
        seeds,
        Measured(tuple(metrics)),
        {"nfe": NFE, **columns, "image": Column("image", "what was drawn")},
        Read(tuple(axes), columns, str(folder)),
        ["Anything about other prompts, models and seeds than these.", "What a metric does not see."],
    )  # fmt: skip


@dataclass(frozen=True)
class Read:
    """Sheets, metrics against the first axis, and the extremes of each metric.

    Args:
        axes: The fields that vary.
        metrics: The columns of the metrics.
        folder: Where the images are.
    """

    axes: Sequence[str]
    metrics: Mapping[str, Column]
    folder: str

    def __call__(self, table: DataFrame) -> Reading:
        figures = {f"sheet-{k + 1}": Shown(title, page) for k, (title, page) in enumerate(self.sheets(table))}
        findings = [sentence for name in self.metrics for sentence in self.extremes(table, name)]
        first, numeric = self.axes[0], table[self.axes[0]].dtype.is_numeric()
        if self.metrics and numeric and len(distinct(table, first)) > 1:
            by = self.axes[1] if len(self.axes) > 1 else None
            shown = table if by else table.with_columns(polars_literal("all"))
            out, each = figure(len(self.metrics), size=(4.4, 3.6))
            for one, name in zip(each, self.metrics):
                lines(one, shown, first, name, by or "all", self.metrics)
            if by:
                each[0].legend(fontsize=8, title=label_of(by))
            figures["metrics"] = Shown("Metrics, means over seeds and further axes with intervals.", out)
        return Reading(
            findings,
            figures,
            {"Metrics": summary(table, self.axes, ["nfe", *self.metrics], {"nfe": NFE, **self.metrics})},
        )

    def sheets(self, table: DataFrame) -> list[tuple[str, Image.Image]]:
        """(title, sheet) for each combination of the further axes and each seed."""
        across, down = self.axes[0], self.axes[1] if len(self.axes) > 1 else None
        columns, rows = distinct(table, across), distinct(table, down) if down else [None]
        pages = []
        for page in table.select([*self.axes[2:], "seed"]).unique(maintain_order=True).sort("seed").to_dicts():
            images = {}
            for row in rows_of(table, **page).to_dicts():
                at = rows.index(row[down]) if down else 0, columns.index(row[across])
                images[at] = open_image(Path(self.folder) / row["image"])
            title = ", ".join(_named(name, value) for name, value in page.items())
            names = [_named(across, value) for value in columns], [_named(down, value) for value in rows]
            pages.append((title, xy_sheet(images, *names, title)))
        return pages

    def extremes(self, table: DataFrame, metric: str) -> list[str]:
        """A sentence about the arms with the largest and the least mean of a metric."""
        if strange := sum(not math.isfinite(value) for value in table[metric].to_list()):
            return [
                f"{metric} is not a finite number in {strange} of {len(table)} rows, so that its means say nothing."
            ]
        arms = table.select(self.axes).unique(maintain_order=True).to_dicts()
        found = sorted(arms, key=lambda arm: mean(table, metric, **arm).value)
        if len(found) < 2:
            return []
        low, high = found[0], found[-1]
        apart = difference(values(table, metric, **high), values(table, metric, **low))
        names = [", ".join(f"{name} = {value}" for name, value in arm.items()) for arm in (high, low)]
        sure = "" if apart.excludes(0) else ", so that the two cannot be told apart"
        return [f"{metric} is largest at {names[0]} and least at {names[1]}: they differ by {apart}{sure}."]


def polars_literal(name: str) -> Any:
    """A column of one value, its own name."""
    import polars

    return polars.lit(name).alias(name)


def _named(field: str | None, value: Any) -> str:
    """A value with the label of its field, as a sheet has it; a name says itself what it is."""
    if field is None:
        return ""
    plain = shortest(value)
    return plain if field in ("sampler", "schedule") and plain != "None" else f"{label_of(field)} {plain}"


def _label(value: Any) -> str | int | float:
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value)
