"""Token merging: similar tokens share their queries in self-attention, for less work."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sigmafield.core.conditioning import Cond
from sigmafield.core.parameters import Share
from sigmafield.core.protocols import Call, Network
from sigmafield.guidance.patches.module_hooks import Change, after, before, during
from sigmafield.guidance.patches.unet_blocks import attentions
from sigmafield.guidance.registry import mod
from sigmafield.noise.sources import generator_of

Downsample = Literal[1, 2, 4, 8]


def reaches(module: nn.Module, *, max_downsample: int) -> None:
    """Raises ValueError for a network without self-attention on maps of this size."""
    first = 2 ** min(depth for depth, _ in attentions(module, "attn1"))
    if first > max_downsample:
        raise ValueError(
            f"tome finds no self-attention at a map {max_downsample} times smaller than the latent or less in this "
            f"{type(module).__name__}: its own begins at max_downsample={first}"
        )


@mod("tome", "network", "arXiv:2303.17604", fits=reaches)
def tome(network: Network, call: Call, *, ratio: Share = 0.3, max_downsample: Downsample = 1) -> Network:
    """Token merging: a share of self-attention's queries is merged with the queries that are most like them.

        q of the ⌊ratio N⌋ most similar tokens and of their destinations ← their mean; all of them are given its output

    One token of each cell of 2 by 2 is a destination; the others are ranked by the cosine with the destination that is
    most like them. Keys and values keep their number. Destinations are drawn again in every attention layer and every
    step, seeded by the numbers of both alone.

    Args:
        network: The network.
        call: The call of it.
        ratio: Share of the tokens that are merged; 0 changes nothing.
        max_downsample: How many times smaller than the latent a map may be for merging; ComfyUI has 1, and Stable
            Diffusion XL has its first attention at 2.
    """
    modules, step = [module for _, module in attentions(call.module, "attn1")], call.ctx.span.i

    def merging(x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        latent = (x.shape[-2], x.shape[-1])
        pairs = [_hooks(m, latent, ratio, max_downsample, (step << 16) + layer) for layer, m in enumerate(modules)]
        return during(network, [change for pair in pairs for change in pair])(x, t, cond)

    return merging


class Merge(NamedTuple):
    """Which of `count` merged tokens each token belongs to: owner [B, N]."""

    owner: Tensor
    count: int

    def merged(self, tokens: Tensor) -> Tensor:
        """[B, N, C] → [B, count, C]: means of the tokens that belong together."""
        at = self.owner[..., None].expand_as(tokens)
        sums = tokens.new_zeros(len(tokens), self.count, tokens.shape[2]).scatter_add(1, at, tokens)
        ones = torch.ones_like(tokens[..., :1])
        return sums / ones.new_zeros(len(tokens), self.count, 1).scatter_add(1, self.owner[..., None], ones)

    def unmerged(self, tokens: Tensor) -> Tensor:
        """[B, count, C] → [B, N, C]: for each token the merged one that it belongs to."""
        return tokens.gather(1, self.owner[..., None].expand(-1, -1, tokens.shape[2]))


def matched(tokens: Tensor, side: tuple[int, int], ratio: float, seed: int) -> Merge:
    """The merge of [B, height · width, C] by cosines with the destinations, one from each cell of 2 by 2."""
    (height, width), n = side, tokens.shape[1]
    chosen = torch.randint(4, (height // 2, width // 2), generator=generator_of(seed))
    rows, columns = torch.meshgrid(*(2 * torch.arange(m // 2) for m in side), indexing="ij")
    to = ((rows + chosen // 2) * width + columns + chosen % 2).flatten()
    source = torch.ones(n, dtype=torch.bool).index_fill(0, to, False).nonzero()[:, 0]
    to, source = (each.to(tokens.device, non_blocking=True) for each in (to, source))
    unit = F.normalize(tokens, dim=2)
    likeness, nearest = (unit[:, source] @ unit[:, to].transpose(1, 2)).max(2)
    order = likeness.argsort(1, descending=True)
    kept = max(0, n - len(to) - int(n * ratio))
    many = len(source) - kept
    merged = torch.arange(kept, kept + len(to), device=tokens.device)
    owner = torch.empty(tokens.shape[:2], dtype=torch.long, device=tokens.device)
    owner[:, to] = merged
    owner.scatter_(1, source[order[:, :many]], kept + nearest.gather(1, order[:, :many]))
    owner.scatter_(1, source[order[:, many:]], torch.arange(kept, device=tokens.device).expand(len(tokens), -1))
    return Merge(owner, kept + len(to))


def _hooks(module: Any, latent: tuple[int, int], ratio: float, max_downsample: int, seed: int) -> list[Change]:
    """The hooks of an attention: before its queries are made, and after its output."""
    found: list[Merge] = []

    def merge(part: nn.Module, args: Any, kwargs: Any) -> Any:
        tokens = args[0]
        n = tokens.shape[1]
        smaller = math.ceil(math.sqrt(latent[0] * latent[1] // n))
        side = (-(-latent[0] // smaller), -(-latent[1] // smaller))
        if smaller > max_downsample or side[0] * side[1] != n or min(side) < 2 or not int(n * ratio):
            return args, kwargs
        found.append(matched(tokens, side, ratio, seed))
        return (found[0].merged(tokens), *args[1:]), kwargs

    def unmerge(part: nn.Module, args: Any, kwargs: Any, output: Tensor) -> Tensor:
        return found.pop().unmerged(output) if found else output

    return [partial(before, module.to_q, merge), partial(after, module, unmerge)]
