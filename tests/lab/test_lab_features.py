"""What is measured on networks: distances to the reference, energy of guidance, and saturation along a run."""

import numpy as np
import polars
import pytest
import torch

from sigmafield.lab.bench import Bench
from sigmafield.lab.rows import frame
from sigmafield.lab.studies.guidance import GUIDANCE, saturation
from sigmafield.lab.studies.network_noise import SIDE, away_from, features_of
from sigmafield.lab.studies.noise import NOISE


def drawn(n, shift=0.0, seed=0):
    """Rows of n independent latents."""
    latents = torch.randn(n, 4, SIDE, SIDE, generator=torch.Generator().manual_seed(seed)) + shift
    return polars.DataFrame({"seed": range(n), "features": [features_of(one[None]) for one in latents]})


def test_samples_are_compared_with_other_seeds_of_the_reference():
    """So an arm that repeats the reference is as far from it as the reference from itself, as an equal law is."""
    reference = drawn(12)
    own, repeated, other = (away_from(rows, reference) for rows in (reference, drawn(12), drawn(12, seed=1)))
    for name in ("nearest", "frechet"):
        assert (own[name] > 0).all() and np.array_equal(own[name], repeated[name])
        assert other[name].mean() == pytest.approx(own[name].mean(), rel=0.25)


def test_another_law_is_farther_by_its_moments():
    """The Fréchet distance of N(μ, 1) to N(0, 1) is d μ²; d = 4 channels. Finite samples add that of equal laws."""
    reference = drawn(12)
    own, found = away_from(reference, reference), away_from(drawn(12, shift=1.0, seed=1), reference)
    assert found["frechet"].mean() - own["frechet"].mean() == pytest.approx(4, rel=0.1)
    assert found["nearest"].mean() > 1.1 * own["nearest"].mean()


@pytest.mark.usefixtures("few_channels")
def test_noise_on_a_network_has_a_reference(tmp_path):
    own = {"samplers": "euler_ancestral", "etas": "0,1", "s_noises": "1", "steps": 2, "reference": 4}
    experiment = NOISE.experiment({"model": "tiny", "seeds": 3}, own)
    assert [(arm.labels["sampler"], arm.recipe.steps) for arm in experiment.arms][-1] == ("reference", 4)
    reading = experiment.read(frame(experiment.run(tmp_path)))
    (records,) = reading.tables.values()
    assert records["sampler"].to_list() == ["euler_ancestral", "euler_ancestral", "reference"]
    assert sum("Fréchet" in finding for finding in reading.findings) == 2
    assert any("4 steps of dpmpp_2m" in line for line in experiment.cannot)


@pytest.mark.usefixtures("few_channels")
def test_saturation_is_measured_at_each_step(tmp_path):
    experiment = GUIDANCE.experiment({"model": "tiny", "seeds": 2}, {"cfgs": "1,8", "mods": "none", "steps": 3})
    rows = list(experiment.run(tmp_path))
    for row in rows:
        assert set(row.values) == set(experiment.measured)
        assert len(row.values["saturation"]) == 3 and all(0 <= share <= 1 for share in row.values["saturation"])
        assert row.values["energy"] > 0 and (row.values["added"] == 0) == (row.labels["cfg"] == 1)
    assert sum("saturated" in finding for finding in experiment.read(frame(rows)).findings) == 1
    job = Bench().open(experiment.arms[0].recipe).job
    assert job is not None
    grey = torch.zeros(1, 4, 16, 16)
    assert saturation(job, grey) == 0 and saturation(job, 1e6 * torch.randn(1, 4, 16, 16)) == 1
