"""Tiles as the node pack Tiled Diffusion has them: what a model's network is shown at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sigmafield.core.arrays import Latent, Sigma
from sigmafield.core.conditioning import Cond
from sigmafield.core.geometry import Box, Window, gaussian, leaf_tiles, mixture_gaussian, uniform
from sigmafield.core.protocols import Ctx, Model
from sigmafield.core.registry import named
from sigmafield.guidance.hooks import ModelHook
from sigmafield.spatial.tiled_model import ORDERS, Spot, Tiled, fixed_cover, grid_cover, spot_shifts

MARGIN = 4
"""Latent positions that an overlap is smaller than a tile."""
WINDOWS: dict[str, Window] = {"MultiDiffusion": uniform, "Mixture of Diffusers": mixture_gaussian}


@dataclass(frozen=True)
class Shifts:
    """How SpotDiffusion shifts its tiles.

    Args:
        order: One of `ORDERS`.
        seed: Seed of the shifts; None: the run's.
    """

    order: str = "random"
    seed: int | None = None

    def __post_init__(self) -> None:
        named(ORDERS, self.order, "shift_method")


@dataclass(frozen=True)
class GridTiles:
    """A grid of tiles.

    Args:
        method: "MultiDiffusion", "Mixture of Diffusers" or "SpotDiffusion".
        width: Width of a tile in pixels.
        height: Height of a tile in pixels.
        overlap: Pixels that neighbours share at least.
        batch: Most tiles of one network call.
    """

    method: str = "Mixture of Diffusers"
    width: int = 768
    height: int = 768
    overlap: int = 64
    batch: int = 4

    def hook(self, factor: int, seed: int, shifts: Shifts) -> ModelHook:
        """Shows a network tiles.

        Args:
            factor: Pixels per latent position.
            seed: The run's seed.
            shifts: How SpotDiffusion shifts them.
        """
        tile = (self.height // factor, self.width // factor)
        overlap = max(0, min(self.overlap // factor, min(tile) - MARGIN))
        if self.method in WINDOWS:
            cover, window = grid_cover(tile, overlap), WINDOWS[self.method]
            return lambda model: Tiled(model, cover, window, self.batch)
        shift_seed, order = seed if shifts.seed is None else shifts.seed, ORDERS[shifts.order]

        def spot(model: Model) -> Model:
            def shown(x: Latent, sigma: Sigma, conds: Sequence[Cond], ctx: Ctx) -> list[Tensor]:
                sigmas = ctx.span.sigmas
                if sigmas is None:
                    raise ValueError("SpotDiffusion needs a sampler that follows its schedule")
                table = spot_shifts(len(sigmas) - 1, tile, shift_seed, order)
                return Spot(model, tile, sigmas, table, overlap, self.batch)(x, sigma, conds, ctx)

            return shown

        return spot


@dataclass(frozen=True)
class Quadtree:
    """The leaves of an image's quadtree.

    Args:
        leaves: Boxes in pixels that make up the image.
        strengths: Denoise strength of each.
        size: (height, width) of the image.
    """

    leaves: Sequence[Box]
    strengths: Sequence[float]
    size: tuple[int, int]

    def mask(self) -> Tensor:
        """The strengths as a mask [1, height, width]."""
        out = torch.zeros(1, *self.size)
        for leaf, strength in zip(self.leaves, self.strengths):
            out[:, leaf.y : leaf.y + leaf.height, leaf.x : leaf.x + leaf.width] = strength
        return out


@dataclass(frozen=True)
class LeafTiles:
    """Tiles of a quadtree.

    Args:
        tree: The quadtree.
        overlap: Pixels by which tiles reach into their neighbours.
        batch: Most tiles of equal size in one network call.
    """

    tree: Quadtree
    overlap: int = 0
    batch: int = 4

    def hook(self, factor: int, seed: int, shifts: Shifts) -> ModelHook:
        """Shows a network the leaves; arguments as for `GridTiles.hook`."""
        height, width = (side // factor for side in self.tree.size)
        tiles = leaf_tiles(self.tree.leaves, height, width, factor, self.overlap // factor)
        cover = fixed_cover(tiles, height, width)
        return lambda model: Tiled(model, cover, gaussian, self.batch)
