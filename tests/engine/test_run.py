"""Laws of a run: resuming changes nothing, a constant field is the scalar, no hidden state, no host reads."""

import json
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from laws import CHURN, CORRECTED, PROCESSES, by_process, grid, guided, on, run_of, same, sparing
from safetensors.torch import save_file

from sigmafield.core.grid import Grid
from sigmafield.core.process import VE
from sigmafield.core.protocols import Pred, State
from sigmafield.noise.sources import Keyed
from sigmafield.runs.checkpoint import load_state, moved, save_state
from sigmafield.runs.run import Run, finish, iterate, sample
from sigmafield.samplers import SAMPLERS

NOISY = {"eta": 0.6, "distance_step_eta": 0.3, "use_negative": True}
ALL = [(name, {}) for name in SAMPLERS] + [("euler", CHURN), ("heun", CHURN), ("dpm_adaptive", {"eta": 0.5})]
ALL += [("dpm_adaptive", {"denoise_to_zero": True}), *CORRECTED]
ALL += [("distance_c3", NOISY), ("distance_fast", {"sharpen": True, "smooth": True, "use_softmax": True})]
PAPER = {"cfgpp": "paper", "resample": 0, "eta": 0.5}
ALL += [("distance_c3", PAPER)]
some = pytest.mark.parametrize("name, params", sparing(ALL))
STEPS = 6  # memories reach back three steps: with six, two steps and the last one have them whole
# of laws of what a run keeps between its steps, which is the same for flows
process_of_memories = pytest.mark.parametrize(
    "process", [PROCESSES[0], pytest.param(PROCESSES[1], marks=pytest.mark.slow)], ids=str
)


def start(g, shape=(2, 3, 4, 5), dtype=torch.float32):
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=dtype)
    return g.process.start(g.sigmas[0], noise, torch.zeros_like(noise))


@some
@process_of_memories
@pytest.mark.typed_elsewhere
def test_resume_at_every_cut_whatever_runs_between(name, params, process, tmp_path):
    """Continued in another run, some saved and loaded before, every state leads to the same next state and end.

    The other run steps another latent in between, with the same noise source: it keeps nothing from step to step. A
    new one has no past at all.
    """
    g = grid(process, STEPS)
    x = start(g)
    kept, cut = x.clone(), tmp_path / "cut.safetensors"
    model = guided(process)
    states = list(iterate(run_of(name, model, g, x, **params), x))
    assert torch.equal(x, kept)
    other = run_of(name, model, g, x, **params)
    between = other.start(x * 0.9)
    for k, (state, following) in enumerate(pairwise(states)):
        between = between if other.done(between) else other.step(between)
        if k % 2 == 0:  # with the first, third and fifth of its memories
            save_state(state, cut, {"note": "kept"})
            state, meta = load_state(cut)
            assert meta == {"note": "kept"}
        assert same(other.step(state), following)
    assert same(finish(run_of(name, model, g, x, **params), states[len(states) // 3]), states[-1])


FIELD = [(name, params) for name, params in ALL if not SAMPLERS[name].adaptive and name != "dpm_fast"]
SUMMED = {
    "deis",
    "er_sde",
    "er_sde_ode",
    "er_sde_reverse_time",
}  # sums over many points, whose order of addition depends on the shape


def keyed_run(name, params, denoise, g, x):
    return Run(denoise, SAMPLERS[name], g, Keyed(range(x.shape[0]), x.shape, x.dtype), params)


@pytest.mark.parametrize("name, params, process", by_process(FIELD))
@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.float64, marks=pytest.mark.slow)], ids=str)
@pytest.mark.typed_elsewhere
def test_constant_field_is_the_scalar(name, params, process, dtype):
    g = grid(process, STEPS)
    x = start(g, dtype=dtype)
    field = on(g.sigmas.reshape(-1, 1, 1, 1, 1).expand(-1, 2, 1, 4, 5), process)
    model = guided(process)
    scalar = finish(keyed_run(name, params, model, g, x), x)
    end = finish(keyed_run(name, params, model, field, x), x).x
    if name in SUMMED:
        torch.testing.assert_close(end, scalar.x, rtol=1e-6 if dtype == torch.float32 else 1e-12, atol=1e-12)
    else:
        assert torch.equal(end, scalar.x)


