"""Rows of network calls: which calls may share one, joined into one call, cut into parts, and padded."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from sigmafield.core.conditioning import Cond
from sigmafield.core.recent import Recent
from sigmafield.models.diffusion_model import NetworkCall
from sigmafield.models.network_call import repeated, rows

STRETCH = 2
"""How many times longer than the longest prompt the joined prompts may become."""


@dataclass(frozen=True)
class Rows:
    """What a network is asked, row by row.

    Args:
        x: Scaled input [rows, C, *space].
        t: Timestep of each row, or of each of its tokens.
        cond: The conditioning, of as many rows.
    """

    x: Tensor
    t: Tensor
    cond: Cond

    def __len__(self) -> int:
        return self.x.shape[0]

    @classmethod
    def of(cls, call: NetworkCall) -> Rows:
        """The rows of one call."""
        return cls(call.x, call.t, call.cond)

    def part(self, some: slice) -> Rows:
        """Some of the rows."""
        if some.indices(len(self)) == (0, len(self), 1):
            return self
        return Rows(self.x[some], self.t[some], rows(self.cond, some))

    def padded(self, n: int) -> Rows:
        """The rows, then copies of the last one until there are n; in memory of its own, as some kernels align by."""
        parts = [self, *[self.part(slice(-1, None))] * (n - len(self))]
        cond = _joined([part.cond for part in parts])
        return Rows(torch.cat([part.x for part in parts]), torch.cat([part.t for part in parts]), cond)


def key_of(call: NetworkCall, exact: bool) -> Hashable:
    """What calls must have in common to be joined.

    The network (the same weights: module and forward by identity), the latent's shape, dtypes and device, whether
    gradients are recorded, the names and shapes of the conditionings' inputs, the controls by identity and strength,
    and the most rows that the model allows. Numbers of tokens may differ where a prompt may be repeated.

    Args:
        call: The call.
        exact: Whether joining may not change a bit of the answers, which a repeated prompt does.
    """
    model, cond = call.model, call.cond
    tokens = 0 if not exact and repeats(call) else cond.embeds.shape[1]
    return (
        None if call.module is None else weakref.ref(call.module), id(model.forward), model.max_rows,
        torch.is_grad_enabled(),
        _kind(call.x), _kind(call.t), tokens, cond.embeds.shape[2:], cond.embeds.dtype,
        tuple((name, _kind(value)) for name, value in sorted(cond.extra.items())),
        None if cond.concat is None else _kind(cond.concat),
        tuple((id(c.net), c.strength, _kind(c.hint)) for c in cond.controls),
    )  # fmt: skip


def repeats(call: NetworkCall) -> bool:
    """Whether repeating a prompt's tokens does not change the answer: where they are only attended to.

    So it is in a UNet's cross-attention, where the softmax over m copies of the tokens gives each of them 1/m of its
    weight. In a transformer's joint attention the tokens of text and image share one softmax.
    """
    return call.model.part == "unet" and call.cond.embeds.ndim == 3


def fits(call: NetworkCall, others: Sequence[NetworkCall]) -> bool:
    """Whether the tokens of a call and of others of its key, repeated to equal number, do not become too many."""
    lengths = [each.cond.embeds.shape[1] for each in (call, *others)]
    return math.lcm(*lengths) <= STRETCH * max(lengths)


Joined = Recent[Cond]
"""Conditionings of runs that were joined in the latest calls."""


def join(parts: Sequence[Rows], joined: Joined) -> Rows:
    """All rows of several questions of one key, in order.

    Args:
        parts: The questions.
        joined: Conditionings that have been joined; those without spatial inputs are kept for the next call.
    """
    if len(parts) == 1:
        return parts[0]
    conds = [part.cond for part in parts]
    spatial = any(cond.controls or cond.concat is not None for cond in conds)
    cond = _joined(conds) if spatial else joined(tuple(conds), (), partial(_joined, conds))
    return Rows(torch.cat([part.x for part in parts]), torch.cat([part.t for part in parts]), cond)


def _joined(conds: Sequence[Cond]) -> Cond:
    first = conds[0]

    def all_of(get: Callable[[Cond], Tensor]) -> Tensor:
        return torch.cat([get(cond) for cond in conds])

    return Cond(
        torch.cat(repeated([cond.embeds for cond in conds])),
        {name: all_of(lambda c, name=name: c.extra[name]) for name in first.extra},
        concat=None if first.concat is None else torch.cat([c.concat for c in conds if c.concat is not None]),
        controls=[
            replace(control, hint=all_of(lambda c, i=i: c.controls[i].hint)) for i, control in enumerate(first.controls)
        ],
    )


def _kind(t: Tensor) -> tuple[torch.Size, torch.dtype, torch.device]:
    """Shape of a row, dtype and device."""
    return t.shape[1:], t.dtype, t.device
