"""What a recipe says of large images: tiles that a network sees of one, where it changes how much, or phases."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from PIL import Image
from torch import Tensor

from sigmafield.core.conditioning import Cond, Prompt
from sigmafield.core.geometry import Box, Tile, Window, leaf_tiles, mixture_gaussian, uniform
from sigmafield.core.parameters import NonNegative, Positive, Range, check, parameters
from sigmafield.core.predict import box_of, place
from sigmafield.core.protocols import Denoiser, Model
from sigmafield.core.registry import named
from sigmafield.core.tile_maps import painted
from sigmafield.guidance.guider import Guider
from sigmafield.models.bundle import Pipeline
from sigmafield.models.running import with_tiled_vae
from sigmafield.recipes import image_io
from sigmafield.spatial.quadtree import CONTENTS, leaf_denoise, quadtree
from sigmafield.spatial.tiled_guidance import PerTile, seen_in
from sigmafield.spatial.tiled_model import Counted, Cover, Spot, Tiled, grid_cover, spot_shifts

AUTO = "auto"
"""The denoise map that is made from the image itself: much detail, much change."""

WINDOWS: dict[str, Window] = {"mixture": mixture_gaussian, "multidiffusion": uniform, "spot": uniform}
"""Ways of tiling, and what a tile counts at its places."""

VAE_PLACES = 64
"""Places of the latent that a tile of the VAE owns, where nothing else is asked for."""


@dataclass(frozen=True)
class Tiling:
    """A large image is shown to the network in tiles: how, and of what size.

    kind: mixture (of Diffusers, blended by a bell), multidiffusion (by the mean), or spot (disjoint, shifted at each
    step); tile: side in pixels, None = the model's own size; overlap: of neighbours in pixels, at least 4 places less
    than the tile, None = a quarter of it, none for spot; batch: tiles ≥ 1 of one network call; scope: guidance of the
    whole 'canvas', or of each 'tile' alone, see `spatial.per_tile`; vae_tile: side in pixels that the VAE works on at
    once, 0 = all, None = 64 places of its latent. Sides are multiples of the VAE's factor.
    Raises ValueError for a value outside its range, at construction.
    """

    kind: str = "mixture"
    tile: int | None = None
    overlap: int | None = None
    batch: int = 4
    scope: str = "canvas"
    vae_tile: int | None = None

    def __post_init__(self) -> None:
        named(WINDOWS, self.kind, "tiling")
        if self.tile is not None and self.tile < 1:
            raise ValueError(f"tile must be ≥ 1 pixel; got {self.tile}")
        if self.overlap is not None and self.overlap < 0:
            raise ValueError(f"overlap must be ≥ 0 pixels; got {self.overlap}")
        if self.overlap and self.tile and self.overlap >= self.tile:
            raise ValueError(f"overlap must be below the tile's {self.tile}; got {self.overlap}")
        if self.batch < 1:
            raise ValueError(f"batch must be ≥ 1 tile; got {self.batch}")
        if self.scope not in ("canvas", "tile"):
            raise ValueError(f"scope must be 'canvas' or 'tile'; got {self.scope!r}")
        if self.scope == "tile" and self.kind == "spot":
            raise ValueError("scope 'tile' is for tiles that stay where they are: take mixture or multidiffusion")
        if self.vae_tile is not None and self.vae_tile < 0:
            raise ValueError(f"vae_tile must be ≥ 0 pixels; got {self.vae_tile}")


@dataclass(frozen=True)
class Detail:
    """The quadtree of the denoise map 'auto': boxes of a image, small where there is much to see.

    threshold: content ≥ 0 above which a box is split; depth: times ≥ 0, at most; smallest: side in pixels ≥ 1 of a box,
    None = a quarter of the tile; content: name of `spatial.quadtree.CONTENTS`, what there is to see in a box.
    Raises ValueError for a value outside its range, at construction.
    """

    threshold: float = 0.03
    depth: int = 4
    smallest: int | None = None
    content: str = "colour_distance"

    def __post_init__(self) -> None:
        named(CONTENTS, self.content, "content")
        if not (0 <= self.threshold < math.inf and self.depth >= 0):
            raise ValueError(f"threshold and depth must be ≥ 0; got {self.threshold} and {self.depth}")
        if self.smallest is not None and self.smallest < 1:
            raise ValueError(f"smallest must be ≥ 1 pixel; got {self.smallest}")


@dataclass(frozen=True)
class DemoFusion:
    """A image is drawn at one size, then again at 2, 3, … times that, each led by the one before: arXiv:2311.16973.

    scale ≥ 1: sides of the last phase, in terms of the first; stride ≥ 1: places of the latent between two windows, at
    most the network's own size, None = half of that; cosine_scale_1 ≥ 0: α₁ of the skip residual's weight κ^α₁, large =
    free of the phase before; cosine_scale_2 ≥ 0: α₂ of the dilated views' weight κ^α₂, large = windows alone soon;
    cosine_scale_3 ≥ 0, sigma > 0: α₃ and s of the views' blur, of s (0.99 κ^α₃ + 0.01) places; batch ≥ 1: windows or
    views a network call; vae_tile ≥ 0: side in pixels that the VAE works on at once, see `Tiling`.
    Raises ValueError for a value outside its range, at construction.
    """

    scale: Annotated[int, Range(1)]
    stride: Annotated[int | None, Range(1)] = None
    cosine_scale_1: NonNegative = 3.0
    cosine_scale_2: NonNegative = 1.0
    cosine_scale_3: NonNegative = 1.0
    sigma: Positive = 1.0
    batch: Annotated[int, Range(1)] = 16
    vae_tile: Annotated[int | None, Range(0)] = None

    def __post_init__(self) -> None:
        check("demofusion", {p.name: p for p in parameters(DemoFusion, _every)}, vars(self))


def _every(argument: inspect.Parameter) -> bool:
    return True


def whose(factor: int, patch: int) -> str:
    """The number that sides in pixels are multiples of, and why."""
    return f"{factor * patch}, the VAE's factor" + (f" of {factor} times patches of {patch}" if patch > 1 else "")


def check_multiple(name: str, value: int, factor: int, patch: int = 1) -> None:
    """Raise ValueError, with the nearest multiples, for a number of pixels that is not one of whole places."""
    step = factor * patch
    if value % step or value < step:
        low = max(value // step, 1) * step
        raise ValueError(f"{name} must be a multiple of {whose(factor, patch)}; got {value}: try {low} or {low + step}")


def tile_of(tiling: Tiling, pipe: Pipeline) -> tuple[tuple[int, int], int]:
    """((height, width) of a tile, overlap) in places. ValueError for what are not whole places of this model."""
    factor = pipe.latent.factor
    height, width = pipe.size if tiling.tile is None else (tiling.tile, tiling.tile)
    for side in (height, width):
        check_multiple("tile", side, factor, pipe.patch)
    if tiling.overlap:
        check_multiple("overlap", tiling.overlap, factor)
    tile = height // factor, width // factor
    most = max(min(tile) - 4, 0)
    if tiling.overlap is None:
        return tile, 0 if tiling.kind == "spot" else min(min(tile) // 4, most)
    if tiling.overlap > most * factor:
        raise ValueError(
            f"overlap must be at most {most * factor}, 4 places of {factor} less than the tile; got {tiling.overlap}"
        )
    return tile, tiling.overlap // factor


def seen(tiling: Tiling | None, pipe: Pipeline, size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) in pixels of what the network is shown of a image of that size."""
    if tiling is None:
        return size
    tile, _ = tile_of(tiling, pipe)
    height, width = (min(side * pipe.latent.factor, whole) for side, whole in zip(tile, size))
    return height, width


