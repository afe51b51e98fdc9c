"""Tokenizers in the format of Mistral's tekken.json, which files of text encoders hold, as those of transformers."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Mapping
from typing import Any

from sigmafield.models.tiny.tokenizer import byte_symbols


def tokenizer_json(model: bytes) -> str:
    """The tokenizer.json of a byte-level BPE whose tokens are numbered by rank, after marks such as [INST].

    Raises:
        ValueError: It is not such a model.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

    try:
        known: Mapping[str, Any] = json.loads(model)
        config = known["config"]
        first = int(config["default_num_special_tokens"])
        marks = {int(mark["rank"]): str(mark["token_str"]) for mark in known["special_tokens"]}
        tokens = [b64decode(token["token_bytes"]) for token in known["vocab"][: config["default_vocab_size"] - first]]
        pattern = Regex(config["pattern"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"not a tokenizer in the format of tekken.json: {error!r}") from None
    symbols = byte_symbols()
    ranks = {"".join(symbols[byte] for byte in token): rank for rank, token in enumerate(tokens)}
    vocabulary = {marks.get(rank, f"<SPECIAL_{rank}>"): rank for rank in range(first)}
    vocabulary |= {token: first + rank for token, rank in ranks.items()}
    made = Tokenizer(models.BPE(vocabulary, merges_of(ranks), ignore_merges=True))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(pattern, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(mark, special=True) for _, mark in sorted(marks.items())])
    return made.to_str()


def merges_of(ranks: Mapping[str, int]) -> list[tuple[str, str]]:
    """The merges of a BPE by the ranks of its tokens: every pair that makes a token, in the order of what it makes."""
    found = list[tuple[str, str]]()
    for token in sorted(ranks, key=ranks.__getitem__):
        pairs = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
        known = [(a, b) for a, b in pairs if a in ranks and b in ranks]
        found += sorted(known, key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))
    return found
