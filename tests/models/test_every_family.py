"""Every family drawn through `generate`: from text, from an image, inside a mask; sizes, guidance and videos."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.testing import assert_close

from command_line import run
from sigmafield import generate
from sigmafield.core.process import Flow
from sigmafield.models.bundle import Pipeline
from sigmafield.recipes.execute import open_job
from sigmafield.recipes.image_io import open_frames, to_tensor
from sigmafield.recipes.options import Region, Tiling
from sigmafield.recipes.output import recipe_of
from sigmafield.recipes.recipe import Recipe
from sigmafield.runs.run import finish

pytest.importorskip("diffusers")
NAMES = ["sd1", "sd2", "sdxl", "sd3", "flux dev", "auraflow", "lumina2", "wan"]
SELDOM = [  # which differ from others in what test_transformer_families and test_recent_families look at
    "sd3 without T5", "flux schnell", "qwen-image", "qwen-image 2.1", "z-image", "flux2 klein", "chroma", "hidream",
    "wan2.2", "wan2.2 5b", "wan vace",
]  # fmt: skip

Loaded = Callable[[str], Pipeline]


@pytest.fixture(params=[*NAMES, *(pytest.param(name, marks=pytest.mark.slow) for name in SELDOM)])
def ours(request: pytest.FixtureRequest, loaded: Loaded) -> Pipeline:
    """A small model of each family."""
    return loaded(request.param)


def size_of(ours: Pipeline) -> tuple[int, int]:
    """A small (height, width)."""
    return 4 * ours.model.latent.factor, 6 * ours.model.latent.factor


SETTINGS: dict[str, Any] = {"steps": 2, "sampler": "euler", "schedule": "simple", "cfg": 3.0, "negative": "1999"}


def complete(ours: Pipeline, settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of a recipe of a small image or video, with others on top."""
    height, width = size_of(ours)
    frames = 5 if ours.model.latent.axes == 3 else None
    return SETTINGS | {"prompt": "a red heart", "width": width, "height": height, "frames": frames} | settings


def drawn(ours: Pipeline, **settings: Any) -> list[Image.Image]:
    return generate(ours, **complete(ours, settings))


def latent(ours: Pipeline, **settings: Any) -> Tensor:
    """The latent after one step."""
    job = open_job(Recipe(**complete(ours, {"steps": 1, **settings})), ours)
    return finish(job.run, job.start).x


def test_text_to_image(ours: Pipeline) -> None:
    images, (height, width) = drawn(ours, batch=2, steps=1), size_of(ours)
    assert len(images) == (10 if ours.model.latent.axes == 3 else 2) and images[0].size == (width, height)
    assert images[0].tobytes() != images[-1].tobytes()
    region = Region("the green horse", 0, 0, 2 * ours.model.latent.factor, height)
    changes = [{"prompt": "the green horse"}, {"negative": ""}, {"cfg": 1.0}, {"seed": 1}, {"regions": (region,)}]
    plain, *others = (latent(ours, **change) for change in [{}, *changes])
    for change, other in zip(changes, others, strict=True):
        assert not torch.equal(other, plain), change


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    """A image, and a mask that keeps its left half."""
    noise = torch.randint(0, 256, (32, 48, 3), generator=torch.Generator().manual_seed(0))
    Image.fromarray(noise.byte().numpy()).save(tmp_path / "in.png")
    mask = Image.new("L", (48, 32), 0)
    mask.paste(255, (24, 0, 48, 32))
    mask.save(tmp_path / "mask.png")
    return str(tmp_path / "in.png"), str(tmp_path / "mask.png")


