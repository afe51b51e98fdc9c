"""Views of a torch module: other module objects on the same weights, so that one call can be patched and others not.

A patch registers hooks and replaces forwards. On the shared module that would change the calls of other threads too, so
a patched call borrows a view: each module object copied shallowly, with its own tables of submodules and hooks, and the
same parameters and buffers.

A module whose `forward` was replaced on the object, as the offloading hooks of accelerate and diffusers do, cannot have
views: the replacement leads to the original's submodules by ways that cannot be followed. Calls of such a module,
patched or not, run one at a time in the whole process, and patches then act on the module itself.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from operator import is_
from threading import RLock
from types import MethodType
from typing import Any, TypeVar, cast

from torch import jit, nn

M = TypeVar("M", bound=nn.Module)

WEIGHTS = ("_parameters", "_buffers", "_non_persistent_buffers_set")
"""Tables that a view shares with its module, so that it follows the weights to another device or dtype."""

_ONE_AT_A_TIME = RLock()
"""Held by calls of modules without views. There is one, since offloading one module may move another."""


def view_of(module: M) -> M:
    """Copies the module objects of a module, not its weights.

    Submodules, hook tables and attributes are the copy's own; attributes that refer to the module or its submodules, in
    bound methods, partial functions, lists, tuples and dictionaries too, refer to their copies. Parameters and buffers
    are shared.

    Raises:
        ValueError: If the module is compiled, or has a submodule with a replaced forward.
    """
    check_eager(module)
    if (part := replaced(module)) is not None:
        raise ValueError(
            f"{type(module).__name__} cannot be changed without changing it for every caller, because the forward of "
            f"{part or 'the whole'} was replaced, as offloading hooks do: remove the hooks first"
        )
    return _copied(module)


def replaced(module: nn.Module) -> str | None:
    """Finds a submodule whose forward was replaced on the object, except by one of its own methods.

    Returns:
        Its name, "" for the module itself; None if no forward was replaced.
    """
    own = ((name, part, vars(part).get("forward")) for name, part in module.named_modules() if "forward" in vars(part))
    return next((n for n, part, f in own if not (isinstance(f, MethodType) and f.__self__ is part)), None)


def check_eager(module: nn.Module, name: str | None = None) -> None:
    """Raises ValueError for a module that is compiled, as a whole or in parts; name: what the error calls it."""
    if (path := compiled_part(module)) is not None:
        what = f"{path} of {name or type(module).__name__}" if path else name or type(module).__name__
        raise ValueError(f"{what} is compiled, and a compiled network cannot be patched: leave compile out")


def compiled_part(module: nn.Module) -> str | None:
    """Finds a submodule that is compiled; returns its name, "" for the module itself, and None if there is not one."""
    for path, part in module.named_modules():
        if part._compiled_call_impl is not None or "_orig_mod" in part._modules or isinstance(part, jit.ScriptModule):
            return path
    return None


def _copied(module: nn.Module) -> Any:
    copies: dict[int, nn.Module] = {id(part): object.__new__(type(part)) for part in module.modules()}
    for part in module.modules():
        vars(copies[id(part)]).update(
            (name, value if name in WEIGHTS else _rebound(value, copies, own=name == "_modules" or "_hooks" in name))
            for name, value in vars(part).items()
        )
    return copies[id(module)]


def _rebound(value: Any, copies: Mapping[int, nn.Module], own: bool = False) -> Any:
    """A value that refers to the copies of modules; the value itself where it refers to none and need not be `own`."""
    if isinstance(value, nn.Module):
        return copies.get(id(value), value)
    if isinstance(value, MethodType):
        owner = _rebound(value.__self__, copies)
        return value if owner is value.__self__ else MethodType(value.__func__, owner)
    if type(value) is partial:
        new = partial(_rebound(value.func, copies), *_rebound(value.args, copies), **_rebound(value.keywords, copies))
        return value if (new.func, new.args, new.keywords) == (value.func, value.args, value.keywords) else new
    if type(value) in (dict, OrderedDict):
        items = {key: _rebound(each, copies) for key, each in value.items()}
        return type(value)(items) if own or _differ(items.values(), value.values()) else value
    if type(value) in (list, tuple):
        each = [_rebound(one, copies) for one in value]
        return type(value)(each) if _differ(each, value) else value
    return value


def _differ(a: Any, b: Any) -> bool:
    return not all(map(is_, a, b))


class _View:
    """A view, with what its module's objects referred to when it was made."""

    def __init__(self, module: nn.Module) -> None:
        self.module = view_of(module)
        self._tables = [
            (table, tuple(table.values()))
            for part in module.modules()
            for table in (vars(part), part._modules, part._forward_hooks, part._forward_pre_hooks)
        ]

    def current(self) -> bool:
        """Whether the module still has the submodules, attributes and hooks that it had, by their identity."""
        return all(
            len(now) == len(then) and (not then or all(map(is_, now.values(), then))) for now, then in self._tables
        )


class Views:
    """The views of one module that are not in use; there are as many as there were patched calls at a time."""

    def __init__(self) -> None:
        self._idle: list[_View] = []
        self._exclusive: bool | None = None

    def __reduce__(self) -> tuple[type[Views], tuple[()]]:
        return Views, ()  # copies of a model begin without views

    @contextmanager
    def borrowed(self, module: M) -> Iterator[M]:
        """A view for one call, to be left as it was found; the module itself where it cannot have views."""
        try:
            view = self._idle.pop()
        except IndexError:
            view = None
        if view is None or not view.current():
            self._exclusive = None
            if self._alone(module):
                check_eager(module)
                with _ONE_AT_A_TIME:
                    yield module
                return
            view = _View(module)
        yield cast(M, view.module)
        self._idle.append(view)  # a view in which a call failed is dropped

    @contextmanager
    def shared(self, module: nn.Module) -> Iterator[bool]:
        """The context of a call that changes nothing in the module; one at a time where it cannot have views.

        Gives whether the module is locked for this thread meanwhile.
        """
        alone = self._alone(module)
        with _ONE_AT_A_TIME if alone else nullcontext():
            yield alone

    def _alone(self, module: nn.Module) -> bool:
        """Whether the module cannot have views; found once, because a walk through a large network takes a while."""
        if self._exclusive is None:
            self._exclusive = replaced(module) is not None
        return self._exclusive
