"""EasyCache and LazyCache on real networks: which calls are left out, what stands for them, and that runs resume."""

import copy
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

import sigmafield as sf
from sigmafield.core.process import Span
from sigmafield.core.protocols import Ctx
from sigmafield.guidance.autoguidance import Perturbed
from sigmafield.guidance.guider import Guider
from sigmafield.guidance.hooks import Mods
from sigmafield.recipes.execute import open_job
from sigmafield.recipes.mods import parse_mods
from sigmafield.recipes.recipe import Recipe
from sigmafield.runs.checkpoint import load_state, save_state
from sigmafield.runs.run import finish, iterate
from sigmafield.spatial.field_denoiser import Served
from sigmafield.spatial.tiled_model import Tiled, grid_cover
from small_network import shipped_model, small_model

CACHES = ["easycache", "lazycache"]
STEPS = 10
SIDE = {"width": 32, "height": 32}
LARGE = {"steps": 20, "width": 64, "height": 64}


@pytest.fixture(scope="module")
def pipe():
    return small_model()


class Recorded:
    """A pipeline whose network keeps what it is given and gives."""

    def __init__(self, pipe):
        self.calls, inner = [], pipe.model.forward

        def forward(module, x, t, cond):
            F = inner(module, x, t, cond)
            self.calls.append((x.clone(), F.clone(), len(x)))
            return F

        self.pipe = replace(pipe, model=replace(pipe.model, forward=forward))

    @property
    def rows(self):
        return sum(n for *_, n in self.calls)


def opened(pipe, guidance="", **settings):
    settings = {"steps": STEPS, "cfg": 3.0, "seed": 2, "sampler": "euler", **SIDE, **settings}
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


def simulated(inputs, outputs, sigmas, clock, lazy, threshold=0.2, start=0.15, end=0.95, sizes=None):
    """The rule in plain numbers over a run that was recorded: which evaluations it leaves out."""
    high, low = clock(start), clock(end)
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


@pytest.mark.parametrize("sampler, threshold", [("euler", 0.4), ("euler", 1.0), ("heun", 0.3)])
def test_easycache_leaves_out_what_the_rule_says(threshold, sampler, pipe):
    """Each evaluation's network input is recorded under the rule; a network call for it tells what it would give."""
    seen = Recorded(pipe)
    asked = watched(seen.pipe, f"easycache(reuse_threshold={threshold})", sampler=sampler)
    job, inputs, outputs, sizes, sigmas = opened(pipe), [], [], [], []
    plain = Recorded(pipe)
    guider = replace(job.run.denoise, model=plain.pipe.model, mods=Mods())
    for x, sigma, _ in asked:
        level = torch.tensor(sigma, dtype=torch.float64)
        with torch.no_grad():
            guider(
                x, level, Ctx(Span(level, level / 2, pipe.model.sampling.process, clock=pipe.model.sampling.clock), {})
            )
        given, made, _ = plain.calls[-1]
        inputs, outputs, sizes = [*inputs, given[:1]], [*outputs, made[:1]], [*sizes, made]
        sigmas.append(sigma)
    out = simulated(inputs, outputs, sigmas, pipe.model.sampling.clock, False, threshold, sizes=sizes)
    assert 0 < sum(out) < len(out)
    assert len(seen.calls) == out.count(False)
    called = [given for given, *_ in plain.calls]
    kept = [given for given, skipped in zip(called, out) if not skipped]
    assert all(torch.equal(a, b) for a, (b, *_) in zip(kept, seen.calls, strict=True))


@pytest.mark.parametrize("threshold", [0.1, 0.5])
def test_lazycache_leaves_out_what_the_rule_says_and_answers_with_the_last_difference(threshold, pipe):
    text = f"lazycache(reuse_threshold={threshold})"
    asked = watched(pipe, text)
    plain = replace(opened(pipe).run.denoise, mods=Mods())
    outputs = []
    for x, sigma, _ in asked:
        level = torch.tensor(sigma, dtype=torch.float64)
        with torch.no_grad():
            outputs.append(
                plain(
                    x,
                    level,
                    Ctx(Span(level, level / 2, pipe.model.sampling.process, clock=pipe.model.sampling.clock), {}),
                ).x0
            )
    xs, sigmas = [x for x, *_ in asked], [sigma for _, sigma, _ in asked]
    out = simulated(xs, outputs, sigmas, pipe.model.sampling.clock, True, threshold)
    assert 0 < sum(out) < len(out)
    for k, ((x, _, pred), D) in enumerate(zip(asked, outputs)):
        if out[k]:
            last = max(j for j in range(k) if not out[j])
            assert torch.equal(pred.x0, x + (outputs[last] - xs[last]))
        else:
            assert torch.equal(pred.x0, D)


