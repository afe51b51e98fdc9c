"""Joined rows give every row what it is given alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import sigmafield as sf
from sigmafield.core.conditioning import Cond, Control, Residuals
from sigmafield.models.diffusion_model import NetworkCall
from sigmafield.serve.joining import Joined, Rows, fits, join, key_of

DRAW = torch.Generator().manual_seed(0)


class Net:
    """A side network that gives nothing."""

    factor = 8

    def __call__(self, x: Tensor, t: Tensor, cond: Cond, hint: Tensor, strength: float) -> Residuals:
        return Residuals()


NET = Net()


def call(
    pipe: sf.Pipeline, rows: int = 2, side: int = 4, tokens: int = 3, part: str = "unet", strength: float = 1.0,
    net: Net | None = None, concat: int = 0, extra: tuple[str, ...] = (), **changes: Any,
) -> NetworkCall:  # fmt: skip
    def drawn(*shape: int) -> Tensor:
        return torch.randn(rows, *shape, generator=DRAW)

    cond = Cond(
        drawn(tokens, 6), {name: drawn(5) for name in extra}, concat=drawn(concat, side, side) if concat else None,
        controls=[Control(net, drawn(3, 8 * side, 8 * side), strength)] if net else [],
    )  # fmt: skip
    model = replace(pipe.model, part=part)
    return NetworkCall(
        model, pipe.model.module, drawn(4, side, side), torch.rand(rows, generator=DRAW), cond, **changes
    )


EVERYTHING: dict[str, Any] = {"net": NET, "concat": 5, "extra": ("text_embeds", "time_ids")}


def test_rows_keep_what_belongs_to_them(pipe: sf.Pipeline) -> None:
    """Of unequal numbers of rows, with every kind of input; padded, the rows come first."""
    calls = [call(pipe, rows, **EVERYTHING) for rows in (2, 1, 3)]
    assert len({key_of(each, exact=True) for each in calls}) == 1
    joined, at = join([Rows.of(each) for each in calls], Joined()).padded(8), 0
    assert len(joined) == 8
    for each in calls:
        part = joined.part(slice(at, at := at + len(each.x)))
        for got, want in zip(tensors(part), tensors(Rows.of(each))):
            assert torch.equal(got, want)
        assert part.cond.controls[0].net is NET
    for row in tensors(joined.part(slice(5, None))):
        assert torch.equal(row, row[:1].expand_as(row))


def tensors(rows: Rows) -> list[Tensor]:
    cond = rows.cond
    assert cond.concat is not None
    return [rows.x, rows.t, cond.embeds, *cond.extra.values(), cond.concat, cond.controls[0].hint]


@pytest.mark.parametrize(
    "change",
    [
        {"side": 8},
        {"net": Net()},
        {"net": None},
        {"strength": 0.5},
        {"concat": 4},
        {"concat": 0},
        {"extra": ("text_embeds",)},
        {"extra": ("text_embeds", "guidance")},
        {"tokens": 6, "part": "transformer"},
    ],
)
def test_what_differs_is_not_joined(pipe: sf.Pipeline, change: dict[str, Any]) -> None:
    base = {**EVERYTHING, "part": change.get("part", "unet")}
    assert key_of(call(pipe, **base), exact=False) != key_of(call(pipe, **base | change), exact=False)


def test_weights_precision_and_limits_are_part_of_the_key(pipe: sf.Pipeline) -> None:
    one = call(pipe)
    others = [
        replace(one, module=torch.nn.Identity()),
        replace(one, model=replace(one.model, forward=lambda *args: args[1])),
        replace(one, model=replace(one.model, max_rows=2)),
        replace(one, x=one.x.double()),
        replace(one, cond=replace(one.cond, embeds=one.cond.embeds.half())),
    ]
    assert len({key_of(each, exact=False) for each in (one, *others)}) == 6
    assert key_of(one, exact=False) == key_of(replace(one, model=replace(one.model, name="again")), exact=False)
    with torch.enable_grad():
        graded = key_of(one, exact=False)
    with torch.no_grad():
        assert graded != key_of(one, exact=False)


def test_prompts_are_repeated_where_that_changes_nothing(pipe: sf.Pipeline) -> None:
    """Not in exact mode, and not to many times their length."""
    short, long, odd = (call(pipe, tokens=tokens) for tokens in (3, 6, 7))
    assert key_of(short, exact=False) == key_of(long, exact=False)
    assert key_of(short, exact=True) != key_of(long, exact=True)
    assert fits(long, [short]) and not fits(odd, [short, long])
    assert join([Rows.of(short), Rows.of(long)], Joined()).cond.embeds.shape[1] == 6
