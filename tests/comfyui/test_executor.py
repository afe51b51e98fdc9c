"""Running prompts: the order of events is that of ComfyUI's server; lists, lazy inputs, expansion, blockers, caches."""

import json
import threading

import pytest
from probes import CLASSES, COUNTS
from shapes import DATA

from sigmafield.comfyui import events as happened
from sigmafield.comfyui.cache import BySize, Forgetful, LastPrompt, LeastRecent
from sigmafield.comfyui.context import Context, Folders
from sigmafield.comfyui.executor import execute
from sigmafield.comfyui.validation import validate

RECORDED = json.loads((DATA / "events.json").read_text("utf-8"))


@pytest.fixture(autouse=True)
def no_counts():
    COUNTS.clear()


@pytest.fixture
def context(tmp_path):
    return Context(Folders(input=tmp_path, output=tmp_path, temp=tmp_path))


def run(prompt, context=Context(), cache=None, stop_at=None, classes=CLASSES, **options):
    """All events of a prompt; `stop_at(event)` ends it."""
    stop = threading.Event()
    found = []
    validated = validate(prompt, classes, context.folders)
    for event in execute(validated, classes, context, cache, stop=stop, **options):
        found.append(event)
        if stop_at and stop_at(event):
            stop.set()
    return found


def shown(found, node):
    return next(each.ui for each in found if isinstance(each, happened.Executed) and each.node == node)


def message(event):
    """The server's message of an event; None for what it adds to a table of progress."""
    match event:
        case happened.Started(cached=cached):
            return [["execution_start"], ["execution_cached", list(cached)]]
        case happened.Executing(node=node, display=display):
            return [["progress_state"], ["executing", node, display]]
        case happened.Stepped(node=node, progress=progress):
            return [["progress_state"], ["progress", node, progress.value, progress.max]]
        case happened.Executed(node=node, display=display, ui=ui):
            return [["executed", node, display, sorted(ui)]]
        case happened.Finished():
            return [["progress_state"]]
        case happened.Failed(node=node, class_type=kind, executed=executed, error=error):
            return [["execution_error", node, kind, sorted(executed), type(error).__name__], ["executing", None]]
        case happened.Interrupted(node=node, class_type=kind, executed=executed):
            return [["execution_interrupted", node, kind, list(executed)], ["executing", None]]
    return [["execution_success"], ["executing", None]]


def messages(found, progress=False):
    rows = [row for event in found for row in message(event)]
    return [row for row in rows if progress or row != ["progress_state"]]


@pytest.mark.parametrize("case", ["ws_expansion", "ws_list_mapping", "ws_runtime_error"])
def test_events_come_in_the_recorded_order(case, context):
    assert messages(run(RECORDED[case]["prompt"], context)) == RECORDED[case]["events"]


def text(word, value=None):
    return {"class_type": "Count", "inputs": {"word": word} | ({"value": value} if value else {})}


def output(source):
    return {"class_type": "PreviewAny", "inputs": {"source": [source, 0]}}


EMPTY = {"class_type": "EmptyLatentImage", "inputs": {"width": 32, "height": 16, "batch_size": 1}}