def with_vae(how: Tiling | DemoFusion | None, pipe: Pipeline, size: tuple[int, int]) -> Pipeline:
    """The pipeline with a VAE that works tile by tile, if a image of (height, width) is larger than its tile."""
    if how is None or how.vae_tile == 0:
        return pipe
    factor = pipe.latent.factor
    if how.vae_tile is not None:
        check_multiple("vae_tile", how.vae_tile, factor)
    places = VAE_PLACES if how.vae_tile is None else how.vae_tile // factor
    return with_tiled_vae(pipe, places) if max(size) > places * factor else pipe


def cover_of(tiling: Tiling, pipe: Pipeline) -> Cover:
    """The tiles of a latent of any size."""
    return grid_cover(*tile_of(tiling, pipe))


def model_of(tiling: Tiling | None, pipe: Pipeline, sigmas: Tensor, seed: int) -> Model:
    """The network, shown tiles. sigmas: [n + 1], the whole schedule; seed: of the shifts of `spot`."""
    if tiling is None:
        return pipe.model
    if tiling.kind == "spot":
        tile, overlap = tile_of(tiling, pipe)
        return Spot(pipe.model, tile, sigmas, spot_shifts(len(sigmas) - 1, tile, seed), overlap, tiling.batch)
    return Tiled(pipe.model, cover_of(tiling, pipe), WINDOWS[tiling.kind], tiling.batch)


def guider_of(tiling: Tiling | None, pipe: Pipeline, guider: Guider, model: Model) -> Denoiser:
    """The guider over a network that is shown tiles (`model_of`), or one for each tile over the network itself.

    guider: of the network as it is, with conditionings that fit the latent.
    """
    if tiling is None or tiling.scope == "canvas":
        return replace(guider, model=model)
    network = Counted(pipe.model)

    def alone(tile: Tile, space: Sequence[int]) -> Guider:
        def mine(given: Cond | Prompt | None) -> Prompt | None:
            return None if given is None else seen_in(tile, [given] if isinstance(given, Cond) else given, space)

        told = {name: mine(getattr(guider, name)) for name in ("positive", "negative", "empty")}
        return replace(guider, model=network, **told)

    return PerTile(alone, cover_of(tiling, pipe), WINDOWS[tiling.kind])


def rows_of(tiling: Tiling, pipe: Pipeline, prompts: Sequence[Prompt], batch: int, space: Sequence[int]) -> int:
    """Rows of the network that one evaluation of the whole image takes, in tiles."""
    cover = cover_of(tiling, pipe)
    boxes = [box_of(cond, space) for prompt in place(prompts, space) for cond in prompt]
    return batch * sum(len(cover(box.height, box.width)) for box in boxes)


def leaves_of(detail: Detail, tiling: Tiling | None, pipe: Pipeline, image: Image.Image) -> tuple[Box, ...]:
    """Leaves of a image's quadtree, in pixels, of whole places of the latent."""
    factor, content = pipe.latent.factor, CONTENTS[detail.content]
    side = min(pipe.size) if tiling is None else min(tile_of(tiling, pipe)[0]) * factor
    smallest = max(detail.smallest or side // 4, factor)
    pixels = image_io.to_tensor(image)[0]
    return quadtree(pixels, detail.threshold, max_depth=detail.depth, min_size=smallest, unit=factor, content=content)


def leaf_strengths(leaves: Sequence[Box], low: float, size: tuple[int, int], factor: int) -> Tensor:
    """Strengths [1, h, w] of a latent: 1 where there is most to see, `low` where there is least."""
    height, width = (side // factor for side in size)
    return painted(leaf_tiles(leaves, height, width, factor), leaf_denoise(leaves, low, 1.0), height, width)[0]
