"""The tokenizers that ship with the package, unpacked into folders that transformers reads."""

from __future__ import annotations

import json
import lzma
from functools import cache
from importlib.resources import files
from pathlib import Path

from safetensors import safe_open

from sigmafield.models.single_file.sentencepiece import tokenizer_json
from sigmafield.models.tiny.tokenizer import byte_symbols

END_OF_WORD = "</w>"
SPIECE = "spiece_model"
"""Name of the tensor that holds a tokenizer in the format of SentencePiece."""


def unpack(kind: str, folder: Path, config: Path) -> Path:
    """The folder, with the files of a tokenizer of a class of transformers, and its tokenizer_config.json in it."""
    folder.mkdir(exist_ok=True)
    (folder / config.name).write_bytes(config.read_bytes())
    if kind in FILES:
        for name, text in FILES[kind]().items():
            (folder / name).write_bytes(text)
    else:
        (folder / "tokenizer.json").write_bytes(shipped("t5.json"))
    return folder


def unpack_own(path: Path, folder: Path, config: Path) -> Path:
    """The folder, with the tokenizer that a file of a text encoder holds, and its tokenizer_config.json in it.

    Raises:
        ValueError: The file holds none, or one of another kind.
    """
    name, pieces = None, b""
    if path.suffix.lower() != ".gguf":
        with safe_open(path, "pt") as file:
            names = file.keys()
            name = next((name for name in names if name.rpartition(".")[2] == SPIECE), None)
            pieces = b"" if name is None else bytes(file.get_tensor(name).flatten().tolist())
    if name is None:
        raise ValueError(f"{path}: the text encoder has no tokenizer with it, named {SPIECE}")
    folder.mkdir(exist_ok=True)
    (folder / config.name).write_bytes(config.read_bytes())
    (folder / "tokenizer.json").write_text(tokenizer_json(pieces), "utf-8")
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


@cache
def qwen_files() -> dict[str, bytes]:
    """The contents of the files of the tokenizer of Qwen 2, 2.5 and 3 by their names, without the marks of a chat."""
    merges = shipped("qwen_merges.txt").decode("utf-8").splitlines()
    symbols = [*sorted(byte_symbols()), *(merge.replace(" ", "") for merge in merges)]
    return {
        "merges.txt": ("#version: 0.2\n" + "\n".join(merges) + "\n").encode(),
        "vocab.json": json.dumps({symbol: i for i, symbol in enumerate(symbols)}).encode(),
    }


FILES = {"CLIPTokenizer": clip_files, "Qwen2Tokenizer": qwen_files}
"""Makers of a tokenizer's files by its class; others are one file."""


def shipped(name: str) -> bytes:
    """A file of the package's tokenizers, unpacked."""
    return lzma.decompress((files("sigmafield") / "data" / "tokenizers" / f"{name}.xz").read_bytes())