def generated(steps):
    """Recorded prompts of text → image, with a loader, texts and a decoder that are only counted."""
    return {
        "3": {"class_type": "Sampler", "inputs": {
            "latent_image": ["5", 0], "model": ["4", 0], "negative": ["7", 0], "positive": ["6", 0], "steps": steps}},
        "4": {"class_type": "Loader", "inputs": {}},
        "5": EMPTY,
        "6": {"class_type": "Count", "inputs": {"word": "good", "value": ["4", 1]}},
        "7": {"class_type": "Count", "inputs": {"word": "bad", "value": ["4", 1]}},
        "8": {"class_type": "Decoder", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
        "9": {"class_type": "SaveImage", "inputs": {"filename_prefix": "ComfyUI", "images": ["8", 0]}},
    }  # fmt: skip


def test_text_to_image_gives_the_recorded_events_and_then_the_cached_ones(context):
    cache = LastPrompt()
    assert messages(run(generated(2), context, cache), progress=True) == RECORDED["ws_text2img"]["events"]
    assert messages(run(generated(2), context, cache), progress=True) == RECORDED["ws_fully_cached"]["events"]


def test_an_interrupt_between_steps_gives_the_recorded_events(context):
    cache = LastPrompt()

    def stepped(event):
        return isinstance(event, happened.Stepped)

    found = messages(run(generated(6), context, cache, stepped)) + messages(run(generated(6), context, cache, stepped))
    assert [["KSampler" if each == "Sampler" else each for each in row] for row in found] == RECORDED["ws_interrupt"][
        "events"
    ]


def test_lists_call_a_node_for_each_value_and_shorter_ones_repeat_their_last(context):
    prompt = {
        "1": {"class_type": "TestMakeListNode", "inputs": {"value1": 1.0, "value2": 2.0, "value3": 3.0}},
        "2": {"class_type": "Count", "inputs": {"word": "x", "value": ["1", 0]}},
        "3": {"class_type": "ProbeOut", "inputs": {"a": ["2", 0]}},
    }
    found = run(prompt, context)
    assert shown(found, "3") == {"text": ["['x1.0', 'x2.0', 'x3.0']"], "n": [3]}
    assert COUNTS == {"x": 3}


def lazy(low, high):
    """Two images mixed by a mask with two values."""
    mask = {"class_type": "StubMask", "inputs": {"height": 2, "width": 2, "batch_size": 1, "value": low}}
    image = {"height": 2, "width": 2, "batch_size": 1}
    return {
        "1": {"class_type": "StubImage", "inputs": {"content": "BLACK", **image}},
        "2": {"class_type": "StubImage", "inputs": {"content": "WHITE", **image}},
        "3": mask,
        "4": {"class_type": "TestLazyMixImages", "inputs": {"image1": ["1", 0], "image2": ["2", 0], "mask": ["3", 0]}},
        "5": {"class_type": "PreviewImage", "inputs": {"images": ["4", 0]}},
    }


@pytest.mark.parametrize("value, ran", [(0.0, ["3", "4", "1", "4", "5"]), (1.0, ["3", "4", "2", "4", "5"])])
def test_lazy_inputs_that_are_not_needed_do_not_run(value, ran, context):
    found = run(lazy(value, value), context)
    assert [each.node for each in found if isinstance(each, happened.Executing)] == ran


def test_a_chosen_switch_runs_one_side(context):
    prompt = {
        "1": text("a"),
        "2": text("b"),
        "3": {"class_type": "ComfySwitchNode", "inputs": {"switch": True, "on_false": ["1", 0], "on_true": ["2", 0]}},
        "4": output("3"),
    }
    found = run(prompt, context)
    assert shown(found, "4") == {"text": ["b"]} and COUNTS == {"b": 1}


def test_a_blocked_value_stops_only_its_own_calls(context):
    prompt = {
        "1": {"class_type": "TestMakeListNode", "inputs": {"value1": 1.0, "value2": 2.0, "value3": 3.0}},
        "2": {"class_type": "Block", "inputs": {"message": "two is odd", "at": 2, "value": ["1", 0]}},
        "3": {"class_type": "Count", "inputs": {"word": "x", "value": ["2", 0]}},
        "4": output("3"),
        "5": {"class_type": "PreviewAny", "inputs": {"source": "other"}},
    }
    found = run(prompt, context)
    assert shown(found, "4") == {"text": ["x1.0", "x3.0"]} and shown(found, "5") == {"text": ["other"]}
    assert [(each.node, each.message) for each in found if isinstance(each, happened.Refused)] == [("3", "two is odd")]
    assert isinstance(found[-1], happened.Succeeded)


def test_a_silent_blocker_stops_all_that_comes_after(context):
    prompt = {
        "1": {"class_type": "Block", "inputs": {"message": "", "at": 2, "value": 2}},
        "2": {"class_type": "Count", "inputs": {"word": "x", "value": ["1", 0]}},
        "3": output("2"),
    }
    found = run(prompt, context)
    assert not COUNTS and not [each for each in found if isinstance(each, (happened.Refused, happened.Executed))]
    assert isinstance(found[-1], happened.Succeeded)


def test_an_expansion_takes_the_place_of_its_node(context):
    prompt = {"1": {"class_type": "Copies", "inputs": {"word": "x", "n": 3}}, "2": output("1")}
    cache = LastPrompt()
    found = run(prompt, context, cache)
    assert shown(found, "2") == {"text": ["xxx"]}
    executing = [(each.node, each.display) for each in found if isinstance(each, happened.Executing)]
    assert executing == [("1", "1"), *((f"1.0.0.{k}", "1") for k in range(3)), ("2", "2")]
    run({**prompt, "3": output("1")}, context, cache)
    assert COUNTS == {"x": 3}


def test_asynchronous_nodes_run_at_the_same_time(context):
    prompt = {str(k): {"class_type": "Wait", "inputs": {"seconds": 0.2, "word": str(k)}} for k in range(3)}
    prompt |= {f"o{k}": output(str(k)) for k in range(3)}
    found = run(prompt, context)
    order = [
        (type(each).__name__, each.node) for each in found if isinstance(each, (happened.Executing, happened.Finished))
    ]
    assert order[:3] == [("Executing", str(k)) for k in range(3)]
    assert [shown(found, f"o{k}")["text"] for k in range(3)] == [[str(k)] for k in range(3)]


def test_an_asynchronous_node_can_be_interrupted(context):
    prompt = {"1": {"class_type": "Wait", "inputs": {"seconds": 60.0, "word": "never"}}, "2": output("1")}
    found = run(prompt, context, stop_at=lambda event: isinstance(event, happened.Executing))
    assert isinstance(found[-1], happened.Interrupted) and not COUNTS


def test_an_error_ends_the_run_and_keeps_what_was_done(context):
    cache = LastPrompt()
    prompt = {"1": text("x"), "2": {"class_type": "Broken", "inputs": {"value": ["1", 0]}}, "3": output("2")}
    for _ in range(2):
        failed = run(prompt, context, cache)[-1]
        assert isinstance(failed, happened.Failed)
        assert (failed.node, failed.class_type) == ("2", "Broken")
        assert str(failed.error) == "no x" and failed.inputs == {"value": ["x"]}
    assert COUNTS == {"x": 1}


def test_equal_nodes_run_once_and_fresh_ones_each(context):
    prompt = {"1": text("x"), "2": text("x"), "3": output("1"), "4": output("2")}
    found = run(prompt, context, Forgetful())
    assert COUNTS == {"x": 1}
    assert [each.node for each in found if isinstance(each, happened.Executing)] == ["1", "3"]
    assert [each.node for each in found if isinstance(each, happened.Executed)] == ["3", "2", "4"]
    fresh = {"class_type": "Fresh", "inputs": {"word": "y"}}
    run({"1": fresh, "2": fresh, "3": output("1"), "4": output("2")}, context, LastPrompt())
    assert COUNTS["y"] == 2


def twice(cache, first, second, context):
    run(first, context, cache)
    COUNTS.clear()
    run(second, context, cache)
    return COUNTS


A = {"1": text("a"), "2": output("1")}
B = {"1": text("b"), "2": output("1")}


def test_what_is_equal_is_not_computed_again_whatever_its_id(context):
    assert twice(LastPrompt(), A, {"x": text("a"), "y": output("x")}, context) == {}
    assert twice(LastPrompt(), A, B, context) == {"b": 1}
    assert twice(Forgetful(), A, A, context) == {"a": 1}


def test_what_changes_runs_again(context):
    prompt = {"1": {"class_type": "Changing", "inputs": {"word": "x"}}, "2": text("y", ["1", 0]), "3": output("2")}
    assert twice(LastPrompt(), prompt, prompt, context) == {"x": 1, "y": 1}


@pytest.mark.parametrize(
    "cache, kept", [(LastPrompt, False), (lambda: LeastRecent(4), True), (lambda: LeastRecent(2), False)]
)
def test_policies_of_keeping(cache, kept, context):
    cache = cache()
    for prompt in (A, B):
        run(prompt, context, cache)
    COUNTS.clear()
    run(A, context, cache)
    assert ("a" not in COUNTS) is kept


def test_a_cache_by_size_drops_what_is_large_and_old(context):
    def image(side):
        size = {"height": side, "width": side, "batch_size": 1}
        return {"1": {"class_type": "StubImage", "inputs": {"content": "WHITE", **size}}, "2": output("1")}

    cache = BySize(4 * 3 * (16**2 + 8**2))
    for side in (16, 8, 4):
        run(image(side), context, cache)
    assert run(image(8), context, cache)[0].cached == ("1", "2")
    assert run(image(4), context, cache)[0].cached == ("1", "2")
    assert run(image(16), context, cache)[0].cached == ("2",)
    with pytest.raises(ValueError, match="limit ≥ 0 bytes; got -1"):
        BySize(-1)
    with pytest.raises(ValueError, match="n ≥ 1; got 0"):
        LeastRecent(0)


def test_a_graph_with_errors_is_refused(context):
    with pytest.raises(ValueError, match="node 1 .Count.: Required input is missing: word"):
        run({"1": {"class_type": "Count", "inputs": {}}, "2": output("1")}, context)


def test_outputs_that_can_be_computed_are_although_others_cannot(context):
    found = run({**A, "3": {"class_type": "Count", "inputs": {}}, "4": output("3")}, context)
    assert isinstance(found[-1], happened.Succeeded) and COUNTS == {"a": 1}


def test_nodes_of_an_expansion_say_where_they_come_from(context):
    prompt = {"1": {"class_type": "Copies", "inputs": {"word": "x", "n": 1}}, "2": output("1")}
    found = [each for each in run(prompt, context) if isinstance(each, happened.Executing)]
    where = {each.node: (each.display, each.parent, each.real) for each in found}
    assert where == {"1": ("1", None, "1"), "1.0.0.0": ("1", "1", "1"), "2": ("2", None, "2")}
