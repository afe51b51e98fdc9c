"""Reads tokenizers of transformers: once for all models with the same files, and by one thread at a time."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

_READ: WeakValueDictionary[Any, Any] = WeakValueDictionary()
_TURNS: WeakKeyDictionary[Any, Lock] = WeakKeyDictionary()


def read_tokenizer(kind: Any, folder: Path, **settings: str) -> Any:
    """Reads a tokenizer; the same object for the same files, as long as a model uses it. It must not be changed.

    Args:
        kind: Class of transformers.
        folder: Directory of its files.
        settings: What replaces settings in the files.
    """
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    contents = tuple((str(path.relative_to(folder)), sha256(path.read_bytes()).digest()) for path in files)
    key = (kind, contents, tuple(sorted(settings.items())))
    tokenizer = _READ.get(key)
    if tokenizer is None:
        tokenizer = _READ.setdefault(key, kind.from_pretrained(folder, local_files_only=True, **settings))
    return tokenizer


def in_turn(tokenizer: Callable[..., Any]) -> Callable[..., Any]:
    """A tokenizer of transformers, called by one thread at a time: it keeps padding and truncation between calls."""
    lock = _TURNS.setdefault(tokenizer, Lock())

    def read(*args: Any, **settings: Any) -> Any:
        with lock:
            return tokenizer(*args, **settings)

    return read
