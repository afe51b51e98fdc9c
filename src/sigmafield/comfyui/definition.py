"""The definition of a node class: inputs, outputs, flags and the function that runs it, from which all else follows."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sigmafield.comfyui.context import Context, Folders, Outcome, Progress
from sigmafield.comfyui.sockets import Choices

Result = Outcome | Generator[Progress, None, Outcome] | Awaitable[Outcome]


@dataclass(frozen=True)
class Slot:
    """An input of a node class.

    Args:
        name: Its name.
        type: ComfyUI's type: "INT", "LATENT", "COMBO", ….
        options: Its options by ComfyUI's names, without those that depend on files.
        required: Whether a prompt must have it.
        choices: What a combo's options are made from, where they depend on the folders.
        doc: One sentence that says what it is.
    """

    name: str
    type: str
    options: Mapping[str, Any] = field(default_factory=dict)
    required: bool = True
    choices: Choices | None = None
    doc: str = ""

    def described(self, folders: Folders) -> dict[str, Any]:
        """The options, those that depend on files and the tooltip as well."""
        found = dict(self.options)
        if self.choices is not None:
            found["options"] = list(self.choices.of(folders))
        return found | ({"tooltip": self.doc} if self.doc else {})


@dataclass(frozen=True)
class Output:
    """An output of a node class.

    Args:
        type: ComfyUI's type, or the options of a combo.
        name: Its name, which is the type unless it is given.
        listed: Whether its value is a list, each item of which goes to the next node on its own.
        template: Name of the template of inputs whose type it has.
    """

    type: str
    name: str
    listed: bool = False
    template: str | None = None


@dataclass(frozen=True)
class Hook:
    """A function that is asked about a node before it runs; it receives those inputs that it has parameters for.

    Args:
        function: The function.
        names: Its parameters.
        every: Whether it takes all inputs, with **.
    """

    function: Callable[..., Any]
    names: frozenset[str]
    every: bool = False

    @classmethod
    def of(cls, function: Callable[..., Any]) -> Hook:
        """A hook from a function's signature."""
        arguments = inspect.signature(function).parameters.values()
        every = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in arguments)
        single = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        return cls(function, frozenset(each.name for each in arguments if each.kind in single), every)

    def ask(self, values: Mapping[str, Any], context: Context) -> Any:
        """The function's answer."""
        given = {**values, "context": context} if "context" in self.names else values
        return self.function(**{name: each for name, each in given.items() if self.every or name in self.names})


@dataclass(frozen=True)
class Definition:
    """A node class.

    Args:
        name: ComfyUI's `class_type`.
        category: Its path in the menu.
        call: Runs it: inputs by name and the context → an outcome, a generator of progress, or an awaitable.
        inputs: Its inputs in order, required ones first.
        outputs: Its outputs in order.
        hidden: Values that it asks the executor for: their types by name.
        title: Its name in the interface; None: the class type.
        doc: What it does.
        takes_lists: Whether it is called once with lists of values.
        shows: Whether it is run for its own sake, as one that saves images is.
        fresh: Whether two equal nodes must both run.
        waits: Whether it runs asynchronously.
        extra_inputs: Whether it takes inputs that are not declared.
        deprecated: Whether there is a better class.
        experimental: Whether it may change.
        version: 1 or 3: the form in which ComfyUI describes it.
        module: Python module in ComfyUI's form, by which the interface tells packs apart.
        validate: Raises ValueError, or returns a message or false, for inputs that do not work.
        fingerprint: A value that changes when the node must run again although its inputs are the same.
        needs: Names of the lazy inputs that are needed, from the inputs that are there; the others are None.
        boundary: "start" or "end" of a loop.
        aliases: Other words under which it is found.
    """

    name: str
    category: str
    call: Callable[[Mapping[str, Any], Context], Result]
    inputs: tuple[Slot, ...] = ()
    outputs: tuple[Output, ...] = ()
    hidden: Mapping[str, str] = field(default_factory=dict)
    title: str | None = None
    doc: str = ""
    takes_lists: bool = False
    shows: bool = False
    fresh: bool = False
    waits: bool = False
    extra_inputs: bool = False
    deprecated: bool = False
    experimental: bool = False
    version: int = 1
    module: str = "nodes"
    validate: Hook | None = None
    fingerprint: Hook | None = None
    needs: Hook | None = None
    boundary: str | None = None
    aliases: Sequence[str] = ()

    def slot(self, name: str) -> Slot | None:
        """The input of that name; None without one."""
        return next((each for each in self.inputs if each.name == name), None)
