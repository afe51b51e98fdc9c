r"""Reads prompts in ComfyUI's notation: weights, chunks, and vectors by name.

`(a:1.2)` weighs a by 1.2 whatever is around it, `(a)` by 1.1 times what is around it; `\(` and `\)` are letters, and so
are parentheses without a partner. `BREAK` begins a new chunk. `embedding:name` stands for the vectors of a textual
inversion. Square brackets have no meaning.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sigmafield.models.network_call import repeated
from sigmafield.models.text.bundled import Bundled

SPACE = re.compile(r"[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+")
"""Unicode's white space; `\\s` would take the separators 0x1c to 0x1f as well."""

SYMBOL = re.compile(r"\\[()]|.", re.DOTALL)
"""A character, or a parenthesis with the backslash that makes it a letter."""

BREAK = re.compile(r"(?<!\S)BREAK(?!\S)")
EMBEDDING = re.compile(r"(?:^|(?<=[\s,]))embedding:([^\s,]*[^\s,.;:!?]|)")
"""A textual inversion at the beginning of a word; its name goes up to white space, a comma or a word's last mark."""

EMPHASIS = 1.1
DEEPEST = 100
"""Parentheses within each other; 1.1¹⁰⁰ is a weight of 13781, far beyond any that an encoder can follow."""
LONG = 8
"""Words of fewer tokens are not cut in two at the end of a chunk."""


class Piece(NamedTuple):
    """A part of a prompt and its weight."""

    text: str
    weight: float


class Token(NamedTuple):
    """One position of a text encoder's input: an id of its vocabulary or a vector [width], and its weight."""

    value: int | Tensor
    weight: float = 1.0


Chunk = list[Token]
"""One row of a text encoder's input."""

Words = Callable[[str], list[list[int]]]
"""Text → the ids of each of its words."""


class Parts(str):
    """A prompt that says something else to some of a model's text encoders.

    As a str it is the text for the others.

    Args:
        text: The text.
        others: Texts by the encoders' names: clip_g, t5.
    """

    others: Mapping[str, str]

    def __new__(cls, text: str, others: Mapping[str, str]) -> Parts:
        made = super().__new__(cls, text)
        made.others = dict(others)
        return made


def text_for(prompt: str, encoder: str) -> str:
    """What a prompt says to an encoder: clip_l, clip_g, t5 or llama."""
    return prompt.others.get(encoder, prompt) if isinstance(prompt, Parts) else prompt


class UnknownEmbedding(ValueError):
    """A prompt names a textual inversion that does not exist."""


def no_vectors(name: str, bundled: Bundled) -> Tensor:
    """Vectors of a textual inversion, for an encoder without any. Raises UnknownEmbedding."""
    others = f", and its LoRAs have {', '.join(sorted(bundled))}" if bundled else ""
    raise UnknownEmbedding(
        f"the prompt asks for embedding:{name}, but the model was loaded without a folder of embeddings{others}"
    )


@dataclass(frozen=True)
class Vocabulary:
    """How a text encoder's input is made.

    Args:
        words: Text → the ids of each of its words.
        begin: Id at the beginning of each chunk; None: no such id.
        end: Id at the end of each chunk; None: no such id.
        pad: Id of padding.
        length: Tokens of a chunk.
        vectors: (name of a textual inversion, those of LoRAs) → [n, width].
        bundled: Textual inversions that LoRAs hold.
        left: Whether padding is in front.
    """

    words: Words
    begin: int | None
    end: int | None
    pad: int
    length: int
    vectors: Callable[[str, Bundled], Tensor] = no_vectors
    bundled: Bundled = field(default_factory=dict)
    left: bool = False

    def framed(self, tokens: Sequence[Token]) -> Chunk:
        """Puts tokens between begin and end and pads them to at least `length`; what is added has weight 1."""
        first, last = ([] if value is None else [Token(value)] for value in (self.begin, self.end))
        row = [*first, *tokens, *last]
        rest = [Token(self.pad)] * (self.length - len(row))
        return rest + row if self.left else row + rest


