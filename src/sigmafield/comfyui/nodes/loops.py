"""Loops: the nodes between a beginning and an end are copied for one iteration after another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from sigmafield.comfyui.context import Context, Outcome, Remark
from sigmafield.comfyui.declare import NODES, node
from sigmafield.comfyui.definition import Definition, Hook, Output, Slot
from sigmafield.comfyui.graph import link
from sigmafield.comfyui.loop_pairs import Loop, loops_of
from sigmafield.comfyui.sockets import Dynamic, Input, Match
from sigmafield.comfyui.values import AnyValue
from sigmafield.core.annotations import Range

LARGEST = 2**31 - 1
Index = Annotated[int, Range(-LARGEST, LARGEST)]
RAW = {"rawLink": True}
Item = Annotated[Any, Match("item")]
Current = Annotated[Any, Match("value")]


@dataclass(frozen=True, kw_only=True)
class Simple:
    """A number of iterations."""

    num_iterations: Annotated[int, Range(0, LARGEST)] = 4


@dataclass(frozen=True, kw_only=True)
class Counting:
    """From a number up to another one, which is not reached."""

    start_iteration_index: Index = 0
    max_iteration: Index = 4
    step: Annotated[int, Range(1, LARGEST)] = 1


@dataclass(frozen=True, kw_only=True)
class Items:
    """One iteration per item of a list."""

    list: AnyValue


MODES: dict[str, type] = {"simple": Simple, "For": Counting, "List": Items}
STARTED = ("iteration_index", "is_first", "is_last", "list_item", "current_iteration_value")


def _changing(cache_iterations: object) -> float | bool:
    """NaN unless iterations are kept: what depends on it then runs again."""
    return False if cache_iterations is True else float("nan")


@node(
    "StartLoop",
    "utilities/looping",
    title="Start Loop",
    outputs=STARTED,
    version=3,
    takes_lists=True,
    boundary="start",
    fingerprint=_changing,
)
def start_loop(
    mode: Sequence[Annotated[Simple | Counting | Items, Dynamic(MODES)]],
    cache_iterations: Sequence[bool] = (False,),
    parent_iteration: Sequence[Annotated[int, Input(force_input=True)]] | None = None,
    initial_iteration_value: Sequence[AnyValue] | None = None,
) -> tuple[int, bool, bool, Item, Current]:
    """Begins a loop.

    Args:
        mode: How many iterations there are.
        cache_iterations: Whether iterations that have not changed are kept from one prompt to the next.
        parent_iteration: The index of a loop around this one.
        initial_iteration_value: The value of the first iteration.
    """
    raise ValueError("the beginning of a loop needs an end: link what follows it to an EndLoop node")


NONE_YET = {"__value__": []}
"""The values of no iteration, as an input's literal."""


def _end(inputs: Mapping[str, Any], context: Context) -> Outcome:
    """A loop takes the place of its end: a step that makes the first iteration."""
    nodes = context.graph.nodes
    loop, step = loop_at(context.node, context), f"{context.node}.0.0.step"
    about = {
        "accumulate": nodes[loop.end]["inputs"].get("accumulate", False),
        "loop": loop.end,
        "iteration": 0,
        "made": NONE_YET,
    }
    made = {"class_type": "LoopStep", "inputs": {**nodes[loop.start]["inputs"], **about}}
    return Outcome(([step, 0],), graph={step: made})


def loop_at(end: str, context: Context) -> Loop:
    """The loop that a node ends."""
    nodes = context.graph.nodes

    def boundary(name: str) -> str | None:
        found = NODES.get(nodes[name]["class_type"])
        return found.boundary if found else None

    return next(loop for loop in loops_of(nodes, boundary, [end]) if loop.end == end)


def _step(inputs: Mapping[str, Any], context: Context) -> Outcome:
    """The results of a loop, if it has ended; else one iteration, and the step after it."""
    k = inputs["iteration"][0]
    before = inputs["made"][0] if inputs["accumulate"][0] else []
    made = [*before, *inputs.get("output", [])]
    plan = _plan(inputs["mode"])
    stopped = any(bool(value) for name, values in inputs.items() if name.startswith("stop") for value in values)
    nodes = {} if stopped or k == len(plan) else _iteration(plan, k, made, inputs["cache_iterations"][0], context)
    values = ([f"{context.node}.0.0.step", 0],) if nodes else (made,)
    return Outcome(values, graph=nodes or None, remark=_remark(k, len(plan), context) if k else None)


