"""DemoFusion on every family of networks: what they are told, their patches, the sizes that they know."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from sigmafield.models.bundle import Pipeline
from sigmafield.recipes.build import Job
from sigmafield.recipes.execute import open_job
from sigmafield.recipes.image_io import to_images
from sigmafield.recipes.inputs import ControlImage
from sigmafield.recipes.options import DemoFusion
from sigmafield.recipes.output import save_image
from sigmafield.recipes.recipe import Recipe
from sigmafield.runs.run import finish

Loaded = Callable[[str], Pipeline]
RECIPE = Recipe("a red heart", steps=2, cfg=2.0, sampler="euler", schedule="simple")


def opened(recipe: Recipe, pipe: Pipeline, how: DemoFusion) -> Job:
    return open_job(replace(recipe, demofusion=how), pipe)


def small_size(pipe: Pipeline) -> tuple[Pipeline, Recipe]:
    """The model as if it knew only images of 8 by 8 places, and a recipe of 8 by 6."""
    side = pipe.model.latent.factor
    known = replace(pipe, model=replace(pipe.model, size=(8 * side, 8 * side), max_side=8 * side))
    return known, replace(RECIPE, height=8 * side, width=6 * side)


@pytest.mark.parametrize(
    "name, scale",
    [  # a network of each kind; what windows tell SDXL has a test of its own
        ("sd1", 3), ("sd3", 2), ("flux dev", 2),
        *(
            pytest.param(name, 3, marks=pytest.mark.slow)
            for name in ("sd2", "sdxl", "sd3", "flux dev", "auraflow", "lumina2")
        ),
    ],
)  # fmt: skip
def test_a_image_larger_than_the_network(name: str, scale: int, loaded: Loaded) -> None:
    pipe, recipe = small_size(loaded(name))
    seen: list[tuple[int, ...]] = []

    def forward(module: Any, x: torch.Tensor, t: torch.Tensor, cond: Any) -> torch.Tensor:
        seen.append(tuple(x.shape[2:]))
        return pipe.model.forward(module, x, t, cond)

    demo = opened(recipe, replace(pipe, model=replace(pipe.model, forward=forward)), DemoFusion(scale, stride=5))
    for phase, state in demo.run.walk(demo.start):
        assert state.x.shape[2:] == (8 * phase.scale, 6 * phase.scale)
        assert torch.isfinite(state.x).all()
        assert demo.images(state)[0].size == (phase.size[1], phase.size[0])
    assert max(map(max, seen)) == 8
    assert all(side % pipe.model.patch == 0 for shape in seen for side in shape)


def test_each_window_of_sdxl_is_told_where_it_is(loaded: Loaded) -> None:
    """And its views, as the phase before, that they are not cropped; all of them the size of the whole."""
    pipe, recipe = small_size(loaded("sdxl"))
    told: list[list[float]] = []

    def forward(module: Any, x: torch.Tensor, t: torch.Tensor, cond: Any) -> torch.Tensor:
        told.extend(cond.extra["time_ids"].tolist())
        return pipe.model.forward(module, x, t, cond)

    demo = opened(recipe, replace(pipe, model=replace(pipe.model, forward=forward)), DemoFusion(2, stride=4))
    states = [state for _, state in demo.run.walk(demo.start)]
    f, (height, width) = pipe.model.latent.factor, demo.run.phases[1].size
    assert len(told) == 2 * 2 * (1 + 3 * 2 + 4) and len(states) == 2  # steps, prompts; windows and views
    first, later = told[:4], told[4:]
    assert all(ids == [height / 2, width / 2, 0, 0, height / 2, width / 2] for ids in first)
    assert all(ids[:2] == ids[4:] == [height, width] for ids in later)
    crops = {(int(ids[2]) // f, int(ids[3]) // f) for ids in later}
    assert len(crops) > 6 and all(0 <= y <= 10 and 0 <= x <= 6 for y, x in crops)


def test_images_that_steer_are_cut_along(
    loaded: Loaded, sd1: tuple[Path, Any], small: ModuleType, tmp_path: Path
) -> None:
    small.control_net(sd1[1].unet).save_pretrained(tmp_path / "net")
    ends = []
    for seed in (0, 1):
        hint = torch.rand(1, 3, 16, 12, generator=torch.Generator().manual_seed(seed))
        save_image(to_images(hint)[0], tmp_path / f"{seed}.png")
        pipe, recipe = small_size(loaded("sd1"))
        steered = replace(recipe, controls=(ControlImage(str(tmp_path / "net"), str(tmp_path / f"{seed}.png")),))
        job = opened(steered, pipe, DemoFusion(2))
        ends.append(finish(job.run, job.start).x)
    assert torch.isfinite(ends[0]).all() and not torch.allclose(*ends)


@pytest.mark.parametrize("name", ["wan", "inpainting"])
def test_refused(name: str, loaded: Loaded) -> None:
    with pytest.raises(ValueError, match="demofusion needs a model that draws images from noise"):
        opened(RECIPE, loaded(name), DemoFusion(2))
