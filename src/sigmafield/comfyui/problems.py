"""What is wrong with a prompt, in the form in which ComfyUI answers: kinds of errors, and which nodes have them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sigmafield.comfyui.graph import Prompt

FAILED = "prompt_outputs_failed_validation"

MESSAGES = {
    "required_input_missing": "Required input is missing",
    "bad_linked_input": "Bad linked input, must be a length-2 list of [node_id, slot_index]",
    "return_type_mismatch": "Return type mismatch between linked nodes",
    "exception_during_inner_validation": "Exception when validating inner node",
    "exception_during_validation": "Exception when validating node",
    "value_not_in_list": "Value not in list",
    "custom_validation_failed": "Custom validation failed for node",
    "prompt_no_outputs": "Prompt has no outputs",
    FAILED: "Prompt outputs failed validation",
}
"""ComfyUI's sentences about errors by their kind; others depend on the values."""


@dataclass(frozen=True)
class Problem:
    """An error.

    Args:
        type: Its kind, in ComfyUI's words: "value_not_in_list".
        details: What exactly.
        extra: The input, the value and what else belongs to the kind.
        message: One sentence; "" for the one of the kind.
    """

    type: str
    details: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict[str, Any])
    message: str = ""

    def described(self) -> dict[str, Any]:
        """The error in ComfyUI's form."""
        message = self.message or MESSAGES[self.type]
        return {"type": self.type, "message": message, "details": self.details, "extra_info": dict(self.extra)}


@dataclass(frozen=True)
class Faulty:
    """A node with errors.

    Args:
        problems: Its errors.
        class_type: Its class.
        outputs: The outputs that cannot be computed because of them.
    """

    problems: Sequence[Problem]
    class_type: str
    outputs: Sequence[str] = ()


@dataclass(frozen=True)
class Validated:
    """A prompt that has been checked.

    Args:
        prompt: The prompt, with numbers and texts of the types that the classes have.
        outputs: The output nodes that can be computed, in the prompt's order.
        error: Why none can be computed; None where one can.
        faulty: The nodes with errors by id; there may be some although other outputs can be computed.
    """

    prompt: Prompt = field(default_factory=dict[str, Mapping[str, Any]])
    outputs: tuple[str, ...] = ()
    error: Problem | None = None
    faulty: Mapping[str, Faulty] = field(default_factory=dict[str, Faulty])

    def described(self) -> dict[str, Any]:
        """The errors in the form of ComfyUI's answer."""
        faulty = {
            name: {
                "errors": [each.described() for each in node.problems],
                "dependent_outputs": list(node.outputs),
                "class_type": node.class_type,
            }
            for name, node in self.faulty.items()
        }
        return ({"error": self.error.described()} if self.error else {}) | {"node_errors": faulty}

    def lines(self) -> list[str]:
        """The errors as sentences."""
        found: list[str] = []
        if self.error and not self.faulty:
            found.append(_sentence(self.error))
        for name, node in self.faulty.items():
            found += [f"node {name} ({node.class_type}): {_sentence(each)}" for each in node.problems]
        return found

    def check(self) -> None:
        """Raise ValueError with all errors unless everything can be computed."""
        if self.error or self.faulty:
            raise ValueError("\n".join(self.lines()))


def _sentence(problem: Problem) -> str:
    message = problem.message or MESSAGES[problem.type]
    return f"{message}: {problem.details}" if problem.details else message
