"""The text encoder of Flux 2 dev in a file, with the tokenizer that is in it."""

from __future__ import annotations

import json
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
import torch
from recent_models import language
from safetensors.torch import save_file
from small_models import randomise
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.testing import assert_close

from sigmafield.models.load_parts import load_text
from sigmafield.models.single_file.tekken import tokenizer_json

pytest.importorskip("diffusers")
MARKS = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "<pad>"]
FIRST = 12
"""Numbers that are kept for marks."""
WORDS = [b"re", b"red", b" a", b"he", b" he", b"ab", b"abc", b"bc"]


def tekken(**changes: Any) -> bytes:
    """A small tokenizer in Mistral's format: bytes, then words by rank."""
    tokens = [bytes([byte]) for byte in range(256)] + WORDS
    pattern = r" ?\p{L}+|[^\r\n\p{L}]| ?[\r\n]+"
    config = {"pattern": pattern, "default_vocab_size": FIRST + len(tokens), "default_num_special_tokens": FIRST}
    model = {
        "config": config | {"version": "v7"},
        "vocab": [{"rank": rank, "token_bytes": b64encode(token).decode()} for rank, token in enumerate(tokens)],
        "special_tokens": [{"rank": rank, "token_str": mark, "is_control": True} for rank, mark in enumerate(MARKS)],
    }
    return json.dumps(model | changes).encode()


def number(token: bytes) -> int:
    """The number of a token of bytes."""
    return FIRST + (token[0] if len(token) == 1 else 256 + WORDS.index(token))


def test_words() -> None:
    """Pairs are joined by the rank of what they make; marks are found anywhere; numbers follow those of marks."""
    read = Tokenizer.from_str(tokenizer_json(tekken()))
    cases = {
        "red": [b"red"], "reda": [b"red", b"a"], "a he": [b"a", b" he"], "a red": [b"a", b" ", b"red"],
        "xabc": [b"x", b"abc"], "xbca": [b"x", b"bc", b"a"], "ñ": [b"\xc3", b"\xb1"],
    }  # fmt: skip
    for text, tokens in cases.items():
        assert read.encode(text, add_special_tokens=False).ids == [number(token) for token in tokens], text
        assert read.decode(read.encode(text).ids) == text
    ids = read.encode("<s>[INST]he[/INST]", add_special_tokens=False).ids
    assert ids == [1, 3, number(b"he"), 4]
    for broken in (b"no", tekken(config={}), tekken(vocab=3), tekken(special_tokens=[{}])):
        with pytest.raises(ValueError, match=r"not a tokenizer in the format of tekken\.json"):
            tokenizer_json(broken)


@pytest.mark.slow
@pytest.mark.parametrize("layers", [30, 31])
def test_the_text_encoder_of_flux2_dev(layers: int, tmp_path: Path) -> None:
    """Three states of Mistral as the network reads them, of a file that ends after the last one or later."""
    from transformers import MistralConfig, MistralModel

    size = FIRST + 256 + len(WORDS)
    settings = language(size, layers=layers, width=16, heads=1) | {"rms_norm_eps": 1e-5, "sliding_window": None}
    turns = {"rope_type": "default", "rope_theta": 1e9}
    module = randomise(MistralModel(MistralConfig(**settings, rope_parameters=turns)))
    tensors = {f"model.{name}": value for name, value in module.state_dict().items()}
    if layers == 30:
        del tensors["model.norm.weight"]
    tensors["tekken_model"] = torch.tensor(list(tekken()), dtype=torch.uint8)
    save_file({name: value.clone().contiguous() for name, value in tensors.items()}, tmp_path / "mistral.safetensors")
    text = load_text([tmp_path / "mistral.safetensors"], "flux2")
    cond = text.encode(["a red heart"], (0, 0))
    assert cond.embeds.shape == (1, 512, 3 * 16) and cond.extra["guidance"].tolist() == [4.0]
    read = Tokenizer.from_str(tokenizer_json(tekken()))
    system = (
        "You are an AI that reasons about image descriptions. You give structured responses focusing on object "
        "relationships, object\nattribution and actions without speculation."
    )
    ids = read.encode(
        f"<s>[SYSTEM_PROMPT]{system}[/SYSTEM_PROMPT][INST]a red heart[/INST]", add_special_tokens=False
    ).ids
    module.norm = nn.Identity()
    states = module(torch.tensor([ids]), output_hidden_states=True).hidden_states
    want: Tensor = torch.cat([states[layer] for layer in (10, 20, 30)], dim=-1)
    assert_close(cond.embeds[:, -len(ids) :], want, atol=1e-4, rtol=0)
