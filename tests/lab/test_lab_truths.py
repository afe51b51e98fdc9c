"""What is known of samplers in theory, found by the experiments on analytic models."""

import numpy as np
import pytest
import torch

from sigmafield.lab.drawing import mean, rows_of, values
from sigmafield.lab.problems import PROBLEMS
from sigmafield.lab.rows import frame
from sigmafield.lab.studies.adaptive import ADAPTIVE_STUDY
from sigmafield.lab.studies.guidance import GUIDANCE, band, share_within
from sigmafield.lab.studies.inpaint import INPAINT
from sigmafield.lab.studies.marginals import MARGINALS
from sigmafield.lab.studies.noise import NOISE
from sigmafield.lab.studies.schedules import SCHEDULES_STUDY
from sigmafield.lab.studies.transport import TRANSPORT, optimal, path_of


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """study, options of the model, its own options → the table."""

    def run(study, subject, options):
        return frame(study.experiment(subject, options).run(tmp_path_factory.mktemp(study.name)))

    return run


def test_ode_and_sde_have_the_exact_marginals(measured):
    """With small steps the energy distance to exact samples is 0 for both; with three steps of Euler it is not."""
    subject = {"particles": 200, "seeds": 3}
    table = measured(MARGINALS, subject, {"samplers": "dpmpp_2m_sde", "etas": "0,1", "steps": "24"})
    for eta in (0.0, 1.0):
        arm = {"sampler": "dpmpp_2m_sde", "eta": eta, "steps": 24}
        assert abs(mean(table, "end", **arm).value) < 0.02 and abs(mean(table, "end_spread", **arm).value) < 0.15
    rough = measured(MARGINALS, subject, {"samplers": "euler", "etas": "0", "steps": "3"})
    assert mean(rough, "end", sampler="euler", steps=3).low > 0.03


def test_energy_is_at_least_optimal_and_the_sde_is_the_schroedinger_bridge(measured):
    own = {"samplers": "heun,euler_ancestral", "etas": "1", "cfgs": "1", "schedules": "exponential", "steps": "12"}
    table = measured(TRANSPORT, {"particles": 120, "seeds": 3}, own)
    assert (table["energy"] >= table["coupling"] * (1 - 1e-9)).all()
    assert (table["coupling"] >= table["w2"] * (1 - 1e-9)).all()
    sde = rows_of(table, sampler="euler_ancestral")
    assert (sde["coupling"] / sde["entropic"]).mean() == pytest.approx(1, abs=0.06)
    assert (sde["coupling"] > 1.05 * sde["w2"]).all()  # noise costs


def test_energy_is_optimal_where_all_particles_move_alike():
    """The ODE scales an isotropic Gaussian: paths are straight and the map is optimal, so that energy = W₂²."""
    x = torch.randn(60, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    points = torch.stack([c * x for c in (10.0, 4.0, 1.5, 1.0)])
    assert path_of(points)["energy"] == pytest.approx(optimal(points[0], points[-1]), rel=1e-9)
    bent = torch.stack([points[0], points[1] + torch.tensor([3.0, 0, 0]), points[3]])
    assert path_of(bent)["energy"] > 1.05 * optimal(bent[0], bent[-1])


def test_diagonal_gaussians_are_mapped_optimally(measured):
    own = {"samplers": "heun", "etas": "0", "cfgs": "1", "schedules": "exponential", "steps": "12"}
    table = measured(TRANSPORT, {"model": "gaussian", "particles": 80, "seeds": 2}, own)
    assert table["map_over"].to_list() == pytest.approx([1, 1], rel=1e-9)
    assert (table["over"] > 1.0005).all()  # axes shrink at different times, so that ways are bent


def test_norms_stay_in_their_band_at_cfg_1_and_are_those_of_the_marginals(measured):
    own = {"cfgs": "1,20", "mods": "none", "steps": 12}
    table = measured(GUIDANCE, {"model": "mixture", "prompt": "0", "particles": 200, "seeds": 6}, own)
    for norm in ("x", "d"):
        assert np.mean([share_within(table, norm, k) for k in range(6)]) > 0.9
        low, high = band(table, norm)
        blown = np.mean(rows_of(table, cfg=20.0)[norm].to_list(), axis=0)
        assert ((blown < low) | (blown > high)).any()
    assert (rows_of(table, cfg=1.0)["added"] == 0).all() and (rows_of(table, cfg=1.0)["energy"] > 0).all()
    assert rows_of(table, cfg=20.0)["energy"].to_list() == pytest.approx(  # (w (C − U))² against ((w − 1) (C − U))²
        [added * (20 / 19) ** 2 for added in rows_of(table, cfg=20.0)["added"]]
    )
    start = np.mean([row[0] for row in rows_of(table, cfg=1.0)["x"].to_list()])
    law = PROBLEMS["mixture"]()
    exact = float(((law.means[0].square() + law.deviations[0].square()).mean() + 15.0**2).sqrt())
    assert start == pytest.approx(exact, rel=0.03)


def test_a_field_inpaints_the_exact_conditional_law(measured):
    """Projection does not, and neither changes what is known."""
    table = measured(INPAINT, {"particles": 100, "seeds": 4}, {"ways": "hard,soft,field", "steps": "16"})
    assert abs(mean(table, "inside", way="field").value) < 0.03
    assert mean(table, "inside", way="hard").value > 0.1
    assert values(table, "leakage", way="field").max() < 1e-12 and values(table, "leakage", way="hard").max() < 1e-12
    assert values(table, "leakage", way="soft").min() > 1e-4


def test_tighter_tolerances_cost_more_and_err_less(measured):
    own = {
        "rtols": "0.003,0.3",
        "atols": "0.0005",
        "orders": "3",
        "pids": "0/1/0",
        "samplers": "euler",
        "steps": "8,64",
    }
    table = measured(ADAPTIVE_STUDY, {"model": "gaussian", "particles": 32, "seeds": 2}, own)
    tight, loose = (rows_of(table, sampler="dpm_adaptive", rtol=rtol) for rtol in (0.003, 0.3))
    assert tight["nfe"].min() > loose["nfe"].max() and tight["error"].max() < 0.2 * loose["error"].min()
    assert (loose["nfe"] % 3 == 0).all()


def test_what_intervals_add_makes_up_the_error(measured):
    """Their sum bounds it from above, and the error falls with the number of steps."""
    own = {"schedules": "karras", "steps": "5,10", "samplers": "euler", "local_steps": 5}
    table = measured(SCHEDULES_STUDY, {"model": "gaussian", "particles": 16, "seeds": 2}, own)
    local = rows_of(table, steps=5)
    assert all(sum(added) > error * 0.999 for added, error in zip(local["added"].to_list(), local["error"].to_list()))
    assert all(len(added) == 5 for added in local["added"].to_list())
    assert rows_of(table, steps=10)["error"].mean() < 0.75 * local["error"].mean()


def test_more_noise_spreads_more(measured):
    own = {"samplers": "euler_ancestral", "etas": "0,1", "s_noises": "1,1.1", "steps": 16}
    table = measured(NOISE, {"particles": 300, "seeds": 3}, own)
    spread = {s: values(table, "diversity", eta=1.0, s_noise=s) for s in (1.0, 1.1)}
    assert (spread[1.1] > spread[1.0]).all()
    assert values(table, "diversity", eta=0.0).mean() == pytest.approx(1, abs=0.1)
