"""`sigmafield inspect`: what a file of weights is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.text import Text

from sigmafield.cli.console import as_json, console, escaped
from sigmafield.cli.flags import with_flags
from sigmafield.cli.groups import Json
from sigmafield.models.inspection.inspect import inspect as inspect_
from sigmafield.models.inspection.report import Inspected

WORDS = 20
"""Trigger words that are shown; --json has all."""


@with_flags()
def inspect(
    file: Annotated[Path, Parameter(help="A .safetensors, .sft or .gguf file.")], /, *, json: Json = False
) -> None:
    """Say what a file of weights is: checkpoint, part of a model, LoRA, control net, textual inversion, ….

    Only the file's header is read, so large files take no longer than small ones.
    """
    found = inspect_(file)
    if json:
        print(as_json(found.to_dict()))
        return
    out = console(soft_wrap=True)
    for label, value in lines(found):
        out.print(Text.assemble((f"{escaped(label):<10} ", "dim"), escaped(value)))


def lines(found: Inspected) -> Iterator[tuple[str, str]]:
    """What is known of a file, as labels and values."""
    yield "file", f"{found.path} ({found.container}, {amount(found.size)})"
    yield "is", found.about
    for part in found.parts:
        yield "part", f"{part.name}: {count(part.parameters)} parameters, {amount(part.size)}"
    yield "weights", found.weights + ", quantised" * found.quantised
    if found.lora:
        yield "LoRA", f"{' and '.join(found.lora.kinds) or 'of no known kind'}, names of {found.lora.trainer}"
        ranks = ", ".join(f"{rank} in {n} layer{'s' * (n > 1)}" for rank, n in found.lora.ranks.items())
        yield "rank", ranks or "none"
        if found.lora.unknown:
            yield "unknown", f"{len(found.lora.unknown)} tensors, the first is {found.lora.unknown[0]}"
        yield "memory", "none: it is added to the model's weights"
    else:
        yield (
            "memory",
            f"{amount(found.memory['half'])} in half precision, {amount(found.memory['float32'])} in float32",
        )
    yield from found.facts.items()
    if found.words:
        more = f" and {len(found.words) - WORDS} more" * (len(found.words) > WORDS)
        yield "words", ", ".join(found.words[:WORDS]) + more
    for name, value in found.training.items():
        yield "training", f"{name}: {value}"
    if found.missing:
        yield "it takes", " and ".join(found.missing) + " as well"
    if found.problem:
        yield "problem", found.problem
    elif found.use:
        yield "use", found.use


def count(number: int) -> str:
    """A number of parameters in words of three digits: 859 M, 2.57 B."""
    return scaled(number, ("", " k", " M", " B"))


def amount(size: int) -> str:
    """A number of bytes in units of 1000: 3.3 MB, 2.1 GB."""
    return scaled(size, (" bytes", " kB", " MB", " GB"))


def scaled(number: int, units: Sequence[str]) -> str:
    """A number in thousands, millions or billions, whichever leaves 1 or more, with three digits."""
    power = min((len(str(number)) - 1) // 3, len(units) - 1)
    value = number / 1000**power
    return f"{value:.3g}{units[power]}" if value < 999.5 else f"{value:.0f}{units[power]}"
