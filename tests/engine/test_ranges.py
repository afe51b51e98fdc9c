"""Values of parameters are checked before anything runs, and every value that is allowed works."""

import math
from dataclasses import replace

import pytest
import torch
from laws import PROCESSES, grid, guided, repeats, run_of

from sigmafield.core.registry import Spec
from sigmafield.noise.sources import Keyed
from sigmafield.parameterization.families import family
from sigmafield.recipes.recipe import Recipe
from sigmafield.runs.run import Run, iterate
from sigmafield.samplers import SAMPLERS
from sigmafield.schedules import SCHEDULES

NETWORKS = {"ve": family("SD15").sampling().levels, "flow": family("SD3").sampling().levels}
OWNERS = [*SAMPLERS.values(), *SCHEDULES.values()]
SETTINGS = [(owner, parameter) for owner in OWNERS for parameter in owner.parameters.values()]


def test_every_parameter_has_a_kind_or_is_a_function():
    for owner, parameter in SETTINGS:
        assert parameter.kind in (float, int, bool, str) or callable(parameter.default), (owner.name, parameter.name)


def refused(parameter, defaults):
    """Values out of range, and of other types."""
    if parameter.kind is None:
        return []
    if parameter.choices:
        return ["nonsense", 0.5]
    values = {float: ["much", True, math.nan], int: [1.5, "2", True], bool: ["yes", 1], str: [1]}[parameter.kind]
    if parameter.kind is float and (parameter.range is None or parameter.range.high is None):
        values.append(math.inf)
    if parameter.range:
        low, high = (defaults.get(end, end) for end in (parameter.range.low, parameter.range.high))
        values += [] if low is None else [low if parameter.range.above else low - 1]
        values += [] if high in (None, math.inf) else [high if parameter.range.below else high + 1]
    return values


def never(x, sigma, ctx):
    raise AssertionError("the network was called")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=repeats(name)) for name, sampler in SAMPLERS.items() if sampler.parameters]
)
def test_bad_values_are_refused_before_anything_runs(name):
    sampler, g = SAMPLERS[name], grid(PROCESSES[0])
    for parameter in sampler.parameters.values():
        for value in refused(parameter, sampler.defaults):
            params = {parameter.name: value}
            with pytest.raises(ValueError, match=f"^{name} needs .*{parameter.name}.*; got "):
                Run(never, sampler, g, Keyed([1], (1, 1, 2, 2)), params)
            with pytest.raises(ValueError, match=f"^{name} needs .*{parameter.name}.*; got "):
                Recipe("a heart", sampler=Spec(name, params))


@pytest.mark.parametrize("name", [name for name, schedule in SCHEDULES.items() if schedule.parameters])
def test_bad_values_of_schedules_are_refused(name):
    schedule = SCHEDULES[name]
    for parameter in schedule.parameters.values():
        for value in refused(parameter, schedule.defaults):
            message = f"^the schedule {name} needs .*{parameter.name}.*; got "
            with pytest.raises(ValueError, match=message):
                Recipe("a heart", schedule=Spec(name, {parameter.name: value}))
            with pytest.raises(ValueError, match=message):
                schedule(10, NETWORKS["flow" if schedule.network == "flow" else "ve"], **{parameter.name: value})


def test_ends_may_be_other_parameters():
    with pytest.raises(ValueError, match="seeds_3 needs 0 < r_1 < r_2; got 0.7 and r_2 = 0.5"):
        SAMPLERS["seeds_3"].check({"r_1": 0.7, "r_2": 0.5})
    with pytest.raises(ValueError, match="euler needs s_tmax ≥ s_tmin; got 1 and s_tmin = 2"):
        SAMPLERS["euler"].check({"s_tmin": 2.0, "s_tmax": 1.0})
    SAMPLERS["seeds_3"].check({"r_1": 0.7, "r_2": 0.8})
    SCHEDULES["karras"].check({"sigma_max": torch.full((1, 1, 2, 2), 5.0), "sigma_min": 0.1})


def test_a_preset_keeps_what_it_fixes():
    """A sampler without noise has no η; as it is, it may be given, so that runs can be made again from their params."""
    with pytest.raises(ValueError, match="res_multistep has no parameter 'eta'; it has none"):
        SAMPLERS["res_multistep"].check({"eta": 1.0})
    g = grid(PROCESSES[0])
    for sampler in SAMPLERS.values():
        run = Run(never, sampler, g, Keyed([1], (1, 1, 2, 2)))
        assert replace(run, grid=g).params == run.params == sampler.params
        assert not set(sampler.fixed) & set(sampler.parameters) and set(sampler.fixed) <= set(sampler.params)


def allowed(parameter, defaults):
    """The ends of a range that belong to it (2 where there is none above), all choices, true and false."""
    if parameter.choices:
        return parameter.choices
    if parameter.kind is bool:
        return (True, False)
    if parameter.range is None:
        return (-1.0, 0.0, 2.0) if parameter.kind is float else ()
    low, high = (defaults.get(end, end) for end in (parameter.range.low, parameter.range.high))
    values = [] if parameter.range.above or low is None else [low]
    values += [2] if high in (None, math.inf) else [] if parameter.range.below else [high]
    return [parameter.kind(value) for value in values]


@pytest.mark.slow
@pytest.mark.parametrize("process", PROCESSES, ids=str)
@pytest.mark.parametrize("name", [name for name, sampler in SAMPLERS.items() if sampler.parameters])
def test_what_is_allowed_works(name, process):
    """At the ends of every range a run comes to its end, without infinities."""
    g = grid(process)
    x = process.start(g.sigmas[0], torch.randn(1, 2, 3, 3, dtype=torch.float64), torch.zeros(1, 2, 3, 3).double())
    for parameter in SAMPLERS[name].parameters.values():
        for value in allowed(parameter, SAMPLERS[name].defaults):
            run = run_of(name, guided(process), g, x, **{parameter.name: value})
            for state, _ in zip(iterate(run, x), range(500)):  # noqa: B007
                pass
            assert run.done(state), f"{parameter.name} = {value}: no end"
            assert torch.isfinite(state.x).all(), f"{parameter.name} = {value}"


@pytest.mark.parametrize("name", [name for name, schedule in SCHEDULES.items() if schedule.parameters])
def test_what_a_schedule_allows_descends(name):
    schedule = SCHEDULES[name]
    levels = NETWORKS["flow" if schedule.network == "flow" else "ve"]
    for parameter in schedule.parameters.values():
        for value in allowed(parameter, schedule.defaults):
            sigmas = schedule(10, levels, **{parameter.name: value})
            assert (sigmas.diff() <= 0).all() and (sigmas >= 0).all(), f"{parameter.name} = {value}"
