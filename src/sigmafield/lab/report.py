"""The report of an experiment, as Markdown with figures and as one HTML file that holds them."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from sigmafield.lab.columns import label_of
from sigmafield.lab.experiment import Experiment
from sigmafield.lab.rows import Row, frame, write_tables
from sigmafield.lab.statistics import LEVEL
from sigmafield.runs.files import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from polars import DataFrame

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222;
  background: #fff; }
table { border-collapse: collapse; display: block; overflow-x: auto; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid #ccc; padding: .2rem .7rem; text-align: left; }
img { max-width: 100%; background: #fff; }
code { background: #8882; padding: 0 .2rem; overflow-wrap: anywhere; }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #1a1a1a; } th, td { border-color: #555; } }
"""
"""The style sheet of report.html."""

FEW = 8
"""Number of seeds below which a bootstrap interval holds the truth clearly less often than it says."""

DPI = 130
"""Pixels per inch of figures."""


def write_report(experiment: Experiment, rows: Iterable[Row], folder: Path, command: str) -> list[str]:
    """Write table.csv, table.parquet, the figures, report.md and report.html into a folder.

    Args:
        experiment: What was asked.
        rows: All of its rows.
        folder: The folder.
        command: The command that makes this report.

    Returns:
        The findings.

    Raises:
        ImportError: A package of the extra `lab` is missing.
        OSError: A file cannot be written.
    """
    table = frame(rows)
    write_tables(table, folder)
    reading = experiment.read(table)
    images = {f"{name}.png": _png(shown.figure) for name, shown in reading.figures.items()}
    for name, data in images.items():
        write_whole(folder / name, data)
    parts = [f"# {experiment.name}", "", f"**{experiment.question}**", ""]
    parts += ["## Design", "", *_design(experiment, table, command), ""]
    parts += ["## What it shows", ""]
    parts += [f"- {finding}" for finding in reading.findings]
    share = f"Intervals are {LEVEL:.0%} bootstrap intervals of the mean over seeds; seeds are paired across arms."
    if len(experiment.seeds) < FEW:
        share += f" With fewer than {FEW} seeds such intervals are too narrow: take more seeds before you believe them."
    parts += ["", share, ""]
    for name, shown in reading.figures.items():
        parts += [f"![{name}]({name}.png)", "", shown.caption, ""]
    for title, each in reading.tables.items():
        parts += [f"### {title}", "", *markdown_table(each.to_dicts()), ""]
    parts += ["## What it cannot show", "", *(f"- {line}" for line in experiment.cannot), ""]
    text = "\n".join(parts)
    write_whole(folder / "report.md", text.encode())
    write_whole(folder / "report.html", _page(experiment.name, text, images).encode())
    return list(reading.findings)


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Rows as the lines of a Markdown table; numbers with four digits."""
    if not rows:
        return []
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    return lines + ["| " + " | ".join(_cell(row[name]) for name in names) + " |" for row in rows]


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", "\\|")


def _design(experiment: Experiment, table: DataFrame, command: str) -> list[str]:
    varied = list(experiment.arms[0].labels)
    lists = {name: ", ".join(_cell(v) for v in table[name].unique(maintain_order=True).to_list()) for name in varied}
    nfe = f", {int(table['nfe'].sum())} evaluations of the model" if "nfe" in table.columns else ""
    seeds = list(experiment.seeds)
    return [
        f"- varied: {'; '.join(f'{label_of(name)}: {values}' for name, values in lists.items())}",
        f"- held: {', '.join(f'{n} = {_cell(v)}' for n, v in experiment.settings.items() if n not in varied)}",
        f"- seeds: {len(seeds)} ({seeds[0]} … {seeds[-1]}), the same in every arm",
        *(
            f"- measured, `{name}`: {column.label}{': ' * bool(column.about)}{column.about}"
            for name, column in experiment.measured.items()
        ),
        f"- cost: {len(table)} runs, {table['seconds'].sum():.1f} s{nfe}",
        f"- made by: `{command}`",
        "- data: `table.csv` and `table.parquet`, one row per run with its recipe",
    ]


def _png(figure: Figure | Image.Image) -> bytes:
    data = io.BytesIO()
    if isinstance(figure, Image.Image):
        figure.save(data, "PNG")
    else:
        figure.savefig(data, format="png", dpi=DPI)
    return data.getvalue()


def _page(title: str, text: str, images: Mapping[str, bytes]) -> str:
    try:
        from markdown_it import MarkdownIt
    except ImportError as error:
        raise ImportError('reports need markdown-it-py: pip install "sigmafield[lab]"') from error
    body: str = MarkdownIt("commonmark").enable("table").render(text)
    for name, data in images.items():
        source = f"data:image/png;base64,{base64.b64encode(data).decode()}"
        body = body.replace(f'src="{name}"', f'src="{source}"')
    head = (
        f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{html.escape(title)}</title>'
    )
    return f'<!doctype html><html lang="en"><head>{head}<style>{STYLE}</style></head><body>{body}</body></html>\n'