def _remark(k: int, n: int, context: Context) -> Remark:
    """How far a loop is, for its beginning."""
    loop = loop_at(context.graph.nodes[context.node]["inputs"]["loop"], context)
    return Remark(f"Iteration {k} / {n}", context.graph.display(loop.start))


def _iteration(plan: Sequence[int], k: int, made: Sequence[Any], cached: bool, context: Context) -> dict[str, Any]:
    """The nodes of an iteration: copies of the body, with values in place of links to the loop's beginning."""
    graph, here = context.graph, f"{context.node}.0.0."
    mine = graph.nodes[context.node]["inputs"]
    loop, end = loop_at(mine["loop"], context), mine["loop"]
    start, ended = graph.nodes[loop.start]["inputs"], graph.nodes[end]["inputs"]
    item = [f"{here}item", 0] if "mode.list" in start else None
    begun = (plan[k], k == 0, k == len(plan) - 1, item, mine.get("next", start.get("initial_iteration_value")))

    def copied(value: Any) -> Any:
        found = link(value)
        if found is None or found.node not in loop.body | {loop.start}:
            return value
        return begun[found.slot] if found.node == loop.start else [f"{here}{found.node}", found.slot]

    nodes: dict[str, Any] = {
        f"{here}{name}": {
            "class_type": graph.nodes[name]["class_type"],
            "inputs": {key: copied(each) for key, each in graph.nodes[name]["inputs"].items()},
            "override_display_id": graph.display(name),
            **({} if cached else {"is_changed": float("nan")}),
        }
        for name in sorted(loop.body)
    }
    if item is not None:
        nodes[item[0]] = {
            "class_type": "LoopItem",
            "inputs": {"list": start["mode.list"], "index": k},
            "override_display_id": graph.display(loop.start),
        }
    rest = {key: each for key, each in mine.items() if not key.startswith("stop")}
    rest |= {"iteration": k + 1, "made": {"__value__": made}}
    for key, name in (("output_value", "output"), ("next_iteration_value", "next")):
        rest |= {name: copied(ended[key])} if key in ended else {}
    stops = [copied(each) for key, each in ended.items() if key.startswith("terminations.")]
    rest |= {f"stop{j}": each for j, each in enumerate(stops)}
    nodes[f"{here}step"] = {"class_type": "LoopStep", "inputs": rest}
    return nodes


def _item(inputs: Mapping[str, Any], context: Context) -> Outcome:
    """An item of a list."""
    return Outcome((inputs["list"][inputs["index"][0]],))


def _plan(mode: Mapping[str, Any]) -> Sequence[int]:
    """The index of each iteration."""
    match mode["mode"][0]:
        case "simple":
            return range(mode["num_iterations"][0])
        case "For":
            return range(*(mode[name][0] for name in ("start_iteration_index", "max_iteration", "step")))
    return range(len(mode["list"]))


BEGINNING = NODES["StartLoop"].inputs
TERMINATION = {"input": {"required": {"termination": ["*", RAW]}}, "prefix": "termination", "min": 0, "max": 50}
RESULTS = (Output("*", "outputs", listed=True),)

NODES.add(
    Definition(
        name="EndLoop",
        category="utilities/looping",
        call=_end,
        inputs=(
            Slot("accumulate", "BOOLEAN", {"default": False}, doc="Whether the values of all iterations are given."),
            Slot(
                "terminations",
                "COMFY_AUTOGROW_V3",
                {"template": TERMINATION},
                doc="Values of which any that is true ends the loop after its iteration.",
            ),
            Slot("output_value", "*", RAW, required=False, doc="The value of each iteration."),
            Slot("next_iteration_value", "*", RAW, required=False, doc="The value that the next iteration gets."),
        ),
        outputs=RESULTS,
        title="End Loop",
        doc="Ends a loop.",
        takes_lists=True,
        version=3,
        boundary="end",
    )
)
NODES.add(
    Definition(
        name="LoopStep",
        category="utilities/looping",
        call=_step,
        inputs=BEGINNING,
        outputs=RESULTS,
        doc="Makes the next iteration of a loop; loops make these nodes themselves.",
        takes_lists=True,
        extra_inputs=True,
        fingerprint=Hook.of(lambda: float("nan")),
        experimental=True,
        version=3,
    )
)
NODES.add(
    Definition(
        name="LoopItem",
        category="utilities/looping",
        call=_item,
        inputs=(Slot("list", "*", doc="The list."), Slot("index", "INT", doc="Which item, from 0.")),
        outputs=(Output("*", "item"),),
        doc="An item of the list of a loop; loops make these nodes themselves.",
        takes_lists=True,
        experimental=True,
        version=3,
    )
)
