"""Properties of single guidance mods from their papers: norms, angles, deviations, exact cases."""

import pytest
import torch
import torch.nn.functional as F

from sigmafield.core.process import VE, Flow, Span
from sigmafield.core.protocols import Ctx
from sigmafield.guidance.frequency import reinhard, scaled_frequencies, unsharp
from sigmafield.guidance.hooks import Asked, Preds, classifier_free
from sigmafield.guidance.patches.freeu import freeu_features, freeu_v2_features
from sigmafield.models.analytic import Mixture
from sigmafield.recipes.mods import MODS

SHAPE = (3, 4, 12, 10)


def draw(seed, shape=SHAPE, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def asked(x, cfg=5.0, sigma=0.8, process=VE()):
    sigma = torch.tensor(sigma, dtype=torch.float64)
    span = Span(sigma, sigma / 2, process)
    return Asked(x, sigma, torch.tensor(cfg, dtype=torch.float64), Ctx(span, {}), lambda *_: [], [])


def apply(name, c, u, x=None, D=None, **params):
    at = asked(draw(9) if x is None else x)
    p = Preds(c, u, D if D is not None else classifier_free(Preds(c, u, c), at).D)
    return MODS[name](**params)(p, at)


def norms(z):
    return z.flatten(1).norm(dim=1)


def test_rescaling_keeps_the_deviation_of_the_positive():
    c, u, x = draw(1), draw(2), draw(3)
    for space, base in {"v": x / (0.8**2 + 1), "residual": x}.items():
        D = apply("rescale", c, u, x, multiplier=1.0, space=space).D
        torch.testing.assert_close((base - D).flatten(1).std(1), (base - c).flatten(1).std(1))


def test_norms_are_bounded():
    c, u = draw(1), draw(2)
    plain = classifier_free(Preds(c, u, c), asked(c)).D
    torch.testing.assert_close(norms(apply("renorm", c, u, renorm_cfg=1.4).D), 1.4 * norms(c))
    assert torch.equal(apply("renorm", c, u, renorm_cfg=50.0).D, plain)
    assert torch.equal(apply("renorm", c, u, cfg_trunc=0.5).D, c)
    D = apply("cfg_norm", c, u).D
    torch.testing.assert_close(D.norm(dim=1), torch.minimum(plain.norm(dim=1), c.norm(dim=1)))


@pytest.mark.parametrize("eta", [0.0, 0.3])
def test_apg_is_orthogonal_and_short(eta):
    """The paper's rule, D = C + (cfg − 1)(Δ⊥ + η Δ∥) with ‖Δ‖ ≤ τ."""
    c, u = draw(1), draw(2)
    p = apply("apg", c, u, eta=eta, norm_threshold=2.0, form="paper")
    moved = (classifier_free(p, asked(c)).D - c) / 4.0
    short = (c - u) * (2.0 / norms(c - u))[:, None, None, None]
    along = (short * c).flatten(1).sum(1) / (c * c).flatten(1).sum(1)
    torch.testing.assert_close(moved, short - (1 - eta) * along[:, None, None, None] * c)


def test_apg_sums_differences_until_the_level_rises():
    c, u, x = draw(1), draw(2), draw(3)
    at, p = asked(x), Preds(c, u, c)
    hook = MODS["apg"](momentum=-0.5, norm_threshold=0.0, form="paper")
    first, second = hook(p, at), hook(p, at)
    torch.testing.assert_close(second.c - c, (first.c - c) - 0.5 * 0.8 * (c - u))
    higher = asked(x, sigma=0.9)
    higher.ctx.aux.update(at.ctx.aux)
    torch.testing.assert_close(hook(p, higher).c, first.c)


def test_tcfg_keeps_the_first_singular_direction():
    c, u, x = draw(1), draw(2), draw(3)
    rows = torch.stack([(x - u).flatten(1), (x - c).flatten(1)], 1)
    v = torch.linalg.svd(rows, full_matrices=False).Vh[:, 0]
    expected = ((rows[:, 0] * v).sum(1, keepdim=True) * v).reshape(SHAPE)
    torch.testing.assert_close(x - apply("tcfg", c, u, x).u, expected)
    parallel = x - 0.7 * (x - c)
    torch.testing.assert_close(apply("tcfg", c, parallel, x).u, parallel)


def test_zero_star_adds_nothing_where_the_velocities_are_parallel():
    c, x = draw(1), draw(3)
    u = x - 0.6 * (x - c)
    torch.testing.assert_close(apply("zero_star", c, u, x, space="residual").D, c)
    assert not torch.allclose(apply("zero_star", c, u, x).D, c)
    assert torch.equal(apply("zero_star", c, u, x, zero_init_steps=1).D, x)


@pytest.mark.parametrize("process, sigma", [(VE(), 0.0), (VE(), 0.4), (VE(), 9.0), (Flow(), 0.3), (Flow(), 1.0)])
def test_tsr_is_exact_for_a_gaussian(process, sigma):
    """The denoiser of N(0, ν) becomes that of N(0, ν/k)."""
    x, at = draw(3), asked(draw(3), sigma=sigma, process=process)
    wide, narrow = (Mixture([0.0], [1.0], tau, process)(x, at.sigma).x0 for tau in (0.7, 0.7 / 2**0.5))
    D = MODS["tsr"](tsr_k=2.0, tsr_sigma=0.7)(Preds(wide, wide, wide), at).D
    torch.testing.assert_close(D, x if not sigma else narrow)


def test_epsilon_scaling_divides_the_noise():
    c, u, x = draw(1), draw(2), draw(3)
    D = apply("epsilon_scaling", c, u, x, D=c, scaling_factor=1.25).D
    torch.testing.assert_close(x - D, (x - c) / 1.25)


def test_raag_damps_where_prompts_disagree():
    c, u, x = draw(1), draw(2), draw(3)
    ratio = norms(c - u) / norms(x - u)
    w = 1 + 4.0 * torch.exp(-2.0 * ratio)[:, None, None, None]
    torch.testing.assert_close(apply("raag", c, u, x, alpha=2.0).D, u + w * (c - u))


def test_frames_have_scales_of_their_own():
    c, u = draw(1, (2, 4, 5, 6, 6)), draw(2, (2, 4, 5, 6, 6))
    for name, weights in {"linear_frames": (1, 2, 3, 4, 5), "triangle_frames": (1, 3, 5, 3, 1)}.items():
        D = apply(name, c, u, x=c).D
        for k, w in enumerate(weights):
            torch.testing.assert_close(D[:, :, k], u[:, :, k] + w * (c - u)[:, :, k])
    w = torch.tensor([1.0, 3.0, 5.0])[:, None, None, None]
    torch.testing.assert_close(apply("linear_frames", draw(1), draw(2)).D, draw(2) + w * (draw(1) - draw(2)))


def test_mahiro_is_the_positive_alone_where_guidance_is_opposed():
    """m = −1 where the negative prediction points in the opposite direction: D = cfg C."""
    c = draw(1)
    torch.testing.assert_close(apply("mahiro", c, -c, D=c).D, 5.0 * c)
    torch.testing.assert_close(apply("mahiro", c, c, D=c).D, c)


def test_frequencies_are_parted_in_two():
    z = draw(1, (2, 4, 16, 12))
    low, high = scaled_frequencies(z, 1.0, 0.0, [3, 3]), scaled_frequencies(z, 0.0, 1.0, [3, 3])
    torch.testing.assert_close(low + high, z)
    flat = torch.ones_like(z)
    torch.testing.assert_close(scaled_frequencies(flat, 0.5, 2.0, [3, 3]), 0.5 * flat)
    checkers = (torch.arange(16)[:, None] + torch.arange(12)) % 2 * 2.0 - 1
    torch.testing.assert_close(scaled_frequencies(flat * checkers, 0.5, 2.0, [3, 3]), 2.0 * flat * checkers)
    video = draw(1, (1, 2, 3, 8, 8))
    frames = torch.stack([scaled_frequencies(frame, 0.5, 2.0, [2, 2]) for frame in video.unbind(2)], 2)
    torch.testing.assert_close(scaled_frequencies(video, 0.5, 2.0, [2, 2]), frames)


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (2, 2), (3, 1), (5, 4)])
def test_freeu_scales_the_waves_around_the_middle_of_the_spectrum(size):
    """Along an axis those at n//2 − 1 and n//2 of the shifted spectrum that there are: of a side of 1 or 2, all."""
    skip, s = draw(3, (2, 5, *size)), 0.3
    low = [range(max(n // 2 - 1, 0), n // 2 + 1) for n in size]
    shifted = torch.fft.fftshift(torch.fft.fft2(skip), dim=(-2, -1))
    for i in low[0]:
        for j in low[1]:
            shifted[..., i, j] *= s
    want = torch.fft.ifft2(torch.fft.ifftshift(shifted, dim=(-2, -1))).real
    for make in (freeu_features, freeu_v2_features):
        _, thin = make(draw(1, (2, 32, *size)), skip, 8, b1=1.0, b2=1.0, s1=s, s2=1.0)
        torch.testing.assert_close(thin, want)
    if max(size) <= 2:
        torch.testing.assert_close(want, s * skip)


def test_unsharp_masking_is_a_convolution_of_directions():
    z, radius, sigma, alpha = draw(1), 3, 0.7, 0.2
    length = z.norm(dim=1, keepdim=True) + 1e-6
    line = torch.linspace(-1, 1, 7, dtype=torch.float64)
    kernel = torch.exp(-(line[:, None] ** 2 + line**2) / (2 * sigma**2))
    kernel = -10 * alpha * kernel / kernel.sum()
    kernel[3, 3] += 1 - kernel.sum()
    padded = F.pad(z / length, (3, 3, 3, 3), mode="reflect")
    expected = length * F.conv2d(padded, kernel.expand(4, 1, 7, 7), groups=4)
    torch.testing.assert_close(unsharp(z, radius, sigma, alpha), expected)
    mirrored = torch.cat([z, z.flip(-1)[..., 1:-1], z], -1)  # a radius beyond the latent sees its mirror images
    torch.testing.assert_close(unsharp(z[:, :, :1], 12)[..., 0], unsharp(mirrored[:, :, :1], 12)[..., 18])


def test_tone_mapping_shortens_the_long():
    z = draw(1)
    mapped = reinhard(z)
    shares = mapped.norm(dim=1) / z.norm(dim=1)
    torch.testing.assert_close(mapped / shares[:, None], z)
    for lengths, share in zip(z.norm(dim=1), shares):
        assert (share.flatten()[lengths.flatten().argsort()].diff() < 0).all()
    assert float(shares.max()) < 1
    assert not reinhard(torch.zeros(SHAPE)).any()


@pytest.mark.parametrize("make", [freeu_features, freeu_v2_features])
def test_freeu_acts_on_two_widths_and_is_off_at_1(make):
    skip, off = draw(2, (2, 16, 8, 8)), {"b1": 1.0, "b2": 1.0, "s1": 1.0, "s2": 1.0}
    on = {"b1": 1.1, "b2": 1.2, "s1": 0.9, "s2": 0.2}
    for width, acts in {32: True, 16: True, 24: False, 8: False}.items():
        h = draw(1, (2, width, 8, 8))
        out, thin = make(h, skip, 8, **on)
        assert torch.equal(out, h) != acts and torch.equal(thin, skip) != acts
        assert torch.equal(out[:, width // 2 :], h[:, width // 2 :])
        for ours, before in zip(make(h, skip, 8, **off), (h, skip)):
            torch.testing.assert_close(ours, before)
    for dtype in (torch.float32, torch.float16):
        h, skip = make(torch.ones(1, 32, 4, 4, dtype=dtype), torch.ones(1, 4, 4, 4, dtype=dtype), 8, **on)
        assert h.isfinite().all() and h.dtype == skip.dtype == dtype
