"""Whether a prompt can run: the checks that ComfyUI makes before it queues one, with the same kinds of errors."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sigmafield.comfyui.context import Context, Folders
from sigmafield.comfyui.definition import Definition, Slot
from sigmafield.comfyui.graph import Prompt, link, links, literal, upstream_first
from sigmafield.comfyui.literals import checked
from sigmafield.comfyui.loop_pairs import LoopError, loops_of
from sigmafield.comfyui.object_info import described
from sigmafield.comfyui.problems import FAILED, Faulty, Problem, Validated
from sigmafield.comfyui.replacements import replaced
from sigmafield.comfyui.wire import DYNAMIC, declared, nested
from sigmafield.core.registry import near_miss, shown


def validate(
    prompt: Any, nodes: Mapping[str, Definition], folders: Folders = Folders(), targets: Collection[str] | None = None
) -> Validated:
    """Check a prompt and give its values the types of their inputs; classes that are not here may be replaced.

    Args:
        prompt: The prompt in API form.
        nodes: The classes by class type.
        folders: Where the files are that its combos offer.
        targets: The output nodes that are wanted; None: all.
    """
    if isinstance(prompt, Mapping):
        prompt = replaced(prompt, nodes)
    if (error := _malformed(prompt, nodes)) is not None:
        return Validated(error=error)
    prompt = {name: _known(node, nodes[node["class_type"]]) for name, node in prompt.items()}
    wanted = [
        name for name, node in prompt.items()
        if nodes[node["class_type"]].shows and (targets is None or name in targets)
    ]  # fmt: skip
    if not wanted:
        known = [name for name, node in prompt.items() if nodes[node["class_type"]].shows]
        which = (
            f"partial_execution_targets must name output nodes, which are {', '.join(known)}; "
            f"got {', '.join(sorted(targets))}"
            if targets and known
            else ""
        )
        return Validated(prompt, error=Problem("prompt_no_outputs", which))
    return _outputs(prompt, wanted, nodes, folders)


def _known(node: Mapping[str, Any], definition: Definition) -> dict[str, Any]:
    """A node with the inputs that its class takes, and without what another program has added while running it."""
    given = node.get("inputs", {})
    names = {each.name for each in declared(definition.inputs, {key: literal(each) for key, each in given.items()})}
    if definition.extra_inputs:
        names |= {key for key, each in given.items() if definition.version == 3 or link(each)}
    inputs = {key: each for key, each in given.items() if key in names}
    return {key: each for key, each in node.items() if key != "is_changed"} | {"inputs": inputs}


def _malformed(prompt: Any, nodes: Mapping[str, Definition]) -> Problem | None:
    """The error of a prompt that is not made of nodes of known classes."""
    if not isinstance(prompt, Mapping):
        return Problem("invalid_prompt", shown(prompt), message="A prompt is an object with nodes by id.")
    for name, node in prompt.items():
        where = f"Node ID '#{name}'"
        if not isinstance(node, Mapping) or not isinstance(node.get("inputs", {}), Mapping):
            return Problem("invalid_prompt", where, message="A node is an object with a class_type and inputs.")
        kind = node.get("class_type")
        if kind is None:
            return Problem(
                "invalid_prompt", where, message="Cannot execute because a node is missing the class_type property."
            )
        if not isinstance(kind, str):
            return Problem("invalid_prompt", where, message=f"A class_type is a text; got {shown(kind)}.")
        if kind not in nodes:
            close = near_miss(str(kind), nodes)
            return Problem(
                "invalid_prompt",
                where + (close if close.startswith("; did") else ""),
                message=f"Cannot execute because node {kind} does not exist.",
            )
    return None


@dataclass
class _Checks:
    """The checks of one prompt: errors, and nodes that cannot run, by id."""

    prompt: Prompt
    nodes: Mapping[str, Definition]
    folders: Folders
    found: dict[str, list[Problem]] = field(default_factory=dict[str, list[Problem]])
    values: dict[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])

    def definition(self, name: str) -> Definition:
        return self.nodes[self.prompt[name]["class_type"]]

    def all_well(self, wanted: Sequence[str]) -> bool:
        """Check all nodes that lead to some outputs at once; whether there is nothing to say about any of them."""
        try:
            order = upstream_first(self.prompt, wanted)
        except ValueError:
            return False
        self.check(order)
        return not any(self.found[name] for name in order)

    def check(self, names: Iterable[str]) -> None:
        """Check nodes that have not been checked, each after its sources."""
        for name in names:
            if name not in self.found:
                self.node(name)

    def typed(self) -> dict[str, Mapping[str, Any]]:
        """The prompt, with the values of checked nodes in the types of their inputs."""
        return {name: {**node, "inputs": self.values.get(name, node["inputs"])} for name, node in self.prompt.items()}

    def node(self, name: str) -> None:
        """Check one node, the sources of which have been checked, and give its literals their types."""
        definition, given = self.definition(name), dict(self.prompt[name].get("inputs", {}))
        received: dict[str, str] = {}
        problems: list[Problem] = []
        for slot in declared(definition.inputs, {key: literal(value) for key, value in given.items()}):
            if slot.name not in given:
                if slot.required:
                    last = slot.name.rpartition(".")[2]
                    problems.append(Problem("required_input_missing", last, {"input_name": slot.name}))
                continue
            value, config = given[slot.name], described(slot, definition.version, self.folders)
            if isinstance(value, (list, tuple)):
                problems += self.linked(name, slot, value, config, received)
                continue
            made, wrong = checked(slot, literal(value), config, _checks_itself(definition, slot.name))
            given[slot.name] = {"__value__": made} if isinstance(made, list) else made
            problems += wrong
        self.values[name] = given
        self.found[name] = problems or _custom(definition, given, received, self.folders)

    def linked(
        self, name: str, slot: Slot, value: Sequence[Any], config: Any, received: dict[str, str]
    ) -> list[Problem]:
        """The errors of a link; the type that comes from it is added to `received`."""
        source = link(value)
        if source is None:
            extra = {"input_name": slot.name, "input_config": config, "received_value": list(value)}
            return [Problem("bad_linked_input", slot.name, extra)]
        if source.node not in self.prompt:
            return [self.inner(name, KeyError(source.node))]
        outputs = self.definition(source.node).outputs
        if not 0 <= source.slot < len(outputs):
            text = f"{slot.name}: node {source.node} has {len(outputs)} outputs, counted from 0; got {source.slot}"
            return [self.inner(name, IndexError(text))]
        received[slot.name] = kind = outputs[source.slot].type
        if compatible(kind, slot.type) or _checks_itself(self.definition(name), "input_types"):
            return []
        extra = {"input_name": slot.name, "input_config": config, "received_type": kind, "linked_node": list(source)}
        details = f"{slot.name}, received_type({kind}) mismatch input_type({slot.type})"
        return [Problem("return_type_mismatch", details, extra)]

    def inner(self, name: str, error: Exception) -> Problem:
        """The error of a node with a link that leads nowhere, which names the node after it, if there is one."""
        about = {"exception_message": str(error), "exception_type": type(error).__name__, "traceback": list[str]()}
        for key, node in self.prompt.items():
            for at, source in links(node).items():
                slot = self.definition(key).slot(at)
                if source.node == name and slot is not None:
                    config = described(slot, self.definition(key).version, self.folders)
                    extra = {"input_name": at, "input_config": config, **about, "linked_node": list(source)}
                    return Problem("exception_during_inner_validation", str(error), extra)
        return Problem("exception_during_validation", str(error), about)


def _outputs(prompt: Prompt, wanted: Sequence[str], nodes: Mapping[str, Definition], folders: Folders) -> Validated:
    """Check all nodes that lead to each output."""
    checks = _Checks(prompt, nodes, folders)
    if checks.all_well(wanted):
        return _with_loops(Validated(checks.typed(), tuple(wanted)), nodes)
    good: list[str] = []
    reasons: list[str] = []
    spoilt: dict[str, list[str]] = {}
    for output in wanted:
        try:
            order = upstream_first(prompt, [output])
        except ValueError as error:
            reasons.append(str(error))
            continue
        checks.check(order)
        bad = [name for name in order if checks.found[name]]
        for name in bad:
            spoilt.setdefault(name, []).append(output)
        reasons += [f"node {name}: {each.details}" for name in bad for each in checks.found[name]]
        good += [] if bad else [output]
    faulty = {name: Faulty(checks.found[name], prompt[name]["class_type"], at) for name, at in spoilt.items()}
    error = None if good else Problem(FAILED, "; ".join(dict.fromkeys(reasons)))
    return _with_loops(Validated(checks.typed(), tuple(good), error, faulty), nodes)


def _with_loops(found: Validated, nodes: Mapping[str, Definition]) -> Validated:
    """The outputs without those that run as part of a loop, or the error of the loops."""
    prompt = found.prompt
    try:
        loops = loops_of(prompt, lambda name: nodes[prompt[name]["class_type"]].boundary, found.outputs)
    except LoopError as error:
        about = {"loop_error_type": error.kind, "node_ids": list(error.nodes), "output_ids": list(error.outputs)}
        extra = {"input_name": "loop boundary", **about}
        problem, at = Problem("custom_validation_failed", str(error), extra), error.nodes[0]
        faulty = {**found.faulty, at: Faulty((problem,), prompt[at]["class_type"], found.outputs)}
        return replace(found, outputs=(), error=Problem(FAILED, str(error)), faulty=faulty)
    inside = {name for loop in loops for name in loop.body}
    return replace(found, outputs=tuple(name for name in found.outputs if name not in inside))


def _checks_itself(definition: Definition, name: str) -> bool:
    """Whether a class's own check is about an input, which then is not checked otherwise; what a choice is, always."""
    hook, slot = definition.validate, definition.slot(name)
    if slot is not None and slot.type == DYNAMIC:
        return False
    return hook is not None and (name in hook.names or (hook.every and name != "input_types"))


