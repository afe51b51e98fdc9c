"""What a run does when memory does not suffice: fewer rows per network call, then the VAE on less at once.

Steps and decodings are pure, so what failed is done again in less memory, from the same state.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from sigmafield.models.bundle import Pipeline
from sigmafield.models.vae.vae import Codec, Vae
from sigmafield.recipes.recipe import Recipe

SIGNS = (
    "out of memory", "defaultcpuallocator", "can't allocate memory", "cannot allocate memory", "alloc_failed",
    "could not create a primitive", "could not create a memory", "can't start new thread",
)  # fmt: skip
"""What errors about memory say that have no class of their own, in lower case."""

VAE_TILES = (64, 32, 16)
"""Latent positions along a side that a tile of the VAE owns, one after another until one fits."""

PROMPTS = 3
"""Prompts that guidance asks the network about in one call, at most, apart from regions."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory did not suffice, on any device."""
    if isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in SIGNS)


def fewer_rows(recipe: Recipe, pipe: Pipeline) -> Pipeline | None:
    """The model with half as many rows in one network call; None where there is one already.

    Args:
        recipe: What is drawn, which says how many rows there are without a limit.
        pipe: The model.
    """
    most = pipe.model.max_rows or most_rows(recipe)
    return replace(pipe, model=replace(pipe.model, max_rows=most // 2)) if most > 1 else None


def most_rows(recipe: Recipe) -> int:
    """Rows of one network call without a limit, at most: samples × prompts × tiles that share a call."""
    tiles = recipe.tiling.batch if recipe.tiling else recipe.demofusion.batch if recipe.demofusion else 1
    return recipe.batch * (PROMPTS + len(recipe.regions)) * tiles


def vae_savings(vae: Vae) -> Iterator[tuple[str, Vae]]:
    """The VAE in less and less memory, each with how in words: image by image, then in smaller and smaller tiles.

    Images are the same up to rounding; attention, which some VAEs have at their lowest level, is within tiles.
    """
    yield (
        "the VAE on one image at a time",
        replace(vae, encoder=one_by_one(vae.encoder), decoder=one_by_one(vae.decoder)),
    )
    if vae.in_parts:
        for tile in VAE_TILES:
            yield f"the VAE in tiles of {tile * vae.factor} pixels", vae.tiled(tile, "exact")


def one_by_one(codec: Codec) -> Codec:
    """An encoder or decoder that is given one sample at a time."""

    def each(x: Tensor) -> Tensor:
        return torch.cat([codec(one) for one in x.split(1)])

    return each


def release() -> None:
    """Give back what failed work has left: its tensors, and the memory that CUDA's allocator keeps for itself."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
