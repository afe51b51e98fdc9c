"""The Brownian path is bit-equal to torchsde's in any order of requests; nodes are drawn once and ahead of time."""

import gc
import subprocess
import sys
import threading
import warnings

import pytest
import torch
import torchsde
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from laws import grid

import sigmafield.noise.brownian as brownian
import sigmafield.noise.brownian_sums as brownian_sums
from sigmafield.core.grid import Grid
from sigmafield.core.process import VE, Span
from sigmafield.models.analytic import Mixture
from sigmafield.noise.brownian import ANSWERS, Brownian
from sigmafield.runs.checkpoint import load_state, save_state
from sigmafield.runs.run import Run, finish, iterate
from sigmafield.samplers import SAMPLERS
from sigmafield.schedules import karras

SHAPE = (2, 3, 4, 5)
SIGMAS = karras(20, 0.0291675, 14.614642)


def span(a, b):
    return Span(torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64), VE())


def tree(sigmas, seed, shape=SHAPE, dtype=torch.float32):
    """torchsde's own tree over the positive levels, constructed as in k-diffusion."""
    t0, t1 = sigmas[sigmas > 0].min().float(), sigmas.max().float()
    return torchsde.BrownianTree(t0, torch.zeros(shape, dtype=dtype), t1, entropy=seed, tol=1e-6, pool_size=24)


