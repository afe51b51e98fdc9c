"""Tiles of a recipe in terms of a model: which ones, who is shown them, and how much each position changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from PIL import Image
from torch import Tensor

from sigmafield.core.conditioning import Cond, Prompt
from sigmafield.core.geometry import Box, Tile, Window, leaf_tiles, mixture_gaussian, uniform
from sigmafield.core.placement import box_of, place
from sigmafield.core.protocols import Denoiser, Model
from sigmafield.core.tile_maps import painted
from sigmafield.guidance.guider import Guider
from sigmafield.models.diffusion_model import DiffusionModel
from sigmafield.models.vae.vae import Vae
from sigmafield.recipes.image_io import to_tensor
from sigmafield.recipes.options import DemoFusion, Detail, Tiling
from sigmafield.spatial.field_denoiser import Rule, by_level, by_tile, native
from sigmafield.spatial.quadtree import CONTENTS, leaf_denoise, quadtree
from sigmafield.spatial.tiled_guidance import PerTile, seen_in
from sigmafield.spatial.tiled_model import Counted, Cover, Spot, Tiled, grid_cover, spot_shifts

WINDOWS: dict[str, Window] = {"mixture": mixture_gaussian, "multidiffusion": uniform, "spot": uniform}
"""Weights within a tile, by kind of tiling."""

VAE_POSITIONS = 64
"""Latent positions along a side that a tile of the VAE owns by default."""

MARGIN = 4
"""Latent positions that an overlap must be smaller than the tile."""


def unit_of(model: DiffusionModel) -> int:
    """Pixels that an image's sides are multiples of: the VAE's factor times the network's patch."""
    return model.latent.factor * model.patch


def unit_words(model: DiffusionModel) -> str:
    """The same in words, for errors."""
    factor, patch = model.latent.factor, model.patch
    why = f"the VAE's factor of {factor} times patches of {patch}" if patch > 1 else "the VAE's factor"
    return f"{factor * patch}, {why}"


