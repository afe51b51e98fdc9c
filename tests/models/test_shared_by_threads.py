"""One loaded model, many threads: every run gives what it gives alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from pathlib import Path
from threading import Barrier
from typing import Any, TypeVar

import pytest
import torch
from safetensors.torch import save_file
from test_patch_laws import ACTING, NOT_ON_UNETS
from torch import Tensor

import sigmafield as sf
from sigmafield.recipes.mods import MODS
from sigmafield.runs.run import finish
from small_network import small_model

pytestmark = pytest.mark.typed_elsewhere

THREADS = 8
T = TypeVar("T")

Run = tuple[str, str]
"""A sampler and a line of mods."""

SAMPLERS = [name for name in sf.SAMPLERS if not name.startswith("distance_")]
"""All samplers, of the many variants of `distance` that one alone."""

QUICK = {"dpm_adaptive": "dpm_adaptive(rtol=1)"}

MIXED: list[Run] = [
    (QUICK.get(sampler, sampler), line)
    for sampler, line in zip(SAMPLERS, cycle(ACTING.get(name, name) for name in MODS if name not in NOT_ON_UNETS))
]
"""Every sampler, every mod for UNets."""

FEW: list[Run] = [
    (sampler, ACTING.get(name, name))
    for sampler, name in [
        ("dpmpp_2m_sde", "pag"),
        ("euler", "nag"),
        ("heun_cfg_pp", "sag"),
        ("lms", "hypertile"),
        ("uni_pc", "tome"),
        ("dpm_2_ancestral", "deep_shrink"),
        ("dpmpp_sde", "freeu_v2"),
        ("dpmpp_2m_sde", "easycache"),
        ("er_sde", "lazycache"),
    ]
]
"""A run for each way of changing a module that is shared or of remembering what it gave, with various samplers."""

ON_TRANSFORMERS: list[Run] = [
    ("euler", ""),
    ("dpmpp_2m_sde", ""),
    *(
        ("euler", line)
        for line in (
            "slg(double='0', start_percent=0, end_percent=1)",
            "slg_simple(double='0')",
            "pag",
            "nag",
            "easycache",
        )
    ),
    ("dpmpp_2m_sde", "easycache"),
]


def latent(pipe: sf.Pipeline, run: Run, **settings: Any) -> Tensor:
    """The clean latent of a short run."""
    sampler, line = run
    recipe = sf.Recipe("a red heart", steps=2, cfg=3.0, sampler=sampler, guidance=line, **settings)
    job = sf.open_job(recipe, pipe)
    return job.run.result(finish(job.run, job.start))


def at_once(function: Callable[[T], Tensor], cases: Sequence[T]) -> list[Tensor]:
    """The function's results in eight threads, which begin together."""
    together = Barrier(THREADS)

    def shared(first: bool, case: T) -> Tensor:
        if first:
            together.wait()
        return function(case)

    with ThreadPoolExecutor(THREADS) as threads:
        return list(threads.map(shared, (i < THREADS for i in range(len(cases))), cases))


def differing(function: Callable[[T], Tensor], cases: Sequence[T]) -> list[T]:
    """The cases in which threads give another result than one thread after the other."""
    alone = [function(case) for case in cases]
    return [case for case, a, b in zip(cases, alone, at_once(function, cases)) if not torch.equal(a, b)]


@pytest.mark.parametrize("runs", [FEW, pytest.param(MIXED, marks=pytest.mark.slow)], ids=["few", "all"])
def test_samplers_and_mods_on_the_embedded_model(runs: list[Run]) -> None:
    pipe = small_model()
    assert differing(lambda run: latent(pipe, run, seed=3, width=32, height=32), runs) == []


@pytest.mark.slow  # the transformer below is a module of diffusers too
@pytest.mark.parametrize("runs", [FEW[:THREADS], MIXED], ids=["few", "all"])
def test_samplers_and_mods_on_a_unet_of_diffusers(runs: list[Run], sd1: tuple[Path, Any]) -> None:
    pipe = sf.load(sd1[0], device="cpu")
    assert differing(lambda run: latent(pipe, run, seed=3), runs) == []


def test_mods_on_a_transformer(family: Callable[[str], tuple[Path, Any]]) -> None:
    pipe = sf.load(family("sd3 without T5")[0], device="cpu")
    assert differing(lambda run: latent(pipe, run, seed=3), ON_TRANSFORMERS) == []


@pytest.mark.parametrize("name", ["tiny", "sd1", "lumina2", pytest.param("flux dev", marks=pytest.mark.slow)])
def test_prompts_with_vectors_and_without(name: str, family: Callable[[str], tuple[Path, Any]], tmp_path: Path) -> None:
    """A textual inversion belongs to the call; tokenizers are shared."""
    pipe = sf.load(name if name == "tiny" else family(name)[0], device="cpu", embeddings=tmp_path)
    width = pipe.modules["text_encoder"].config.hidden_size
    for i in range(3):
        save_file({"clip_l": torch.randn(2, width), "emb_params": torch.randn(2, width)}, tmp_path / f"{i}.safetensors")
    special = "embedding:{}, heart" if name in ("tiny", "sd1") else "word {}, heart"
    prompts = [f"(a red:1.{i}) " + special.format(i % 3) * (i % 2) + "x" * (i // 4) for i in range(THREADS)]
    assert differing(lambda prompt: pipe.text.encode([prompt], (64, 64)).embeds, prompts) == []


def test_videos_are_decoded_and_encoded(family: Callable[[str], tuple[Path, Any]]) -> None:
    """The VAE of videos keeps features between the chunks of a call."""
    pipe = sf.load(family("wan")[0], device="cpu")
    generator = torch.Generator().manual_seed(0)
    latents = [torch.randn(pipe.model.latent.shape(1, (8, 8), 5), generator=generator) for _ in range(THREADS)]
    assert differing(pipe.decode, latents) == []
    images = [torch.rand(1, 3, 5, 8, 8, generator=generator) for _ in range(THREADS)]
    assert differing(pipe.encode, images) == []


def test_models_with_loras_and_without(sd1: tuple[Path, Any], tmp_path: Path) -> None:
    """Several sets of LoRAs on the same weights, each patched or not."""
    base = sf.load(sd1[0], device="cpu")
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    pair = {f"unet.{name}.lora_A.weight": torch.randn(2, 16), f"unet.{name}.lora_B.weight": torch.randn(16, 2)}
    save_file(pair, tmp_path / "a.safetensors")
    pipes = [base, *(base.with_loras({tmp_path / "a.safetensors": s}) for s in (0.5, -0.5))]
    cases = [(pipe, ("euler", line)) for pipe in pipes for line in ("", "pag", "nag")]
    assert differing(lambda case: latent(case[0], case[1], seed=3), cases) == []
