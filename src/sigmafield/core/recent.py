"""Results of pure functions that are worth keeping from step to step, by the identity of what they were made from."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Recent(Generic[T]):
    """The last few results of a pure function of immutable values.

    A result is found by the identity of the values, which are kept with it, so that comparing them costs nothing and
    an identity is never reused. Threads may share it: an entry is stored complete, and two threads that miss at the
    same time compute the same result.

    Args:
        most: Results to keep; when there are more, all are dropped.
    """

    def __init__(self, most: int = 8) -> None:
        self._most = most
        self._known: dict[Hashable, tuple[tuple[object, ...], T]] = {}

    def __call__(self, values: tuple[object, ...], key: Hashable, make: Callable[[], T]) -> T:
        """The result for these values and this key, made where it is not known.

        Args:
            values: Immutable values, compared by identity.
            key: Further arguments, compared by value.
            make: Makes the result.
        """
        name = (*map(id, values), key)
        entry = self._known.get(name)
        if entry is None:
            entry = values, make()
            if len(self._known) >= self._most:
                self._known = {}
            self._known[name] = entry
        return entry[1]
