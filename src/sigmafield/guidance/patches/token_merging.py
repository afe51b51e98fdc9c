"""Token merging: tokens that are alike ask together in self-attention, for less work."""

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
from sigmafield.guidance.patches.module_hooks import Place, after, before, during
from sigmafield.guidance.patches.unet_blocks import attentions
from sigmafield.guidance.registry import mod
from sigmafield.noise.sources import generator_of

Downsample = Literal[1, 2, 4, 8]


def reaches(module: nn.Module, *, max_downsample: int) -> None:
    """ValueError for a network without self-attention on maps so large."""
    first = 2 ** min(depth for depth, _ in attentions(module, "attn1"))
    if first > max_downsample:
        raise ValueError(
            f"tome finds no self-attention at a map {max_downsample} times smaller than the latent or less in this "
            f"{type(module).__name__}: its own begins at max_downsample={first}"
        )


@mod("tome", "network", "arXiv:2303.17604", fits=reaches)
def tome(network: Network, call: Call, *, ratio: Share = 0.3, max_downsample: Downsample = 1) -> Network:
    """Token merging: a share of self-attention's queries is merged with queries that they are most alike.

        q of the ⌊ratio N⌋ likest tokens and of their destinations ← their mean; what it finds is given to all of them

    One token of each cell of 2 by 2 is a destination; the others are ranked by the cosine with their likest
    destination. Keys and values stay as many as they were. It acts where the map is at most max_downsample (1, 2, 4 or
    8) times smaller than the latent: 1 as ComfyUI does; Stable Diffusion XL has its first attention at 2.
    Destinations are drawn anew in every attention layer and every step, from the numbers of both and nothing else.
    ratio = 0 changes nothing.
    """
    modules, step = [module for _, module in attentions(call.module, "attn1")], call.ctx.span.i

    def merging(x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        latent = (x.shape[-2], x.shape[-1])
        pairs = [_places(m, latent, ratio, max_downsample, (step << 16) + layer) for layer, m in enumerate(modules)]
        return during(network, [place for pair in pairs for place in pair])(x, t, cond)

    return merging


class Merge(NamedTuple):
    """Which of `count` merged tokens each token is a part of: owner [B, N]."""

    owner: Tensor
    count: int

    def merged(self, tokens: Tensor) -> Tensor:
        """[B, N, C] → [B, count, C]: means of the tokens that belong together."""
        at = self.owner[..., None].expand_as(tokens)
        sums = tokens.new_zeros(len(tokens), self.count, tokens.shape[2]).scatter_add(1, at, tokens)
        ones = torch.ones_like(tokens[..., :1])
        return sums / ones.new_zeros(len(tokens), self.count, 1).scatter_add(1, self.owner[..., None], ones)

    def unmerged(self, tokens: Tensor) -> Tensor:
        """[B, count, C] → [B, N, C]: what each token is a part of."""
        return tokens.gather(1, self.owner[..., None].expand(-1, -1, tokens.shape[2]))


def matched(tokens: Tensor, side: tuple[int, int], ratio: float, seed: int) -> Merge:
    """The merge of [B, height · width, C] by cosines with the destinations, one of each cell of 2 by 2."""
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
    places = torch.arange(kept, kept + len(to), device=tokens.device)
    owner = torch.empty(tokens.shape[:2], dtype=torch.long, device=tokens.device)
    owner[:, to] = places
    owner.scatter_(1, source[order[:, :many]], kept + nearest.gather(1, order[:, :many]))
    owner.scatter_(1, source[order[:, many:]], torch.arange(kept, device=tokens.device).expand(len(tokens), -1))
    return Merge(owner, kept + len(to))


def _places(module: Any, latent: tuple[int, int], ratio: float, max_downsample: int, seed: int) -> list[Place]:
    """Before the queries of an attention are made, and after its output."""
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
