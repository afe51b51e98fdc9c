"""Views of a torch module: the same numbers on the same weights, and nothing of the module changes."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from threading import Event, Thread
from typing import Any

import pytest
import torch
from test_patch_laws import ACTING, ON_UNETS, asked, fingerprint
from torch import Tensor, nn

import sigmafield as sf
from sigmafield.core.process import Span
from sigmafield.core.protocols import Ctx
from sigmafield.guidance.patches.module_hooks import after, during
from sigmafield.models.module_view import Views, view_of
from small_network import small_model


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.register_buffer("shift", torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + self.shift


class Outer(nn.Module):
    """A module that refers to its submodules by every way that a view follows."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = Inner(), Inner()
        self.c = self.a  # the same module by two names
        self.each = [self.a, (self.b, {"b": self.b})]
        self.bound = self.b.forward
        self.part = partial(self.apply_to, self.a)
        self.settings = {"factor": 2.0}

    def apply_to(self, module: nn.Module, x: Tensor) -> Tensor:
        return module(x) * self.settings["factor"]

    def forward(self, x: Tensor) -> Tensor:
        return self.part(self.bound(x)) + self.each[1][1]["b"](x) + self.c(x)


@pytest.fixture
def outer() -> Outer:
    torch.manual_seed(0)
    return Outer()


def test_a_view_is_the_same_network_on_the_same_weights(outer: Outer) -> None:
    view, x = view_of(outer), torch.randn(2, 3)
    assert torch.equal(view(x), outer(x))
    own, shared = dict(view.named_parameters()), dict(outer.named_parameters())
    assert own.keys() == shared.keys() and all(own[name] is shared[name] for name in own)
    assert all(a is not b for a, b in zip(view.modules(), outer.modules()))
    assert view.a is view.c is view.each[0] and view.b is view.each[1][0] is view.each[1][1]["b"]
    assert view.bound.__self__ is view.b and view.part.args[0] is view.a and view.part.func.__self__ is view
    assert view.settings is outer.settings


def test_what_is_changed_in_a_view_stays_there(outer: Outer) -> None:
    view, x = view_of(outer), torch.randn(2, 3)
    was, plain = fingerprint(outer), outer(x)
    view.b.linear.register_forward_hook(lambda module, args, out: out + 1)
    view.a.forward = lambda x: 0 * x
    view.each[1][0].extra = 1
    assert fingerprint(outer) == was and torch.equal(outer(x), plain)
    assert not torch.equal(view(x), plain)


def test_a_view_follows_the_weights(outer: Outer) -> None:
    """Another dtype, and what an optimiser or an offload does: tables of weights are shared."""
    view = view_of(outer)
    outer.double()
    x = torch.randn(2, 3, dtype=torch.float64)
    assert view.a.shift.dtype == torch.float64 and torch.equal(view(x), outer(x))
    outer.a.shift = torch.zeros(3, dtype=torch.float64)
    outer.b.linear.weight = nn.Parameter(2 * outer.b.linear.weight.detach())
    assert torch.equal(view(x), outer(x))


@pytest.mark.parametrize(
    "change",
    [
        lambda outer: outer.b.register_forward_hook(lambda module, args, out: out + 1),
        lambda outer: outer.b.register_forward_pre_hook(lambda module, args: (args[0] + 1,)),
        lambda outer: setattr(outer, "c", Inner()),
        lambda outer: setattr(outer, "settings", {"factor": 5.0}),
        lambda outer: outer.c.add_module("linear", nn.Linear(3, 3)),
    ],
    ids=["hook", "pre-hook", "submodule", "attribute", "layer"],
)
def test_a_change_of_the_module_is_seen_by_later_calls(outer: Outer, change: Any) -> None:
    views, x = Views(), torch.randn(2, 3)
    with views.borrowed(outer) as first:
        assert torch.equal(first(x), outer(x))
    with views.borrowed(outer) as again:
        assert again is first
    was = outer(x)
    change(outer)
    with views.borrowed(outer) as later:
        assert torch.equal(later(x), outer(x)) and not torch.equal(later(x), was)


def test_calls_at_a_time_have_a_view_each_and_a_failed_one_is_dropped(outer: Outer) -> None:
    views = Views()
    with views.borrowed(outer) as a, views.borrowed(outer) as b:
        assert a is not b and a is not outer
    with pytest.raises(RuntimeError), views.borrowed(outer) as c:
        assert c in (a, b)
        raise RuntimeError
    with views.borrowed(outer) as d, views.borrowed(outer) as e:
        assert c not in (d, e) and {a, b} & {d, e}


@pytest.mark.parametrize("name", ON_UNETS)
def test_the_shared_module_is_as_it_was_during_a_patched_call(name: str) -> None:
    """Objects, hooks and forwards, seen from inside of the network while the patch acts."""
    pipe = small_model()
    unet, seen = pipe.modules["unet"], list[bool]()
    was, inner = fingerprint(unet), pipe.model.forward

    def forward(module: nn.Module, x: Tensor, t: Tensor, cond: Any) -> Tensor:
        def look(*_: Any) -> None:
            seen.append(fingerprint(unet) == was)

        if module is unet:  # a call without patches
            return inner(module, x, t, cond)
        with after(module.conv_out, look):
            return inner(module, x, t, cond)

    asked(replace(pipe, model=replace(pipe.model, forward=forward, size=(64, 64))), ACTING.get(name, name))
    assert seen and all(seen) and fingerprint(unet) == was


def hooked() -> tuple[sf.Pipeline, Any]:
    """The embedded model with accelerate's hooks, which bring each layer's weights when it is called."""
    accelerate = pytest.importorskip("accelerate")
    pipe = sf.load("tiny", device="cpu")
    accelerate.cpu_offload(pipe.modules["unet"], torch.device("cpu"))
    return pipe, accelerate


def test_with_offloading_hooks_patched_and_plain_calls_take_turns() -> None:
    (pipe, _), plain = hooked(), sf.load("tiny", device="cpu")
    with pytest.raises(ValueError, match="UNet cannot be changed without changing it for every caller"):
        view_of(pipe.modules["unet"])
    inside, done = Event(), Event()
    want = asked(plain).x0, asked(plain, "freeu").x0
    got: list[Tensor] = []

    def waiting(network: Any, call: Any) -> Any:
        def hold(*_: Any) -> None:
            inside.set()
            assert not done.wait(0.3)  # the other call is not made meanwhile

        return during(network, [partial(after, call.module.conv_in, hold)])

    def other() -> None:
        inside.wait()
        got.append(asked(pipe).x0)
        done.set()

    thread = Thread(target=other)
    thread.start()
    level = torch.tensor(2.0, dtype=torch.float64)
    span = Span(level, level / 2, pipe.model.sampling.process, clock=pipe.model.sampling.clock)
    assert torch.equal(asked(pipe, "freeu", ctx=Ctx(span, {}, patches=(waiting,))).x0, want[1])
    thread.join()
    assert torch.equal(got[0], want[0])


def test_a_compiled_part_is_refused() -> None:
    pipe = sf.load("tiny", device="cpu")
    middle = pipe.modules["unet"].mid_block
    middle._compiled_call_impl = middle._call_impl  # what compile() sets, without seconds of imports
    with pytest.raises(ValueError, match="mid_block of tiny is compiled, and a compiled network cannot be patched"):
        sf.open_job(sf.Recipe("a red heart", guidance="pag"), pipe)