@pytest.mark.parametrize("masked", [False, True])
def test_image_to_image_and_inpainting(masked: bool, files: tuple[str, str], ours: Pipeline) -> None:
    """A run begins at the image, noised; what a mask keeps is the image's at the end, the rest is not."""
    height, width = size_of(ours)
    video = ours.model.latent.axes == 3
    recipe = Recipe(
        "a red heart", image=files[0], mask=files[1] if masked else None, denoise=0.5, frames=5 if video else None,
        width=width, height=height, **SETTINGS,
    )  # fmt: skip
    job = open_job(recipe, ours)
    sigma = float(job.run.grid.sigmas[0])
    noise = torch.randn(job.start.x.shape, generator=torch.Generator().manual_seed(0))
    image = Image.open(files[0]).resize((width, height), Image.Resampling.LANCZOS)
    pixels = torch.tensor(list(image.tobytes()), dtype=torch.float32).reshape(1, height, width, 3) / 255
    pixels = pixels.permute(0, 3, 1, 2)
    source = ours.encode(pixels[:, :, None].expand(-1, -1, 5, -1, -1) if video else pixels)
    alpha = 1 - sigma if isinstance(job.run.grid.process, Flow) else 1.0
    assert sigma > 0 and alpha > 0
    assert_close(job.start.x, alpha * source + sigma * noise, atol=1e-5, rtol=1e-5)
    end = finish(job.run, job.start).x
    left, right = slice(0, end.shape[-1] // 3), slice(-(end.shape[-1] // 3), None)
    assert torch.isfinite(end).all() and not torch.allclose(end[..., right], source[..., right], atol=1e-2)
    assert torch.allclose(end[..., left], source[..., left], atol=1e-5) == masked


def test_large_images_in_tiles(files: tuple[str, str], ours: Pipeline) -> None:
    """One tile over all is the whole; of two, one that is kept costs nothing."""
    whole = Recipe(
        "a red heart", image=files[0], denoise=0.8, frames=5 if ours.model.latent.axes == 3 else None,
        width=8 * ours.model.latent.factor, height=4 * ours.model.latent.factor, **SETTINGS,
    )  # fmt: skip
    jobs = [
        open_job(replace(whole, tiling=tiling), ours) for tiling in (None, Tiling(tile=8 * ours.model.latent.factor))
    ]
    assert torch.equal(*(finish(job.run, job.start).x for job in jobs))
    half = replace(
        whole, tiling=Tiling(tile=4 * ours.model.latent.factor), denoise_map=files[1], schedule="normal", steps=3
    )
    job = open_job(half, ours)
    end = finish(job.run, job.start)
    assert torch.isfinite(end.x).all()
    assert job.rows(end) == (2 * end.nfe, 2 * 2 * end.nfe)
    assert len(job.images(end)) == (5 if ours.model.latent.axes == 3 else 1)


def test_lumina_reads_negative_prompts_without_its_system_prompt(loaded: Loaded) -> None:
    lumina = loaded("lumina2")
    guider = open_job(Recipe("a red heart", "1999", width=16, height=16), lumina).run.denoise
    for cond, encode, text in (
        (guider.positive[0], lumina.text.encode, "a red heart"),
        (guider.negative, lumina.text.encode_negative, "1999"),
    ):
        assert torch.equal(cond.embeds, encode([text], (16, 16)).embeds)


def test_guidance(loaded: Loaded) -> None:
    """A distilled network is told its guidance, and runs with a cfg of 1; others refuse to be told."""
    dev, schnell = loaded("flux dev"), loaded("flux schnell")
    assert dev.model.cfg == 1 == schnell.model.cfg
    plain = drawn(dev, cfg=None)[0].tobytes()
    assert drawn(dev, cfg=None, distilled_guidance=3.5)[0].tobytes() == plain
    assert drawn(dev, cfg=1.0)[0].tobytes() == plain
    assert drawn(dev, cfg=None, distilled_guidance=7.0)[0].tobytes() != plain
    guider = open_job(Recipe("", distilled_guidance=7.0, width=16, height=16), dev).run.denoise
    assert [float(cond.extra["guidance"]) for cond in (guider.positive[0], guider.negative)] == [7.0, 7.0]
    with pytest.raises(ValueError, match="distilled_guidance is for networks that were distilled with it"):
        drawn(schnell, distilled_guidance=3.5)


SIZES = {
    "patch": ("sd3", {"width": 18}, "width must be a multiple of 4, the VAE's factor of 2 times patches of 2; got 18"),
    "largest": ("sd3", {"width": 52}, "width must be at most 48, where the network's positions end; got 52"),
    "region": ("wan", {"regions": (Region("a", 0, 0, 8, 16),)}, "a region's width must be a multiple of 16, the VAE"),
    "frames": ("wan", {"frames": 8}, "frames must be 1 more than a multiple of 4; got 8: try 5 or 9"),
    "no video": ("auraflow", {"frames": 5}, "frames must be 1, since model draws images and not videos; got 5"),
}


@pytest.mark.parametrize("name, settings, message", SIZES.values(), ids=SIZES)
def test_sizes(name: str, settings: dict[str, Any], message: str, loaded: Loaded) -> None:
    with pytest.raises(ValueError, match=message):
        drawn(loaded(name), **settings)


def test_videos(tmp_path: Path, loaded: Loaded, family: Callable[[str], tuple[Path, Any]]) -> None:
    """A video is an animated PNG with its recipe and a sheet of frames next to it, to replay or to begin from."""

    def done(*arguments: Any) -> None:
        result = run(*arguments)
        assert result.exit_code == 0, result.output

    out, options = tmp_path / "a.png", ["--model", family("wan")[0], "--size", "32x16", "--steps", "1", "--frames", "5"]
    done("sample", "a red heart", "-o", out, *options)
    frames = open_frames(out)
    assert len(frames) == 5 and frames[0].size == (32, 16) and Image.open(out).info["duration"] == 62.5
    assert Image.open(tmp_path / "a-frames.png").size == (3 * 36 - 4, 2 * 20 - 4)
    done("replay", out, "-o", tmp_path / "b.png")
    assert json.loads(recipe_of(tmp_path / "b.png"))["recipe"]["frames"] == 5
    done("sample", "a red heart", "-o", tmp_path / "c.png", "--batch", 2, *options)
    assert [len(open_frames(tmp_path / f"c{end}.png")) for end in ("", "-1", "-2")] == [5, 5, 5]
    assert open_frames(tmp_path / "c.png")[0].size == (2 * 32 + 4, 16)
    done("sample", "a red heart", "-o", tmp_path / "d.png", *options[:-1], 1)
    assert len(open_frames(tmp_path / "d.png")) == 1 and not (tmp_path / "d-frames.png").exists()

    wan = loaded("wan")
    job = open_job(Recipe("", image=str(out), denoise=0.5, steps=2, sampler="euler", schedule="simple"), wan)
    sigma = float(job.run.grid.sigmas[0])
    noise = torch.randn(job.start.x.shape, generator=torch.Generator().manual_seed(0))
    source = wan.encode(torch.stack([to_tensor(frame) for frame in frames], dim=2))
    assert_close(job.start.x, (1 - sigma) * source + sigma * noise, atol=1e-5, rtol=0)
    assert job.preview(job.run.step(job.start))[0].size == (4, 2)
    with pytest.raises(ValueError, match="frames must be at most those of .*a.png, which has 5; got 9"):
        open_job(Recipe("", image=str(out), frames=9), wan)
