"""`sigmafield samplers NAME` and `sigmafield cite`, as a user runs them."""

import json
import re

import pytest

from command_line import run
from sigmafield.samplers import SAMPLERS


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.typed_elsewhere
def test_every_method_is_explained(name):
    result = run("samplers", name)
    assert result.exit_code == 0, result.output
    sampler = SAMPLERS[name]
    assert sampler.step.__doc__.splitlines()[0] in result.output.replace("\n", " ")
    assert all(key in result.output for key in sampler.defaults)
    assert f"sigmafield cite {name}" in result.output
    assert bool(re.search(r"term +at σ +weight", result.output)) == sampler.linear


def test_one_method_in_full():
    text = " ".join(run("samplers", "dpmpp_2m_sde").output.split())
    for part in (
        "x' = a x + (b + w) D − w D₋ + c s_noise ξ",
        "order 2",
        "noise Brownian",
        "dpmpp_2m_sde_heun; there solver = heun",
        "eta 1.0 eta ≥ 0",
        "solver midpoint midpoint or heun",
        "x' at σ' = 0.3256 from x at σ = 0.8366, step 5 of 8 (Karras, VE)",
        "D₋₁ 1.922",
        "From arXiv:2211.01095 Sec. 5: Lu et al. (2022): DPM-Solver++",
    ):
        assert part in text, text


def test_one_method_for_machines():
    [row] = json.loads(run("samplers", "dpmpp_2m_sde", "--json").output)
    assert row["params"] == {"eta": 1.0, "s_noise": 1.0, "solver": "midpoint"}
    assert row["values"] == {"eta": "eta ≥ 0", "s_noise": "s_noise ≥ 0", "solver": "midpoint or heun"}


def test_cite_prints_bibtex():
    out = run("cite", "dpmpp_2m", "karras").stdout
    assert out.startswith("@misc{lu2022dpmsolverpp,\n  title = {{DPM-Solver++}: Fast Solver")
    assert out.count("@misc{") == 2 and "eprint = {2206.00364}" in out
    assert run("cite").output.startswith("@software{sigmafield,")
    assert run("cite", "--all").output.count("@misc{") > 20


def test_cite_refuses_unknown_names():
    result = run("cite", "dpmp_2m")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: no sampler, schedule or guidance 'dpmp_2m' to cite; did you mean dpmpp_2m")