ELEMENTWISE = [(name, params) for name, params in FIELD if SAMPLERS[name].linear]


@pytest.mark.parametrize("name, params", sparing(ELEMENTWISE))
@process_of_memories
@pytest.mark.typed_elsewhere
def test_field_of_two_schedules_is_two_runs(name, params, process):
    """Each half of the latent follows its own schedule; the model is elementwise, so halves do not meet."""
    one, two = grid(process, STEPS).sigmas, grid(process, STEPS).sigmas * 0.5
    field = one.reshape(-1, 1, 1, 1, 1).repeat(1, 2, 1, 4, 5)
    field[..., 3:] = two.reshape(-1, 1, 1, 1, 1)
    x = start(on(one, process))
    model = guided(process)
    whole = finish(keyed_run(name, params, model, on(field, process), x), x).x
    for half, sigmas in ((slice(0, 3), one), (slice(3, 5), two)):
        alone = finish(keyed_run(name, params, model, on(sigmas, process), x), x).x
        torch.testing.assert_close(whole[..., half], alone[..., half], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name, params, process", by_process(FIELD))
def test_frozen_pixels_stay(name, params, process):
    """Where σ does not change, x does not; where σ reaches 0 early, x is finished and stays."""
    sigmas = grid(process, STEPS).sigmas
    field = sigmas.reshape(-1, 1, 1, 1, 1).repeat(1, 2, 1, 4, 5)
    field[..., 0] = sigmas[3]  # frozen all the time
    field[4:, ..., 1] = 0  # done after step 4
    g = on(field, process)
    x = start(on(sigmas, process))
    states = list(iterate(keyed_run(name, params, guided(process), g, x), x))
    assert torch.equal(states[-1].x[..., 0], x[..., 0])
    assert torch.equal(states[-1].x[..., 1], states[3].x[..., 1])
    assert torch.isfinite(states[-1].x).all()
    assert not torch.equal(states[-1].x[..., 2:], x[..., 2:])


@pytest.mark.parametrize("name, params, process", by_process(case for case in ELEMENTWISE if not case[1]))
@pytest.mark.parametrize("first", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in (3, 5))])
@pytest.mark.typed_elsewhere
def test_late_places_begin_without_history(name, params, process, first):
    """A position whose σ is held until a step continues from there like a run over the rest of the schedule."""
    g = grid(process, STEPS)
    rest = on(g.sigmas[first:], process)
    x = start(rest)
    model, keyed = guided(process), Keyed(range(2), x.shape)

    class Later(Keyed):
        def __call__(self, span):
            return super().__call__(replace(span, i=span.i + first))

    alone = finish(Run(model, SAMPLERS[name], rest, Later(range(2), x.shape), params), x).x
    field = g.sigmas.reshape(-1, 1, 1, 1, 1).repeat(1, 2, 1, 4, 5)
    field[:first, ..., 2:] = g.sigmas[first]
    end = finish(Run(model, SAMPLERS[name], on(field, process), keyed, params), x).x
    torch.testing.assert_close(end[..., 2:], alone[..., 2:], rtol=1e-6, atol=1e-6 if name in SUMMED else 0)


@pytest.mark.parametrize("name, params, process", by_process(FIELD))
@pytest.mark.typed_elsewhere
def test_meta_device(name, params, process):
    """No sampler reads a latent on the host: on the meta device, reading raises."""
    g = grid(process, 5 if SAMPLERS[name].linear else 3)  # as far as memories reach: operations here are slow
    x = torch.empty(2, 3, 4, 5, device="meta")
    run = Run(lambda x, sigma, ctx: Pred(x, x, x), SAMPLERS[name], g, same_noise(x), params)
    assert finish(run, x).x.device.type == "meta"


def same_noise(x):
    class Same:
        def __call__(self, span):
            return torch.empty_like(x)

        def get_state(self):
            return None

        def set_state(self, state):
            pass

    return Same()


