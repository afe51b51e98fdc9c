"""Diversity and fidelity of a network's samples: the half of `lab noise` that reads features of latents.

The data that a network was trained on are not part of the package. What stands for them is the reference: samples of
the network's own ODE in many steps, an arm of the table like any other. Every sample is compared with those of the
other seeds, since at eta = 0 it is close to the reference of its own seed, whatever its distribution. The reference is
compared with its own other seeds in the same way, and that is the distance of a sampler without error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from sigmafield.core.arrays import Latent
from sigmafield.lab.columns import NFE, Column, label_of
from sigmafield.lab.distances import frechet_distance, nearest
from sigmafield.lab.drawing import distinct, lines, rows_of, words_of
from sigmafield.lab.experiment import Reading, Shown
from sigmafield.lab.plot import figure
from sigmafield.lab.statistics import interval, ratio, unsure

if TYPE_CHECKING:
    from polars import DataFrame

SIDE = 8
"""Side that a network's latent is reduced to for its features."""

REFERENCE: dict[str, str | int | float] = {"sampler": "reference", "eta": 0.0, "s_noise": 1.0}
"""Labels of the runs that stand for the data."""

FEATURES = {
    "nfe": NFE,
    "features": Column("features of the latent", f"the final latent, reduced to {SIDE} x {SIDE}"),
    "spread": Column("spread over seeds (rms of latents)", "mean distance of a seed's latent to the other seeds'"),
    "nearest": Column(
        "distance to the reference (rms of latents)", "from a latent to the nearest one of the reference's other seeds"
    ),
    "frechet": Column(
        "Fréchet distance to the reference",
        "squared Wasserstein-2 distance of Gaussians with the moments of the channels over the positions of a latent, "
        "and over those of the reference's other seeds",
    ),
    "retrieval": Column("share nearest to another seed of its prompt"),
}
"""What is measured on a network, and what follows from it for an arm."""


def features_of(x: Latent) -> list[float]:
    """The latent of one sample, or the last frame of it, reduced to 8 x 8: its channels one after another."""
    small = F.adaptive_avg_pool2d(x[:, :, -1] if x.ndim == 5 else x, SIDE)
    return [round(value, 4) for value in small.flatten().tolist()]


def read_network(table: DataFrame) -> Reading:
    """Spread over seeds, distances to the reference and retrieval, from the features of all rows of an arm."""
    import polars

    by = [*REFERENCE]
    reference = rows_of(table, **REFERENCE)
    measures: dict[tuple[Any, ...], dict[str, np.ndarray]] = {}
    for arm in table.select(by).unique(maintain_order=True).to_dicts():
        rows = rows_of(table, **arm)
        found = {"spread": spread_of(rows), **away_from(rows, reference)}
        retrieval = retrieval_of(rows)
        measures[tuple(arm.values())] = found if retrieval is None else {**found, "retrieval": retrieval}
    records = [
        {label_of(name): value for name, value in zip(by, key)}
        | {label_of(name, FEATURES): str(interval(each)) for name, each in found.items()}
        for key, found in measures.items()
    ]
    exact = measures.pop(tuple(REFERENCE.values()))
    findings: list[str] = []
    for (sampler, eta, s_noise), found in measures.items():
        name = f"{sampler}, eta = {eta:g}, s_noise = {s_noise:g}"
        still = measures.get((sampler, 0.0, 1.0))
        if still is not None and eta > 0:
            factor = ratio(found["spread"], still["spread"])
            findings.append(f"{name}: the spread over seeds is {factor} times that of eta = 0{unsure(factor, 1)}.")
        if len(exact["nearest"]) > 1:
            near, frechet = (ratio(found[each], exact[each]) for each in ("nearest", "frechet"))
            findings.append(
                f"{name}: the distance to the reference is {near} times that of the reference's seeds from each other"
                f"{unsure(near, 1)}, the Fréchet distance {frechet} times{unsure(frechet, 1)}."
            )
    names = ("spread", "nearest", "frechet")
    points = polars.DataFrame(
        [
            {"name": words_of({"sampler": key[0], "s_noise": key[2]}), "eta": key[1], "seed": k}
            | {name: float(found[name][k]) for name in names}
            for key, found in measures.items()
            for k in range(len(found["spread"]))
        ]
    )
    out, axes = figure(len(names), size=(5.0, 4.2))
    for one, name in zip(axes, names):
        lines(one, points, "eta", name, "name", FEATURES)
        one.axhline(float(exact[name].mean()), color="0.5", linestyle=":", label="reference")
    axes[0].legend(fontsize=8)
    meant = "; ".join(f"{FEATURES[name].label}: {FEATURES[name].about}" for name in names)
    caption = f"Means over seeds with intervals; the dotted lines are the reference's own. {meant}."
    return Reading(findings, {"spread": Shown(caption, out)}, {"All arms": polars.DataFrame(records)})


