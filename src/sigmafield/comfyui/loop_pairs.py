"""Loops in a graph: which end belongs to which beginning, and what lies between."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from sigmafield.comfyui.graph import Prompt, links, upstream_first


@dataclass(frozen=True)
class Loop:
    """A loop.

    Args:
        start: The node that begins it.
        end: The node that ends it.
        body: The nodes that run once per iteration: they come after the start, and the end needs them.
    """

    start: str
    end: str
    body: frozenset[str]


class LoopError(ValueError):
    """Loops that cannot run.

    Args:
        kind: ComfyUI's word for it.
        text: What is wrong.
        nodes: The boundaries that it is about.
        outputs: The outputs that it is about.
    """

    def __init__(self, kind: str, text: str, nodes: Collection[str], outputs: Collection[str] = ()):
        super().__init__(text)
        self.kind = kind
        self.nodes = tuple(nodes)
        self.outputs = tuple(outputs)


def loops_of(prompt: Prompt, boundary: Callable[[str], str | None], outputs: Collection[str]) -> list[Loop]:
    """The loops that lead to some outputs, the inner ones first.

    Args:
        prompt: The nodes.
        boundary: "start", "end" or None for each id.
        outputs: The outputs.

    Raises:
        LoopError: An end has no start, or a start no end; a node in a loop is used outside of it.
    """
    names = upstream_first(prompt, outputs)
    kinds = {name: boundary(name) for name in names}
    starts = [name for name in names if kinds[name] == "start"]
    ends = [name for name in names if kinds[name] == "end"]
    if not starts and not ends:
        return []
    sources = {name: [each.node for each in links(prompt[name]).values()] for name in names}
    users: dict[str, list[str]] = {}
    for name, nodes in sources.items():
        for each in nodes:
            users.setdefault(each, []).append(name)
    above = {name: _reached(name, sources) for name in {*starts, *ends, *outputs} if name in sources}
    below = {name: _reached(name, users) for name in starts}
    found: list[Loop] = []
    for end in sorted(ends, key=lambda name: len(above[name] & set(ends))):
        start = _nearest(end, above, [each for each in starts if each not in {loop.start for loop in found}])
        found.append(Loop(start, end, above[end] & below[start]))
    if alone := [each for each in starts if each not in {loop.start for loop in found}]:
        raise LoopError("loop_start_without_end", f"no end belongs to the beginning of a loop, node {alone[0]}", alone)
    for loop in found:
        _check(loop, prompt, sources, above, found, outputs)
    return found


def _reached(name: str, neighbours: Mapping[str, Collection[str]]) -> frozenset[str]:
    """The nodes that some steps lead to from a node, without the node."""
    seen, waiting = {name}, [name]
    while waiting:
        for each in neighbours.get(waiting.pop(), ()):
            if each not in seen:
                seen.add(each)
                waiting.append(each)
    return frozenset(seen - {name})


def _nearest(end: str, above: Mapping[str, frozenset[str]], starts: Collection[str]) -> str:
    """The start that belongs to an end: the one that comes after all others."""
    candidates = [each for each in starts if each in above[end]]
    if not candidates:
        raise LoopError("loop_end_without_start", f"no beginning belongs to the end of a loop, node {end}", [end])
    last = [each for each in candidates if all(other in above[each] for other in candidates if other != each)]
    if not last:
        text = f"nodes {', '.join(candidates)} may all begin the loop that node {end} ends"
        raise LoopError("ambiguous_loop_nesting", text, [end, *candidates])
    return last[0]


def _check(
    loop: Loop,
    prompt: Prompt,
    sources: Mapping[str, Collection[str]],
    above: Mapping[str, frozenset[str]],
    all_loops: Collection[Loop],
    outputs: Collection[str],
) -> None:
    """Raise LoopError unless what is in a loop is used in it only, or through its end."""
    inside = loop.body | {loop.start}
    leaving = [
        name for name, nodes in sources.items()
        if name not in inside and name != loop.end and any(each in inside for each in nodes)
    ]  # fmt: skip
    escaped = [name for name in outputs if name in leaving or set(leaving) & above[name]]
    if leaving:
        text = f"node {leaving[0]} needs a node of the loop that node {loop.end} ends, and comes after none of its ends"
        raise LoopError("loop_escape", text, [loop.start, loop.end], escaped)
    for other in all_loops:
        if other.start in loop.body and other.end not in loop.body:
            raise LoopError(
                "loop_escape", f"the loops that end at {loop.end} and {other.end} overlap", [loop.end, other.end]
            )
    accumulate = links(prompt[loop.end]).get("accumulate")
    if accumulate is not None and accumulate.node in inside:
        text = f"accumulate of node {loop.end} comes from its own loop"
        raise LoopError("loop_accumulate_from_body", text, [loop.end])
