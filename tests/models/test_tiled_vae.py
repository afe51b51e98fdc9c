"""Tiled autoencoders against the modules themselves, diffusers' and the embedded one."""

from dataclasses import replace

import pytest
import small_models
import torch

from sigmafield.core.geometry import Box
from sigmafield.models.vae.tiled import parts, smaller, tiled_decode, tiled_encode
from sigmafield.models.vae.walk import alone, decode_walk, encode_walk, recorded
from small_network import shipped_model, small_model

MODES = ["pooled", "exact", "estimated", "estimated_start"]


def drawn(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


class Diffusers:
    """AutoencoderKL as the embedded model's VAE is called."""

    def __init__(self, **changes):
        self.vae = small_models.vae(**changes)

    def decode(self, z):
        return self.vae.decode(z).sample

    def encode(self, x):
        return self.vae.encode(x).latent_dist.mean


@pytest.fixture(scope="module", params=["diffusers", "no quant", "tiny"])
def pair(request):
    """(module, something that decodes and encodes whole images, factor)."""
    if request.param == "tiny":
        vae = small_model().modules["vae"]
        return vae, vae, vae.factor
    pytest.importorskip("diffusers")
    whole = Diffusers(
        **({"use_quant_conv": False, "use_post_quant_conv": False} if request.param == "no quant" else {})
    )
    return whole.vae, whole, 2


@torch.no_grad()
@pytest.mark.parametrize("collected", MODES)
def test_one_tile_is_the_plain_vae(pair, collected):
    """T4: also where the walk normalises by itself."""
    vae, whole, factor = pair
    z, x = drawn(2, 4, 12, 20), drawn(2, 3, 12 * factor, 20 * factor).clamp(-1, 1)
    scale = float(whole.decode(z).abs().max())
    error = (tiled_decode(vae, z, 64, collected=collected) - whole.decode(z)).abs().max()
    assert error <= 1e-5 * scale, float(error)
    torch.testing.assert_close(tiled_encode(vae, x, 512, collected=collected), whole.encode(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("length", [7, 22, 40, 65, 100, 131, 512])
@pytest.mark.parametrize("tile, pad, unit", [(8, 11, 1), (16, 3, 1), (24, 0, 1), (64, 32, 8), (48, 8, 4)])
def test_parts_own_each_place_once(length, tile, pad, unit):
    length = -(-length // unit) * unit
    layout = parts(length, length + 4 * unit, tile, pad, unit)
    counts = torch.zeros(length, length + 4 * unit)
    for part in layout:
        counts[part.taken.index] += 1
        shown, taken = part.shown, part.taken
        assert shown.clipped(*counts.shape) == shown
        assert shown.y <= taken.y and taken.y + taken.height <= shown.y + shown.height
        assert taken.y - shown.y == pad or taken.y == 0 == shown.y
        assert all(n % unit == 0 for n in (*shown, *taken))
    assert (counts == 1).all()
    assert len(parts(length, length, length, pad)) == 1


@torch.no_grad()
@pytest.mark.parametrize("tile", [4, 9])
def test_exact_is_the_whole_image(pair, tile):
    """T4: both ways, attention and all, whatever the height of the bands; the arguments are not changed."""
    vae, whole, factor = pair
    z, x = drawn(2, 4, 22, 12), drawn(1, 3, 22 * factor, 6 * factor).clamp(-1, 1)
    given = z.clone(), x.clone()
    expected, means = whole.decode(z), whole.encode(x)
    got = tiled_decode(vae, z, tile)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    torch.testing.assert_close(tiled_encode(vae, x, tile * factor), means, rtol=1e-4, atol=1e-4)
    assert torch.equal(z, given[0]) and torch.equal(x, given[1])


@torch.no_grad()
@pytest.mark.parametrize("collected", MODES)
@pytest.mark.parametrize("pair", ["diffusers", pytest.param("tiny", marks=pytest.mark.slow)], indirect=True)
def test_a_batch_is_its_samples(pair, collected):
    """To the last bit, next to a sample of other statistics and next to one that is not finite."""
    vae, _, factor = pair
    for tiled, scale, shape in ((tiled_decode, 1, (4, 12, 10)), (tiled_encode, factor, (3, 12 * factor, 10 * factor))):
        one, loud, broken = drawn(1, *shape), 9 + 5 * drawn(1, *shape), torch.full((1, *shape), float("inf"))
        both = tiled(vae, torch.cat([one, loud]), 6 * scale, pad=2 * scale, collected=collected)
        alone_ = [tiled(vae, part, 6 * scale, pad=2 * scale, collected=collected) for part in (one, loud)]
        assert torch.equal(both, torch.cat(alone_))
        mixed = tiled(vae, torch.cat([broken, one]), 6 * scale, pad=2 * scale, collected=collected)
        assert torch.equal(mixed[1:], alone_[0])


@torch.no_grad()
def test_statistics_of_the_whole_image_make_tiles_independent():
    """Given the statistics that the whole image has, a tile with padding is the whole image's part."""
    pytest.importorskip("diffusers")
    vae = small_models.vae(mid_block_add_attention=False)
    z = drawn(1, 4, 40, 40)
    statistics = list(recorded(decode_walk(vae, z)))
    part = alone(decode_walk(vae, z[..., 8:40, 8:40]), statistics)
    whole = vae.decode(z).sample
    torch.testing.assert_close(
        part[..., 32:, 32:], whole[..., 48:, 48:], rtol=1e-4, atol=1e-5 * float(whole.abs().max())
    )
    with pytest.raises(ValueError, match="more than the 3 norms"):
        alone(decode_walk(vae, z), statistics[:3])


def explicit(vae, crops, weights, known, walk):
    """What the rules say, with the modules themselves: group norms are replaced by ones that share statistics."""
    norms, outs = [m for m in vae.modules() if isinstance(m, torch.nn.GroupNorm)], []
    walks = [walk(vae, crop) for crop in crops]
    asked = [next(w) for w in walks]
    k = 0
    while len(outs) < len(crops):
        norm = asked[0].norm
        if norm is None:
            asked = [w.send(part.run(part.first, *part.others)) for w, part in zip(walks, asked)]
            continue
        assert norm in norms
        if k < len(known):
            mean, variance = known[k].mean, known[k].variance
        else:
            grouped = [part.first.reshape(len(part.first), norm.num_groups, -1) for part in asked]
            total = sum(weights)
            mean = sum(q / total * g.mean(2) for q, g in zip(weights, grouped))
            variance = sum(q / total * g.var(2, correction=0) for q, g in zip(weights, grouped))
        k += 1
        for j, w in enumerate(walks):
            x = asked[j].first
            g = x.reshape(len(x), norm.num_groups, -1)
            g = ((g - mean[..., None]) / (variance[..., None] + norm.eps).sqrt()).reshape(x.shape)
            try:
                normal = g * norm.weight[:, None, None] + norm.bias[:, None, None]
                asked[j] = w.send(asked[j].run(normal, *asked[j].others))
            except StopIteration as end:
                outs.append(end.value)
    return outs


@torch.no_grad()
@pytest.mark.parametrize("collected", ["pooled", "estimated", "estimated_start"])
def test_pooled_and_estimated_statistics(pair, collected):
    """T4: the node pack's statistics, by an explicit forward pass: (μ, v) are means by h · w of the padded tiles."""
    vae, _, factor = pair
    z, x = drawn(1, 4, 18, 22), drawn(1, 3, 48, 64)
    for image, walk, layout, tiled, tile, pad in (
        (z, decode_walk, parts(18, 22, 8, 4), tiled_decode, 8, 4),
        (x, encode_walk, parts(48, 64, 24, 8, factor), tiled_encode, 24, 8),
    ):
        assert len(layout) > 3
        if collected == "estimated_start" and walk is decode_walk:
            continue  # a decoder's start has no norms that set colours
        crops = [image[(..., *part.shown.index)] for part in layout]
        weights = [part.shown.height * part.shown.width for part in layout]
        known = [] if collected == "pooled" else list(recorded(walk(vae, smaller(image, tile))))
        if collected == "estimated_start":
            known = known[: 2 * len(vae.encoder.down_blocks[0].resnets)]
        outs = explicit(vae, crops, weights, known, walk)
        got = tiled(vae, image, tile, pad=pad, collected=collected)
        for part, out in zip(layout, outs):
            ratio = out.shape[2] / part.shown.height
            at = Box(*(round(side * ratio) for side in part.taken))
            piece = out[(..., *part.within(out.shape[2]))]
            scale = float(piece.abs().max())
            torch.testing.assert_close(got[(..., *at.index)], piece, rtol=1e-4, atol=1e-5 * scale)


@torch.no_grad()
def test_shared_statistics_keep_the_colours():
    """On the embedded model: exact and pooled statistics are nearer to the whole image than tiles by themselves."""
    vae = shipped_model().modules["vae"]
    flat = torch.linspace(-2, 2, 32).reshape(1, 1, 1, 32).expand(1, 4, 32, 32) + 0.3 * drawn(1, 4, 32, 32)
    whole = vae.decode(flat)
    error = {
        mode: float((tiled_decode(vae, flat, 16, pad=4, collected=mode) - whole).abs().mean())
        for mode in ("pooled", "exact", "estimated")
    }
    layout = parts(32, 32, 16, 4)
    apart = torch.zeros_like(whole)
    for part in layout:
        out = vae.decode(flat[(..., *part.shown.index)])
        apart[(..., *Box(*(4 * side for side in part.taken)).index)] = out[(..., *part.within(out.shape[2]))]
    alone_error = float((apart - whole).abs().mean())
    print(f"\nmean error of tiles, image in [-1, 1]: by themselves {alone_error:.3f}, {error}")
    assert error["exact"] < 1e-5
    assert error["estimated"] < alone_error


def test_a_pipeline_with_a_tiled_vae():
    pipe = small_model()
    z, images = drawn(1, 4, 40, 24), torch.rand(1, 3, 160, 96)
    whole, tiled = replace(pipe, vae=pipe.vae.tiled(64, "pooled")), replace(pipe, vae=pipe.vae.tiled(8))
    torch.testing.assert_close(whole.decode(z), pipe.decode(z), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(whole.encode(images), pipe.encode(images), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(tiled.decode(z), pipe.decode(z), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(tiled.encode(images), pipe.encode(images), rtol=1e-4, atol=1e-4)


def test_wrong_use_is_refused():
    vae = small_model().modules["vae"]
    with pytest.raises(ValueError, match="tile must be ≥ 1 and pad ≥ 0; got 0 and 11"):
        tiled_decode(vae, drawn(1, 4, 8, 8), 0)
