"""What does noise buy? Diversity against fidelity over η and s_noise of samplers that draw noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import torch

from sigmafield.core.annotations import Range
from sigmafield.core.parameters import settle
from sigmafield.core.plain import to_plain
from sigmafield.core.registry import Spec
from sigmafield.lab.bench import Bench
from sigmafield.lab.columns import NFE, Column
from sigmafield.lab.distances import energy_distance, gaussian_distance, mean_pairwise, sliced_wasserstein
from sigmafield.lab.drawing import distinct, lines, rows_of, summary, values
from sigmafield.lab.experiment import Arm, Experiment, Reading, Shown, Value
from sigmafield.lab.plot import figure
from sigmafield.lab.statistics import difference, ratio, unsure
from sigmafield.lab.studies.network_noise import FEATURES, REFERENCE, features_of, read_network
from sigmafield.lab.studies.study import Study
from sigmafield.lab.subject import SubjectOptions, names_in, numbers_in
from sigmafield.noise.sources import seed_word
from sigmafield.runs.run import finish
from sigmafield.samplers import SAMPLERS

if TYPE_CHECKING:
    from polars import DataFrame

PARTICLES = {
    "nfe": NFE,
    "diversity": Column(
        "diversity (exact samples: 1)", "mean distance between particles, as a share of that of exact samples"
    ),
    "sliced": Column("sliced Wasserstein distance to the data", "to as many exact samples"),
    "energy": Column("energy distance to the data", "to as many exact samples, without bias: 0 for the same law"),
    "frechet": Column(
        "Fréchet distance to the data",
        "Wasserstein-2 distance, squared, of Gaussians with the moments of the particles and of the law",
    ),
}
"""What is measured on an analytic model."""


@dataclass(frozen=True, kw_only=True)
class NoiseOptions:
    """Samplers, their noise, and the runs.

    Args:
        samplers: Samplers that draw noise, with commas between them.
        etas: Values of eta, with commas between them; 0 is the ODE.
        s_noises: Values of s_noise, with commas between them.
        schedule: Schedule of all runs.
        steps: Number of steps of all runs.
        cfg: Guidance scale of all runs.
        reference: For a network: number of steps of the ODE's runs, by dpmpp_2m, that stand for its own distribution.
        prompts: For a network: several prompts, with semicolons between them, so that it can be measured whether an
            image is nearest to others of its prompt; None is that of the model options alone.
    """

    samplers: str | Sequence[str] = "euler_ancestral,dpmpp_2m_sde,dpmpp_sde"
    etas: str | Sequence[float] = "0,0.25,0.5,1"
    s_noises: str | Sequence[float] = "0.95,1,1.05"
    schedule: str = "karras"
    steps: Annotated[int, Range(1, 1000)] = 20
    cfg: Annotated[float, Range(0, 100)] = 1.0
    reference: Annotated[int, Range(2, 1000)] = 60
    prompts: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "samplers", names_in("samplers", self.samplers))
        object.__setattr__(self, "etas", numbers_in("etas", self.etas))
        object.__setattr__(self, "s_noises", numbers_in("s_noises", self.s_noises))
        settle(self, "lab noise")
        for name in self.samplers:
            missing = [each for each in ("eta", "s_noise") if each not in SAMPLERS.lookup(name).parameters]
            if missing:
                raise ValueError(f"{name} has no parameter {missing[0]}: `lab noise` compares samplers with both")


def measured(bench: Bench, arm: Arm) -> Mapping[str, Value]:
    """Runs an arm; of an analytic model its particles against exact ones, of a network the features of its latent."""
    opened = bench.open(arm.recipe)
    run, start = opened.run()
    state = finish(run, start)
    x = state.x
    if opened.law is not None:
        generator = torch.Generator().manual_seed(seed_word(int(arm.recipe.seed), (2,)) % 2**63)
        exact = opened.law.drawn(len(x), 0.0, generator)
        flat = x.flatten(1)
        return {
            "nfe": state.nfe,
            "diversity": mean_pairwise(x) / mean_pairwise(exact),
            "sliced": sliced_wasserstein(x, exact),
            "energy": energy_distance(x, exact),
            "frechet": gaussian_distance((flat.mean(0), flat.T.cov()), opened.law.moments(0.0)),
        }
    return {"nfe": state.nfe, "features": features_of(x)}


def noise(subject: SubjectOptions, options: NoiseOptions) -> Experiment:
    """The experiment with these options."""
    prompts = [each.strip() for each in options.prompts.split(";")] if options.prompts else [None]
    if subject.is_analytic and options.prompts:
        raise ValueError("prompts are for networks: give the components of an analytic model with prompt")
    shared = {"schedule": options.schedule, "steps": options.steps, "cfg": options.cfg}
    runs: list[tuple[dict[str, str | int | float], dict[str, Any]]] = []
    for name in options.samplers:
        for eta in map(float, options.etas):
            for s_noise in map(float, options.s_noises if eta else [1.0]):
                spec = Spec(name, {"eta": eta, "s_noise": s_noise})
                runs.append(({"sampler": name, "eta": eta, "s_noise": s_noise}, {**shared, "sampler": spec}))
    if not subject.is_analytic:
        runs.append((REFERENCE, {**shared, "sampler": "dpmpp_2m", "steps": options.reference}))
    arms: list[Arm] = []
    for labels, entries in runs:
        recipe = subject.recipe(**entries)
        for prompt in prompts:
            if prompt is None:
                arms.append(Arm(labels, recipe))
            else:
                own = recipe.to_plain() | {"prompt": prompt}
                arms.append(Arm({**labels, "prompt": prompt}, type(recipe).from_plain(own)))
    return Experiment(
        "noise",
        "What does noise buy: how do diversity and fidelity change with eta and s_noise?",
        {**to_plain(subject), **to_plain(options)},
        arms,
        subject.seed_list,
        measured,
        PARTICLES if subject.is_analytic else {name: FEATURES[name] for name in ("nfe", "features")},
        read if subject.is_analytic else read_network,
        [
            "Whether people prefer the images.",
            *(
                []
                if subject.is_analytic
                else [
                    "Distances to the data that the network was trained on, which are not part of the package: samples "
                    f"of the network's own ODE in {options.reference} steps of dpmpp_2m stand for them. Where noise "
                    "corrects an error of the network, that counts as a distance.",
                    "Features are those of the network's own latent; features of another network, such as CLIP's, are "
                    "left out, since no weights of it were given.",
                ]
            ),
            "Errors of the network: samplers are compared on the network as it is.",
        ],
    )


def read(table: DataFrame) -> Reading:
    """Each arm with noise against the ODE of the same sampler, seed by seed."""
    findings: list[str] = []
    for sampler in distinct(table, "sampler"):
        rows = rows_of(table, sampler=sampler)
        etas = sorted(distinct(rows, "eta"))
        for eta in [e for e in etas if e > 0] if 0.0 in etas else []:
            own = rows_of(rows, eta=eta)
            s = 1.0 if 1.0 in distinct(own, "s_noise") else distinct(own, "s_noise")[0]
            ode, sde = rows_of(rows, eta=0.0), rows_of(own, s_noise=s)
            spread = difference(values(sde, "diversity"), values(ode, "diversity"))
            away = ratio(values(sde, "sliced"), values(ode, "sliced"))
            findings.append(
                f"{sampler}, eta = {eta:g}, s_noise = {s:g}, against eta = 0: diversity changes by {spread}"
                f"{unsure(spread, 0)}, the sliced distance to the data by a factor of {away}{unsure(away, 1)}."
            )
        findings += [_s_noise(rows_of(rows, eta=eta), sampler, eta) for eta in etas[-1:] if eta > 0]
    out, axes = figure(2, size=(5.4, 4.0))
    plain = table.filter(table["s_noise"] == 1.0) if 1.0 in distinct(table, "s_noise") else table
    for one, column in zip(axes, ("diversity", "sliced")):
        lines(one, plain, "eta", column, "sampler", PARTICLES)
    axes[0].axhline(1.0, color="0.5", linestyle=":")
    axes[0].legend(fontsize=8)
    shown = Shown("Diversity, 1 being that of exact samples, and distance to the data, at s_noise = 1.", out)
    measures = [name for name in PARTICLES if name != "nfe"]
    tables = {"All arms": summary(table, ["sampler", "eta", "s_noise"], measures, PARTICLES)}
    return Reading([f for f in findings if f], {"noise": shown}, tables)


def _s_noise(rows: DataFrame, sampler: str, eta: float) -> str:
    """A sentence about the largest s_noise against 1; "" where there is only one."""
    found = sorted(distinct(rows, "s_noise"))
    if len(found) < 2 or 1.0 not in found:
        return ""
    other = found[-1] if found[-1] != 1.0 else found[0]
    spread = difference(values(rows, "diversity", s_noise=other), values(rows, "diversity", s_noise=1.0))
    away = ratio(values(rows, "sliced", s_noise=other), values(rows, "sliced", s_noise=1.0))
    return (
        f"{sampler}, eta = {eta:g}: s_noise = {other:g} against 1 changes diversity by {spread}{unsure(spread, 0)} "
        f"and the sliced distance by a factor of {away}{unsure(away, 1)}."
    )


NOISE = Study(
    "noise", NoiseOptions, noise,
    quick={"samplers": "euler_ancestral,dpmpp_2m_sde", "etas": "0,0.5,1", "s_noises": "1,1.05"},
    quick_network={"samplers": "euler_ancestral", "etas": "0,1", "steps": 10, "reference": 30},
    subject={"particles": 1000}, quick_subject={"seeds": 4, "particles": 500},
)  # fmt: skip
"""`sigmafield lab noise`."""
