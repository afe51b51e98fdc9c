"""The tokenizers that ship with the package, unpacked into folders that transformers reads."""

from __future__ import annotations

import json
import lzma
from collections.abc import Callable, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path

from safetensors import safe_open

from sigmafield.models.single_file import sentencepiece, tekken
from sigmafield.models.tiny.tokenizer import byte_symbols

END_OF_WORD = "</w>"


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
    """The folder, with the tokenizer of a file of a text encoder, and its tokenizer_config.json in it.

    The file holds the tokenizer, or there is one next to it: NAME.tokenizer.json for NAME.safetensors.

    Raises:
        ValueError: The file has no tokenizer with it, or one of another kind.
    """
    text, sibling = None, path.with_suffix(".tokenizer.json")
    if path.suffix.lower() != ".gguf":
        with safe_open(path, "pt") as file:
            names = {name.rpartition(".")[2]: name for name in file.keys()}  # noqa: SIM118
            kind = next((kind for kind in HELD if kind in names), None)
            if kind is not None:
                text = HELD[kind](bytes(file.get_tensor(names[kind]).flatten().tolist()))
    if text is None and sibling.is_file():
        text = sibling.read_text("utf-8")
    if text is None:
        raise ValueError(
            f"{path}: the text encoder has no tokenizer with it, neither in a tensor ({', '.join(HELD)}) nor in a file "
            f"{sibling.name} next to it"
        )
    folder.mkdir(exist_ok=True)
    (folder / config.name).write_bytes(config.read_bytes())
    (folder / "tokenizer.json").write_text(text, "utf-8")
    return folder


HELD: Mapping[str, Callable[[bytes], str]] = {
    "spiece_model": sentencepiece.tokenizer_json,
    "tekken_model": tekken.tokenizer_json,
    "tokenizer_json": bytes.decode,
}
"""What makes a tokenizer.json of a tensor that holds a tokenizer, by the tensor's name."""


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
