"""Runs that share network calls give what they give alone."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.testing import assert_close

import sigmafield as sf
from sigmafield.core.conditioning import Cond
from sigmafield.core.grid import Grid
from sigmafield.core.process import VE
from sigmafield.core.protocols import Ctx
from sigmafield.models.diffusion_model import DiffusionModel
from sigmafield.recipes.execute import execute
from sigmafield.serve.batcher import Batcher, BatchSettings
from sigmafield.serve.exact import CHECKS
from small_network import small_model

AtOnce = Callable[[Batcher, sf.Pipeline, Sequence[sf.Recipe]], list[Tensor]]

SMALL: dict[str, Any] = {"width": 32, "height": 32}

UNLIKE = [
    sf.Recipe("a red heart", steps=4, cfg=3.0, sampler="euler", seed=1, **SMALL),
    sf.Recipe("a blue star", steps=6, cfg=5.0, sampler="dpmpp_2m_sde", seed=2, **SMALL),
    sf.Recipe("a green circle", steps=3, cfg=4.0, sampler="heun", seed=3, **SMALL),
    sf.Recipe("a red square", steps=5, cfg=7.0, sampler="uni_pc", schedule="normal", seed=4, **SMALL),
]


@contextmanager
def batcher_of(**settings: Any) -> Iterator[Batcher]:
    """A batcher, closed at the end."""
    batcher = Batcher(BatchSettings(**settings))
    try:
        yield batcher
    finally:
        batcher.close()


def network(
    pipe: sf.Pipeline, forward: Callable[[Any, Tensor, Tensor, Cond], Tensor], **changes: Any
) -> DiffusionModel:
    """The embedded model with another network."""
    return replace(pipe.model, forward=forward, module=None, **changes)


def ask(model: DiffusionModel, rows: int = 1, fill: float = 0.5, tokens: int = 4, side: int = 4) -> Tensor:
    """A model's prediction for one conditioning at σ = 1, of rows filled with a number."""
    x, ctx = torch.full((rows, 4, side, side), fill), Ctx(Grid(torch.tensor([1.0, 0.5]), VE()).span(0), {})
    return model(x, torch.tensor(1.0, dtype=torch.float64), [Cond(torch.full((1, tokens, 8), fill))], ctx)[0]


def in_threads(batcher: Batcher, calls: Sequence[Callable[[], Any]], priorities: Sequence[int] = ()) -> list[Any]:
    """What functions return or raise, each in a thread that steps a run; they begin at once."""
    begin, out = threading.Barrier(len(calls)), [None] * len(calls)

    def run(i: int) -> None:
        with batcher.running(priorities[i] if priorities else 0):
            begin.wait(60)
            try:
                out[i] = calls[i]()
            except Exception as error:
                out[i] = error

    threads = [threading.Thread(target=run, args=(i,), daemon=True) for i in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads), "a run waits for ever"
    return out


def test_unlike_runs_take_the_calls_of_the_longest(pipe: sf.Pipeline, at_once: AtOnce) -> None:
    alone = [execute(sf.open_job(recipe, pipe)).state for recipe in UNLIKE]
    with batcher_of(window=10.0) as batcher:
        out = at_once(batcher, pipe, UNLIKE)
    figures = batcher.figures()
    assert figures.calls == max(state.nfe for state in alone)
    assert figures.rows == figures.computed == 2 * sum(state.nfe for state in alone)
    for state, got in zip(alone, out):
        assert_close(got, state.x, atol=1e-4, rtol=0)


@pytest.mark.parametrize("settings", [{}, {"exact": True}, {"exact": True, "rows": 3}])
def test_a_run_alone_has_no_other_company(at_once: AtOnce, settings: dict[str, Any]) -> None:
    """Without exact: the very bits of a run without a batcher. With: those of the same mode, in any company."""
    pipe = small_model()
    with batcher_of(**settings) as batcher:
        alone = at_once(batcher, pipe, UNLIKE[:1])
    if not settings:
        assert torch.equal(alone[0], execute(sf.open_job(UNLIKE[0], pipe)).state.x)
        return
    for others in (UNLIKE[1:], [replace(UNLIKE[0], batch=3, seed=9)]):
        with batcher_of(**settings) as batcher:
            assert torch.equal(at_once(batcher, pipe, [UNLIKE[0], *others])[0], alone[0])