def parse(prompt: str) -> list[list[Piece]]:
    """Parses a prompt into weighted pieces, one list for each part between BREAKs.

    Raises:
        ValueError: Parentheses are nested too deeply.
    """
    parts: list[list[Piece]] = [[]]
    for piece in _weighted(SYMBOL.findall(prompt), 1.0, DEEPEST):
        first, *others = BREAK.split(piece.text)
        parts[-1].append(Piece(first, piece.weight))
        parts += [[Piece(text, piece.weight)] for text in others]
    return [[piece for piece in part if piece.text] for part in parts]


def _weighted(symbols: list[str], weight: float, deepest: int) -> list[Piece]:
    """Pieces of text of that weight, and of the groups within it, which may be nested this deep."""
    if deepest < 0:
        raise ValueError(f"the prompt nests more than {DEEPEST} parentheses; give the weight as a number: (text:1.5)")
    out: list[Piece] = []
    for part in _groups(symbols):
        if len(part) > 1 and part[0] == "(" and part[-1] == ")":
            inside, own = _number(part[1:-1], weight * EMPHASIS)
            out += _weighted(inside, own, deepest - 1)
        else:
            out.append(Piece("".join(symbol[-1] for symbol in part), weight))
    return out


def _groups(symbols: list[str]) -> list[list[str]]:
    """Symbols cut before a parenthesis that opens at depth 0 and after one that closes to it.

    A parenthesis that closes nothing makes the depth negative, and the next one that opens undoes that.
    """
    depths = [0, *accumulate((symbol == "(") - (symbol == ")") for symbol in symbols)]
    opens = [i for i, symbol in enumerate(symbols) if symbol == "(" and depths[i] == 0]
    closes = [i + 1 for i, symbol in enumerate(symbols) if symbol == ")" and depths[i + 1] == 0]
    cuts = sorted({0, *opens, *closes, len(symbols)})
    return [symbols[a:b] for a, b in pairwise(cuts)]


def _number(symbols: list[str], otherwise: float) -> tuple[list[str], float]:
    """Splits at the last colon into text and weight; without a number there, gives all and `otherwise`."""
    colon = max((i for i, symbol in enumerate(symbols) if symbol == ":"), default=0)
    try:
        weight = float("".join(symbols[colon + 1 :]))
    except ValueError:
        return symbols, otherwise
    return (symbols[:colon], weight) if colon and math.isfinite(weight) else (symbols, otherwise)


def by_space(ids: Callable[[str], list[int]]) -> Words:
    """Words between white space, for encoders that are given chunks; ids: text → ids without begin and end."""
    return lambda text: [ids(word) for word in SPACE.split(text) if word]


def tokens(part: Sequence[Piece], vocabulary: Vocabulary) -> list[list[Token]]:
    """Tokenizes the words of a part; a textual inversion is one word."""
    out: list[list[Token]] = []
    for text, weight in part:
        for i, run in enumerate(EMBEDDING.split(text)):
            if i % 2 == 0:
                out += [[Token(value, weight) for value in word] for word in vocabulary.words(run)]
            elif run:
                out.append([Token(vector, weight) for vector in vocabulary.vectors(run, vocabulary.bundled)])
            else:
                raise ValueError(f"embedding: needs a name right after the colon; got {text.strip()!r}")
    return out


def chunks(prompt: str, vocabulary: Vocabulary) -> list[Chunk]:
    """Splits a prompt into chunks of `vocabulary.length` tokens, at least one; each BREAK begins a new one.

    A word that does not fit goes to the next chunk; one of 8 tokens or more is cut in two instead.
    """
    room = vocabulary.length - (vocabulary.begin is not None) - (vocabulary.end is not None)
    rows: list[list[Token]] = []
    for part in parse(prompt):
        rows.append([])
        for word in tokens(part, vocabulary):
            whole = len(word) < LONG and len(word) <= room
            while len(rows[-1]) + len(word) > room:
                fits = 0 if whole else room - len(rows[-1])
                rows[-1] += word[:fits]
                word = word[fits:]
                rows.append([])
            rows[-1] += word
    return [vocabulary.framed(row) for row in rows]


