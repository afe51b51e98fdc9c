"""Nodes that join, cut and repeat batches of latents, and the frames of latents of videos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Annotated, Literal, NamedTuple

import torch
from torch import Tensor

from sigmafield.comfyui.declare import node
from sigmafield.comfyui.scaling import matched
from sigmafield.comfyui.sockets import Autogrow, Input, Socket
from sigmafield.comfyui.values import Latent, LatentDict
from sigmafield.comfyui.widgets import Batch
from sigmafield.core.annotations import Range
from sigmafield.core.linear import filled
from sigmafield.core.resize import resize_mask

Count = Annotated[int, Range(1, 64)]
Positions = Annotated[int, Range(-16384, 16384), Input(step=1)]
AXES = {"x": -1, "y": -2, "t": -3}
"""Axes of latents by their names in nodes; t is that of the frames in [B, C, frames, H, W]."""


def _indices(latent: LatentDict) -> list[int]:
    return list(latent.get("batch_index", range(len(latent["samples"]))))


def _with_mask(latent: LatentDict, mask: Tensor | None) -> LatentDict:
    return latent if mask is None else {**latent, "noise_mask": mask}


@node("LatentFromBatch", "latent/batch", title="Latent From Batch")
def latent_from_batch(samples: Latent, batch_index: Annotated[int, Range(0, 63)] = 0, length: Count = 1) -> Latent:
    """Takes some of a batch of latents, which keep the noise that they have there.

    Args:
        samples: The batch.
        batch_index: The first that is taken.
        length: Number of those that are taken.
    """
    x, mask = samples["samples"], samples.get("noise_mask")
    part = slice(min(len(x) - 1, batch_index), batch_index + length)
    made: LatentDict = {**samples, "samples": x[part], "batch_index": _indices(samples)[part]}
    return _with_mask(made, mask if mask is None or len(mask) == 1 else filled(mask, len(x), 0)[part])


@node("RepeatLatentBatch", "latent/batch", title="Repeat Latent Batch")
def repeat_latent_batch(samples: Latent, amount: Count = 1) -> Latent:
    """Repeats a batch of latents; the copies have other noise.

    Args:
        samples: The batch.
        amount: How often it is there afterwards.
    """
    x, mask = samples["samples"], samples.get("noise_mask")
    made: LatentDict = {**samples, "samples": filled(x, len(x) * amount, 0)}
    if "batch_index" in samples:
        known = samples["batch_index"]
        step = max(known) - min(known) + 1
        made = {**made, "batch_index": [each + k * step for k in range(amount) for each in known]}
    return _with_mask(made, mask if mask is None or len(mask) == 1 else filled(mask, len(mask) * amount, 0))


def _joined(latents: Sequence[LatentDict]) -> LatentDict:
    """The batches one after the other, with the size and the other keys of the first."""
    first = latents[0]["samples"]
    made = torch.cat([matched(each["samples"], first) for each in latents])
    return {**latents[0], "samples": made, "batch_index": [k for each in latents for k in _indices(each)]}


@node("LatentBatch", "latent/batch", version=3, deprecated=True)
def latent_batch(samples1: Latent, samples2: Latent) -> Latent:
    """Joins two batches of latents; without indices of their own, both have the noise of the first images.

    Args:
        samples1: The first batch.
        samples2: The second batch, which gets the size of the first.
    """
    return _joined([samples1, samples2])


@node("BatchLatentsNode", "latent", title="Batch Latents", version=3)
def batch_latents(latents: Annotated[Mapping[str, LatentDict], Autogrow(Latent, "latent", "latent", 2, 50)]) -> Latent:
    """Joins batches of latents; all get the size of the first.

    Args:
        latents: The batches.
    """
    if not latents:
        raise ValueError("BatchLatentsNode needs at least one batch of latents")
    return _joined(list(latents.values()))


class _One(NamedTuple):
    """One latent of a batch with what belongs to it."""

    sample: Tensor
    mask: Tensor
    index: int


def _split(latents: Sequence[LatentDict]) -> list[_One]:
    """All latents of all batches; those without a mask get one of ones, those without indices go on counting."""
    found: list[_One] = []
    for latent in latents:
        x = latent["samples"]
        ones = torch.ones(len(x), 1, x.shape[-2] * 8, x.shape[-1] * 8)
        masks = filled(latent.get("noise_mask", ones), len(x), 0)
        indices = latent.get("batch_index", range(len(found), len(found) + len(x)))
        found += map(_One, x, masks, indices)
    return found


@node("RebatchLatents", "latent/batch", title="Rebatch Latents", version=3, takes_lists=True)
def rebatch_latents(
    latents: Sequence[Latent], batch_size: Sequence[Batch] = (1,)
) -> Annotated[list[LatentDict], Socket("LATENT", listed=True)]:
    """Makes batches of another size of lists of latents; latents of different sizes are not joined.

    Args:
        latents: The latents.
        batch_size: Number of latents in a batch.
    """
    found: list[LatentDict] = []
    for _, same in groupby(_split(latents), lambda each: each.sample.shape):
        group = list(same)
        for start in range(0, len(group), batch_size[0]):
            part = group[start : start + batch_size[0]]
            masks = torch.stack([resize_mask(each.mask, part[0].mask.shape[-2:]) for each in part])
            made: LatentDict = {
                "samples": torch.stack([each.sample for each in part]),
                "batch_index": [each.index for each in part],
            }
            found.append(_with_mask(made, None if masks.mean() == 1 else masks))
    return found


@node("LatentBatchSeedBehavior", "latent/advanced", version=3)
def latent_batch_seed_behavior(samples: Latent, seed_behavior: Literal["random", "fixed"] = "fixed") -> Latent:
    """Says whether the latents of a batch have the same noise.

    Args:
        samples: The batch.
        seed_behavior: "fixed" gives all the noise of the first, "random" gives each its own.
    """
    if seed_behavior == "random":
        made = samples.copy()
        made.pop("batch_index", None)
        return made
    return {**samples, "batch_index": [samples.get("batch_index", [0])[0]] * len(samples["samples"])}


@node("LatentConcat", "latent/advanced", version=3)
def latent_concat(samples1: Latent, samples2: Latent, dim: Literal["x", "-x", "y", "-y", "t", "-t"]) -> Latent:
    """Puts latents next to each other.

    Args:
        samples1: The first latents.
        samples2: The second latents.
        dim: Where the second ones are put: x at the right, y below, t after; with "-" on the other side.
    """
    first = samples1["samples"]
    pair = [first, filled(samples2["samples"], len(first), 0)]
    return {**samples1, "samples": torch.cat(pair[::-1] if dim[0] == "-" else pair, AXES[dim[-1]])}


@node("LatentCut", "latent/advanced", version=3)
def latent_cut(
    samples: Latent,
    dim: Literal["x", "y", "t"],
    index: Positions = 0,
    amount: Annotated[int, Range(1, 16384), Input(step=1)] = 1,
) -> Latent:
    """Takes columns, rows or frames out of latents.

    Args:
        samples: The latents.
        dim: What is taken: columns, rows or frames.
        index: The first that is taken; negative numbers count from the end.
        amount: Number of those that are taken, as far as they are there.
    """
    x = samples["samples"]
    n = x.shape[AXES[dim]]
    start = min(index, n - 1) if index >= 0 else n + max(index, -n)
    return {**samples, "samples": x.narrow(AXES[dim], start, min(amount, n - start))}


@node("LatentCutToBatch", "latent/advanced", version=3)
def latent_cut_to_batch(
    samples: Latent,
    dim: Literal["t", "x", "y"],
    slice_size: Annotated[int, Range(1, 16384), Input(step=1)] = 1,
) -> Latent:
    """Cuts latents into slices of equal size, which become the batch; what is left over is dropped.

    Args:
        samples: The latents.
        dim: What is cut: frames, columns or rows; latents of images have no frames and stay as they are.
        slice_size: Number of frames, columns or rows of a slice.
    """
    x, axis = samples["samples"], AXES[dim]
    if dim == "t" and x.ndim == 4:
        return samples
    size = min(slice_size, x.shape[axis])
    pieces = x.narrow(axis, 0, x.shape[axis] // size * size).split(size, axis)
    return {**samples, "samples": torch.stack(pieces, 1).flatten(0, 1)}


@node("ReplaceVideoLatentFrames", "latent/batch", version=3)
def replace_video_latent_frames(destination: Latent, index: Positions = 0, source: Latent | None = None) -> Latent:
    """Puts frames into the latents of a video in place of those that are there.

    Args:
        destination: The latents of the video.
        index: The first frame that is replaced; negative numbers count from the end.
        source: The latents of the new frames; without them nothing changes.
    """
    if source is None:
        return destination
    x, new = destination["samples"], source["samples"]
    first = index if index >= 0 else x.shape[2] + index
    if x.ndim != 5 or new.ndim != 5 or not 0 <= first <= x.shape[2] - new.shape[2]:
        raise ValueError(
            f"ReplaceVideoLatentFrames needs {new.shape[2]} frames from index {index} in the destination; "
            f"got latents of shape {tuple(x.shape)} and {tuple(new.shape)}"
        )
    out = x.clone()
    out[:, :, first : first + new.shape[2]] = new
    return {**destination, "samples": out}


@node("TrimVideoLatent", "latent/video", version=3)
def trim_video_latent(samples: Latent, trim_amount: Annotated[int, Range(0, 99999)] = 0) -> Latent:
    """Removes the first frames of the latents of a video.

    Args:
        samples: The latents.
        trim_amount: Number of frames of the latents.
    """
    return {**samples, "samples": samples["samples"][:, :, trim_amount:]}
