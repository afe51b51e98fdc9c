"""The nodes of ComfyUI-TiledDiffusion: tiles around a network, tiled VAE, and tiles from a quadtree of an image."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

import torch
from torch import Tensor

from sigmafield.comfyui.declare import node
from sigmafield.comfyui.sockets import Input, Socket
from sigmafield.comfyui.tiles import GridTiles, LeafTiles, Quadtree, Shifts
from sigmafield.comfyui.values import Image, Latent, Mask, Model, Vae
from sigmafield.comfyui.widgets import Drawn, Share
from sigmafield.core.annotations import Range
from sigmafield.models.vae.tiled import Collected
from sigmafield.spatial.quadtree import CONTENTS, leaf_denoise, quadtree, square

PACK = "custom_nodes.ComfyUI-TiledDiffusion"
TileSide = Annotated[int, Range(16, 8192), Input(step=16)]
TileBatch = Annotated[int, Range(1, 8192), Input(step=1)]
Quad = Annotated[Quadtree, Socket("QUADTREE")]


@node("TiledDiffusion", "_for_testing", title="Tiled Diffusion", module=PACK)
def tiled_diffusion(
    model: Model,
    method: Literal["MultiDiffusion", "Mixture of Diffusers", "SpotDiffusion"] = "Mixture of Diffusers",
    tile_width: TileSide = 768,
    tile_height: TileSide = 768,
    tile_overlap: Annotated[int, Range(0, 2048), Input(step=32)] = 64,
    tile_batch_size: TileBatch = 4,
) -> Model:
    """Shows the network tiles of the latent and blends its predictions.

    Args:
        model: The model.
        method: How predictions are blended, or SpotDiffusion's disjoint tiles that are shifted at each step.
        tile_width: Width of a tile in pixels.
        tile_height: Height of a tile in pixels.
        tile_overlap: Pixels that neighbours share at least.
        tile_batch_size: Most tiles of one network call.
    """
    return replace(model, tiles=GridTiles(method, tile_width, tile_height, tile_overlap, tile_batch_size))


@node("SpotDiffusionParams_TiledDiffusion", "_for_testing", title="SpotDiffusion Parameters", module=PACK)
def spot_diffusion_params(
    model: Model, shift_method: Literal["random", "sorted", "fibonacci"], seed: Drawn = 0
) -> Model:
    """Says how SpotDiffusion shifts its tiles; without it, at random by the run's seed.

    Args:
        model: The model.
        shift_method: The order of the shifts.
        seed: Seed of the shifts.
    """
    return replace(model, shifts=Shifts(shift_method, seed))


@node("VAEEncodeTiled_TiledDiffusion", "_for_testing", title="Tiled VAE Encode", module=PACK)
def vae_encode_tiled(
    pixels: Image,
    vae: Vae,
    tile_size: Annotated[int, Range(256, 4096), Input(step=16)] = 512,
    fast: bool = True,
    color_fix: bool = True,
) -> Latent:
    """Encodes images tile by tile.

    Args:
        pixels: The images.
        vae: The VAE.
        tile_size: Side of a tile in pixels.
        fast: Whether statistics of the norms are estimated from a small image.
        color_fix: Whether, with fast, they are estimated only down to the first change of size.
    """
    how: Collected = ("estimated_start" if color_fix else "estimated") if fast else "pooled"
    made = vae.tiled(max(tile_size // vae.factor, 1), how).encode(pixels[..., :3].movedim(-1, 1))
    return {"samples": made.cpu()}


@node("VAEDecodeTiled_TiledDiffusion", "_for_testing", title="Tiled VAE Decode", module=PACK)
def vae_decode_tiled(
    samples: Latent, vae: Vae, tile_size: Annotated[int, Range(384, 4096), Input(step=16)] = 512, fast: bool = True
) -> Image:
    """Decodes latents tile by tile.

    Args:
        samples: The latents.
        vae: The VAE.
        tile_size: Side of a tile in pixels.
        fast: Whether statistics of the norms are estimated from a small image.
    """
    how: Collected = "estimated" if fast else "pooled"
    return vae.tiled(max(tile_size // vae.factor, 1), how).decode(samples["samples"]).cpu().movedim(1, -1)


@node(
    "QuadtreeTiles", "_for_testing", title="Quadtree Tiles", outputs=("quadtree", "strengths", "overlay"), module=PACK
)
def quadtree_tiles(
    image: Image,
    variance: Literal["rgb_distance", "mad", "rgb_std255", "combined"] = "rgb_distance",
    content_threshold: Annotated[float, Range(0, 200), Input(step=0.001)] = 0.03,
    max_depth: Annotated[int, Range(1, 8)] = 4,
    min_tile_size: Annotated[int, Range(64, 1024), Input(step=8)] = 256,
    min_denoise: Share = 0.2,
    max_denoise: Share = 0.8,
    root: Literal["rectangular", "square_pow2"] = "rectangular",
    strengths_from: Literal["area", "content"] = "area",
    line_thickness: Annotated[int, Range(1, 10)] = 2,
) -> tuple[Quad, Mask, Image]:
    """Splits an image into tiles that are small where there is detail, with a denoise strength for each.

        d = min + (max − min) (1 − area/largest area)      from the area

    Args:
        image: The image; the first of a batch.
        variance: How the detail of a tile is measured.
        content_threshold: Detail above which a tile is split.
        max_depth: How often a tile may be split.
        min_tile_size: Least side of a tile in pixels.
        min_denoise: Strength of the largest tiles, or of tiles of one colour.
        max_denoise: Strength that the smallest tiles come near to, or that of tiles with detail.
        root: Whether splitting begins with the image, or with a square around it whose sides are halved.
        strengths_from: Whether strengths follow from the areas of the tiles or from their detail.
        line_thickness: Pixels of the lines of the overlay.
    """
    pixels, content = image[0, ..., :3].movedim(-1, 0), CONTENTS[CONTENT_NAMES[variance]]
    start = square(*pixels.shape[1:]) if root == "square_pow2" else None
    leaves = quadtree(
        pixels, content_threshold, max_depth=max_depth, min_size=min_tile_size, content=content, root=start
    )
    if strengths_from == "area":
        areas = [leaf.height * leaf.width for leaf in leaves]
        strengths = [min_denoise + (max_denoise - min_denoise) * (1 - area / max(areas)) for area in areas]
    else:
        strengths = leaf_denoise(pixels, leaves, content_threshold, min_denoise, max_denoise, content=content)
    tree = Quadtree(leaves, tuple(strengths), (image.shape[1], image.shape[2]))
    return tree, tree.mask(), overlay(image[:1, ..., :3], tree, line_thickness)


CONTENT_NAMES = {
    "rgb_distance": "colour_distance", "mad": "mean_deviation", "rgb_std255": "deviation_255", "combined": "edges",
}  # fmt: skip
"""Our names of the ways to measure detail."""


def overlay(image: Tensor, tree: Quadtree, width: int) -> Tensor:
    """The image with a frame around each leaf: red at the largest strength, blue at the least."""
    out = image.clone()
    low, high = min(tree.strengths), max(tree.strengths)
    for leaf, strength in zip(tree.leaves, tree.strengths):
        q = (strength - low) / (high - low + 1e-8)
        colour = torch.tensor([int(255 * q) / 255, 0.0, int(255 * (1 - q)) / 255])
        part = out[:, leaf.y : leaf.y + leaf.height, leaf.x : leaf.x + leaf.width]
        part[:, :width] = part[:, -width:] = colour
        part[:, :, :width] = part[:, :, -width:] = colour
    return out


@node("QuadtreeTiledDiffusion", "_for_testing", title="Tiled Diffusion (Quadtree)", module=PACK)
def quadtree_tiled_diffusion(
    model: Model,
    quadtree: Quad,
    tile_overlap: Annotated[int, Range(0, 2048), Input(step=8)] = 0,
    tile_batch_size: TileBatch = 4,
) -> Model:
    """Shows the network the tiles of a quadtree and blends its predictions.

    Args:
        model: The model.
        quadtree: The tiles, of an image of the size that is drawn.
        tile_overlap: Pixels by which tiles reach into their neighbours.
        tile_batch_size: Most tiles of equal size in one network call.
    """
    return replace(model, tiles=LeafTiles(quadtree, tile_overlap, tile_batch_size))
