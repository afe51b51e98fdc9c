"""Loops: the body runs once per iteration, each after the one before; what is not in it runs once."""

import pytest
from probes import CLASSES, COUNTS
from test_executor import output, run, shown, text

from sigmafield.comfyui import events as happened
from sigmafield.comfyui.cache import LastPrompt
from sigmafield.comfyui.validation import validate


@pytest.fixture(autouse=True)
def no_counts():
    COUNTS.clear()


def simple(n, **more):
    return {
        "class_type": "StartLoop",
        "inputs": {"mode": "simple", "mode.num_iterations": n, "cache_iterations": False, **more},
    }


def joined(a, b, delimiter=","):
    return {"class_type": "StringConcatenate", "inputs": {"string_a": a, "string_b": b, "delimiter": delimiter}}


def end(value=None, following=None, accumulate=False, **stops):
    inputs = {"accumulate": accumulate, **{f"terminations.{key}": [each, 0] for key, each in stops.items()}}
    inputs |= {"output_value": [value, 0]} if value else {}
    return {"class_type": "EndLoop", "inputs": inputs | ({"next_iteration_value": [following, 0]} if following else {})}


def total(found):
    return shown(found, "out")["text"]


OUT = {"class_type": "ProbeOut", "inputs": {"a": ["end", 0]}}


def counting(start, accumulate=True):
    """A loop whose body counts: its text, and the text of the iteration before."""
    return {
        "start": start,
        "outside": text("outside"),
        "body": joined(["start", 4], ["outside", 0]),
        "count": text("body", ["body", 0]),
        "end": end("count", "count", accumulate),
        "out": OUT,
    }


def test_each_iteration_gets_the_value_of_the_one_before():
    found = run(counting(simple(3, initial_iteration_value="x")))
    assert isinstance(found[-1], happened.Succeeded)
    a = "bodyx,outside"
    b = f"body{a},outside"
    assert total(found) == [str([a, b, f"body{b},outside"])]
    assert COUNTS == {"outside": 1, "body": 3}
    copies = [each for each in found if isinstance(each, happened.Executing) and each.node.endswith(".count")]
    assert [each.display for each in copies] == ["count"] * 3
    said = [(each.display, each.text) for each in found if isinstance(each, happened.Said)]
    assert said == [("start", f"Iteration {k} / 3") for k in (1, 2, 3)]


@pytest.mark.parametrize("n, expected", [(0, []), (1, ["bodyx,outside"])])
def test_without_accumulation_the_last_value_is_given(n, expected):
    assert total(run(counting(simple(n, initial_iteration_value="x"), accumulate=False))) == [str(expected)]


def indices(mode, **more):
    return {
        "start": {"class_type": "StartLoop", "inputs": {"mode": mode, "cache_iterations": False, **more}},
        "body": {"class_type": "Count", "inputs": {"word": "", "value": ["start", 0]}},
        "end": end("body", accumulate=True),
        "out": OUT,
    }


def test_counting_and_lists():
    more = {"mode.start_iteration_index": 2, "mode.max_iteration": 9, "mode.step": 3}
    assert total(run(indices("For", **more))) == ["['2', '5', '8']"]
    listed = indices("List", **{"mode.list": ["values", 0]}) | {"values": {"class_type": "Seeds", "inputs": {}}}
    listed["body"]["inputs"]["value"] = ["start", 3]
    assert total(run(listed)) == ["['1', '2', '3']"]


def test_a_termination_ends_the_loop_after_its_iteration():
    prompt = indices("simple", **{"mode.num_iterations": 10})
    prompt["last"] = {"class_type": "Positive", "inputs": {"value": ["less", 0]}}
    prompt["less"] = {"class_type": "Less", "inputs": {"value": ["start", 0]}}
    prompt["end"] = end("body", accumulate=True, termination0="last")
    assert total(run(prompt)) == ["['0', '1', '2']"]


def test_loops_in_loops():
    prompt = {
        "start": simple(2),
        "inner": simple(3, parent_iteration=["start", 0]),
        "a": {"class_type": "Count", "inputs": {"word": "", "value": ["start", 0]}},
        "b": {"class_type": "Count", "inputs": {"word": "", "value": ["inner", 0]}},
        "ab": joined(["a", 0], ["b", 0], ""),
        "inner end": end("ab", accumulate=True),
        "end": end("inner end", accumulate=True),
        "out": OUT,
    }
    assert total(run(prompt)) == [str([f"{a}{b}" for a in range(2) for b in range(3)])]


@pytest.mark.parametrize("cached, again", [(False, {"outside": 0, "body": 3}), (True, {"outside": 0, "body": 0})])
def test_iterations_are_kept_only_where_they_are_asked_to_be(cached, again):
    cache = LastPrompt()
    prompt = counting(simple(3, initial_iteration_value="x") | {})
    prompt["start"]["inputs"]["cache_iterations"] = cached
    first = total(run(prompt, cache=cache))
    COUNTS.clear()
    prompt["out"] = {"class_type": "ProbeOut", "inputs": {"a": ["end", 0]}}
    assert total(run(prompt, cache=cache)) == first
    assert {key: COUNTS.get(key, 0) for key in again} == again


def test_a_longer_loop_takes_the_iterations_that_it_had():
    cache = LastPrompt()
    for n, runs in ((3, 3), (4, 1), (4, 0)):
        COUNTS.clear()
        prompt = counting(simple(n, initial_iteration_value="x"))
        prompt["start"]["inputs"]["cache_iterations"] = True
        run(prompt, cache=cache)
        assert COUNTS.get("body", 0) == runs


def preview(source):
    return output(source)


@pytest.mark.parametrize(
    "change, kind",
    [
        ({"end": None, "out": preview("count")}, "loop_start_without_end"),
        ({"start": text("x"), "body": joined(["start", 0], ["outside", 0])}, "loop_end_without_start"),
        ({"other": preview("count")}, "loop_escape"),
        ({"flag": {"class_type": "Positive", "inputs": {"value": ["start", 0]}}}, "loop_accumulate_from_body"),
    ],
)
def test_loops_that_cannot_run_are_refused(change, kind):
    prompt = {key: node for key, node in {**counting(simple(2)), **change}.items() if node}
    if kind == "loop_accumulate_from_body":
        prompt["end"]["inputs"]["accumulate"] = ["flag", 0]
    found = validate(prompt, CLASSES)
    [problem] = [each for node in found.faulty.values() for each in node.problems]
    assert problem.extra["loop_error_type"] == kind and problem.extra["input_name"] == "loop boundary"
    assert found.error is not None and found.outputs == ()
