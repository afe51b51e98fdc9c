"""Directories of small models, made once per session by diffusers and transformers themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import pytest
import recent_models
import small_models
import video_models
from torch import nn

from sigmafield.models.bundle import Pipeline
from sigmafield.models.load import load
from small_network import convolved


@pytest.fixture(scope="module", autouse=True)
def convolutions_of_few_numbers() -> Iterator[None]:
    """Networks as small as those of these tests convolve in a third of the time; whoever runs them."""
    with mock.patch.object(nn.Conv2d, "_conv_forward", convolved):
        yield


@pytest.fixture(scope="session")
def small() -> ModuleType:
    """Builders of small components."""
    return small_models


@pytest.fixture(scope="session")
def sd1(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """Directory and diffusers' pipeline of a model like Stable Diffusion 1."""
    pytest.importorskip("diffusers")
    folder = tmp_path_factory.mktemp("sd1")
    return folder / "model", small_models.save_sd(
        folder, small_models.unet(), small_models.vae(force_upcast=True), "epsilon"
    )


@pytest.fixture(scope="session")
def sd2(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """Directory and diffusers' pipeline of a model like Stable Diffusion 2, with a shift of the latents besides."""
    pytest.importorskip("diffusers")
    folder = tmp_path_factory.mktemp("sd2")
    network = small_models.unet(use_linear_projection=True, attention_head_dim=(1, 2))
    levels = {"rescale_betas_zero_snr": True}
    return folder / "model", small_models.save_sd(
        folder, network, small_models.vae(shift_factor=0.3), "v_prediction", **levels
    )


@pytest.fixture(scope="session")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """Directory and diffusers' pipeline of a model like Stable Diffusion XL."""
    pytest.importorskip("diffusers")
    folder = tmp_path_factory.mktemp("sdxl")
    return folder / "model", small_models.save_xl(folder)


@pytest.fixture(scope="session")
def inpainting(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """Directory and diffusers' pipeline of an inpainting model: its network takes the mask and the rest as well."""
    diffusers = pytest.importorskip("diffusers")
    folder = tmp_path_factory.mktemp("inpainting")
    pipe = small_models.save_sd(folder, small_models.unet(in_channels=9), small_models.vae(), "epsilon")
    parts = {name: part for name, part in pipe.components.items() if name != "image_encoder"}
    return folder / "model", diffusers.StableDiffusionInpaintPipeline(**parts, requires_safety_checker=False)


@pytest.fixture(scope="session")
def refiner(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """Directory and diffusers' pipeline of a model like Stable Diffusion XL's refiner."""
    pytest.importorskip("diffusers")
    folder = tmp_path_factory.mktemp("refiner")
    return folder / "model", small_models.save_refiner(folder)


Family = Callable[[str], tuple[Path, Any]]

FAMILIES: dict[str, Callable[[Path], Any]] = {
    "sd3": small_models.save_sd3,
    "sd3 without T5": lambda folder: small_models.save_sd3(folder, long=False),
    "flux dev": lambda folder: small_models.save_flux(folder, guided=True),
    "flux schnell": lambda folder: small_models.save_flux(folder, guided=False),
    "flux fill": lambda folder: small_models.save_flux(folder, guided=True, shown=16 + 4),
    "flux depth": lambda folder: small_models.save_flux(folder, guided=True, shown=16),
    "auraflow": small_models.save_auraflow,
    "lumina2": small_models.save_lumina,
    "wan": small_models.save_wan,
    "qwen-image": recent_models.save_qwen,
    "z-image": recent_models.save_z_image,
    "flux2 dev": lambda folder: recent_models.save_flux2(folder, guided=True),
    "flux2 klein": lambda folder: recent_models.save_flux2(folder, guided=False),
    "chroma": recent_models.save_chroma,
    "wan2.2": recent_models.save_wan_experts,
    "wan2.2 i2v": lambda folder: recent_models.save_wan_experts(folder, more=20),
    "wan2.2 5b": recent_models.save_wan_fine,
    "wan vace": recent_models.save_wan_vace,
    "qwen-image 2.1": recent_models.save_qwen21,
    "hidream": recent_models.save_hidream,
    "ltx 0.9": lambda folder: video_models.save_ltx(folder, causal=False),
    "ltx 0.9.5": lambda folder: video_models.save_ltx(folder, causal=True),
    "ltx2": video_models.save_ltx2,
    "hunyuan-video": video_models.save_hunyuan_video,
    "hunyuan-image": video_models.save_hunyuan_image,
    "hunyuan-video 1.5": video_models.save_hunyuan15,
}


@pytest.fixture(scope="session")
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    """Directory and diffusers' pipeline of a small model, by a fixture's name or one of `FAMILIES`; made once."""
    pytest.importorskip("diffusers")

    @cache
    def made(name: str) -> tuple[Path, Any]:
        if name not in FAMILIES:
            return request.getfixturevalue(name)
        folder = tmp_path_factory.mktemp(name.replace(" ", "-"))
        pipe = FAMILIES[name](folder)
        pipe.set_progress_bar_config(disable=True)
        return folder / "model", pipe

    return made


@pytest.fixture(scope="session")
def loaded(family: Family) -> Callable[[str], Pipeline]:
    """A small model of a family as loaded here, once."""
    return cache(lambda name: load(family(name)[0]))