@pytest.mark.parametrize("name", CACHES)
def test_threshold_0_is_the_run_without(name, pipe):
    x, seen = drawn(pipe, f"{name}(reuse_threshold=0)", steps=8)
    plain, whole = drawn(pipe, steps=8)
    assert torch.equal(x, plain) and len(seen.calls) == len(whole.calls)


@pytest.mark.parametrize(
    "name, model, settings, thresholds",
    [
        ("easycache", small_model, {"steps": 12}, (0.2, 0.5)),
        *(pytest.param(name, shipped_model, LARGE, (0.1, 0.2, 0.5), marks=pytest.mark.slow) for name in CACHES),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
@pytest.mark.typed_elsewhere
def test_what_is_saved_and_what_it_costs(name, model, settings, thresholds, capsys):
    """The higher the threshold, the fewer calls and the greater the error; figures are printed."""
    pipe = model()
    plain, whole = drawn(pipe, **settings)
    calls, errors = [len(whole.calls)], [0.0]
    for threshold in thresholds:
        x, seen = drawn(pipe, f"{name}(reuse_threshold={threshold})", **settings)
        calls.append(len(seen.calls))
        errors.append(float((x - plain).norm() / plain.norm()))
    what = f"{name} of {model.__name__}, thresholds 0, {thresholds}"
    with capsys.disabled():
        print(f"\n{what}: calls {calls}, relative error {[round(e, 3) for e in errors]}")
    assert calls == sorted(calls, reverse=True) and calls[-1] < calls[1] < calls[0]
    assert errors == sorted(errors) and errors[1] < 0.2


def test_a_perturbed_pass_has_a_difference_of_its_own(pipe):
    """In what is left out PAG's C − W is that of the evaluation before, in the network's scale, and not 0."""
    seen, terms = Recorded(pipe), []
    watch = watched(seen.pipe, "easycache(reuse_threshold=2)+pag(scale=2)", sampler="euler_cfg_pp")
    for _, sigma, pred in watch:
        c_out = pipe.model.sampling.prediction(torch.tensor(sigma, dtype=torch.float64)).c_out
        terms.append((pred.x0 - (3 * pred.cond - 2 * pred.uncond)) / float(c_out))
    same = [torch.allclose(b, a, rtol=1e-3, atol=1e-4) for a, b in pairwise(terms)]
    assert sum(same) == STEPS - len(seen.calls) / 2 > 2
    assert all(float(term.abs().mean()) > 1e-3 for term in terms)


@pytest.mark.parametrize(
    "text, settings",
    [
        pytest.param("easycache(reuse_threshold=0.4)+pag", {"sampler": "heun"}, marks=pytest.mark.slow),
        ("easycache(reuse_threshold=0.4)+interval(end=0.6)", {"max_rows": 1}),
        ("easycache(reuse_threshold=2)+sag", {}),
        ("lazycache(reuse_threshold=0.4)+apg(momentum=-0.5)", {"sampler": "euler_cfg_pp"}),
    ],
)
def test_a_checkpoint_in_the_middle_is_the_uninterrupted_run(text, settings, pipe, tmp_path):
    one = replace(pipe, model=replace(pipe.model, max_rows=settings.pop("max_rows", None)))
    job = opened(one, text, steps=10, **settings)
    states = list(iterate(job.run, job.start))
    assert any(name.startswith(text[:9]) for name in states[-1].aux)
    for k in (3, 6):
        save_state(states[k], tmp_path / "state.safetensors")
        again = opened(one, text, steps=10, **settings).run
        assert torch.equal(finish(again, load_state(tmp_path / "state.safetensors")[0]).x, states[-1].x)


def test_rows_that_are_split_over_calls_are_kept_apart(pipe):
    """One row a call is all rows in one, and leaves out as much: where the first row decides, of both the same."""
    text = "easycache(reuse_threshold=0.3)"
    split, calls = drawn(replace(pipe, model=replace(pipe.model, max_rows=1)), text, cfg=1.0)
    whole, call = drawn(pipe, text, cfg=1.0)
    assert torch.equal(split, whole) and len(calls.calls) == len(call.calls) < STEPS
    split, calls = drawn(replace(pipe, model=replace(pipe.model, max_rows=2)), text, batch=2)
    assert calls.rows % 4 == 0 and calls.rows < 4 * STEPS
    plain, _ = drawn(pipe, batch=2)
    assert float((split - plain).norm() / plain.norm()) < 0.3


def test_tiles_and_regions_are_kept_apart(pipe):
    """A cache under tiles leaves out whole evaluations, and the image stays that of the tiles."""

    def tiled(text):
        seen = Recorded(pipe)
        job = opened(seen.pipe, text, width=48, height=32)
        guider = replace(job.run.denoise, model=Tiled(seen.pipe.model, grid_cover((8, 8), 4), batch=1))
        return finish(replace(job.run, denoise=guider), job.start).x, len(seen.calls)

    plain, all_calls = tiled("")
    cached, calls = tiled("easycache(reuse_threshold=0.5)")
    assert all_calls == 2 * STEPS and calls % 2 == 0 and calls < all_calls
    assert float((cached - plain).norm() / plain.norm()) < 0.3


@pytest.mark.slow
def test_windows_that_move_are_never_mistaken(pipe):
    """A difference is used for its own window alone: where each step has others, little is left out, and no frame's
    stands for another's."""
    calls, errors = {}, {}
    for name in ("standard_static", "standard_uniform"):
        window = f"context(length=6, overlap=2, dim=3, schedule={name})"
        x, seen = drawn(pipe, f"{window}+easycache(reuse_threshold=1)", cfg=1.0)
        plain, every = drawn(pipe, window, cfg=1.0)
        calls[name] = len(seen.calls) / len(every.calls)
        errors[name] = float((x - plain).norm() / plain.norm())
    assert calls["standard_static"] < 0.85 and calls["standard_uniform"] > 0.9
    assert errors["standard_uniform"] < errors["standard_static"] < 0.3


@pytest.mark.parametrize("name", CACHES)
def test_noise_levels_of_fields(name, pipe, tmp_path):
    """One level for each sample is served; levels that vary within a sample are refused in one line."""
    job = opened(pipe, name, batch=2, steps=8)
    sigmas = job.run.grid.sigmas.reshape(-1, 1, 1, 1, 1).expand(-1, 2, 1, *job.start.x.shape[2:])
    by_sample = replace(job.run, grid=replace(job.run.grid, sigmas=sigmas.contiguous()))
    torch.testing.assert_close(finish(by_sample, job.start).x, finish(job.run, job.start).x, rtol=1e-3, atol=1e-3)
    varied = sigmas.contiguous().clone()
    varied[:, :, :, :4] *= 0.9
    served = Served(job.run.denoise, job.start.x, job.start.x, job.run.grid.process)
    with pytest.raises(ValueError, match=f"{name} needs one sigma per sample: leave it out where"):
        finish(replace(job.run, denoise=served, grid=replace(job.run.grid, sigmas=varied)), job.start)
    sf.generate(pipe, "a red heart", steps=1)[0].save(tmp_path / "heart.png")
    with pytest.raises(ValueError, match=f"{name} needs one sigma per sample: leave it out with a denoise_map"):
        Recipe("a heart", image=str(tmp_path / "heart.png"), denoise_map=str(tmp_path / "heart.png"), guidance=name)


def test_autoguidance_within_caches_and_patches(pipe):
    """A worse model is asked with the step's patches; with a cache its prediction is kept along with the other's."""
    worse = replace(pipe, model=replace(pipe.model, module=copy.deepcopy(pipe.model.module)))
    for weight in worse.model.module.parameters():
        weight.mul_(0.97)
    P = pipe.text.encode(["a red heart"], pipe.model.size)
    level = torch.tensor(2.0, dtype=torch.float64)
    x = 2.5 * torch.randn(pipe.model.latent.shape(1, pipe.model.size), generator=torch.Generator().manual_seed(0))

    def guided(model, text="", after=(), ctx=None):
        mods = parse_mods(text)
        guider = Guider(model, P, cfg=1.0, mods=replace(mods, after=(*mods.after, *after)))
        with torch.no_grad():
            return guider(
                x,
                level,
                ctx or Ctx(Span(level, level / 2, pipe.model.sampling.process, clock=pipe.model.sampling.clock), {}),
            ).x0

    for text in ("", "pag(scale=0)+context(length=8, overlap=2)"):
        C, W = guided(pipe.model, text), guided(worse.model)
        torch.testing.assert_close(guided(pipe.model, text, [Perturbed(worse.model, 1.5)]), C + 1.5 * (C - W))
    ctx = Ctx(Span(level, level / 2, pipe.model.sampling.process, clock=pipe.model.sampling.clock), {})
    cached = "easycache(reuse_threshold=3, start_percent=0)"
    fresh = guided(pipe.model, after=[Perturbed(worse.model, 1.5)])
    seen, other = Recorded(pipe), Recorded(worse)
    for _ in range(4):
        D = guided(seen.pipe.model, cached, [Perturbed(other.pipe.model, 1.5)], ctx)
        torch.testing.assert_close(D, fresh, rtol=1e-4, atol=1e-4)
