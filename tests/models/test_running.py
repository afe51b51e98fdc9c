"""Options of how a model runs: parts that wait on the CPU, a compiled network."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from time import sleep
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.testing import assert_close

from command_line import run
from sigmafield import generate
from sigmafield.core.process import Span
from sigmafield.core.protocols import Ctx
from sigmafield.models.bundle import Pipeline
from sigmafield.models.load import load
from sigmafield.models.running import Turns, offloaded

CUDA = torch.cuda.is_available()


def noted(name: str, module: nn.Module, log: list[str]) -> nn.Module:
    """The module, which writes down where it is sent and does not go there."""

    def to(device: torch.device) -> nn.Module:
        log.append(f"{name}→{device}")
        return module

    module.to = to  # type: ignore[method-assign]
    return module


def test_one_part_at_a_time_is_on_the_device() -> None:
    tiny, log = load("tiny", device="cpu"), list[str]()
    parts = {name: noted(name, module, log) for name, module in tiny.modules.items()}
    encoders = {name: parts.get(name) or noted(name, nn.Identity(), log) for name in ("text_encoder", "text_encoder_2")}
    model = replace(tiny.model, device=torch.device("cuda:7"))
    pipe = offloaded(replace(tiny, model=model, text=replace(tiny.text, modules=encoders)))
    assert log == ["unet→cpu", "vae→cpu", "text_encoder→cpu", "text_encoder_2→cpu"]
    cond = pipe.text.encode(["a red heart"], (64, 64))
    z, sigma = torch.zeros(1, pipe.model.latent.channels, 8, 8), torch.tensor(5.0, dtype=torch.float64)
    span = Span(sigma, 0 * sigma, pipe.model.sampling.process)
    assert pipe.preview is not None
    calls = {
        "text_encoder, text_encoder_2": [
            lambda: pipe.text.encode(["a red heart"], (64, 64)),
            lambda: pipe.text.encode_negative([""], size=(64, 64)),
        ],
        "unet": [lambda: pipe.model(z, sigma, [cond], Ctx(span, {}))],
        "vae": [lambda: pipe.decode(z), lambda: pipe.encode(torch.zeros(1, 3, 64, 64)), lambda: pipe.preview(z)],
    }
    there = ["text_encoder", "text_encoder_2"]  # which encoded the prompt
    for names, functions in calls.items():
        here = names.split(", ")
        for function in functions:
            log.clear()
            function()
            away = [f"{name}→cpu" for name in there if name not in here]
            assert log == away + [f"{name}→cuda:7" for name in here]
            there = here


def test_offloading_changes_no_pixel() -> None:
    pipe = load("tiny", device="cpu")
    a, b = (generate(p, "a red heart", steps=1, seed=3)[0].tobytes() for p in (pipe, offloaded(pipe)))
    assert a == b


def test_a_call_within_a_call_leaves_the_outer_part_on_the_device() -> None:
    """As where a network's control reads an image through the VAE; afterwards only what is called stays."""
    log = list[str]()
    network, vae = (noted(name, nn.Identity(), log) for name in ("network", "vae"))
    turns = Turns(torch.device("cuda:7"))
    with turns.on_device([network]), turns.on_device([vae]):
        assert log == ["network→cuda:7", "network→cuda:7", "vae→cuda:7"]
    log.clear()
    with turns.on_device([network]):
        assert log == ["vae→cpu", "network→cuda:7"]


def test_only_what_a_thread_calls_is_on_the_device() -> None:
    at: dict[str, str] = {}

    def part(name: str) -> nn.Module:
        module = nn.Identity()
        module.to = lambda device: at.update({name: str(device)})  # type: ignore[method-assign, assignment]
        return module

    parts, turns = {name: part(name) for name in "abc"}, Turns(torch.device("cuda:7"))

    def there(name: str) -> set[str]:
        with turns.on_device([parts[name]]):
            sleep(1e-4)
            return {each for each, device in at.items() if device != "cpu"}

    names = "abcaabbcc" * 20
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(there, names)) == [{name} for name in names]


def test_pipelines_of_other_loras_take_turns_with_their_base(sd1: tuple[Path, Any], tmp_path: Path) -> None:
    base, q = load(sd1[0], device="cpu"), "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    pair = {f"{q}.lora_A.weight": torch.ones(1, 16), f"{q}.lora_B.weight": torch.ones(16, 1)}
    save_file(pair, tmp_path / "a.safetensors")
    plain = [base, base.with_loras([tmp_path / "a.safetensors"])]
    waiting = [offloaded(base)]
    waiting.append(waiting[0].with_loras([tmp_path / "a.safetensors"]))

    def draw(pipe: Pipeline) -> bytes:
        return generate(pipe, "a red heart", steps=1, cfg=3.0, guidance="pag")[0].tobytes()

    alone = [draw(pipe) for pipe in plain]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(draw, waiting * 2)) == alone * 2 and alone[0] != alone[1]


@pytest.mark.skipif(not CUDA, reason="there is no cuda device")
@pytest.mark.parametrize("family", ["tiny", "sdxl"])
def test_offloading_on_a_device(family: str, request: pytest.FixtureRequest) -> None:
    path = "tiny" if family == "tiny" else request.getfixturevalue(family)[0]
    waiting, there = load(path, device="cuda", offload=True), load(path, device="cuda")
    assert all(p.device.type == "cpu" for m in waiting.modules.values() for p in m.parameters())
    settings = {"steps": 2, "width": 64, "height": 64}
    a, b = (generate(p, "a red heart", **settings)[0].tobytes() for p in (waiting, there))
    assert a == b
    places = {name: next(m.parameters()).device.type for name, m in waiting.modules.items()}
    assert places.pop("vae") == "cuda" and set(places.values()) == {"cpu"}


def test_offloading_needs_a_device() -> None:
    with pytest.raises(ValueError, match="offload=True keeps parts on the CPU until .*; here the device is the CPU"):
        load("tiny", device="cpu", offload=True)


def test_compiling_needs_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ValueError, match=r"compile=True needs a C\+\+ compiler on the CPU; did not find g\+\+, "):
        load("tiny", device="cpu", compile=True)


@pytest.mark.slow
def test_a_compiled_network_answers_as_before() -> None:
    try:
        plain, fast = load("tiny", device="cpu"), load("tiny", device="cpu", compile=True)
    except ValueError as error:
        pytest.skip(str(error))
    generator = torch.Generator().manual_seed(0)
    cond = plain.text.encode(["a red heart", "a green leaf"], (64, 64))
    x, t = torch.randn(2, plain.model.latent.channels, 8, 8, generator=generator), torch.tensor([500.0, 3.0])
    assert_close(fast.model.network(x, t, cond), plain.model.network(x, t, cond), atol=1e-4, rtol=1e-4)
    assert fast.modules["unet"].state_dict().keys() == plain.modules["unet"].state_dict().keys()


@pytest.mark.parametrize(
    "options, message",
    [
        (["--offload"], "offload=True keeps parts on the CPU"),
        (["--parts", "."], "parts belongs to a single file, and model 'tiny' is not one"),
    ],
)
def test_options_of_the_command_line(options: list[str], message: str, tmp_path: Path) -> None:
    arguments = ["sample", "a red heart", "-o", str(tmp_path / "x.png"), "--device", "cpu", *options]
    result = run(*arguments)
    assert result.exit_code == 2 and message in result.output and not (tmp_path / "x.png").exists()
