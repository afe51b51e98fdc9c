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
QWEN = {
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n": [
        151644, 8948, 198, 2610, 525, 264, 10950, 17847, 13, 151645, 198,
    ],
    "<|im_start|>user\nHello, world!<|im_end|>": [151644, 872, 198, 9707, 11, 1879, 0, 151645],
}  # fmt: skip
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


def test_qwen(tmp_path: Path) -> None:
    """Ids, and the system prompts of Qwen-Image: as long as the tokens that its authors leave out at the beginning."""
    transformers = pytest.importorskip("transformers")
    from sigmafield.models.diffusers.qwen import DRAW, SKIPPED
    from sigmafield.models.diffusers.qwen_edit import EDIT

    config = CONFIGS / "qwen_image" / "tokenizer" / "tokenizer_config.json"
    tokenizer = transformers.AutoTokenizer.from_pretrained(unpack("Qwen2Tokenizer", tmp_path / "t", config))
    assert (tokenizer.pad_token_id, tokenizer.convert_tokens_to_ids("<|image_pad|>")) == (151643, 151655)
    for text, ids in QWEN.items():
        assert tokenizer(text).input_ids == ids
    beginnings = {f"{DRAW}<|im_start|>user\n": SKIPPED, EDIT.words[: EDIT.words.index("{}")]: EDIT.skipped}
    for text, length in beginnings.items():
        assert len(tokenizer(text).input_ids) == length
    assert tokenizer("<think>\n\n</think>").input_ids == [151667, 271, 151668]
