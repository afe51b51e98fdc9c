"""`load`: which argument goes where, and what it says about those that go nowhere. Needs no extra packages."""

from __future__ import annotations

import builtins
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import sigmafield.models.load as models
from sigmafield.models.load import load


def test_tiny_is_the_shipped_directory(sd1: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "files", lambda package: tmp_path)
    with pytest.raises(FileNotFoundError, match="data/tiny: no such directory"):
        load()
    shutil.copytree(sd1[0], tmp_path / "data" / "tiny")
    pipe = load(device="cpu")
    assert pipe.model.name == "tiny" and pipe.device == torch.device("cpu")
    assert pipe.text.encode(["a"], (16, 16)).embeds.dtype == torch.float32


@pytest.mark.parametrize(
    "options, message",
    [
        ({"device": "cudda"}, "unknown device 'cudda'; did you mean cuda?"),
        ({"device": "cuda:x"}, "unknown device 'cuda:x'; did you mean cuda?"),
        ({"device": torch.device("meta")}, "unknown device 'meta'; "),
        ({"dtype": "flaot16"}, "unknown dtype 'flaot16'; did you mean float16"),
        ({"dtype": torch.int8}, "unknown dtype 'int8'; known: bfloat16, float16, float32"),
    ],
)
def test_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(**options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a cuda device")
def test_device_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="device 'cuda' is not available here; available: .*cpu"):
        load(device="cuda")


@pytest.mark.parametrize(
    "name, message",
    [
        ("a.ckpt", "a pickle can run any code and is not opened; convert it to .safetensors"),
        ("a.PT", "a pickle can run any code and is not opened"),
        ("a.TXT", "a single file must be .safetensors, .sft or .gguf; or pass a directory"),
    ],
)
def test_single_files(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    with pytest.raises(ValueError, match=message):
        load(tmp_path / name)


def test_paths_that_do_not_exist(tmp_path: Path) -> None:
    (tmp_path / "emoji").mkdir()
    with pytest.raises(
        FileNotFoundError, match="no such directory, and not a hub id like 'org/name'; did you mean emoji?"
    ):
        load(tmp_path / "emojy")
    with pytest.raises(FileNotFoundError, match="nowhere does not exist either"):
        load(tmp_path / "nowhere" / "x")
    with pytest.raises(FileNotFoundError, match="did you mean tiny?"):
        load("tinny")


def test_directories_without_index(tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    model, other = tmp_path / "model", tmp_path / "other"
    for folder in (model / "unet", other / "sub"):
        folder.mkdir(parents=True)
    (model / "model_index.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=f"unet: no model_index.json, .*; did you mean {model}?"):
        load(model / "unet")
    with pytest.raises(FileNotFoundError, match=f"no model_index.json, .*; did you mean {model}?"):
        load(tmp_path)
    with pytest.raises(FileNotFoundError, match="other: no model_index.json, .*; it has sub/"):
        load(other)
    with pytest.raises(FileNotFoundError, match="sub: no model_index.json, .*; it is empty"):
        load(other / "sub")
    (model / "model_index.json").write_text("{")
    with pytest.raises(ValueError, match="model_index.json is not JSON: "):
        load(model)


def test_missing_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def no_diffusers(name: str, *rest: Any) -> Any:
        if name.startswith("diffusers"):
            raise ModuleNotFoundError("No module named 'diffusers'")
        return real(name, *rest)

    monkeypatch.delitem(sys.modules, "sigmafield.models.diffusers", raising=False)
    monkeypatch.setattr(builtins, "__import__", no_diffusers)
    with pytest.raises(ImportError, match="needs diffusers and transformers") as caught:
        load(tmp_path)
    assert str(caught.value).splitlines()[-1] == 'pip install "sigmafield[diffusers]"'
