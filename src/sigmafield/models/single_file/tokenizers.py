"""The tokenizers that ship with the package, unpacked into folders that transformers reads."""

from __future__ import annotations

import json
import lzma
from functools import cache
from importlib.resources import files
from pathlib import Path

from sigmafield.models.tiny.tokenizer import byte_symbols

END_OF_WORD = "</w>"


def unpack(kind: str, folder: Path, config: Path) -> Path:
    """The folder, with the files of a tokenizer of a class of transformers, and its tokenizer_config.json in it."""
    folder.mkdir(exist_ok=True)
    (folder / config.name).write_bytes(config.read_bytes())
    if kind == "CLIPTokenizer":
        for name, text in clip_files().items():
            (folder / name).write_bytes(text)
    else:
        (folder / "tokenizer.json").write_bytes(shipped("t5.json"))
    return folder


@cache
def clip_files() -> dict[str, bytes]:
    """The contents of the files of CLIP's tokenizer by their names; models have up to two, and runs load several."""
    merges = shipped("clip_merges.txt").decode("utf-8").splitlines()
    return {
        "merges.txt": ("#version: 0.2\n" + "\n".join(merges) + "\n").encode(),
        "vocab.json": json.dumps(clip_vocabulary(merges)).encode(),
    }


def clip_vocabulary(merges: list[str]) -> dict[str, int]:
    """CLIP's ids: bytes, bytes that end a word, what each merge makes, and the two marks of a text's ends."""
    letters = sorted(byte_symbols())
    words = [merge.replace(" ", "") for merge in merges]
    symbols = [*letters, *(a + END_OF_WORD for a in letters), *words, "<|startoftext|>", "<|endoftext|>"]
    return {symbol: i for i, symbol in enumerate(symbols)}


def shipped(name: str) -> bytes:
    """A file of the package's tokenizers, unpacked."""
    return lzma.decompress((files("sigmafield") / "data" / "tokenizers" / f"{name}.xz").read_bytes())