@pytest.mark.parametrize("name, params, process", by_process(ALL))
@pytest.mark.typed_elsewhere
def test_declared_needs(name, params, process):
    """Evaluations, noise and the unconditional prediction are as declared in the registry row."""
    steps = 20 if name == "distance_step_cfg_pp" else STEPS  # its resamples depend on the schedule's length
    g, sampler, asked, drawn = grid(process, steps), SAMPLERS[name], [], []
    x = start(g)
    model = guided(process)

    class Counting(Keyed):
        def __call__(self, span):
            drawn.append(span)
            return super().__call__(span)

    def denoise(x, sigma, ctx):
        asked.append(sigma)
        p = model(x, sigma, ctx)
        # without cond and uncond: a sampler that reads them fails
        return p if ctx.need_uncond or params == PAPER else Pred(p.x0)

    run = Run(denoise, sampler, g, Counting([1, 2], x.shape), params)
    state, counts = run.start(x), []
    while not run.done(state):
        before = len(asked)
        state = run.step(state)
        counts.append(len(asked) - before)
        assert state.nfe == len(asked)
    stops = params == PAPER or (params.get("eta") == 3.0 and process == VE())  # there σ_down = 0
    assert max(counts) == (1 if stops else sampler.evals)
    assert bool(drawn) == run.draws
    if not run.draws:
        assert torch.equal(state.x, finish(Run(denoise, sampler, g, params=params), x).x)


@pytest.mark.parametrize("name", SAMPLERS)
def test_degenerate_schedules(name):
    """Without steps a run ends where it began. One step to 0: the denoised latent, or what the docstrings say."""
    for process in PROCESSES:
        degenerate(name, process)


def degenerate(name, process):
    g = grid(process, STEPS)
    x = start(g)
    model = guided(process)
    for empty in (g.sigmas[:0], g.sigmas[:1]):
        with pytest.raises(ValueError, match="sigmas must be 2 levels or more"):
            sample(model, x, empty, name, process=process, clock=g.clock)
    at_rest = Run(model, SAMPLERS[name], Grid(g.sigmas[:1], process, clock=g.clock), Keyed(range(2), x.shape))
    assert finish(at_rest, x).x is x
    one = torch.stack([g.sigmas[2], torch.zeros((), dtype=torch.float64)])
    end = sample(model, x, one, name, process=process, clock=g.clock)
    p = model(x, one[0], None)
    kept = {"dpm_adaptive": x, "dpm_fast": x, "euler_pp": 2 * p.x0 - p.uncond}
    if SAMPLERS[name].defaults.get("cfgpp") == "doubled":
        kept[name] = 2 * p.x0 - p.uncond
    if SAMPLERS[name].step.__name__ == "uni_pc":
        kept[name] = x * float(((0.001**2 + 1) / (one[0] ** 2 + 1)).sqrt())
    expected = kept.get(name, p.x0)
    torch.testing.assert_close(end, expected, rtol=1e-5, atol=1e-5)


def test_bad_input_is_refused_at_construction():
    g, model = grid(VE()), guided(VE())
    x = start(g)
    with pytest.raises(ValueError, match=r"unknown sampler 'dpmp_2m_sde'; did you mean dpmpp_2m_sde"):
        sample(model, x, g.sigmas, "dpmp_2m_sde")
    with pytest.raises(ValueError, match=r"euler has no parameter 's_chrun'; did you mean s_churn"):
        sample(model, x, g.sigmas, "euler", s_chrun=1.0)
    with pytest.raises(ValueError, match="finite and ≥ 0; got -1"):
        sample(model, x, torch.tensor([1.0, -1.0]), "euler")
    with pytest.raises(ValueError, match=r"a flow lie in \[0, 1\]; got 2"):
        Grid(torch.tensor([2.0, 1.0]), PROCESSES[1])
    with pytest.raises(ValueError, match="draws noise"):
        Run(model, SAMPLERS["seeds_2"], g)
    field = on(g.sigmas.reshape(-1, 1, 1, 1, 1), VE())
    with pytest.raises(ValueError, match="one sigma per step"):
        Run(model, SAMPLERS["dpm_adaptive"], field)
    with pytest.raises(ValueError, match="one sigma per step"):
        Run(model, SAMPLERS["dpm_fast"], field)


