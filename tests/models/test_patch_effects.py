"""What patches of UNets do to the shipped model's images and to its work, as their papers say. `-s` shows numbers."""

from functools import partial
from unittest import mock

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import sigmafield as sf
from sigmafield.core.process import Span
from sigmafield.core.protocols import Ctx
from sigmafield.guidance.guider import Guider
from sigmafield.guidance.patches import module_hooks
from sigmafield.recipes.mods import parse_mods
from small_network import BY_TORCH, shipped_model, small_model

pytestmark = pytest.mark.slow  # the rules of these patches are tested exactly by test_unet_patches and test_patch_laws
WORDS = ["red heart", "green apple"]


@pytest.fixture(scope="module")
def pipe():
    return shipped_model()


def asked(pipe, line, size, sigma=9.0, image=0.0, prompts=("red heart",)):
    """A guided prediction, of noise early in a run, or of latents of images with noise."""
    P, N = (pipe.text.encode(list(words), size) for words in (prompts, [""] * len(prompts)))
    noise = torch.randn(pipe.model.latent.shape(len(prompts), size), generator=torch.Generator().manual_seed(0))
    x, level = image + sigma * noise, torch.tensor(sigma, dtype=torch.float64)
    with torch.no_grad():
        return Guider(pipe.model, P, N, 4.0, parse_mods(line))(
            x, level, Ctx(Span(level, level / 2, pipe.model.sampling.process, clock=pipe.model.sampling.clock), {})
        )


def drawn(pipe, words, line, **settings):
    """A image [H, W, 3], 0 … 1."""
    [image] = sf.generate(pipe, words, seed=1, guidance=line, **{"steps": 6, "cfg": 4.0} | settings)
    return np.asarray(image) / 255


def spectrum(z):
    """Energy of each frequency, and its distance from 0."""
    F = torch.fft.fft2(z - z.mean((-2, -1), keepdim=True)).abs().square()
    waves = torch.fft.fftfreq(z.shape[-1], 1 / z.shape[-1])
    return F, (waves[:, None] ** 2 + waves**2).sqrt()


@pytest.fixture(scope="module")
def clean(pipe):
    """Latents of images of the words."""
    images = np.stack([drawn(pipe, words, "") for words in WORDS])
    return pipe.encode(torch.tensor(images, dtype=torch.float32).movedim(3, 1))


@pytest.mark.parametrize("sigma", [4.0, 1.0])
@pytest.mark.parametrize("name", ["freeu", "freeu_v2"])
def test_freeu_s_backbone_takes_high_frequencies_from_images(name, sigma, pipe, clean):
    """Fig. 5 of the paper: the larger b, the fewer; beyond a quarter of the highest frequency."""
    shares = {}
    for b in (0.7, 1.0, 1.8):
        D = asked(pipe, f"{name}(b2={b}, s2=1)", pipe.model.size, sigma, clean, WORDS).x0
        F, waves = spectrum(pipe.decode(D).mean(1))
        shares[b] = float((F[:, waves > 8].sum(1) / F.sum((1, 2))).mean())
    print(f"\n{name}, sigma {sigma}: share of high frequencies by b2: {shares}")
    assert shares[0.7] > shares[1.0] > shares[1.8]


def test_freeu_takes_low_frequencies_from_skips_and_nothing_else(pipe):
    """Sec. 3.2 of the paper: low frequencies of the skip times s, h's first half times b."""
    seen, entrance = [], pipe.model.module.up_blocks[1].resnets[1].norm1
    with entrance.register_forward_pre_hook(lambda module, args: seen.append(args[0])):
        for line in ("", "freeu(b2=1.3, s2=0.2)"):
            asked(pipe, line, pipe.model.size)
    plain, changed = seen
    torch.testing.assert_close(changed[:, :48], 1.3 * plain[:, :48])
    torch.testing.assert_close(changed[:, 48:96], plain[:, 48:96])
    waves = torch.fft.fftfreq(plain.shape[-1], 1 / plain.shape[-1])
    low = ((waves >= -1) & (waves < 1))[:, None] & ((waves >= -1) & (waves < 1))
    share = []
    for joined in seen:
        energy = torch.fft.fft2(joined[:, 96:]).abs().square()
        share.append(float(energy[..., low].sum() / energy.sum()))
    print(f"\nfreeu: share of a skip's energy in its low frequencies: {share[0]:.3f} -> {share[1]:.3f}")
    assert share[1] < share[0] / 4


