"""The language of prompts: weights, chunks and BREAK, as laws on its grammar and on every text encoder there is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from sigmafield.core.conditioning import Cond
from sigmafield.models.bundle import Pipeline
from sigmafield.models.text.prompt import Piece, Token, Vocabulary, by_space, chunks, one_chunk, parse
from sigmafield.models.tiny import load_tiny
from small_network import small_model

SIZE = (16, 16)
ROOM = 14
"""Tokens of a chunk of the small models, without begin and end."""

TEXT = st.text("ab ,:()[]\\\n1.", min_size=1)
WEIGHT = st.floats(allow_nan=False, allow_infinity=False)


def escaped(text: str) -> str:
    return text.replace("(", "\\(").replace(")", "\\)")


@given(st.lists(st.tuples(TEXT, WEIGHT)))
def test_what_is_written_is_read(pieces: list[tuple[str, float]]) -> None:
    prompt = "".join(f"({escaped(text)}:{weight!r})" for text, weight in pieces)
    assert parse(prompt) == [[Piece(*piece) for piece in pieces]]


@given(TEXT)
def test_text_without_open_parentheses_is_one_piece(text: str) -> None:
    assert parse(escaped(text)) == [[Piece(escaped(text).replace("\\(", "(").replace("\\)", ")"), 1.0)]]


@given(st.text("ab():. \\"))
def test_no_letter_is_lost(prompt: str) -> None:
    """But parentheses, colons, numbers and the backslashes before parentheses."""
    assert "".join(p.text for part in parse(prompt) for p in part).count("a") == prompt.count("a")


@pytest.mark.parametrize(
    "prompt, pieces",
    [
        ("a (b) c", [("a ", 1), ("b", 1.1), (" c", 1)]),
        ("((b))", [("b", 1.1 * 1.1)]),
        ("(a (b) c:2)", [("a ", 2), ("b", 2 * 1.1), (" c", 2)]),
        ("((b:0.5):2)", [("b", 0.5)]),  # a number counts whatever is around it
        ("(a:b)", [("a:b", 1.1)]),
        ("(a:b:0.5)", [("a:b", 0.5)]),
        ("(:0.5)", [(":0.5", 1.1)]),
        ("(bread:nan)", [("bread:nan", 1.1)]),
        ("(a:-1)", [("a", -1)]),
        ("[a] (b: 1.5 )", [("[a] ", 1), ("b", 1.5)]),
        ("()", []),
        ("(a b", [("(a b", 1)]),
        ("a) b", [("a) b", 1)]),
        ("a) (b) (c)", [("a) (b) (c)", 1)]),
        ("(a (b) c", [("(a (b) c", 1)]),
        ("(a) b)", [("a", 1.1), (" b)", 1)]),
        (r"\(a\) (\(b\):2)", [("(a) ", 1), ("(b)", 2)]),
        (r"(a\:2)", [("a\\", 2)]),
    ],
)
def test_grammar(prompt: str, pieces: list[tuple[str, float]]) -> None:
    assert parse(prompt) == [[Piece(text, pytest.approx(weight)) for text, weight in pieces]]


def test_break_is_a_word_in_capitals() -> None:
    assert [[p.text for p in part] for part in parse("a BREAK (b BREAK c:2) BREAK")] == [
        ["a "],
        [" ", "b "],
        [" c", " "],
        [],
    ]
    assert [p.weight for part in parse("a BREAK (b BREAK c:2)") for p in part] == [1, 1, 2, 2]
    assert len(parse("a break, BREAKFAST, BREAK-IN")) == 1


def counted(word: str) -> list[int]:
    """As many ids as a word of "number.length" says, all of its number."""
    number, _, length = word.partition(".")
    return [int(number)] * int(length)


@given(st.lists(st.integers(1, 2 * ROOM)))
def test_chunks(lengths: list[int]) -> None:
    vocabulary = Vocabulary(by_space(counted), begin=-1, end=-2, pad=-3, length=ROOM + 2)
    rows = chunks(" ".join(f"{i}.{n}" for i, n in enumerate(lengths)), vocabulary)
    inside = [[int(t.value) for t in row if int(t.value) >= 0] for row in rows]
    assert [t for row in inside for t in row] == [i for i, n in enumerate(lengths) for _ in range(n)]
    for row, mine in zip(rows, inside):
        framed = [-1, *mine, -2]
        assert row == [Token(value) for value in framed + [-3] * (ROOM + 2 - len(framed))]
    for this, after in pairwise(inside):
        length = lengths[after[0]]
        if after[0] in this:
            assert length >= 8 and len(this) == ROOM
        else:
            assert len(this) + (length if length < 8 else 1) > ROOM


def test_encoders_without_a_limit_get_one_chunk() -> None:
    whole = Vocabulary(lambda text: [[ord(letter) for letter in text]], begin=None, end=2, pad=3, length=4)
    [row] = one_chunk("ab (cd:2) BREAK ef", whole)
    weights = [t.weight for t in row]
    assert "".join(chr(int(t.value)) for t in row[:-1]) == "ab cd  ef" and row[-1] == Token(2)
    assert weights == [1] * 3 + [2] * 2 + [1] * 5
    assert one_chunk("", whole) == [[Token(2), Token(3), Token(3), Token(3)]]


@pytest.fixture(scope="module")
def small_tiny(sd1: tuple[Path, Any]) -> Pipeline:
    """A small model run by the modules of this package."""
    return load_tiny(sd1[0], torch.device("cpu"), torch.float32)


@pytest.fixture(params=["sd1", "sd2", "sdxl", "small tiny", "tiny"])
def pipe(request: pytest.FixtureRequest, loaded: Callable[[str], Pipeline], small_tiny: Pipeline) -> Pipeline:
    """Every kind of text encoder there is."""
    if request.param == "small tiny":
        return small_tiny
    return small_model() if request.param == "tiny" else loaded(request.param)


def close(a: Cond, b: Cond) -> None:
    """Two conditionings are the same, as far as a batch's size changes the last bits."""
    assert_close(a.embeds, b.embeds, atol=1e-5, rtol=1e-5)
    assert_close(a.extra, b.extra, atol=1e-5, rtol=1e-5)


