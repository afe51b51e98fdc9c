"""The caches' rule on plain functions: what is reused, what is remembered, and when memory starts over."""

from functools import partial

import pytest
import torch
from laws import LEVELS, run_of
from laws import grid as schedule

from sigmafield.core.conditioning import Cond
from sigmafield.core.process import VE, Flow, Span
from sigmafield.core.protocols import Call, Ctx
from sigmafield.guidance.caching import CallKey, phase
from sigmafield.guidance.guider import Guider
from sigmafield.models.analytic import Mixture
from sigmafield.parameterization.timesteps import shifted_flow
from sigmafield.recipes.mods import MODS, parse_mods
from sigmafield.runs.run import finish

COND = Cond(torch.zeros(1, 1, 1))


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Calls:
    """EasyCache around tanh: evaluations of a flow at σ = ½, each of some calls (roles, x)."""

    def __init__(self, **params):
        self.patch, self.aux, self.made = MODS["easycache"](**params), {}, 0

    def network(self, x, t, cond):
        self.made += 1
        return x.tanh()

    def evaluation(self, *calls, patches=()):
        level, plan = torch.tensor(0.5, dtype=torch.float64), {}
        out = []
        for roles, x in calls:
            ctx = Ctx(Span(level, level / 2, Flow(), clock=LEVELS[Flow].sigma_at), self.aux, patches=patches, plan=plan)
            call = Call(torch.nn.Identity(), level, roles, ctx)
            out.append(self.patch(self.network, call)(x, torch.zeros(len(x)), COND))
        return out


def test_what_is_left_out_is_answered_with_the_last_difference():
    """The third evaluation is the first that can be skipped; x is not changed, calls of other roles are separate."""
    both, one = ("negative", "positive"), ("positive",)
    xs = [noise(2, 4, 16, 16) * scale for scale in (1.0, 1.01, 1.02, 1.03)]
    calls = Calls(reuse_threshold=0.5)
    for x in xs[:2]:
        F, G = calls.evaluation((both, x), (one, 2 * x[:1]))
        assert torch.equal(F, x.tanh()) and torch.equal(G, (2 * x[:1]).tanh())
    for x in xs[2:]:
        kept = x.clone()
        F, G = calls.evaluation((both, x), (one, 2 * x[:1]))
        assert torch.equal(F, x + (xs[1].tanh() - xs[1])) and torch.equal(x, kept)
        assert torch.equal(G, 2 * x[:1] + ((2 * xs[1][:1]).tanh() - 2 * xs[1][:1]))
    assert calls.made == 4
    (F,) = calls.evaluation((both, 9 * xs[0]))
    assert torch.equal(F, (9 * xs[0]).tanh()), "what has moved far is computed"


def test_a_call_that_was_not_there_is_computed():
    """A call with other roles, patches or position is computed; later it follows the decision of the first call."""
    x, calls = noise(1, 4, 16, 16), Calls(reuse_threshold=0.5)
    for _ in range(3):
        calls.evaluation((("positive",), x))
        x = 1.01 * x
    assert calls.made == 2
    _, G = calls.evaluation((("positive",), x), (("negative",), x))
    assert calls.made == 3 and torch.equal(G, x.tanh())
    _, again = calls.evaluation((("positive",), x), (("negative",), x))
    assert calls.made == 3 and torch.allclose(again, G)


@pytest.mark.parametrize("change", ["shape", "roles"])
def test_memory_begins_anew_where_the_first_call_is_another(change):
    """Nothing is skipped until a rate is known again: it is unset instead of 0, which would skip everything."""
    x, calls = noise(1, 4, 16, 16), Calls(reuse_threshold=0.1)
    for k in range(4):
        calls.evaluation((("positive",), (1 + 0.01 * k) * x))
    assert calls.made == 2
    roles, other = (("negative",), x) if change == "roles" else (("positive",), noise(1, 4, 24, 16))
    for k in range(12):
        calls.evaluation((roles, (1 + 0.05 * k) * other))
        assert k > 1 or calls.made == 3 + k
    assert 4 < calls.made < 14


def test_a_call_is_known_by_what_it_is_about():
    """Roles, patches with their plain parameters and the part of the latent; the same text in every process."""
    level = torch.tensor(0.5, dtype=torch.float64)

    def key(roles=("negative", "positive"), part=((0, (0, 0, 8, 8)),), **params):
        patch = partial(MODS["tome"].apply, **{"ratio": 0.3, **params})
        return CallKey.of(
            Call(torch.nn.Identity(), level, roles, Ctx(Span(level, level, VE()), {}, patches=(patch,), part=part))
        )

    assert key() == key() and hash(key()) == hash(key()) and str(key()) == str(key())
    assert str(key()) == "1 negative, 1 positive; tome(ratio=0.3); ((0, (0, 0, 8, 8)),); 0"
    others = [key(), key(ratio=0.4), key(roles=("positive",)), key(part=())]
    assert len({*others}) == len({*map(str, others)}) == 4


@pytest.mark.parametrize("process", [VE(14.6), Flow(3.0)])
def test_the_window_is_open_at_its_end(process):
    """σ(end) < σ ≤ σ(start), both in float32; with several samples all have to be inside."""
    clock = LEVELS[type(process)].sigma_at
    high, low = clock(0.2), clock(0.8)
    for sigma, want in {high: "inside", high * 1.001: "before", low: "after", low * 1.001: "inside"}.items():
        assert phase(torch.tensor(sigma, dtype=torch.float64), 0.2, 0.8, clock) == want
    levels = torch.tensor([high, high * 1.1], dtype=torch.float64).reshape(2, 1, 1, 1)
    assert phase(levels, 0.2, 0.8, clock) == "before"
    assert phase(torch.tensor(0.99, dtype=torch.float32).double(), 0.01, 0.8, shifted_flow(1.0).sigma_at) == "inside"


def test_lazycache_is_for_flows(capsys):
    """x/α shrinks with the noise on Stable Diffusion's process, and the whole difference would be added to D."""

    class Model:
        def __init__(self, process):
            self.process, self.calls = process, 0

        def __call__(self, x, sigma, conds, ctx):
            self.calls += 1
            exact = [
                Mixture([m + float(c.embeds.mean()) for m in (-1.0, 0.2, 1.1)], process=self.process) for c in conds
            ]
            return [mixture(part, sigma).x0 for mixture, part in zip(exact, x.chunk(len(conds)))]

    seen = {}
    for process in (VE(14.6), Flow(3.0)):
        grid, ends, calls = schedule(process, 20), [], []
        x = float(grid.sigmas[0]) * noise(2, 4, 32, 32)
        for text in ("", "lazycache(reuse_threshold=0.2)"):
            model = Model(process)
            prompts = [Cond(torch.full((1, 1, 1), shift)) for shift in (0.5, -0.3)]
            ends.append(finish(run_of("euler", Guider(model, *prompts, 3.0, parse_mods(text)), grid, x), x).x)
            calls.append(model.calls)
        seen[type(process).__name__] = calls, float((ends[1] - ends[0]).norm() / ends[0].norm())
    with capsys.disabled():
        print(f"\nlazycache(reuse_threshold=0.2) on a mixture, calls without and with it, relative error: {seen}")
    assert seen["Flow"][0][1] <= seen["VE"][0][1] < 20
    assert seen["Flow"][1] < seen["VE"][1] / 3