def check_multiple(name: str, value: int, unit: int, words: str) -> None:
    """Raise ValueError, with the nearest multiples, for a number of pixels that is not a multiple of the unit."""
    if value % unit or value < unit:
        low = max(value // unit, 1) * unit
        raise ValueError(f"{name} must be a multiple of {words}; got {value}: try {low} or {low + unit}")


def tile_of(tiling: Tiling, model: DiffusionModel) -> tuple[tuple[int, int], int]:
    """((height, width) of a tile, overlap) in latent positions.

    Raises:
        ValueError: A side or the overlap is not made of whole positions of this model, or the overlap is too large.
    """
    factor = model.latent.factor
    height, width = model.size if tiling.tile is None else (tiling.tile, tiling.tile)
    for side in (height, width):
        check_multiple("tile", side, unit_of(model), unit_words(model))
    if tiling.overlap:
        check_multiple("overlap", tiling.overlap, factor, f"{factor}, the VAE's factor")
    tile = height // factor, width // factor
    most = max(min(tile) - MARGIN, 0)
    if tiling.overlap is None:
        return tile, 0 if tiling.kind == "spot" else min(min(tile) // 4, most)
    if tiling.overlap > most * factor:
        raise ValueError(
            f"overlap must be at most {most * factor}, {MARGIN} positions of {factor} less than the tile; "
            f"got {tiling.overlap}"
        )
    return tile, tiling.overlap // factor


def shown_size(tiling: Tiling | None, model: DiffusionModel, size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) in pixels of what the network is shown of an image of that size."""
    if tiling is None:
        return size
    tile, _ = tile_of(tiling, model)
    height, width = (min(side * model.latent.factor, whole) for side, whole in zip(tile, size))
    return height, width


def vae_for(how: Tiling | DemoFusion | None, vae: Vae, size: tuple[int, int]) -> Vae:
    """The VAE, working tile by tile if an image of (height, width) is larger than its tile."""
    if how is None or how.vae_tile == 0 or (how.vae_tile is None and not vae.in_parts):
        return vae
    if how.vae_tile is not None:
        check_multiple("vae_tile", how.vae_tile, vae.factor, f"{vae.factor}, the VAE's factor")
    positions = VAE_POSITIONS if how.vae_tile is None else how.vae_tile // vae.factor
    return vae.tiled(positions, how.vae_mode) if max(size) > positions * vae.factor else vae


def cover_of(tiling: Tiling, model: DiffusionModel) -> Cover:
    """The tiles of a latent of any size."""
    return grid_cover(*tile_of(tiling, model))


def tiled_model(tiling: Tiling | None, model: DiffusionModel, sigmas: Tensor, seed: int) -> Model:
    """The network, shown tiles.

    Args:
        tiling: The tiles; None shows the network the whole latent.
        model: The network.
        sigmas: The whole schedule, [n + 1].
        seed: Of the shifts of spot.
    """
    if tiling is None:
        return model
    if tiling.kind == "spot":
        tile, overlap = tile_of(tiling, model)
        return Spot(model, tile, sigmas, spot_shifts(len(sigmas) - 1, tile, seed), overlap, tiling.batch)
    return Tiled(model, cover_of(tiling, model), WINDOWS[tiling.kind], tiling.batch)


def tiled_guider(tiling: Tiling | None, model: DiffusionModel, guider: Guider, sigmas: Tensor, seed: int) -> Denoiser:
    """The guider over a network that is shown tiles, or a guider for each tile over the network itself.

    Args:
        tiling: The tiles, and whether guidance is of the whole canvas or of each tile.
        model: The network.
        guider: Guidance over the network as it is, with conditionings that fit the latent.
        sigmas: The whole schedule, [n + 1].
        seed: Of the shifts of spot.
    """
    if tiling is None or tiling.scope == "canvas":
        return replace(guider, model=tiled_model(tiling, model, sigmas, seed))
    network = Counted(model)

    def alone(tile: Tile, space: Sequence[int]) -> Guider:
        def own(given: Cond | Prompt | None) -> Prompt | None:
            return None if given is None else seen_in(tile, [given] if isinstance(given, Cond) else given, space)

        seen = {name: own(getattr(guider, name)) for name in ("positive", "negative", "empty")}
        return replace(guider, model=network, **seen)

    return PerTile(alone, cover_of(tiling, model), WINDOWS[tiling.kind])


def rule_of(tiling: Tiling | None, model: DiffusionModel, space: Sequence[int]) -> Rule:
    """How a σ-field is evaluated: as it is where the network takes it, at every level, or each tile at its core's."""
    if tiling is None and model.tokens is not None:
        return native
    if tiling is None or tiling.levels == "exact":
        return by_level
    return by_tile(cover_of(tiling, model)(*space[-2:]))


def rows_of(
    tiling: Tiling | None, model: DiffusionModel, prompts: Sequence[Prompt], batch: int, space: Sequence[int]
) -> int:
    """Rows of the network that one evaluation of the whole image takes, in tiles; 0 without tiles."""
    if tiling is None:
        return 0
    cover = cover_of(tiling, model)
    boxes = [box_of(cond, space) for prompt in place(prompts, space) for cond in prompt]
    return batch * sum(len(cover(box.height, box.width)) for box in boxes)


def leaves_of(
    detail: Detail, tiling: Tiling | None, model: DiffusionModel, image: Image.Image, low: float, high: float
) -> tuple[tuple[Box, ...], list[float]]:
    """(Leaves of an image's quadtree in pixels, each of whole latent positions; the denoise strength of each).

    Args:
        detail: The quadtree.
        tiling: The tiles, which the smallest leaf follows by default.
        model: The network.
        image: The image.
        low: Strength of a leaf of one colour.
        high: Strength of a leaf with as much detail as would split it.
    """
    factor, content = model.latent.factor, CONTENTS[detail.content]
    side = min(model.size) if tiling is None else min(tile_of(tiling, model)[0]) * factor
    smallest = max(detail.smallest or side // 4, factor)
    pixels = to_tensor(image)[0]
    leaves = quadtree(pixels, detail.threshold, max_depth=detail.depth, min_size=smallest, unit=factor, content=content)
    return leaves, leaf_denoise(pixels, leaves, detail.threshold, low, high, content=content)


def leaf_strengths(leaves: Sequence[Box], strengths: Sequence[float], size: tuple[int, int], factor: int) -> Tensor:
    """Strengths [1, h, w] of a latent from those of the leaves of an image of (height, width)."""
    height, width = (side // factor for side in size)
    return painted(leaf_tiles(leaves, height, width, factor), strengths, height, width)[0]
