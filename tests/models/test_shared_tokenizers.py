"""Tokenizers of the same files are one object, which threads call in turn."""

from __future__ import annotations

import gc
import json
import shutil
import threading
import weakref
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("diffusers")
from transformers import CLIPTokenizer

from sigmafield.models.diffusers.tokenizers import in_turn, read_tokenizer


@pytest.fixture
def folder(sd1: tuple[Path, Any], tmp_path: Path) -> Path:
    return shutil.copytree(sd1[0] / "tokenizer", tmp_path / "a")


def test_the_same_files_are_one_tokenizer(folder: Path, tmp_path: Path) -> None:
    first = read_tokenizer(CLIPTokenizer, folder)
    assert read_tokenizer(CLIPTokenizer, shutil.copytree(folder, tmp_path / "b")) is first
    assert read_tokenizer(CLIPTokenizer, folder, padding_side="left") is not first
    config = tmp_path / "b" / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model_max_length": 9}))
    other = read_tokenizer(CLIPTokenizer, tmp_path / "b")
    assert (first.model_max_length, other.model_max_length) == (16, 9)


def test_a_tokenizer_goes_with_its_last_model(folder: Path) -> None:
    held = weakref.ref(read_tokenizer(CLIPTokenizer, folder, padding_side="left"))
    gc.collect()
    assert held() is None


def test_threads_call_a_shared_tokenizer_in_turn() -> None:
    """Whoever they have it from: padding and truncation are the tokenizer's own."""
    inside, most = [], []

    def tokenizer(text: str) -> None:
        inside.append(text)
        most.append(len(inside))
        threading.Event().wait(0.002)
        inside.remove(text)

    threads = [threading.Thread(target=in_turn(tokenizer), args=(f"{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 4