@pytest.mark.parametrize("rows", [4, pytest.param(8, marks=pytest.mark.slow)])
def test_rows_of_every_kind_of_run_at_once(at_once: AtOnce, tmp_path: Path, rows: int) -> None:
    """Two σ-fields, an upscale in tiles, DemoFusion, iterative mixing and three plain jobs, one of them patched."""
    recipes, pipe = mixed(tmp_path), small_model()
    with batcher_of(exact=True, rows=rows) as batcher:
        alone = [at_once(batcher, pipe, [recipe])[0] for recipe in recipes]
    with batcher_of(exact=True, rows=rows) as batcher:
        out = at_once(batcher, pipe, recipes)
    assert [i for i, (a, b) in enumerate(zip(alone, out)) if not torch.equal(a, b)] == []
    assert max(batcher.figures().by_rows) > 2


def mixed(folder: Path) -> list[sf.Recipe]:
    image, halves = folder / "image.png", folder / "map.png"
    Image.linear_gradient("L").resize((64, 64)).convert("RGB").save(image)
    grey = Image.new("L", (64, 64), 255)
    grey.paste(100, (0, 0, 32, 64))
    grey.save(halves)
    drawn: dict[str, Any] = {"cfg": 3.0, "image": str(image), "denoise": 0.8}
    return [
        sf.Recipe("a red heart", steps=2, denoise_map=str(halves), seed=1, **drawn),
        sf.Recipe("a blue star", steps=3, denoise_map=str(halves), map_schedule="own", seed=2, **drawn),
        sf.Recipe("a blue star", steps=2, scale=1.5, tiling=sf.Tiling(tile=64), seed=3, **drawn),
        sf.Recipe("a red heart", steps=2, demofusion=sf.DemoFusion(2), seed=4),
        sf.Recipe("a red heart", steps=3, cfg=3.0, image=str(image), mixing="cosine+rewind", seed=5),
        sf.Recipe("a green circle", steps=2, guidance="pag", seed=6),
        sf.Recipe("a green circle", steps=2, cfg=5.0, sampler="dpmpp_2m_sde", seed=7),
        sf.Recipe("a blue star", steps=3, cfg=7.0, sampler="uni_pc", schedule="normal", seed=8),
    ]