def encoded(pipe: Pipeline, *prompts: str) -> Cond:
    return pipe.text.encode(list(prompts), SIZE)


def test_weight_1_is_the_plain_encoding(pipe: Pipeline) -> None:
    weighted, plain = encoded(pipe, "(a:1) red (heart:1.0)"), encoded(pipe, "a red heart")
    assert torch.equal(weighted.embeds, plain.embeds)
    mixed = encoded(pipe, "a red heart", "(a:2)")  # another prompt's weights
    assert_close(mixed.embeds[:1], plain.embeds, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("w", [-1.0, 0.0, 0.4, 1.1, 3.0])
def test_a_weight_scales_the_way_from_the_empty_prompt(w: float, pipe: Pipeline) -> None:
    z, plain, empty = (encoded(pipe, text) for text in (f"a (b:{w}) c", "a b c", ""))
    want = plain.embeds.clone()
    want[:, 2] = empty.embeds[:, 2] + w * (plain.embeds[:, 2] - empty.embeds[:, 2])
    assert (plain.embeds[:, 2] - empty.embeds[:, 2]).abs().max() > 0.01
    close(z, Cond(want, plain.extra))  # and no weight in the pooled vector


def test_parts_stand_side_by_side(pipe: Pipeline) -> None:
    """A BREAK, or a prompt that fills its chunk: as if each chunk were encoded alone."""
    first, second = " ".join("a" * ROOM), "b (c:0.7)"
    a, b, none = (encoded(pipe, text) for text in (first, second, ""))
    length = a.embeds.shape[1]
    for prompt, parts in {
        f"{first} {second}": (a, b),
        f"{first} BREAK {second}": (a, b),
        f"{second} BREAK {first}": (b, a),
        f"BREAK {first} {second} BREAK": (none, a, b, none),
    }.items():
        whole = encoded(pipe, prompt)
        assert whole.embeds.shape[1] == length * len(parts)
        close(whole, Cond(torch.cat([p.embeds for p in parts], dim=1), parts[0].extra))


def test_prompts_of_other_lengths_are_repeated(pipe: Pipeline) -> None:
    prompts = ["a BREAK b", "c", "a BREAK b BREAK c"]
    together, alone = encoded(pipe, *prompts), [encoded(pipe, p) for p in prompts]
    assert together.embeds.shape[1] == 6 * alone[1].embeds.shape[1]
    for i, (one, times) in enumerate(zip(alone, (3, 6, 2))):
        extra = {k: v[i : i + 1] for k, v in together.extra.items()}
        close(Cond(together.embeds[i : i + 1], extra), Cond(one.embeds.repeat(1, times, 1), one.extra))


def test_long_prompts_reach_the_network(pipe: Pipeline) -> None:
    """Its answer depends on the last chunk too."""
    x, t = torch.randn(1, pipe.model.latent.channels, 8, 8), torch.tensor([500.0])
    a, b = (pipe.model.network(x, t, encoded(pipe, "a " * 3 * ROOM + end)) for end in ("red", "horse"))
    assert (a - b).abs().max() > 1e-6


@pytest.mark.parametrize("skip", [-1, -2, -3])
def test_clip_skip_cuts_layers_off(
    skip: int, sd1: tuple[Path, Any], loaded: Callable[[str], Pipeline], small_tiny: Pipeline, tmp_path: Path
) -> None:
    shutil.copytree(sd1[0], tmp_path / "m")
    config = tmp_path / "m" / "text_encoder" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"num_hidden_layers": 4 + skip}))
    [file] = config.parent.glob("*.safetensors")
    cut = tuple(f"layers.{k}." for k in range(4 + skip, 3))
    kept = {name: value for name, value in load_file(file).items() if not any(each in name for each in cut)}
    save_file(kept, file, metadata={"format": "pt"})
    want = load_tiny(tmp_path / "m", torch.device("cpu"), torch.float32).text.encode(["a red heart", "b"], SIZE)
    pipe = loaded("sd1")
    close(pipe.text.encode(["a red heart", "b"], SIZE, skip), want)
    close(small_tiny.text.encode(["a red heart", "b"], SIZE, clip_skip=skip), want)
    assert skip == -1 or not torch.allclose(want.embeds, encoded(pipe, "a red heart", "b").embeds, atol=1e-3)