def compatible(received: str, expected: str) -> bool:
    """Whether an output of one type may be linked to an input of another; both may name several, with commas."""
    names, other = ({each.strip() for each in kind.split(",")} for kind in (received, expected))
    return bool(names & other) or bool((names | other) & {"*", "COMFY_MATCHTYPE_V3"})


def _custom(
    definition: Definition, given: Mapping[str, Any], received: Mapping[str, str], folders: Folders
) -> list[Problem]:
    """The errors of the class's own check: one per input that it takes."""
    hook = definition.validate
    if hook is None:
        return []
    values = {key: None if link(value) else literal(value) for key, value in given.items()}
    asked = [key for key in values if hook.every or key in hook.names]
    inputs = nested(definition.inputs, values)
    try:
        answer = hook.ask(
            {**inputs, "input_types": dict(received)} if "input_types" in hook.names else inputs, Context(folders)
        )
    except (ImportError, ValueError) as error:
        answer = str(error)
    except Exception as error:  # the check of any class, for values that it did not expect
        answer = f"{type(error).__name__}: {error}"
    if answer is None or answer is True:
        return []
    text = f" - {answer}" if isinstance(answer, str) else ""
    names = asked or [each for each in sorted(hook.names) if each not in ("context", "input_types")]
    return [Problem("custom_validation_failed", f"{name}{text}", {"input_name": name}) for name in names]
