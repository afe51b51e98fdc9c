"""Classes that another class has taken the place of: nodes of prompts that name one are rewritten."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sigmafield.comfyui.graph import link
from sigmafield.comfyui.workflow.classes import DYNAMIC_COMBO, Classes, Input, inputs_of, outputs_of


@dataclass(frozen=True)
class Replacement:
    """A class that takes the place of another one.

    Args:
        new: The class.
        inputs: Its inputs by name, each with the name of the old class's input that it has the value or link of, in the
            order that the old class has them.
        values: Further inputs, with their values.
        outputs: Numbers of its outputs by the numbers of the old class's, where they differ.
    """

    new: str
    inputs: Mapping[str, str]
    values: Mapping[str, Any] = field(default_factory=dict[str, Any])
    outputs: Mapping[int, int] = field(default_factory=dict[int, int])


def _same(*names: str) -> dict[str, str]:
    return {name: name for name in names}


RULES: Mapping[str, Sequence[Replacement]] = {
    "ResizeImagesByLongerEdge": (
        Replacement(
            "ImageScaleToMaxDimension",
            {"image": "images", "largest_size": "longer_edge"},
            {"upscale_method": "lanczos"},
        ),
    ),
    "ImageBatch": (Replacement("BatchImagesNode", {"images.image0": "image1", "images.image1": "image2"}),),
    "ImageScaleBy": (
        Replacement(
            "ResizeImageMaskNode",
            {"input": "image", "scale_method": "upscale_method", "resize_type.multiplier": "scale_by"},
            {"resize_type": "scale by multiplier"},
        ),
    ),
    "T2IAdapterLoader": (Replacement("ControlNetLoader", _same("control_net_name")),),
    "ConditioningAverage ": (
        Replacement("ConditioningAverage", _same("conditioning_to", "conditioning_from", "conditioning_to_strength")),
    ),
}
"""ComfyUI's rules by the old class, for the classes that are here; the first rule whose class is installed counts."""


def replaced(
    prompt: Mapping[str, Any],
    installed: Collection[str],
    rules: Mapping[str, Sequence[Replacement]] = RULES,
) -> dict[str, Any]:
    """A prompt with nodes of other classes in place of those whose class is not installed and has a rule.

    Args:
        prompt: The prompt in API form; entries that are not nodes stay as they are.
        installed: The classes that there are.
        rules: Rules by the old class.
    """
    chosen = {
        name: rule
        for name, node in prompt.items()
        if isinstance(node, Mapping) and (rule := _rule_for(node.get("class_type"), installed, rules)) is not None
    }
    made = {name: _rewritten(node, chosen[name]) if name in chosen else node for name, node in prompt.items()}
    moved = {name: rule.outputs for name, rule in chosen.items() if rule.outputs}
    return {name: _relinked(node, moved) for name, node in made.items()} if moved else made


def _rule_for(kind: Any, installed: Collection[str], rules: Mapping[str, Sequence[Replacement]]) -> Replacement | None:
    if not isinstance(kind, str) or kind not in rules or kind in installed:
        return None
    return next((rule for rule in rules[kind] if rule.new in installed), None)


def _rewritten(node: Mapping[str, Any], rule: Replacement) -> dict[str, Any]:
    given = node.get("inputs", {})
    inputs = {new: given[old] for new, old in rule.inputs.items() if old in given}
    return {**node, "class_type": rule.new, "inputs": {**rule.values, **inputs}}


def _relinked(node: Any, moved: Mapping[str, Mapping[int, int]]) -> Any:
    """A node with the new numbers of outputs in its links."""
    if not isinstance(node, Mapping):
        return node
    inputs = dict(node.get("inputs", {}))
    for name, value in inputs.items():
        found = link(value)
        if found is not None and found.node in moved:
            inputs[name] = [found.node, moved[found.node].get(found.slot, found.slot)]
    return {**node, "inputs": inputs}


def with_former(classes: Classes, rules: Mapping[str, Sequence[Replacement]] = RULES) -> Classes:
    """Classes together with those that rules replace, so that workflows of ComfyUI's page which have them can be read.

    Args:
        classes: Entries of `/object_info`.
        rules: Rules by the old class. An old input has the type of the new one.
    """
    return _WithFormer(classes, rules)


@dataclass(frozen=True)
class _WithFormer(Mapping[str, Mapping[str, Any]]):
    """Old classes are looked at one by one: which of the others there are may be slow to say."""

    classes: Classes
    rules: Mapping[str, Sequence[Replacement]]

    def __getitem__(self, name: str) -> Mapping[str, Any]:
        rule = _rule_for(name, self.classes, self.rules)
        return self.classes[name] if rule is None else _former(name, rule, self.classes[rule.new])

    def __iter__(self) -> Iterator[str]:
        yield from self.classes
        yield from (name for name in self.rules if _rule_for(name, self.classes, self.rules) is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _former(name: str, rule: Replacement, entry: Mapping[str, Any]) -> dict[str, Any]:
    """The entry of an old class, from that of the new one."""
    inputs = {old: _spec_of(new, rule, inputs_of(entry)) for new, old in rule.inputs.items()}
    kinds = [kind for _, kind in outputs_of(entry)]
    numbers = {k: k for k in range(len(kinds))} | dict(rule.outputs)
    outputs = [kinds[numbers[k]] for k in range(len(kinds))]
    return {"input": {"required": inputs}, "output": outputs, "display_name": name}


def _spec_of(name: str, rule: Replacement, inputs: Sequence[Input]) -> list[Any]:
    """What a class says about an input, which may be one of those that a choice brings, or one of a group's sockets."""
    known = {each.name: each for each in inputs}
    if name not in known:
        group = known.get(name.rpartition(".")[0])
        if group is None or group.type != DYNAMIC_COMBO:
            return ["*", {}]
        known = {each.name: each for each in group.below(rule.values[group.name])}
    return [known[name].type, dict(known[name].options)]


def described(rules: Mapping[str, Sequence[Replacement]] = RULES) -> dict[str, list[dict[str, Any]]]:
    """The rules as ComfyUI's server describes them, by the old class."""
    return {
        old: [
            {
                "new_node_id": rule.new,
                "old_node_id": old,
                "old_widget_ids": None,
                "input_mapping": [
                    *({"new_id": name, "set_value": value} for name, value in rule.values.items()),
                    *({"new_id": new, "old_id": name} for new, name in rule.inputs.items()),
                ],
                "output_mapping": [{"new_idx": new, "old_idx": former} for former, new in rule.outputs.items()],
            }
            for rule in each
        ]
        for old, each in rules.items()
    }
