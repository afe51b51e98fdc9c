"""The tokenizers that ship: ids of texts as their authors' own examples have them."""

from __future__ import annotations

from pathlib import Path

import pytest

from sigmafield.models.single_file.tokenizers import unpack
from sigmafield.models.tiny.tokenizer import Tokenizer

CONFIGS = Path(__file__).parents[2] / "src" / "sigmafield" / "data" / "configs"
CLIP = {
    "a photo of a cat": [49406, 320, 1125, 539, 320, 2368, 49407],
    "a photo of a dog": [49406, 320, 1125, 539, 320, 1929, 49407],
    "hello world!": [49406, 3306, 1002, 256, 49407],
}
T5 = {
    "Studies have been shown that owning a dog is good for you": [
        6536, 43, 118, 2008, 24, 293, 53, 3, 9, 1782, 19, 207, 21, 25, 1,
    ],
    "translate English to German: The house is wonderful.": [
        13959, 1566, 12, 2968, 10, 37, 629, 19, 1627, 5, 1,
    ],
}  # fmt: skip


def test_clip(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = CONFIGS / "sd1" / "tokenizer" / "tokenizer_config.json"
    folder = unpack("CLIPTokenizer", tmp_path / "t", config)
    theirs, ours = transformers.CLIPTokenizer.from_pretrained(folder), Tokenizer(folder)
    assert (len(theirs), theirs.model_max_length) == (49408, 77)
    for text, ids in CLIP.items():
        assert theirs(text).input_ids == ids
        assert [49406, *ours.ids(text), 49407] == ids


def test_t5(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = CONFIGS / "flux" / "tokenizer_2" / "tokenizer_config.json"
    tokenizer = transformers.T5TokenizerFast.from_pretrained(unpack("T5TokenizerFast", tmp_path / "t", config))
    assert (tokenizer.pad_token_id, tokenizer.model_max_length) == (0, 512)
    for text, ids in T5.items():
        assert tokenizer(text).input_ids == ids
