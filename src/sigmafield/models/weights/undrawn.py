"""Builds modules without drawing the weights that a file replaces right after, one at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from threading import RLock
from typing import Any, ParamSpec, TypeVar

from torch.overrides import TorchFunctionMode

P = ParamSpec("P")
T = TypeVar("T")

_BUILDING = RLock()


def one_at_a_time(build: Callable[P, T]) -> Callable[P, T]:
    """A function that builds networks, for one thread at a time.

    While accelerate, diffusers or transformers build one, they change how every module of the process gets its weights.
    """

    @wraps(build)
    def built(*args: P.args, **kwargs: P.kwargs) -> T:
        with _BUILDING:
            return build(*args, **kwargs)

    return built


class Undrawn(TorchFunctionMode):
    """Within it, the functions of `torch.nn.init`, and transformers' in their place, leave tensors as they are."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """As for every mode of torch."""
        given = kwargs or {}
        if getattr(func, "__module__", None) in ("torch.nn.init", "transformers.initialization"):
            return given["tensor"] if "tensor" in given else args[0]
        return func(*args, **given)
