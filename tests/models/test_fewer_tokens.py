"""HyperTile and token merging: their rules on a real UNet of diffusers, by attention written out in a processor."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from sigmafield.core.conditioning import Cond
from sigmafield.core.process import VE, Span
from sigmafield.core.protocols import Call, Ctx
from sigmafield.guidance.patches.token_merging import matched
from sigmafield.noise.sources import generator_of
from sigmafield.parameterization.timesteps import betas, discrete
from sigmafield.recipes.mods import MODS, parse_mods

SD_CLOCK = discrete(betas()).sigma_at

pytest.importorskip("diffusers")

T = torch.tensor([300.0, 700.0])


@pytest.fixture(scope="module")
def unet(small):
    """Attention at both levels: layers 0 … 2 in the order down, middle, up."""
    names = ("CrossAttnDownBlock2D",) * 2, ("CrossAttnUpBlock2D",) * 2
    return small.unet(down_block_types=names[0], up_block_types=names[1])


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def network_of(unet):
    return lambda x, t, cond: unet(x, t, encoder_hidden_states=cond.embeds).sample


def patched(network, unet, line, size, step=0):
    """The answer of a network of this UNet with a mod, in a step of a run."""
    sigma = torch.tensor(2.0, dtype=torch.float64)
    call = Call(unet, sigma, ("positive",) * 2, Ctx(Span(sigma, sigma / 2, VE(), i=step, n=9, clock=SD_CLOCK), {}))
    (patch,) = parse_mods(line).network
    return patch(network, call)(draw(2, 4, *size), T, Cond(draw(2, 5, 32, seed=1)))


def plain(unet, size):
    """The answer without a mod."""
    return network_of(unet)(draw(2, 4, *size), T, Cond(draw(2, 5, 32, seed=1)))


class ByHand:
    """Self-attention as two matrix products; `seen` (tokens) → where a query sees a key, or None."""

    def __init__(self, seen, merge=lambda tokens, layer: None):
        self.seen, self.merge, self.layers = seen, merge, []

    def __call__(self, attn, hidden_states, *args, **kwargs):
        n = hidden_states
        layer = len(self.layers)
        self.layers.append(n.shape[1])
        averages = self.merge(n, layer)  # [B, merged, tokens], rows of weights
        asking = n if averages is None else averages @ n
        q, k, v = (f(t).unflatten(2, (attn.heads, -1)).transpose(1, 2) for f, t in zip(
            (attn.to_q, attn.to_k, attn.to_v), (asking, n, n)))  # fmt: skip
        scores = q @ k.transpose(2, 3) * q.shape[-1] ** -0.5
        seen = self.seen(n.shape[1])
        scores = scores if seen is None else scores.masked_fill(~seen, -torch.inf)
        out = attn.to_out[0]((scores.softmax(3) @ v).transpose(1, 2).flatten(2))
        return out if averages is None else (averages > 0).to(out).transpose(1, 2) @ out


def by_hand(unet, processor, size):
    """The answer with a processor in every self-attention."""
    old = dict(unet.attn_processors)
    unet.set_attn_processor({key: processor if "attn1" in key else own for key, own in old.items()})
    out = network_of(unet)(draw(2, 4, *size), T, Cond(draw(2, 5, 32, seed=1)))
    unet.set_attn_processor(old)
    return out


def cells(grid, parts):
    """Which tile each token of a raster is in, [tokens]."""
    rows, columns = (torch.arange(n) // (n // each) for n, each in zip(grid, parts))
    return (rows[:, None] * parts[1] + columns).flatten()


HYPER = [  # line, latent, (tokens: (grid, parts))
    ("tile_size=32, max_depth=1", (8, 8), {64: ((8, 8), (2, 2))}),
    ("tile_size=32, max_depth=0", (8, 8), {64: ((8, 8), (2, 2))}),
    ("tile_size=32, max_depth=1", (16, 8), {128: ((8, 16), (2, 4)), 32: ((4, 8), (1, 2))}),
    ("tile_size=40, max_depth=1", (12, 16), {192: ((16, 12), (2, 2)), 48: ((8, 6), (1, 1))}),
    ("tile_size=64, max_depth=1, scale_depth=true", (16, 32), {512: ((32, 16), (4, 2)), 128: ((16, 8), (1, 1))}),
    ("tile_size=48, max_depth=1, swap_size=1", (24, 8), {192: ((8, 24), (1, 4)), 48: ((4, 12), (1, 2))}),
]


@pytest.mark.parametrize(  # which keys a query sees has nothing to do with how the tiles are cut: of one kind, three
    "line, size, tiles, keys",
    [
        pytest.param(*case, keys, marks=pytest.mark.slow if keys == "tile" and i in (0, 1, 4) else [])
        for keys in ("strip", "tile")
        for i, case in enumerate(HYPER)
    ],
)
def test_hypertile_is_attention_to_few_tokens(line, size, tiles, keys, unet):
    """strip: queries of a cell of the grid with its sides exchanged see a piece of the raster; tile: their own cell."""

    def seen(n):
        if n not in tiles:
            return None
        grid, parts = tiles[n]
        if keys == "tile":
            own = cells(grid[::-1], parts[::-1])
            return own[:, None] == own
        strip = torch.arange(n) // (n // (parts[0] * parts[1]))
        return cells(grid, parts)[:, None] == strip

    line = line if keys == "strip" or "swap_size" in line else f"{line}, swap_size=1"  # the first divisor
    got = patched(network_of(unet), unet, f"hypertile({line}, keys={keys})", size)
    assert_close(got, by_hand(unet, ByHand(seen), size), atol=2e-5, rtol=0)
    assert not torch.allclose(got, plain(unet, size), atol=1e-3)


def test_one_tile_is_all(unet):
    whole = plain(unet, (16, 8))
    for keys in ("strip", "tile"):
        assert torch.equal(patched(network_of(unet), unet, f"hypertile(max_depth=1, keys={keys})", (16, 8)), whole)
    got = patched(network_of(unet), unet, "hypertile(tile_size=32, max_depth=1)", (7, 9))
    assert torch.equal(
        got, plain(unet, (7, 9))
    )  # the only divisors of 7 and 9 that are at least 4 are 7 and 9, and half of them is not an integer


@pytest.mark.parametrize(
    "line", ["hypertile(tile_size=32, swap_size=6, keys=tile)", "hypertile(tile_size=32, swap_size=6)", "tome"]
)
def test_draws_are_the_step_s_alone(line, unet):
    """A step taken again draws the same, other steps others, and nobody else's random numbers are touched."""
    torch.manual_seed(0)
    before = torch.get_rng_state()
    net = network_of(unet)
    answers = [patched(net, unet, line, (16, 24), step) for step in range(4)]
    assert torch.equal(torch.get_rng_state(), before)
    assert len({answer.numpy().tobytes() for answer in answers}) > 2
    for step in (3, 1):
        assert torch.equal(patched(net, unet, line, (16, 24), step), answers[step])