def pieces(image):
    """How many red things there are, of at least 40 pixels."""
    red = (image[..., 0] > 0.6) & (image[..., 1] < 0.45)
    labels, count = ndimage.label(red)  # pyright: ignore[reportGeneralTypeIssues]: scipy's stubs also know an int
    return int((np.bincount(labels.ravel(), minlength=count + 1)[1:] >= 40).sum())


def flops(pipe, line, size):
    with mock.patch.object(nn.Conv2d, "_conv_forward", BY_TORCH), FlopCounterMode(display=False) as counter:
        asked(pipe, line, size)
    return counter.get_total_flops()


def test_deep_shrink_draws_one_thing_on_a_image_twice_as_large(pipe):
    """Beyond its training size the network repeats its subject; with deep shrink it does not, for less work."""
    size = {"height": 128, "width": 128}
    found = {line: pieces(drawn(pipe, "red heart", line, **size)) for line in ("", "deep_shrink")}
    share = flops(pipe, "deep_shrink", (128, 128)) / flops(pipe, "", (128, 128))
    print(f"\ndeep_shrink: hearts at 128 by 128: {found}; work of a call within its window: {share:.2f}")
    assert found[""] > 1 == found["deep_shrink"]
    assert share < 0.8


def work(pipe, line, size):
    """(queries, pairs of query and key) of self-attention in a call, of all rows and heads."""
    calls = []

    def count(q, k, v, attention):
        calls.append((q.shape[:3].numel(), q.shape[:3].numel() * k.shape[2]))
        return attention(q, k, v)

    with module_hooks.inside(pipe.model.module, count):
        asked(pipe, line, size)
    to_itself = calls[::2]  # every other one is to the text
    return tuple(map(sum, zip(*to_itself)))


def test_hypertile_divides_the_pairs_by_the_tiles():
    for side, tiles in {128: 4, 256: 16}.items():
        count = partial(work, small_model(), size=(side, side))
        (_, all_), (_, tiled) = count(line=""), count(line="hypertile(tile_size=32, max_depth=2)")
        print(f"\nhypertile: pairs of tokens at {side} by {side}: {all_} -> {tiled}")
        assert tiled * tiles == all_


def test_tome_asks_less_and_stays_close(pipe):
    """Sec. 4 of the paper: work falls with the ratio, and what comes of it changes little at first."""
    count = partial(work, small_model(), size=(128, 128))
    (whole, pairs), plain, far = count(line=""), asked(pipe, "", (128, 128), 2.0).x0, {}
    for ratio in (0.25, 0.5, 0.75):
        line = f"tome(ratio={ratio}, max_downsample=4)"
        assert count(line=line) == ((1 - ratio) * whole, (1 - ratio) * pairs)
        far[ratio] = float((asked(pipe, line, (128, 128), 2.0).x0 - plain).norm() / plain.norm())
    print(f"\ntome: change of D by ratio: {far}")
    assert far[0.25] < far[0.5] < far[0.75] and far[0.25] < 0.05


def test_the_text_s_values_carry_its_guidance(pipe):
    """Text that counts for more moves C further from U; none of it leaves nothing between them."""
    spread = {}
    for v in (0.0, 1.0, 1.5):
        p = asked(pipe, f"cross_attention_multiply(v={v})", pipe.model.size)
        spread[v] = float((p.cond - p.uncond).norm())
    print(f"\ncross_attention_multiply: |C - U| by v: {spread}")
    assert spread[0.0] < 1e-3 * spread[1.0] and spread[1.5] > spread[1.0]