def test_where_rows_change_each_other_each_is_computed_alone(pipe: sf.Pipeline) -> None:
    """Position, company and the number of rows all change the bits of this network."""

    def forward(module: Any, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        where = torch.arange(len(x)).reshape(-1, 1, 1, 1)
        return x + 1e-6 * where + 1e-6 * x.sum() + 1e-6 * len(x)

    fills = (0.1, 0.2, 0.3)
    with batcher_of(exact=True, rows=4) as batcher:
        model = batcher.joined(network(pipe, forward))
        alone = [ask(model, 2, fill) for fill in fills]
    with batcher_of(exact=True, rows=4, window=10.0) as batcher:
        model = batcher.joined(network(pipe, forward))
        out = in_threads(batcher, [lambda fill=fill: ask(model, 2, fill) for fill in fills])
    assert all(torch.equal(a, b) for a, b in zip(alone, out))


@pytest.mark.parametrize("least", [1, 3, 8])
def test_exact_calls_have_as_few_rows_as_give_the_bits_of_a_full_one(pipe: sf.Pipeline, least: int) -> None:
    sizes: list[int] = []

    def forward(module: Any, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        sizes.append(len(x))
        return x * (1 if len(x) >= least else 1.001)

    with batcher_of(exact=True, rows=8) as batcher:
        model = batcher.joined(network(pipe, forward))
        first = [ask(model, 2) for _ in range(CHECKS)]
        sizes.clear()
        assert torch.equal(ask(model, 2), first[0])
    assert sizes == [max(2, least)]


def test_a_broken_answer_teaches_nothing(pipe: sf.Pipeline) -> None:
    """NaN equals nothing, itself included; it may not decide how later rows are computed."""
    with batcher_of(exact=True, rows=4) as batcher:
        model = batcher.joined(network(pipe, lambda module, x, t, cond: x * 1.0))
        assert ask(model, 2, float("nan")).isnan().all()
        for _ in range(CHECKS):
            ask(model, 2)
        before = batcher.figures().computed
        ask(model, 2)
    assert batcher.figures().computed == before + 2


def test_calls_that_cannot_be_joined_are_not(pipe: sf.Pipeline) -> None:
    """Another size, another number of tokens in a transformer, another network: each gets its own call, at once."""
    sizes: list[tuple[int, ...]] = []

    def forward(module: Any, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        sizes.append((*x.shape, cond.embeds.shape[1]))
        return x

    with batcher_of(window=10.0) as batcher:
        model = batcher.joined(network(pipe, forward, part="transformer"))
        other = batcher.joined(network(pipe, lambda *args: forward(*args), part="transformer"))
        calls = [{}, {"side": 8}, {"tokens": 8}, {}, {"rows": 2}]
        in_threads(batcher, [*(lambda c=c: ask(model, **c) for c in calls), lambda: ask(other)])
    assert sorted(sizes) == [(1, 4, 4, 4, 4), (1, 4, 4, 4, 8), (1, 4, 8, 8, 4), (4, 4, 4, 4, 4)]


def test_prompts_of_other_lengths_share_a_call_of_a_unet(pipe: sf.Pipeline, at_once: AtOnce) -> None:
    long = " ".join(["a red heart on a blue circle"] * 12)
    recipes = [replace(UNLIKE[0], prompt=prompt, negative=prompt) for prompt in ("a red heart", long)]
    alone = [execute(sf.open_job(recipe, pipe)).state for recipe in recipes]
    with batcher_of(window=10.0) as batcher:
        out = at_once(batcher, pipe, recipes)
    assert batcher.figures().by_rows == {4: alone[0].nfe}
    for state, got in zip(alone, out):
        assert_close(got, state.x, atol=1e-4, rtol=0)
    with batcher_of(exact=True) as batcher:  # a longer prompt changes bits
        at_once(batcher, pipe, recipes)
    assert max(batcher.figures().by_rows) == 2


def test_the_rows_of_a_call_are_limited(pipe: sf.Pipeline) -> None:
    """By the batcher, and by the model; a call of more rows is divided."""
    for settings, most in (({"max_rows": 3}, None), ({}, 3), ({"exact": True, "rows": 8}, 3), ({"max_rows": 8}, 3)):
        sizes: list[int] = []

        def forward(module: Any, x: Tensor, t: Tensor, cond: Cond, sizes: list[int] = sizes) -> Tensor:
            sizes.append(len(x))
            return x

        with batcher_of(window=0.2, **settings) as batcher:
            model = batcher.joined(network(pipe, forward, max_rows=most))
            out = in_threads(batcher, [lambda n=n, model=model: len(ask(model, n)) for n in (1, 1, 1, 2, 7)])
        assert out == [1, 1, 1, 2, 7] and max(sizes) <= 3
        assert batcher.figures().rows == 12


def test_out_of_memory_halves_the_rows(pipe: sf.Pipeline) -> None:
    """A call with one row too many fails; only one row that fails reaches the runs."""
    tried: list[int] = []

    def forward(module: Any, x: Tensor, t: Tensor, cond: Cond, most: int = 2) -> Tensor:
        tried.append(len(x))
        if len(x) > most:
            raise torch.OutOfMemoryError("out of memory")
        return 2 * x

    with batcher_of(window=10.0) as batcher:
        model = batcher.joined(network(pipe, forward))
        calls = [lambda: ask(model, 2)] * 4
        in_threads(batcher, calls)
        assert batcher.figures().halvings == 2 and tried == [8, 4, 2, 2, 2, 2]
        tried.clear()
        assert all(len(answer) == 2 for answer in in_threads(batcher, calls))
        assert tried == [2, 2, 2, 2] and batcher.figures().halvings == 2
        never = batcher.joined(network(pipe, lambda *args: forward(*args, most=0)))
        errors = in_threads(batcher, [lambda: ask(never)] * 2)
        assert all(isinstance(error, torch.OutOfMemoryError) for error in errors)


def test_a_call_that_fails_is_an_error_of_the_runs_that_it_was_for(pipe: sf.Pipeline) -> None:
    """One bad run does not end those beside it; where the network fails for all, each of them gets the error."""

    def forward(module: Any, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        if (x > 5).any():
            raise ValueError("too bright")
        return x

    with batcher_of(window=10.0) as batcher:
        model = batcher.joined(network(pipe, forward))
        out = in_threads(batcher, [lambda fill=fill: ask(model, fill=fill) for fill in (0.5, 99.0, 0.25)])
        assert isinstance(out[1], ValueError) and not any(isinstance(out[i], Exception) for i in (0, 2))
        out = in_threads(batcher, [lambda: ask(model, fill=99.0)] * 3)
        assert [str(error) for error in out] == ["too bright"] * 3
        assert not isinstance(in_threads(batcher, [lambda: ask(model)])[0], Exception)


def test_urgent_calls_are_made_first(pipe: sf.Pipeline) -> None:
    """Of calls that cannot be joined, and of those that have no room in one call; of equal priority, the oldest."""
    order: list[int] = []
    held, go = threading.Event(), threading.Event()

    def forward(module: Any, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        order.append(round(float(cond.embeds[0, 0, 0])))
        if order == [9]:
            held.set()
            go.wait(60)
        return x

    with batcher_of(max_rows=1, window=0.0) as batcher:
        model = batcher.joined(network(pipe, forward))
        first = threading.Thread(target=lambda: ask(model, fill=9.0))
        first.start()
        held.wait(60)

        def later(i: int, priority: int) -> threading.Thread:
            def run() -> None:
                with batcher.running(priority):
                    ask(model, fill=float(i))

            thread = threading.Thread(target=run)
            thread.start()
            time.sleep(0.05)
            return thread

        threads = [first, *(later(i, priority) for i, priority in enumerate((0, 1, 5, 1)))]
        go.set()
        for thread in threads:
            thread.join(60)
    assert order == [9, 2, 1, 3, 0]


def test_patched_runs_make_their_own_calls(at_once: AtOnce) -> None:
    """With the bits of a run without a batcher, in both modes."""
    pipe = small_model()
    recipes = [replace(UNLIKE[0], guidance=line, seed=i) for i, line in enumerate(("freeu", "nag", "easycache"))]
    alone = [execute(sf.open_job(recipe, pipe)).state.x for recipe in recipes]
    for settings in ({}, {"exact": True}):
        with batcher_of(**settings) as batcher:
            assert all(torch.equal(a, b) for a, b in zip(alone, at_once(batcher, pipe, recipes)))
        assert set(batcher.figures().by_rows) == {2}


def test_models_of_several_devices_and_weights(pipe: sf.Pipeline) -> None:
    """Each batcher has its own thread; models that share weights share calls, others do not."""
    made: list[tuple[str, int]] = []

    def forward(module: Any, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        made.append((threading.current_thread().name, len(x)))
        return x

    one, other = torch.nn.Identity(), torch.nn.Identity()
    base = replace(pipe.model, forward=forward, module=one)
    with batcher_of(window=10.0) as first, batcher_of(window=10.0) as second:
        models = [base, replace(base, name="again"), replace(base, module=other)]
        in_threads(first, [lambda m=m: ask(first.joined(m)) for m in models])
        in_threads(second, [lambda: ask(second.joined(base))])
    assert sorted(n for _, n in made) == [1, 1, 2]
    assert first.figures().rows == 3 and second.figures().rows == 1


def test_calls_are_made_in_the_context_of_the_model_without_gradients(pipe: sf.Pipeline) -> None:
    """By the thread that makes the call: there torch's threads are limited, or the module is brought to the device."""
    seen: list[tuple[str, str, bool]] = []
    local = threading.local()

    @contextmanager
    def running() -> Iterator[None]:
        local.name = "inside"
        yield
        local.name = "outside"

    def forward(module: Any, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        seen.append((threading.current_thread().name, local.name, torch.is_grad_enabled()))
        return x

    def asking() -> None:
        with torch.no_grad():
            ask(model)

    with batcher_of() as batcher:
        model = batcher.joined(network(pipe, forward, running=running))
        in_threads(batcher, [asking, asking])
        asking()
    assert seen[0][1:] == ("inside", False)
    assert seen[-1] == (threading.current_thread().name, "inside", False)


def test_runs_take_turns_between_their_calls(pipe: sf.Pipeline) -> None:
    """Threads that compute at the same time hand Python's lock to one another at every operation."""
    inside, most = 0, 0

    def step(model: DiffusionModel) -> None:
        nonlocal inside, most
        ask(model)
        for _ in range(20):
            inside += 1
            most = max(most, inside)
            torch.zeros(100).sum()
            time.sleep(0)  # another thread goes on here, if it may
            inside -= 1
            ask(model)

    with batcher_of() as batcher:
        model = batcher.joined(network(pipe, lambda module, x, t, cond: x))
        assert in_threads(batcher, [lambda: step(model)] * 4) == [None] * 4
        assert batcher.figures().calls < 4 * 21
    assert most == 1


def test_on_the_cpu_a_joined_call_is_made_by_one_of_its_runs(pipe: sf.Pipeline) -> None:
    """No other thread has to be woken for it."""
    made: list[tuple[threading.Thread, int]] = []

    def forward(module: Any, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        made.append((threading.current_thread(), len(x)))
        return x

    def step(model: DiffusionModel) -> threading.Thread:
        for _ in range(3):
            ask(model)
        return threading.current_thread()

    with batcher_of(window=10.0) as batcher:
        model = batcher.joined(network(pipe, forward))
        runs = in_threads(batcher, [lambda: step(model)] * 3)
    assert [n for _, n in made] == [3, 3, 3] and all(thread in runs for thread, _ in made)


def test_runs_on_a_module_that_one_thread_has_at_a_time(pipe: sf.Pipeline) -> None:
    """Such as one with offloading hooks: a run that holds its lock needs no turn, since the one that has it waits."""

    class Doubles(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * x

    module = Doubles()
    own = module.forward
    module.forward = lambda x: own(x)  # type: ignore[method-assign]

    def step(model: DiffusionModel) -> bool:
        return all(torch.equal(ask(model), want) for _ in range(5))

    with batcher_of() as batcher:
        hooked = replace(pipe.model, forward=lambda module, x, t, cond: module(x), module=module)
        want, model = ask(hooked), batcher.joined(hooked)
        assert in_threads(batcher, [lambda: step(model)] * 3) == [True] * 3


def test_an_interrupted_run_leaves_the_calls_of_others_to_them(pipe: sf.Pipeline) -> None:
    """Ctrl-C arrives in the thread that makes the call for all."""
    sizes: list[int] = []

    def forward(module: Any, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        sizes.append(len(x))
        if len(sizes) == 1:
            raise KeyboardInterrupt
        return 2 * x

    def asking(fill: float) -> Tensor | None:
        try:
            return ask(model, fill=fill)
        except KeyboardInterrupt:
            return None

    with batcher_of(window=10.0) as batcher:
        model = batcher.joined(network(pipe, forward))
        fills = (0.25, 0.5, 0.75)
        out = in_threads(batcher, [lambda fill=fill: asking(fill) for fill in fills])
        wanted = [ask(network(pipe, lambda module, x, t, cond: 2 * x), fill=fill) for fill in fills]
        assert sum(each is None for each in out) == 1 and sizes == [3, 2]
        assert all(torch.equal(a, b) for a, b in zip(out, wanted) if a is not None)
        assert torch.equal(in_threads(batcher, [lambda: asking(0.25)])[0], wanted[0])  # nobody holds the turn


def test_closing_ends_the_calls_that_wait(pipe: sf.Pipeline) -> None:
    batcher = Batcher(BatchSettings(window=30.0))
    model = batcher.joined(network(pipe, lambda module, x, t, cond: x))
    idle, closed = threading.Event(), threading.Event()

    def close() -> None:
        idle.wait(60)
        batcher.close()
        closed.set()

    threading.Timer(0.2, idle.set).start()
    out = in_threads(batcher, [lambda: ask(model), close, lambda: closed.wait(60)])
    assert str(out[0]) == "the server is stopping: the network takes no more calls"
    with pytest.raises(RuntimeError, match="takes no more calls"):
        ask(model)


@pytest.mark.parametrize("settings", [{}, {"window": 0.0}, {"max_rows": 2}, {"exact": True, "rows": 4}])
def test_runs_that_come_leave_and_fail_block_nobody(pipe: sf.Pipeline, settings: dict[str, Any]) -> None:
    """Eight threads of short runs at random; every call is answered with its own rows, or with its own error."""

    def forward(module: Any, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        if (x > 99).any():
            raise ValueError("bad rows")
        return 3 * x

    def runs(seed: int) -> int:
        draw, right = random.Random(seed), 0
        for _ in range(10):
            with batcher.running(draw.randrange(3)):
                for _ in range(draw.randrange(5)):
                    rows, side, fill = draw.randrange(1, 4), draw.choice((4, 8)), draw.random()
                    bad = draw.random() < 0.1
                    want = plain(rows, 1000.0 if bad else fill, side)
                    try:
                        right += torch.equal(ask(model, rows, fill + 1000 * bad, side=side), want) and not bad
                    except ValueError:
                        right += bad
                    if draw.random() < 0.05:
                        break  # the run ends early
                if draw.random() < 0.1:
                    time.sleep(0.01)
        return right

    with batcher_of(**settings) as batcher:
        model = batcher.joined(network(pipe, forward))

        def plain(rows: int, fill: float, side: int) -> Tensor:
            if fill > 99:
                return torch.zeros(0)
            return ask(network(pipe, forward), rows, fill, side=side)

        out = in_threads(batcher, [lambda seed=seed: runs(seed) for seed in range(8)])
    assert not [error for error in out if isinstance(error, Exception)]
    assert batcher.figures().rows >= sum(out) > 50