def ask(theirs, a, b):
    """torchsde's increment divided by the signed root of the length, as our source returns it."""
    low, high = sorted((torch.tensor(a).float(), torch.tensor(b).float()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchsde clamps to its rounded ends, and says so
        return theirs(low, high) * ((1 if a < b else -1) / abs(b - a) ** 0.5)


@pytest.fixture(params=[1, 3])
def threads(request):
    """A source draws with as many threads as torch has."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@st.composite
def questions(draw):
    """(levels, intervals) in any order: steps, parts of steps, repeats, and intervals that ascend."""
    levels = draw(st.lists(st.floats(0.002, 80.0), min_size=2, max_size=8, unique_by=lambda v: round(v, 3)))
    levels = sorted((float(torch.tensor(v)) for v in levels), reverse=True)
    time = st.sampled_from(levels) | st.floats(levels[-1], levels[0])
    pairs = draw(st.lists(st.tuples(time, time).filter(lambda p: abs(p[0] - p[1]) > 1e-4), min_size=1, max_size=8))
    return torch.tensor([*levels, 0.0], dtype=torch.float64), pairs


@settings(max_examples=12, deadline=None)
@given(
    questions(),
    st.integers(0, 2**64),
    st.sampled_from([(1, 3), (1, 4, 8, 8), (2, 3, 4, 5), (1, 2, 3, 5, 4)]),
    st.sampled_from([torch.float32, torch.float64]),
    st.sampled_from([1, 5, 64]),
)
def test_any_questions_in_any_order_are_answered_as_torchsde_does(asked, seed, shape, dtype, capacity):
    sigmas, pairs = asked
    ours, theirs = Brownian(seed, Grid(sigmas, VE()), shape, dtype, capacity=capacity), tree(sigmas, seed, shape, dtype)
    for a, b in pairs:
        assert torch.equal(ours(span(a, b)), ask(theirs, a, b))


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 18), min_size=1, max_size=8), st.sampled_from([1.0, 0.5, 0.3]))
def test_steps_in_any_order_are_answered_as_torchsde_does(threads, steps, r):
    """Jumps back and forth along a schedule, with drawing ahead: resumed runs, and runs that share a source."""
    g, theirs = Grid(SIGMAS, VE()), tree(SIGMAS, 5)
    ours = Brownian(5, g, SHAPE)
    for i in steps:
        for part in [g.span(i).split(r)[0], g.span(i)]:
            assert torch.equal(ours(part), ask(theirs, float(part.sigma), float(part.sigma_next)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1, 3), (2, 1, 13, 41)])
def test_pieces_are_the_whole(dtype, shape, threads, monkeypatch):
    """Sums in pieces, by NumPy and by threads, equal torch's over whole latents, cut within or between pieces."""
    monkeypatch.setattr(brownian_sums, "PIECE", 1 << 9)  # the larger latent has two of them, and a rest
    g, theirs = Grid(SIGMAS, VE()), tree(SIGMAS, 7, shape, dtype)
    ours = Brownian(7, g, shape, dtype)
    for i in (0, 1, 18):
        assert torch.equal(ours(g.span(i)), ask(theirs, *g.sigmas[i : i + 2].tolist()))


@pytest.fixture
def drawn(monkeypatch):
    """The keys of all seeds that sources derive, in order: one for each node that is drawn."""
    keys, derive = [], brownian.seed_word

    def seed_word(seed, key):
        keys.append(key)
        return derive(seed, key)

    monkeypatch.setattr(brownian, "seed_word", seed_word)
    return keys


def nodes_of(sigmas, seed, shape, questions, monkeypatch):
    """How many numbers torchsde's tree needs for these questions: one for each interval cut, and the whole one."""
    theirs, seeds, randn = tree(sigmas, seed, shape), set(), torch.randn

    def noted(*args, generator, **kwargs):
        seeds.add(generator.initial_seed())
        return randn(*args, generator=generator, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "randn", noted)
        for a, b in questions:
            ask(theirs, a, b)
    return 1 + len(seeds)  # what it has forgotten and draws again has the same seed


@pytest.fixture(scope="module")
def older_kept_apart():
    """The collector leaves what tests hold so far: a search of all that takes a second."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def only_new(older_kept_apart):
    """The collector lists what is made from here on, and little else."""
    gc.collect()


class Asked(Brownian):
    """A source that notes what it is asked, and after each answer how many new latents of its shape there are."""

    def __init__(self, seed, grid, shape, **options):
        self.asked, self.held, self.size = [], [], torch.Size(shape)
        super().__init__(seed, grid, shape, **options)

    def __call__(self, span):
        self.asked.append((float(span.sigma), float(span.sigma_next)))
        out = super().__call__(span)
        self.held.append(sum(type(o) is torch.Tensor and o.shape == self.size for o in gc.get_objects()))
        return out


@pytest.mark.parametrize("name", ["dpmpp_2m_sde", "dpmpp_sde", "dpmpp_3m_sde"])
@pytest.mark.parametrize(
    "n, threads", [(12, 1), (12, 3), pytest.param(60, 1, marks=pytest.mark.slow)], indirect=["threads"]
)
@pytest.mark.typed_elsewhere
def test_no_node_is_drawn_twice_and_few_are_held(name, n, threads, drawn, monkeypatch, only_new):
    """A whole run draws what torchsde's tree has, once: nothing again, and nothing ahead that is not asked for."""
    sigmas, shape = karras(n, 0.0291675, 14.614642), (1, 1, 2, 3)
    g = Grid(sigmas, VE())
    source = Asked(3, g, shape)
    finish(Run(Mixture(), SAMPLERS.lookup(name), g, source), 14.6 * torch.ones(shape))
    assert len(source.asked) == (n - 1) * SAMPLERS.lookup(name).evals
    assert len(drawn) == len(set(drawn)) == nodes_of(sigmas, 3, shape, source.asked, monkeypatch)
    depth = 24  # log2((14.6 - 0.03)/1e-6), rounded up
    others = 8  # of the run and of the answers drawn ahead
    assert max(source.held) <= depth * (5 if name == "dpmpp_sde" else 3) + others + ANSWERS


def test_memory_has_a_bound_without_a_schedule(threads, only_new):
    """Questions at random hold no more than the capacity and what one needs."""
    source = Asked(3, Grid(SIGMAS, VE()), (1, 1, 3, 2), capacity=30)
    for a, b in (0.03 + 14.5 * torch.rand(30, 2, generator=torch.Generator().manual_seed(0))).tolist():
        source(span(a, b))
    assert max(source.held) <= 30 + 4 * 24


@pytest.mark.parametrize("r", [1.0, 0.5, 0.3])
def test_questions_are_begun_before_they_are_asked(r):
    """Each step is drawn ahead, and after the first step its stage too, wherever the stage is."""
    g = Grid(SIGMAS, VE())
    source, begun = Brownian(3, g, SHAPE), []
    for i in range(19):
        for part in [g.span(i).split(r)[0], g.span(i)] if r < 1 else [g.span(i)]:
            begun.append(source.begun(part))
            source(part)
    assert begun.count(False) == (r < 1)  # the first stage cannot be known


@pytest.mark.parametrize("name", ["dpmpp_2m_sde", "dpmpp_sde"])
def test_resumed_and_interleaved_runs_are_the_run_alone(name, tmp_path):
    g, x = grid(VE(), n=7), 14.6 * torch.ones(SHAPE)
    alone = list(iterate(Run(Mixture(), SAMPLERS.lookup(name), g, Brownian(3, g, SHAPE)), x))
    for cut in range(len(alone)):
        save_state(alone[cut], tmp_path / "state.safetensors")
        run = Run(Mixture(), SAMPLERS.lookup(name), g, Brownian(3, g, SHAPE))
        assert torch.equal(finish(run, load_state(tmp_path / "state.safetensors")[0]).x, alone[-1].x)
    run = Run(Mixture(), SAMPLERS.lookup(name), g, Brownian(3, g, SHAPE))
    two, ahead = [run.start(x), run.start(x)], 0
    while not all(run.done(state) for state in two):
        if not run.done(two[0]):
            two[0] = run.step(two[0])
        ahead += 1
        if ahead > 3:  # the second follows three steps later
            two[1] = run.step(two[1])
    assert torch.equal(two[0].x, alone[-1].x) and torch.equal(two[1].x, alone[-1].x)


def test_a_list_of_seeds_is_a_tree_a_sample():
    """Sample k equals a source of its own, and torchsde's tree of one sample's shape."""
    g, seeds = Grid(SIGMAS, VE()), [7, 2**40, 7]
    ours = Brownian(seeds, g, (3, *SHAPE[1:]))
    for i in (0, 5, 18):
        xi = ours(g.span(i))
        for seed, sample in zip(seeds, xi):
            assert torch.equal(sample, ask(tree(SIGMAS, seed, SHAPE[1:]), *g.sigmas[i : i + 2].tolist()))
            assert torch.equal(sample, Brownian([seed], g, (1, *SHAPE[1:]))(g.span(i))[0])


def test_path_is_additive_and_an_empty_interval_has_no_noise():
    source = Brownian(3, grid(VE(), n=30), SHAPE, torch.float64)
    a, b, c = 7.5, 2.25, 0.5
    parts = source(span(a, b)) * (a - b) ** 0.5 + source(span(b, c)) * (b - c) ** 0.5
    torch.testing.assert_close(parts, source(span(a, c)) * (a - c) ** 0.5)
    assert torch.equal(source(span(b, c)), -source(span(c, b)))
    assert not source(span(b, b)).any()


def test_answers_are_the_callers_own():
    """Returned noise may be overwritten without changing later results, within inference_mode too."""
    g = Grid(SIGMAS, VE())
    source, other = Brownian(3, g, SHAPE), Brownian(3, g, SHAPE)
    for i in (0, 0, 1, 1, 1, 2):
        with torch.inference_mode(i % 2 == 1):
            assert torch.equal(source(g.span(i)).clone(), other(g.span(i)))
            source(g.span(i)).zero_()


def test_an_error_between_the_sums_leaves_a_tree_that_answers(monkeypatch, threads):
    g, whole = Grid(SIGMAS, VE()), Brownian(3, Grid(SIGMAS, VE()), SHAPE)
    expected = {i: whole(g.span(i)) for i in (0, 1, 7)}
    source = Brownian(3, g, SHAPE)
    source(g.span(18))  # the last of the schedule: nothing is drawn ahead that could fail

    def fails(*args):
        raise MemoryError("no room for a sum")

    monkeypatch.setattr(brownian, "add_up", fails)
    with pytest.raises(MemoryError, match="no room for a sum"):
        source(g.span(7))
    monkeypatch.undo()
    for i in (7, 1, 0):
        assert torch.equal(source(g.span(i)), expected[i])


def test_an_error_of_the_thread_is_raised_by_the_question(monkeypatch, threads):
    g = Grid(SIGMAS, VE())
    source = Brownian(3, g, SHAPE)
    expected = [source(g.span(i)) for i in (1, 18)]

    def fails(*args):
        raise MemoryError("no room for a node")

    broken = Brownian(3, g, SHAPE)
    assert torch.equal(broken(g.span(18)), expected[1])  # the last: nothing is drawn ahead that could fail
    monkeypatch.setattr(brownian, "seed_word", fails)
    with pytest.raises(MemoryError, match="no room for a node"):
        broken(g.span(7))
    monkeypatch.undo()
    assert torch.equal(broken(g.span(1)), expected[0])
    assert torch.equal(broken(g.span(7)), source(g.span(7)))


def test_threads_end_with_their_source(threads, older_kept_apart):
    before = set(threading.enumerate())
    source = Brownian(3, Grid(SIGMAS, VE()), SHAPE)
    source(Grid(SIGMAS, VE()).span(0))
    own = set(threading.enumerate()) - before
    assert own and all(thread.name.startswith("brownian") for thread in own)
    del source
    gc.collect()
    for thread in own:
        thread.join(timeout=60)
        assert not thread.is_alive()


@pytest.mark.slow  # an interpreter's start
def test_the_interpreter_ends_while_the_thread_draws():
    code = (
        "import torch\nfrom sigmafield import VE, Brownian, Grid\nfrom sigmafield.schedules import karras\n"
        "torch.set_num_threads(3)\n"
        "source = Brownian(3, Grid(karras(20, 0.03, 14.6), VE()), (1, 4, 256, 256))\nprint('asked')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, "asked\n", "")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_tree_on_a_device_has_no_thread():
    before, g = threading.active_count(), Grid(SIGMAS, VE())
    source = Brownian(3, g, SHAPE, device="cuda", drawn_on="cuda")
    source(g.span(0))
    assert threading.active_count() == before and not source.begun(g.span(1))


def test_refuses_what_it_cannot_draw():
    with pytest.raises(ValueError, match="one sigma per step; got a field"):
        Brownian(1, Grid(torch.ones(3, 1, 1, 4, 4), VE()), (1, 3, 4, 4))
    with pytest.raises(ValueError, match="one number or one per sample: got 2 for a batch of 3"):
        Brownian([1, 2], Grid(SIGMAS, VE()), (3, 1, 2, 2))
    with pytest.raises(ValueError, match="seed must be ≥ 0; got -1"):
        Brownian(-1, Grid(SIGMAS, VE()), SHAPE)
