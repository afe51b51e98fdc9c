"""EasyCache and LazyCache on real networks: which calls are left out, what stands for them, and that runs resume."""

from dataclasses import replace

import pytest
import torch

import sigmafield as sf
from sigmafield.checkpoint import load_state, save_state
from sigmafield.grid import Grid, Span
from sigmafield.guidance import parse_mods
from sigmafield.guidance.guider import Guider
from sigmafield.guidance.hooks import Mods
from sigmafield.guidance.perturbed import Perturbed
from sigmafield.job import open_job
from sigmafield.recipe import Recipe
from sigmafield.run import finish, iterate
from sigmafield.spatial.tiled import Tiled, grid_cover
from sigmafield.types import Ctx

CACHES = ["easycache", "lazycache"]
STEPS = 20


@pytest.fixture(scope="session")
def pipe():
    return sf.load("tiny")


class Recorded:
    """A pipeline whose network keeps what it is given and gives."""

    def __init__(self, pipe):
        self.calls, inner = [], pipe.network

        def network(x, t, cond):
            F = inner(x, t, cond)
            self.calls.append((x.clone(), F.clone(), len(x)))
            return F

        self.pipe = replace(pipe, network=network)

    @property
    def rows(self):
        return sum(n for *_, n in self.calls)


def opened(pipe, guidance="", **settings):
    settings = {"steps": STEPS, "cfg": 3.0, "seed": 2, "sampler": "euler", **settings}
    return open_job(Recipe("a red heart", guidance=guidance, **settings), pipe)


def drawn(pipe, guidance="", **settings):
    """(final latent, recorded network) of a run."""
    seen = Recorded(pipe)
    job = opened(seen.pipe, guidance, **settings)
    return finish(job.run, job.start).x, seen


class Watched:
    """A denoiser that keeps what it is asked and what it answers."""

    def __init__(self, denoise):
        self.denoise, self.asked = denoise, []

    def __call__(self, x, sigma, ctx):
        pred = self.denoise(x, sigma, ctx)
        self.asked.append((x, float(sigma), pred))
        return pred


def watched(pipe, guidance, **settings):
    job = opened(pipe, guidance, **settings)
    watch = Watched(job.run.denoise)
    finish(replace(job.run, denoise=watch), job.start)
    return watch.asked


def simulated(inputs, outputs, sigmas, process, lazy, threshold=0.2, start=0.15, end=0.95, sizes=None):
    """The rule in plain numbers over a run that was recorded: which evaluations it leaves out."""
    high, low = process.sigma_at(start), process.sigma_at(end)
    X = Y = N = rho = None
    a, out = 0.0, []
    for x, y, size, sigma in zip(inputs, outputs, sizes or outputs, sigmas):
        if sigma <= low:
            out.append(False)
            continue
        active, dX = sigma <= high, None
        x8, y8 = x[..., ::8, ::8].double().numpy(), y[..., ::8, ::8].double().numpy()
        if active and X is not None:
            dX = abs(x8 - X).mean()
            if rho is not None:
                a += rho * dX / N
                if a < threshold:
                    out.append(True)
                    continue
                a = 0.0
        out.append(False)
        if active or lazy:
            if dX is not None:
                rho = abs(y8 - Y).mean() / dX
            X, Y, N = x8, y8, float(size.double().abs().mean())
    return out


@pytest.mark.parametrize("threshold", [0.1, 0.2, 0.5])
@pytest.mark.parametrize("sampler", ["euler", "heun"])
def test_easycache_leaves_out_what_the_rule_says(threshold, sampler, pipe):
    """Each evaluation's network input is recorded under the rule; a network call for it tells what it would give."""
    text = f"easycache(reuse_threshold={threshold})"
    _, seen = drawn(pipe, text, sampler=sampler)
    asked = watched(pipe, text, sampler=sampler)
    job, inputs, outputs, sizes, sigmas = opened(pipe), [], [], [], []
    plain = Recorded(pipe)
    guider = replace(job.run.denoise, model=plain.pipe.model, mods=Mods())
    for x, sigma, _ in asked:
        level = torch.tensor(sigma, dtype=torch.float64)
        with torch.no_grad():
            guider(x, level, Ctx(Span(level, level / 2, pipe.sampling.process), {}))
        given, made, _ = plain.calls[-1]
        inputs, outputs, sizes = [*inputs, given[:1]], [*outputs, made[:1]], [*sizes, made]
        sigmas.append(sigma)
    out = simulated(inputs, outputs, sigmas, pipe.sampling.process, False, threshold, sizes=sizes)
    assert 0 < sum(out) < len(out)
    assert len(seen.calls) == out.count(False)
    called = [given for given, *_ in plain.calls]
    kept = [given for given, skipped in zip(called, out) if not skipped]
    assert all(torch.equal(a, b) for a, (b, *_) in zip(kept, seen.calls, strict=True))