def chosen(tokens, side, seed):
    """A destination for each cell of 2 by 2, as its number in the raster."""
    draws = torch.randint(4, (side[0] // 2, side[1] // 2), generator=generator_of(seed)).tolist()
    return [
        (2 * i + draws[i][j] // 2) * side[1] + 2 * j + draws[i][j] % 2
        for i in range(side[0] // 2)
        for j in range(side[1] // 2)
    ]


def averages(tokens, side, ratio, seed):
    """Weights of each merged token, [B, merged, tokens], by the steps of the paper, one token after another."""
    to, out = chosen(tokens, side, seed), []
    for sample in tokens:
        likeness = torch.nn.functional.cosine_similarity(sample[:, None], sample[None, to], dim=2)
        sources = [i for i in range(len(sample)) if i not in to]
        ranked = sorted(sources, key=lambda i: -float(likeness[i].max()))
        many = min(int(len(sample) * ratio), len(sources))
        parts = [[i] for i in ranked[many:]] + [[j] for j in to]
        for i in ranked[:many]:
            parts[len(sources) - many + int(likeness[i].argmax())].append(i)
        out.append(torch.stack([torch.eye(len(sample))[part].mean(0) for part in parts]))
    return torch.stack(out)


@pytest.mark.parametrize(
    "line, size, grids",
    [
        ("tome", (8, 12), {96: (8, 12)}),
        ("tome(ratio=0.5, max_downsample=2)", (8, 12), {96: (8, 12), 24: (4, 6)}),
        ("tome(ratio=1)", (9, 7), {63: (9, 7)}),
        ("tome(ratio=0.4, max_downsample=4)", (7, 9), {63: (7, 9), 20: (4, 5)}),
    ],
)
def test_tome_is_its_rule(line, size, grids, unet):
    ratio = parse_mods(line).network[0].keywords.get("ratio", 0.3)

    def merge(tokens, layer):
        grid = grids.get(tokens.shape[1])
        return None if grid is None else averages(tokens, grid, ratio, (3 << 16) + layer)

    hand = ByHand(lambda n: None, merge)
    got = patched(network_of(unet), unet, line, size, step=3)
    assert_close(got, by_hand(unet, hand, size), atol=2e-5, rtol=0)
    assert len(hand.layers) == 7 and set(grids) <= set(hand.layers)
    assert not torch.allclose(got, plain(unet, size), atol=1e-3)


def test_tokens_that_are_equal_merge_exactly(unet):
    """Where all tokens of a cell are equal, three of four can go."""
    cell = draw(2, 16, 4, 6, seed=3)
    tokens = cell.repeat_interleave(2, 2).repeat_interleave(2, 3).flatten(2).transpose(1, 2)
    layer = unet.down_blocks[0].attentions[0].transformer_blocks[0].attn1

    def attention_alone(x, t, cond):
        return layer(tokens)

    merged = matched(tokens, (8, 12), 0.75, 5)
    assert merged.count == 24
    assert_close(merged.unmerged(merged.merged(tokens)), tokens)
    assert_close(patched(attention_alone, unet, "tome(ratio=0.75)", (8, 12)), layer(tokens), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "line, message",
    [
        ("hypertile", "hypertile finds no self-attention .* its own begins at max_depth=1"),
        ("tome", "tome finds no self-attention .* its own begins at max_downsample=2"),
    ],
)
def test_a_network_without_attention_so_high_up_is_refused(line, message, small):
    low = small.unet(
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D")
    )
    with pytest.raises(ValueError, match=message):
        parse_mods(line).check(low)
    parse_mods("hypertile(max_depth=1)+tome(max_downsample=2)").check(low)
    assert {"hypertile", "tome"} <= MODS.keys()
