"""Context windows and caches on a small Wan: a latent that is longer than its window, in a network that is not ours."""

from dataclasses import replace

import pytest
import torch

from sigmafield.core.process import Span
from sigmafield.core.protocols import Ctx
from sigmafield.guidance.guider import Guider
from sigmafield.recipes.execute import open_job
from sigmafield.recipes.mods import parse_mods
from sigmafield.recipes.recipe import Recipe
from sigmafield.runs.run import finish
from sigmafield.spatial.context_windows import context, shares, windows_of

pytest.importorskip("diffusers")


@pytest.fixture
def wan(loaded):
    return loaded("wan")


def asked(pipe, sigma=0.7, frames=33):
    """x of a video, σ, two conditionings, a step."""
    size = (4 * pipe.model.latent.factor, 4 * pipe.model.latent.factor)
    x = torch.randn(pipe.model.latent.shape(2, size, frames), generator=torch.Generator().manual_seed(0))
    level = torch.tensor(sigma, dtype=torch.float64)
    conds = [pipe.text.encode([text] * 2, size) for text in ("a red heart", "1999")]
    return (
        x,
        level,
        conds,
        Ctx(Span(level, level / 2, pipe.model.sampling.process, clock=pipe.model.sampling.clock), {}),
    )


@pytest.mark.parametrize("schedule", ["standard_static", "looped_uniform"])
@torch.no_grad()
def test_windows_are_the_network_on_each_and_the_mean(wan, schedule):
    """Frames of a batch of two, window by window through diffusers' transformer, put together by hand."""
    x, sigma, conds, ctx = asked(wan)
    size, both = x.shape[2], torch.cat([x, x])
    got = context(wan.model, length=4, overlap=2, schedule=schedule)(both, sigma, conds, ctx)
    windows = windows_of(schedule, size, 4, 2, 1, False, 0)
    want = [torch.zeros_like(x) for _ in conds]
    for window, share in zip(windows, shares("pyramid", windows, size, 2)):
        for k, D in enumerate(wan.model(both[:, :, list(window)], sigma, conds, ctx)):
            want[k][:, :, list(window)] += D * share.float().reshape(-1, 1, 1)
    assert size == 9 and len(windows) == 4
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    whole = wan.model(both, sigma, conds, ctx)
    assert not torch.allclose(got[0], whole[0], atol=1e-3), "frames see one another"


@torch.no_grad()
def test_one_window_over_all_frames_is_none(wan):
    x, sigma, (positive, negative), ctx = asked(wan)
    plain = Guider(wan.model, positive, negative, 3.0)(x, sigma, ctx).x0
    for line in ("context", "context(length=9)", "context(length=9, schedule=batched, fuse=flat)"):
        assert torch.equal(Guider(wan.model, positive, negative, 3.0, parse_mods(line))(x, sigma, ctx).x0, plain)


def test_a_long_video_by_its_recipe(wan):
    """33 frames in windows of 4 places of the latent, with and without a cache: as many calls as windows and steps."""
    calls, size = [], (4 * wan.model.latent.factor, 4 * wan.model.latent.factor)

    def drawn(guidance):
        def forward(module, x, t, cond):
            calls[-1] += 1
            assert x.shape[2] == 4
            return wan.model.forward(module, x, t, cond)

        calls.append(0)
        recipe = Recipe(
            "a red heart", steps=8, cfg=3.0, frames=33, height=size[0], width=size[1], guidance=guidance,
            schedule="karras",
        )  # fmt: skip
        job = open_job(recipe, replace(wan, model=replace(wan.model, forward=forward)))
        return finish(job.run, job.start).x

    plain = drawn("context(length=4, overlap=2)")
    cached = drawn("context(length=4, overlap=2)+easycache(reuse_threshold=0.3)")
    assert calls[0] == 4 * 8 and calls[1] % 4 == 0 and calls[1] < calls[0]
    assert cached.isfinite().all() and float((cached - plain).norm() / plain.norm()) < 0.2
