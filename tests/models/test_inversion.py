"""Textual inversions: vectors from files in the place of words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close

from sigmafield.models.bundle import Pipeline
from sigmafield.models.load import load
from sigmafield.models.text.textual_inversion import Inversions
from sigmafield.models.tiny import load_tiny

SIZE = (16, 16)
CPU, F32 = torch.device("cpu"), torch.float32


def table(pipe: Pipeline, part: str = "text_encoder") -> torch.Tensor:
    """An encoder's vectors of words."""
    state = pipe.modules[part].state_dict()
    return next(value for key, value in state.items() if key.endswith("token_embedding.weight"))


@pytest.fixture(scope="module", params=["sd1", "sdxl", "small tiny"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Pipeline, Path]:
    """A model with a folder of one textual inversion, `known`: the vectors of the words "a red"."""
    words = tmp_path_factory.mktemp("words")
    if request.param == "small tiny":
        path, pipe = request.getfixturevalue("sd1")
        ours = load_tiny(path, CPU, F32, Inversions(words))
    else:
        path, pipe = request.getfixturevalue(request.param)
        ours = load(path, embeddings=words)
    tokens = pipe.tokenizer("a red", add_special_tokens=False).input_ids
    assert len(tokens) == 2
    vectors = {"clip_l": table(ours)[tokens].clone()}
    if request.param == "sdxl":
        vectors["clip_g"] = table(ours, "text_encoder_2")[tokens].clone()
    save_file(vectors, words / "known.safetensors")
    return ours, words


@pytest.mark.parametrize(
    "prompt, same",
    [
        ("b embedding:known heart", "b a red heart"),
        ("b embedding:known, heart", "b a red , heart"),
        ("embedding:known.safetensors.", "a red ."),
        ("b,embedding:known", "b , a red"),
        ("b (embedding:known:1.5) heart", "b (a red:1.5) heart"),
        ("b\nembedding:known BREAK embedding:known", "b a red BREAK a red"),
        ("a " * 13 + "embedding:known", "a " * 13 + "BREAK a red"),  # not cut in two
        ("(embedding:known) (embedding:known:-1)", "(a red) (a red:-1)"),
    ],
)
def test_vectors_take_the_place_of_words(prompt: str, same: str, folder: tuple[Pipeline, Path]) -> None:
    pipe, _ = folder
    got, want = (pipe.text.encode([text], SIZE) for text in (prompt, same))
    assert_close(got.embeds, want.embeds, atol=1e-5, rtol=1e-5)
    assert_close(got.extra, want.extra, atol=1e-5, rtol=1e-5)


def test_nothing_is_left_behind(folder: tuple[Pipeline, Path]) -> None:
    pipe, _ = folder
    before = pipe.text.encode(["b a red heart"], SIZE)
    pipe.text.encode(["b embedding:known"], SIZE)
    assert torch.equal(before.embeds, pipe.text.encode(["b a red heart"], SIZE).embeds)


@pytest.mark.parametrize("key", ["emb_params", "*"])
def test_names_of_the_tensor(key: str, few_channels: None, tmp_path: Path) -> None:
    pipe = load("tiny", embeddings=tmp_path)
    (tmp_path / "deep").mkdir()
    save_file({key: table(pipe)[65].clone()}, tmp_path / "deep" / "one.safetensors")
    a, b = (pipe.text.encode([f"embedding:{name}"], SIZE).embeds for name in ("one", "deep/one"))
    assert torch.equal(a, b)
    assert not torch.allclose(a, pipe.text.encode(["one"], SIZE).embeds)


def test_encoders_of_xl_get_chunks_of_one_number(sdxl: tuple[Path, Any], tmp_path: Path) -> None:
    """Where one encoder's vectors need two chunks, the other's second chunk is empty."""
    pipe = load(sdxl[0], embeddings=tmp_path)
    one, many = table(pipe)[65:67].clone(), table(pipe, "text_encoder_2")[65:85].clone()
    save_file({"clip_l": one, "clip_g": many}, tmp_path / "uneven.safetensors")
    cond, empty = pipe.text.encode(["embedding:uneven"], SIZE), pipe.text.encode([""], SIZE)
    assert cond.embeds.shape == (1, 32, 56)
    assert_close(cond.embeds[:, 16:, :32], empty.embeds[..., :32], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(cond.embeds[:, 16:, 32:], empty.embeds[..., 32:], atol=1e-2)


def test_errors(few_channels: None, tmp_path: Path) -> None:
    pipe = load("tiny", embeddings=tmp_path)
    save_file({"emb_params": torch.zeros(2, 24)}, tmp_path / "narrow.safetensors")
    save_file({"clip_g": torch.zeros(2, 160)}, tmp_path / "other.safetensors")
    save_file({"a": torch.zeros(2, 160), "b": torch.zeros(2, 160)}, tmp_path / "two.safetensors")
    (tmp_path / "broken.safetensors").write_text("no")
    (tmp_path / "old.pt").touch()
    for name, message in {
        "narow": "unknown embedding 'narow' in .*; did you mean narrow?",
        "../x": "unknown embedding '../x' in .*; known: broken, narrow, other, two",
        "narrow": "narrow.safetensors: emb_params is 2×24, but this text encoder's vectors have width 160",
        "other": "other.safetensors has clip_g; expected clip_l or emb_params, or a single tensor",
        "two": "two.safetensors has a, b; expected clip_l or emb_params",
        "broken": "broken.safetensors is not a safetensors file",
        "old": "embedding:old: old.pt is a pickle, which can run any code, and is not opened; convert it",
        "old.pt": "old.pt is a pickle",
        " x": "embedding: needs a name right after the colon; got 'a embedding: x'",
    }.items():
        with pytest.raises(ValueError, match=message) as caught:
            pipe.text.encode([f"a embedding:{name}"], SIZE)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="asks for embedding:x, but the model was loaded without a folder of"):
        load("tiny").text.encode(["embedding:x"], SIZE)
    with pytest.raises(FileNotFoundError, match="embeddings '.*nowhere': no such directory"):
        load("tiny", embeddings=tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="embedding:x: there is no .safetensors file in .*empty"):
        load("tiny", embeddings=str(tmp_path / "empty")).text.encode(["embedding:x"], SIZE)


def test_unknown_names_can_be_left_out(few_channels: None, tmp_path: Path) -> None:
    save_file({"emb_params": torch.randn(2, 160)}, tmp_path / "known.safetensors")
    for pipe in (
        load("tiny", embeddings=tmp_path, skip_unknown_embeddings=True),
        load("tiny", skip_unknown_embeddings=True),
    ):
        with pytest.warns(UserWarning, match=r"embedding.*x.*; it is left out of the prompt$"):
            got = pipe.text.encode(["a embedding:x heart"], SIZE)
        assert torch.equal(got.embeds, pipe.text.encode(["a heart"], SIZE).embeds)
    (tmp_path / "bad.safetensors").write_text("no")
    with pytest.raises(ValueError, match="not a safetensors file"):
        load("tiny", embeddings=tmp_path, skip_unknown_embeddings=True).text.encode(["embedding:bad"], SIZE)
