"""Changes of a torch module that last as long as a `with` block: what patches are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sigmafield.core.conditioning import Cond
from sigmafield.core.protocols import Network

Change = Callable[[], AbstractContextManager[None]]
"""Makes the `with` block of one change: `partial(inside, module, attend)`."""

Attend = Callable[[Tensor, Tensor, Tensor, "partial[Tensor]"], Tensor]
"""(q, k, v, attention) → the replacement of attention(q, k, v), all [rows, heads, tokens, channels].

`attention` takes further keywords of torch's scaled_dot_product_attention, such as another attn_mask; those that the
network gave are its `keywords`.
"""


def during(network: Network, changes: Iterable[Change]) -> Network:
    """The network with these changes in each of its calls, the last one outermost."""
    made = list(changes)

    def patched(x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        with ExitStack() as stack:
            for change in made:
                stack.enter_context(change())
            return network(x, t, cond)

    return patched


@contextmanager
def before(module: nn.Module, hook: Callable[..., Any]) -> Iterator[None]:
    """hook(module, args, kwargs) → the (args, kwargs) that the module is called with, or None for no change."""
    handle = module.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def after(module: nn.Module, hook: Callable[..., Any]) -> Iterator[None]:
    """hook(module, args, kwargs, output) → the module's output, or None for no change."""
    handle = module.register_forward_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def instead(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """A function instead of the module's forward."""
    own = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own


@contextmanager
def inside(module: nn.Module, attend: Attend) -> Iterator[None]:
    """`attend` instead of every scaled dot-product attention within the module, after projections and norms.

    Raises:
        ValueError: A call of the module computes its attention without torch's function.
    """
    forward = module.forward

    def attending(*args: Any, **kwargs: Any) -> Any:
        mode = _Attending(attend)
        token = _ENTERED.set((*_ENTERED.get(), mode))
        try:
            with mode:
                out = forward(*args, **kwargs)
        finally:
            _ENTERED.reset(token)
        if not mode.reached:
            how = type(getattr(module, "processor", module)).__name__
            raise ValueError(
                f"{how} does not attend by torch's scaled_dot_product_attention, so nothing in it can be changed; "
                "give the network its default attention processors"
            )
        return out

    with instead(module, attending):
        yield


class _Attending(TorchFunctionMode):
    """Sends torch's scaled dot-product attention through `attend`, in this thread, while it is entered."""

    def __init__(self, attend: Attend) -> None:
        super().__init__()
        self.attend = attend
        self.reached = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is not F.scaled_dot_product_attention:
            return func(*args, **kwargs)
        for mode in _ENTERED.get():  # an inner one may answer without asking those around it
            mode.reached = True
        for name, value in zip(("query", "key", "value", "attn_mask", "dropout_p", "is_causal"), args):
            kwargs[name] = value
        q, k, v = (kwargs.pop(name) for name in ("query", "key", "value"))
        return self.attend(q, k, v, partial(func, **kwargs))


_ENTERED: ContextVar[tuple[_Attending, ...]] = ContextVar("entered", default=())
"""The modes that are entered in this thread, the outermost first."""
