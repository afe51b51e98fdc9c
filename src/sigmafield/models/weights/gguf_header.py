"""Checks the header of a GGUF file before the package gguf reads it, which believes whatever lengths a file claims."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import BinaryIO

MAGIC = b"GGUF"
VERSIONS = (2, 3)
STRING, ARRAY = 8, 9
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of the numbers that a header may hold, by the numbers of their types."""

MOST = 2**22
"""Most values and tensors of a header together: the words of a tokenizer are the most that there are, some 10⁵."""

LONGEST = 2**24
"""Most bytes of a text, such as a tokenizer's template."""

MOST_AXES = 8


class Cut(ValueError):
    """A file ends before the end that its header gives."""


class _Header:
    """The rest of a header, with what it may still hold."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._left = file, MOST

    def number(self, form: str = "<I") -> int:
        """Reads an unsigned integer."""
        return struct.unpack(form, self.skip(struct.calcsize(form)))[0]

    def skip(self, n: int) -> bytes:
        """Reads bytes; raises Cut where the file has fewer."""
        out = self._file.read(n)
        if len(out) != n:
            raise Cut("it ends in its header")
        return out

    def count(self, n: int, most: int = MOST) -> int:
        """A number of things that come next; raises ValueError for one that no header has."""
        self._left -= n
        if n > most or self._left < 0:
            raise ValueError(f"its header claims {n} values")
        return n

    def text(self) -> None:
        """Reads a text."""
        n = self.number("<Q")
        if n > LONGEST:
            raise ValueError(f"its header claims a text of {n} bytes")
        self.skip(n)

    def value(self, kind: int, in_array: bool = False) -> None:
        """Reads a value of a type; raises ValueError for an unknown type."""
        if kind == STRING:
            self.text()
        elif kind == ARRAY and not in_array:
            inner = self.number()
            for _ in range(self.count(self.number("<Q"))):
                self.value(inner, in_array=True)
        elif kind in SIZES:
            self.skip(SIZES[kind])
        else:
            raise ValueError(f"its header has a value of type {kind}")


def check_header(path: Path, sizes: Mapping[int, tuple[int, int]]) -> None:
    """Checks that a file is a GGUF file with all that its header lists.

    Args:
        path: The file.
        sizes: Numbers and bytes of a block by the number of its type.

    Raises:
        Cut: If the file ends in its header or before the end of its last tensor.
        ValueError: If the header is not that of a GGUF file of a version in `VERSIONS`.
    """
    ends = [0]
    with path.open("rb") as file:
        header = _Header(file)
        if header.skip(len(MAGIC)) != MAGIC:
            raise ValueError("it begins otherwise")
        if (version := header.number()) not in VERSIONS:
            raise ValueError(f"it is of version {version}")
        tensors, values = header.count(header.number("<Q")), header.count(header.number("<Q"))
        for _ in range(values):
            header.text()
            header.value(header.number())
        for _ in range(tensors):
            header.text()
            numbers = prod(header.number("<Q") for _ in range(header.count(header.number(), MOST_AXES)))
            kind, offset = header.number(), header.number("<Q")
            block, length = sizes.get(kind, (1, 0))
            ends.append(offset + numbers // block * length)
        if file.tell() + max(ends) > path.stat().st_size:
            raise Cut("it ends before its last tensor does")