def test_a_failed_evaluation_leaves_the_state(tmp_path):
    """If the network raises, the state before the step is intact and the run can continue from it."""
    g = grid(VE())
    x = start(g)
    model = guided(VE())
    calls = {"n": 0}

    def flaky(x, sigma, ctx):
        calls["n"] += 1
        if calls["n"] == 4:
            raise RuntimeError("out of memory")
        return model(x, sigma, ctx)

    run = run_of("dpmpp_2m_sde", flaky, g, x)
    state = run.start(x)
    with pytest.raises(RuntimeError, match="out of memory"):
        while True:
            state = run.step(state)
    assert state.i == 3
    assert torch.equal(finish(run, state).x, finish(run_of("dpmpp_2m_sde", model, g, x), x).x)


def test_a_missing_unconditional_prediction_is_named():
    g = grid(VE())
    with pytest.raises(ValueError, match="needs the unconditional prediction"):
        sample(lambda x, sigma, ctx: Pred(x), start(g), g.sigmas, "euler_cfg_pp")


NESTED = {
    "empty": {},
    "deep": {"a": {"b": (torch.tensor([1.5, float("nan")]), (1, 2.5, True, "text"), {"c": torch.arange(3)})}},
    "a/b": torch.tensor(0.1, dtype=torch.float64),
    "a": {"b": torch.ones(1, 2, dtype=torch.bfloat16).T, "list": [None, [1]]},
    "inf": float("inf"),
}


def test_nested_memories_are_saved_bit_for_bit(tmp_path):
    """Dicts in dicts, tensors at any depth, tuples; integers stay integers, tuples stay tuples."""
    path, x = tmp_path / "cut.safetensors", torch.randn(1, 2, 3, 3)
    state = State(3, x, NESTED, {"x": {"mem": x, "rng": 1}}, torch.tensor([1, 2], dtype=torch.uint8), 5)
    save_state(state, path)
    again, meta = load_state(path)
    assert repr((again.mem, again.aux)) == repr((state.mem, state.aux)) and meta == {}
    assert torch.equal(again.aux["x"]["mem"], x) and torch.equal(again.rng, state.rng) and again.nfe == 5
    assert again.mem["deep"]["a"]["b"][2]["c"].dtype == torch.int64
    for value in ({1: 2}, object()):
        with pytest.raises(ValueError, match="aux/deep/bad cannot be saved"):
            save_state(State(0, x, {}, {"deep": {"bad": value}}), path)
    assert torch.equal(load_state(path)[0].x, x)  # the file on disk is still the last good one


@pytest.mark.parametrize(
    "version, message", [(1, "an earlier version"), (3, "a later version"), (None, "not a checkpoint")]
)
def test_other_formats_are_refused(version, message, tmp_path):
    header = json.dumps({"format": f"sigmafield-state-{version}"} if version else {})
    save_file({"x": torch.zeros(1)}, tmp_path / "cut.safetensors", {"state": header})
    with pytest.raises(ValueError, match=message):
        load_state(tmp_path / "cut.safetensors")
    (tmp_path / "text").write_text("no checkpoint")
    with pytest.raises(ValueError, match="is not a safetensors file"):
        load_state(tmp_path / "text")
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        load_state(tmp_path / "nothing")


def test_a_state_moves_with_its_memories():
    """Latents move to the device, coefficients stay where they are."""
    old = torch.zeros(1, 2, 3, 3)
    number = torch.tensor(0.5, dtype=torch.float64)
    there = moved(State(2, old, {"D_prev": old, "h": number, "t": (0.1,)}, {"mixing": {"source": old}}), "meta")
    assert {t.device.type for t in (there.x, there.mem["D_prev"], there.aux["mixing"]["source"])} == {"meta"}
    assert there.mem["h"] is number and there.mem["t"] == (0.1,) and there.i == 2


def test_tensors_keep_the_order_of_their_axes_in_memory(tmp_path):
    """Networks compute in another way with channels that are innermost, so the last bits depend on the order."""
    x = torch.randn(2, 4, 3, 5).to(memory_format=torch.channels_last)
    wide = torch.randn(2, 3, 5, 8).movedim(-1, 1)[:, :4]
    save_state(State(1, x, {"D": wide}, {"plain": wide.contiguous()}), tmp_path / "cut.safetensors")
    again, _ = load_state(tmp_path / "cut.safetensors")
    assert torch.equal(again.x, x) and torch.equal(again.mem["D"], wide) and again.aux["plain"].is_contiguous()
    assert again.x.is_contiguous(memory_format=torch.channels_last)
    assert again.mem["D"].is_contiguous(memory_format=torch.channels_last)