def one_chunk(prompt: str, vocabulary: Vocabulary) -> list[Chunk]:
    """Makes one chunk of at least `vocabulary.length` tokens, for encoders without a limit; BREAK is a space."""
    return [vocabulary.framed([t for part in parse(prompt) for word in tokens(part, vocabulary) for t in word])]


def level(
    prompts: Sequence[Sequence[Chunk]], others: Sequence[Sequence[Chunk]], vocabulary: Vocabulary
) -> list[list[Chunk]]:
    """Appends empty chunks to each prompt's, where another encoder has more of them for the same prompt."""
    empty = vocabulary.framed([])
    return [[*mine, *[empty] * (len(theirs) - len(mine))] for mine, theirs in zip(prompts, others)]


def encode_chunks(
    prompts: Sequence[Sequence[Chunk]],
    vocabulary: Vocabulary,
    table: nn.Module,
    run: Callable[[Tensor], tuple[Tensor, Tensor | None]],
) -> tuple[Tensor, Tensor | None]:
    """Encodes prompts chunk by chunk.

    Args:
        prompts: The chunks of each prompt.
        vocabulary: How chunks are padded.
        table: The encoder's token embeddings.
        run: Ids [rows, length] → (z [rows, length, C], pooled [rows, P] or None).

    Returns:
        Embeddings [B, tokens, C], a prompt's chunks one after another, shorter prompts repeated; and pooled vectors
        [B, P] of the first chunks, without weights, if there are any.
    """
    rows = [chunk for chunks_ in prompts for chunk in chunks_]
    length = max(map(len, rows))
    plain = all(token.weight == 1 for row in rows for token in row)
    if not plain:
        rows.append(vocabulary.framed([]))
    rows = [row + [Token(vocabulary.pad)] * (length - len(row)) for row in rows]
    ids = torch.tensor([[t.value if isinstance(t.value, int) else 0 for t in row] for row in rows])  # 0 is replaced
    with inserted(table, rows):
        z, pooled = run(ids.to(next(table.parameters()).device))
    if not plain:
        z = weigh(z[:-1], z[-1:], torch.tensor([[token.weight for token in row] for row in rows[:-1]]))
    counts = [len(chunks_) for chunks_ in prompts]
    embeds = torch.cat(repeated([part.flatten(0, 1)[None] for part in z.split(counts)]))
    first = [end - count for end, count in zip(accumulate(counts), counts)]
    return embeds, None if pooled is None else pooled[first]


def weigh(z: Tensor, empty: Tensor, weights: Tensor) -> Tensor:
    """Weights tokens as ComfyUI does, without rescaling the result: z_empty + w (z − z_empty).

    Args:
        z: Encoded tokens [B, tokens, C].
        empty: Encoding of the empty prompt, [1, tokens, C].
        weights: Weight of each token, [B, tokens].
    """
    return torch.lerp(empty.expand_as(z), z, weights.to(z)[..., None])


@contextmanager
def inserted(table: nn.Module, rows: Sequence[Chunk]) -> Iterator[None]:
    """Makes the table of embeddings answer the rows' own vectors, in the context.

    The table must not be used by other threads meanwhile; `TextEncoder` gives each call modules of its own.
    """
    own = [(i, j, t.value) for i, row in enumerate(rows) for j, t in enumerate(row) if isinstance(t.value, Tensor)]

    def put(module: nn.Module, inputs: object, out: Tensor) -> Tensor:
        where = tuple(torch.tensor([o[axis] for o in own], device=out.device) for axis in (0, 1))
        return out.index_put(where, torch.stack([vector for *_, vector in own]).to(out))

    handle = table.register_forward_hook(put) if own else None
    try:
        yield
    finally:
        if handle:
            handle.remove()


def check_layer(clip_skip: int | None, layers: int) -> None:
    """Raises ValueError for a layer that an encoder of this many layers does not have."""
    if clip_skip is not None and not -layers <= clip_skip <= -1:
        raise ValueError(f"clip_skip must be -1 (the last) … -{layers}, one of the {layers} layers; got {clip_skip}")
