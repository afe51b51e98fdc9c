"""CLIP's tokenizer: byte-level byte-pair encoding of lower-case words.

Radford et al., arXiv:2103.00020; Sennrich et al., arXiv:1508.07909. Files are those of transformers' CLIPTokenizer.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from sigmafield.models.directory import needed, read_json
from sigmafield.models.text.prompt import SPACE

END = "</w>"
"""Marks the last symbol of a word."""

WORD = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[^\W_]+|(?:[^\w ]|_)+")
"""A contraction, a run of letters (or one digit: `words` sets them apart) or a run of anything else."""

SPECIAL = {
    "bos_token": "<|startoftext|>",
    "eos_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
    "unk_token": "<|endoftext|>",
}
"""Special tokens where the files name none."""


class Tokenizer:
    """Text → ids; the special ones around them, and the length that they are filled up to.

    Reads vocab.json, merges.txt and, for special tokens and length, tokenizer_config.json (special_tokens_map.json)
    of a directory. Raises FileNotFoundError for a missing file, ValueError for a special token not in the vocabulary.
    """

    def __init__(self, directory: Path, limit: int = 77) -> None:
        """limit: largest length; the files may name a smaller one."""
        self.vocab: dict[str, int] = read_json(directory / "vocab.json")
        self.ranks = read_merges(directory / "merges.txt")
        config = read_settings(directory)
        self.length = min(config.get("model_max_length", limit), limit)
        names = {key: config[key] for key in SPECIAL}
        for key, name in names.items():
            if name not in self.vocab:
                raise ValueError(f"{directory}: {key} {name!r} is not in vocab.json")
        self.bos, self.eos, self.pad, self.unknown = (self.vocab[name] for name in names.values())
        self.special = re.compile("(" + "|".join(map(re.escape, sorted(set(names.values()), reverse=True))) + ")")

    def ids(self, text: str) -> list[int]:
        """Ids of a text without begin, end and padding, however long."""
        out: list[int] = []
        for i, part in enumerate(self.special.split(text)):
            symbols = [part] if i % 2 else [s for word in words(part) for s in self.merge(word)]
            out += [self.vocab.get(symbol, self.unknown) for symbol in symbols]
        return out

    def merge(self, word: str) -> list[str]:
        """Symbols of a word: its bytes, with the pair that was learnt first joined again and again."""
        symbols = [SYMBOLS[byte] for byte in word.encode()]
        symbols[-1] += END
        while len(symbols) > 1:
            pair = min(pairwise(symbols), key=lambda p: self.ranks.get(p, len(self.ranks)))
            if pair not in self.ranks:
                break
            symbols = join(symbols, pair)
        return symbols


def words(text: str) -> Iterator[str]:
    """Words of a text: composed, lower case, split at white space, digits and changes of character class."""
    text = SPACE.sub(" ", unicodedata.normalize("NFC", text))
    text = "".join(c.lower() for c in text)  # one by one: a sigma at the end of a word stays as it is
    text = "".join(f" {c} " if unicodedata.category(c)[0] == "N" else c for c in text)
    return (match.group() for match in WORD.finditer(text))


def join(symbols: list[str], pair: tuple[str, str]) -> list[str]:
    """The symbols with every occurrence of the pair, from the left, replaced by one symbol."""
    out: list[str] = []
    for symbol in symbols:
        if out and (out[-1], symbol) == pair:
            out[-1] += symbol
        else:
            out.append(symbol)
    return out


def read_merges(path: Path) -> dict[tuple[str, str], int]:
    """Pairs of symbols with their rank, from a file of one pair per line after a line with the version."""
    lines = [line.split() for line in needed(path).read_text("utf-8").split("\n") if not line.startswith("#version")]
    return {(line[0], line[1]): rank for rank, line in enumerate(line for line in lines if len(line) == 2)}


def read_settings(directory: Path) -> dict[str, Any]:
    """Special tokens (as text) and model_max_length, from the files of a directory, over the defaults."""
    config: dict[str, Any] = dict(SPECIAL)
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (directory / name).is_file() and "added_tokens_decoder" not in config:  # which makes the map obsolete
            config |= read_json(directory / name)
    return {
        key: value["content"] if key in SPECIAL and isinstance(value, dict) else value for key, value in config.items()
    }


def byte_symbols() -> list[str]:
    """A printable character for each byte: itself where it is one, the next free one from 256 on otherwise."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


SYMBOLS = byte_symbols()
