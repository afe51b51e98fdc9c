"""Tokenizers in the format of SentencePiece, which files of text encoders hold, as those of transformers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from struct import error as StructError
from struct import unpack

PIECES, NORMALIZER = 1, 3
"""Fields of the model; of a piece: its text, score and kind; of the normalizer: its table of characters."""
TEXT, SCORE, KIND = 1, 2, 3
TABLE = 2
UNKNOWN = 2
"""Kind of the piece that stands for unknown text."""


def tokenizer_json(model: bytes) -> str:
    """The tokenizer.json of a unigram model, which puts the end of a text after it, as T5's.

    Raises:
        ValueError: It is not such a model.
    """
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

    try:
        found = list(fields(model))
        pieces = [list(fields(part)) for key, part, _ in found if key == PIECES]
        texts = [(inside(piece, TEXT).decode("utf-8"), unpack("<f", inside(piece, SCORE))[0]) for piece in pieces]
        unknown = next(i for i, piece in enumerate(pieces) if any(f[0] == KIND and f[2] == UNKNOWN for f in piece))
        table = next((inside(list(fields(part)), TABLE) for key, part, _ in found if key == NORMALIZER), b"")
        end = [text for text, _ in texts].index("</s>")
    except (ValueError, KeyError, IndexError, StopIteration, StructError) as error:
        raise ValueError(f"not a SentencePiece model of the unigram kind: {error!r}") from None
    made = Tokenizer(models.Unigram(texts, unk_id=unknown))
    spaces = normalizers.Replace(Regex(" {2,}"), " ")
    made.normalizer = normalizers.Sequence([normalizers.Precompiled(table), spaces]) if table else spaces
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", end)])
    return made.to_str()


Field = tuple[int, bytes, int]
"""Number of a field, its bytes, and its value where it is an integer, else 0."""


def fields(message: bytes) -> Iterator[Field]:
    """The fields of a message of protocol buffers."""
    at = 0
    while at < len(message):
        key, at = varint(message, at)
        kind, value, length = key & 7, 0, 0
        if kind == 0:
            value, at = varint(message, at)
        elif kind == 2:
            length, at = varint(message, at)
        else:
            length = {1: 8, 5: 4}[kind]
        yield key >> 3, message[at : at + length], value
        at += length


def inside(message: Sequence[Field], number: int) -> bytes:
    """The bytes of a field; none where it is missing."""
    return next((part for key, part, _ in message if key == number), b"")


def varint(message: bytes, at: int) -> tuple[int, int]:
    """An integer of seven bits a byte, and where it ends."""
    value, shift = 0, 0
    while message[at] & 0x80:
        value |= (message[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
    return value | message[at] << shift, at + 1