def spread_of(rows: DataFrame) -> np.ndarray:
    """For each seed: mean distance to the other seeds of the same prompt, over prompts."""
    found = []
    for points in _groups(rows):
        away = np.sqrt(np.square(points[:, None] - points[None]).mean(-1))
        found.append(away.sum(1) / max(len(points) - 1, 1))
    return np.mean(found, axis=0)


def away_from(rows: DataFrame, reference: DataFrame) -> dict[str, np.ndarray]:
    """For each seed: distances to the reference's other seeds of the same prompt, over prompts.

    The Fréchet distance is that of one image's positions, as in Shaham et al., arXiv:1905.01164. The channels at a
    position are few, so that their covariance is known from a single image; that of whole latents is not, from any
    number of seeds that a study has.

    Args:
        rows: The rows of an arm.
        reference: Those of the reference, with the same seeds and prompts.

    Returns:
        "nearest" and "frechet" [seeds] by their names; NaN where there is one seed.
    """
    found: dict[str, list[list[float]]] = {"nearest": [], "frechet": []}
    for own, other in zip(map(torch.from_numpy, _groups(rows)), map(torch.from_numpy, _groups(reference))):
        seeds = range(len(own))
        others = [torch.cat([other[:k], other[k + 1 :]]) for k in seeds]
        if len(own) < 2:
            near = frechet = [float("nan")]
        else:
            near = [float(nearest(own[k : k + 1], others[k])[0]) for k in seeds]
            frechet = [frechet_distance(_positions(own[k : k + 1]), _positions(others[k])) for k in seeds]
        found["nearest"].append(near)
        found["frechet"].append(frechet)
    return {name: np.mean(each, axis=0) for name, each in found.items()}


def retrieval_of(rows: DataFrame) -> np.ndarray | None:
    """For each seed: share of the prompts whose image is nearest to one of its own prompt and another seed."""
    points = np.array(_groups(rows))  # [prompts, seeds, d]
    if len(points) < 2:
        return None
    hits = []
    for k in range(points.shape[1]):
        others = np.delete(points, k, axis=1)
        away = np.square(points[:, k, None, None] - others[None]).mean(-1).min(-1)  # [prompts, prompts]
        hits.append(float((away.argmin(1) == np.arange(len(points))).mean()))
    return np.array(hits)


def _groups(rows: DataFrame) -> list[np.ndarray]:
    """Features [seeds, d] of each prompt, by seed."""
    own = [rows_of(rows, prompt=p) for p in distinct(rows, "prompt")] if "prompt" in rows.columns else [rows]
    return [np.array(group.sort("seed")["features"].to_list()) for group in own]


def _positions(features: torch.Tensor) -> torch.Tensor:
    """The channels at each position of latents whose features [n, C · 64] these are, [n · 64, C]."""
    return features.unflatten(1, (-1, SIDE * SIDE)).movedim(1, 2).flatten(0, 1)
