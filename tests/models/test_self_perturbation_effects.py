"""What guidance by a disturbed network does to the shipped model's predictions, as its papers claim it does."""

from functools import partial

import pytest
import torch

from sigmafield.core.process import Span
from sigmafield.core.protocols import Ctx
from sigmafield.guidance.guider import Guider
from sigmafield.guidance.patches.module_hooks import during, inside
from sigmafield.guidance.patches.perturbed_attention import blurred_attention, identity_attention
from sigmafield.guidance.patches.unet_blocks import middle_attentions
from sigmafield.recipes.execute import open_job
from sigmafield.recipes.mods import parse_mods
from sigmafield.recipes.recipe import Recipe
from sigmafield.runs.run import finish
from small_network import shipped_model

WORDS = ["red heart", "dog face", "green apple", "sun"]

pytestmark = pytest.mark.slow  # the rules are tested exactly by test_self_perturbation and test_attention_rules


@pytest.fixture(scope="module")
def pipe():
    return shipped_model()


@pytest.fixture(scope="module")
def drawn(pipe):
    """Latents of images that the model draws of these words."""
    jobs = [open_job(Recipe(words, steps=5, cfg=2.0, seed=i), pipe) for i, words in enumerate(WORDS)]
    return torch.cat([finish(job.run, job.start).x for job in jobs])


@pytest.fixture
def denoised(pipe, drawn):
    """(mods, σ, patches) → the prediction at cfg 1, against "cat face", of those images under noise."""
    P, N = (pipe.text.encode(words, pipe.model.size) for words in (WORDS, ["cat face"] * 4))

    @torch.no_grad()
    def at(text, sigma, *patches, need_uncond=False):
        level = torch.tensor(sigma, dtype=torch.float64)
        x = drawn + sigma * torch.randn(drawn.shape, generator=torch.Generator().manual_seed(1))
        ctx = Ctx(
            Span(level, level / 2, pipe.model.sampling.process, clock=pipe.model.sampling.clock),
            {},
            patches=patches,
            need_uncond=need_uncond,
        )
        return Guider(pipe.model, P, N, 1.0, parse_mods(text))(x, level, ctx)

    return at


SIGMAS = (0.5, 2.0, 4.0)


def test_identity_attention_matters_while_the_image_is_decided(denoised):
    """PAG: the further into the noise, the more C − W is of C."""
    shares = []
    for sigma in SIGMAS:
        C, W = denoised("", sigma).x0, denoised("", sigma, identity_attention).x0
        shares.append(float((C - W).norm() / C.norm()))
    print("‖C − W‖/‖C‖ at σ =", SIGMAS, shares)
    assert shares == sorted(shares) and shares[-1] > 2 * shares[0] > 1e-3


def test_blurring_flattens_the_logits_and_moves_the_prediction(pipe, denoised):
    """SEG: the wider the blur, the less attention differs between queries, and the further W is from C."""
    C, spreads, distances = denoised("", 8.0).x0, [], []
    for sigma in (0.0, 0.5, 1.0, 10000.0):
        seen = []

        def watching(network, call, seen=seen):
            def note(q, k, v, attention):
                seen.append(float((q @ k.transpose(2, 3)).var(2).mean()))
                return attention(q, k, v)

            return during(network, [partial(inside, a, note) for a in middle_attentions(call.module)])

        W = denoised("", 8.0, partial(blurred_attention, sigma=sigma), watching).x0
        spreads.append(seen[0])
        distances.append(float((W - C).norm() / C.norm()))
    print("variance of the logits over the queries", spreads, "‖W − C‖/‖C‖", distances)
    assert spreads == sorted(spreads, reverse=True) and spreads[-1] < 1e-6 * spreads[0]
    assert distances == sorted(distances) and distances[0] < 1e-6


def fine(z):
    """The share of the energy in the upper half of the frequencies."""
    energy = torch.fft.fft2(z).abs() ** 2
    j = torch.fft.fftfreq(z.shape[-1], 1 / z.shape[-1]).abs()
    return float(energy[..., j[:, None].maximum(j) > z.shape[-1] // 4].sum() / energy.sum())


@pytest.mark.parametrize("sigma", [2.0, 4.0, 8.0])
def test_sag_sharpens(sigma, denoised):
    shares = [fine(denoised(text, sigma).x0) for text in ("", "sag(scale=0.5)", "sag(scale=1.5)")]
    print(f"σ = {sigma}: share of high frequencies without SAG, at 0.5, at 1.5: {shares}")
    assert shares == sorted(shares)


def test_nag_leads_away_from_the_negative_prompt_without_guidance(denoised):
    """At cfg 1, while the image is decided: along C − U, further from U, the more the larger the scale."""
    plain = denoised("", 8.0, need_uncond=True)
    away, cosines, distances = plain.cond - plain.uncond, [0.0], [1.0]
    for scale in (5, 11, 25):
        moved = denoised(f"nag(scale={scale})", 8.0).x0
        cosines.append(float(torch.cosine_similarity((moved - plain.cond).flatten(1), away.flatten(1)).mean()))
        distances.append(float((moved - plain.uncond).norm() / away.norm()))
    print(f"cosine with C − U {cosines}, distance from U {distances}")
    assert cosines == sorted(cosines) and distances == sorted(distances) and cosines[1] > 0.1