def test_clip_skip_of_xl_is_not_normalised(sdxl: tuple[Path, Any], loaded: Callable[[str], Pipeline]) -> None:
    pipe = loaded("sdxl")
    plain, last = (pipe.text.encode(["a red heart"], SIZE, skip) for skip in (None, -1))
    assert torch.equal(pipe.text.encode(["a red heart"], SIZE, -2).embeds, plain.embeds)
    assert torch.equal(last.extra["text_embeds"], plain.extra["text_embeds"])
    first = pipe.modules["text_encoder"]
    norm = getattr(first, "text_model", first).final_layer_norm
    ids = sdxl[1].tokenizer("a red heart", padding="max_length", max_length=16, return_tensors="pt").input_ids
    assert_close(norm(last.embeds[..., :32]), first(ids).last_hidden_state)


def test_clip_skip_names_the_layers(pipe: Pipeline) -> None:
    layers = len(
        {
            key.split(".layers.")[1].split(".")[0]
            for key in pipe.modules["text_encoder"].state_dict()
            if ".layers." in key
        }
    )
    for skip in (0, 1, -layers - 1):
        with pytest.raises(ValueError, match=f"one of the {layers} layers; got {skip}"):
            pipe.text.encode(["a"], SIZE, skip)
    assert pipe.text.encode(["a"], SIZE, -layers).embeds.isfinite().all()
