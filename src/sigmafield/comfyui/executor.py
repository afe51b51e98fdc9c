"""Runs a prompt and gives what happens as events: whoever iterates shows progress, saves a state or stops.

for event in execute(validate(prompt, nodes, folders), nodes, Context(folders)): ...
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, cast

import torch

from sigmafield.comfyui import events as happened
from sigmafield.comfyui.background import Background
from sigmafield.comfyui.cache import Cache, Forgetful, Keys
from sigmafield.comfyui.calls import arguments, blocked, calls, joined
from sigmafield.comfyui.context import Blocked, Context, Outcome, Progress
from sigmafield.comfyui.definition import Definition
from sigmafield.comfyui.entries import Entry
from sigmafield.comfyui.failure import failure
from sigmafield.comfyui.graph import Graph, Link, link, links, upstream_first
from sigmafield.comfyui.known import Known
from sigmafield.comfyui.order import Order
from sigmafield.comfyui.paused import Paused
from sigmafield.comfyui.previews import Previews
from sigmafield.comfyui.problems import Validated


def execute(
    validated: Validated,
    nodes: Mapping[str, Definition],
    context: Context = Context(),
    cache: Cache | None = None,
    *,
    stop: threading.Event | None = None,
    paused: Paused | None = None,
    previews: Previews | None = None,
) -> Iterator[happened.Event]:
    """Compute the outputs of a prompt.

    The last event is `Succeeded`, `Failed` or `Interrupted`.

    Args:
        validated: The prompt and the outputs that can be computed, from `validate`.
        nodes: The classes by class type.
        context: Where files are, the device, and what is written into images.
        cache: Where results are kept from one prompt to the next; None: nowhere.
        stop: Ends the run before the next call of a node or the next step when it is set, from any thread.
        paused: Where to go on from.
        previews: Which steps of samplers have a preview; None: no step.

    Raises:
        ValueError: No output can be computed.
    """
    if validated.error is not None:
        validated.check()
    run = _Execution(validated, nodes, context, cache or Forgetful(), stop or threading.Event(), paused, previews)
    return run.events(validated.outputs)


class _Stopped(Exception):
    """The run ends here, with what is needed to go on."""

    def __init__(self, paused: Paused):
        self.paused = paused


class _Execution:
    """One run of a prompt."""

    def __init__(
        self,
        validated: Validated,
        nodes: Mapping[str, Definition],
        context: Context,
        cache: Cache,
        stop: threading.Event,
        paused: Paused | None,
        previews: Previews | None,
    ):
        results = dict(paused.done) if paused else {}
        self.known = Known(Graph(validated.prompt), nodes, results)
        self.outputs = validated.outputs
        self.context = replace(context, prompt=validated.prompt)
        self.cache = cache
        self.stop = stop
        self.paused = paused
        self.previews = previews
        self.keys = Keys(nodes, self.context)
        self.order = Order(self.known.sources, self.known.early)
        self.executed: list[str] = []
        self.made: dict[str, str] = {}
        self.pending: dict[str, list[Outcome | Future[Outcome]]] = {}
        self.background = Background()

    def events(self, outputs: Sequence[str]) -> Iterator[happened.Event]:
        """Run to the end."""
        name = ""
        try:
            yield happened.Started(self.remembered(outputs))
            for output in outputs:
                self.order.add([output])
            while self.order.blockers:
                name = ""
                self.check_stop()
                self.release()
                found = self.order.next()
                if found is not None:
                    name = found
                    yield from self.node(name)
                elif self.pending:
                    self.background.wait(self.futures())
                else:
                    name = next(iter(self.order.blockers))
                    raise ValueError(f"nodes wait for each other: {', '.join(self.order.blockers)}")
            yield happened.Succeeded()
        except _Stopped as end:
            kind = self.graph.nodes[name]["class_type"] if name else ""
            yield happened.Interrupted(name, self.graph.display(name), kind, tuple(self.executed), end.paused)
        except Exception as error:  # whatever a node raises ends the run, not the program that runs it
            yield failure(self.known, name, error, self.executed)
        finally:
            self.background.close()

    @property
    def graph(self) -> Graph:
        return self.known.graph

    def remembered(self, outputs: Sequence[str]) -> tuple[str, ...]:
        """Take what the cache has, and give the nodes that need not run."""
        keys = {name: self.keys.of(name, self.graph) for name in upstream_first(self.graph.nodes, outputs)}
        self.cache.begin({key for key in keys.values() if key is not None})
        for name, key in keys.items():
            found = self.cache.get(key) if key is not None else None
            if found is not None:
                self.known.results.setdefault(name, found)
        return tuple(name for name in self.graph.nodes if name in self.known.results)

    def node(self, name: str) -> Iterator[happened.Event]:
        """Run a node, or go on with one that waited for others."""
        key = self.keys.of(name, self.graph)
        if name not in self.known.results and key is not None and name not in self.pending:
            found = self.cache.get(key) or self.twin(name, key)
            if found is not None:
                self.known.results[name] = found
        if name in self.known.results:
            yield happened.Executed(name, self.graph.display(name), self.known.results[name].ui)
            self.order.done(name)
            yield happened.Finished(name, self.graph.display(name), self.known.results[name].values)
        elif name in self.pending:
            yield from self.end(name, [_outcome(each) for each in self.pending.pop(name)])
        else:
            graph = self.graph
            yield happened.Executing(name, graph.display(name), graph.parents.get(name), graph.real(name))
            lists = self.known.lists(name)
            needed = self.known.needed(name, lists, self.asking(name))
            if needed:
                self.order.block(name, needed)
            else:
                yield from self.run(name, lists)

    def twin(self, name: str, key: str) -> Entry | None:
        """The result of an equal node of this prompt."""
        found = self.made.get(key, name)
        return None if found == name else self.known.results[found]

    def asking(self, name: str) -> Context:
        """The context of a node."""
        return replace(self.context, node=name, graph=self.graph)

    def run(self, name: str, lists: Mapping[str, Sequence[Any]]) -> Iterator[happened.Event]:
        """Call a node as often as its inputs have values."""
        definition, context = self.known.definition(name), self.asking(name)
        mine = self.paused if self.paused is not None and self.paused.node == name else None
        outcomes: list[Outcome | Future[Outcome]] = list(mine.earlier) if mine else []
        for k, call in enumerate(calls(definition, lists)):
            if k < len(outcomes):
                continue
            self.check_stop(name, outcomes)
            if (block := blocked(call, definition.takes_lists)) is not None:
                if block.message:
                    yield happened.Refused(name, self.graph.display(name), block.message)
                outcomes.append(Outcome((Blocked(),) * len(definition.outputs)))
                continue
            context.check(name, call)
            state = mine.state if mine and k == len(mine.earlier) else None
            with torch.no_grad():
                made = definition.call(arguments(definition, call), replace(context, state=state))
            if isinstance(made, Outcome):
                outcomes.append(made)
            elif inspect.isgenerator(made):
                outcomes.append((yield from self.steps(name, made, outcomes)))
            else:
                outcomes.append(self.background.start(cast(Any, made)))
        if any(isinstance(each, Future) for each in outcomes):
            self.pending[name] = outcomes
            self.order.hold(name)
        else:
            yield from self.end(name, [_outcome(each) for each in outcomes])

    def steps(
        self, name: str, made: Generator[Progress, None, Outcome], outcomes: Sequence[Outcome | Future[Outcome]]
    ) -> Generator[happened.Event, None, Outcome]:
        """Take the steps of a node; between any two of them the run can end."""
        while True:
            try:
                with torch.no_grad():
                    progress = next(made)
            except StopIteration as end:
                return end.value
            paused = self.pause(name, outcomes, progress)
            preview = self.previews.of(progress) if self.previews else None
            yield happened.Stepped(name, self.graph.display(name), progress, paused, preview)
            if self.stop.is_set():
                made.close()
                raise _Stopped(paused)

    def end(self, name: str, outcomes: list[Outcome]) -> Iterator[happened.Event]:
        """Join the outcomes of a node; if it was expanded, once the nodes of the expansion have run."""
        for remark in filter(None, (each.remark for each in outcomes)):
            yield happened.Said(name, remark.node or self.graph.display(name), remark.text)
        if any(each.graph is not None for each in outcomes):
            self.pending[name] = list(self.expand(name, outcomes))
            return
        found = {value for each in outcomes for value in each.values if isinstance(value, Link)}
        entry = joined(self.known.definition(name), outcomes, {each: self.known.linked(each) for each in found})
        self.known.results[name] = entry
        self.executed.append(name)
        key = self.keys.of(name, self.graph)
        if key is not None:
            self.made.setdefault(key, name)
            self.cache.put(key, entry, self.keys.of(self.graph.real(name), self.graph))
        if entry.ui is not None:
            yield happened.Executed(name, self.graph.display(name), entry.ui)
        self.order.done(name)
        yield happened.Finished(name, self.graph.display(name), entry.values)

    def expand(self, name: str, outcomes: Iterable[Outcome]) -> Iterator[Outcome]:
        """Add the nodes that calls have given; the values of these calls become links to nodes of the graph."""
        for k, outcome in enumerate(outcomes):
            if outcome.graph is None:
                yield replace(outcome, remark=None)
                continue
            self.known.graph, made, values = self.graph.expanded(name, k, outcome.graph, outcome.values)
            upstream_first(self.graph.nodes, made, self.known.results)  # ValueError for a cycle
            self.order.add([each for each in made if self.known.definition(each).shows])
            results = [link(value) or value for value in values]
            self.order.block(
                name, [each.node for each in results if isinstance(each, Link) and each.node not in self.known.results]
            )
            yield replace(outcome, values=tuple(results), graph=None, remark=None)

    def futures(self) -> list[Future[Outcome]]:
        return [each for outcomes in self.pending.values() for each in outcomes if isinstance(each, Future)]

    def release(self) -> None:
        """Let the asynchronous nodes go on that are done."""
        for name in list(self.order.held):
            if all(each.done() for each in self.pending[name] if isinstance(each, Future)):
                self.order.release(name)

    def check_stop(self, name: str = "", outcomes: Sequence[Outcome | Future[Outcome]] = ()) -> None:
        if self.stop.is_set():
            raise _Stopped(self.pause(name, outcomes))

    def pause(
        self, name: str = "", outcomes: Sequence[Outcome | Future[Outcome]] = (), progress: Progress | None = None
    ) -> Paused:
        """What is needed to go on from here."""
        needed = {each.node for key in self.order.blockers for each in links(self.graph.nodes[key]).values()}
        needed |= {each.node for key in self.pending for each in _links(self.pending[key])}
        done = {key: each for key, each in self.known.results.items() if key in needed or key in self.outputs}
        finished = tuple(each for each in outcomes if isinstance(each, Outcome) and each.graph is None)
        whole = len(finished) == len(outcomes)
        return Paused(
            self.context.prompt,
            self.outputs,
            done,
            self.context.extra,
            name if whole else "",
            finished if whole else (),
            progress.state if progress and whole else None,
        )


def _outcome(made: Outcome | Future[Outcome]) -> Outcome:
    return made if isinstance(made, Outcome) else made.result()


def _links(outcomes: Iterable[Outcome | Future[Outcome]]) -> Iterator[Link]:
    """The links to nodes of an expansion that have not been followed yet."""
    found = (each for each in outcomes if isinstance(each, Outcome))
    return (value for each in found for value in each.values if isinstance(value, Link))
