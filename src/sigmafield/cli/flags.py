"""Command-line flags from classes of options: names, types, defaults, ranges and sentences are declared there only."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import Annotated, Any, Literal, TypeVar

from cyclopts import Group, Parameter

from sigmafield.cli.errors import user_errors
from sigmafield.cli.panels import panel
from sigmafield.cli.parse import READERS
from sigmafield.cli.prose import description
from sigmafield.core import parameters
from sigmafield.core.registry import Spec, format_specs

Given = Mapping[str, Any]
"""Values of the options that were given, by field name."""

METAVAR = "metavar" in inspect.signature(Parameter).parameters
"""Whether the help can show what a value looks like: since cyclopts 5, which needs Python 3.11."""

R = TypeVar("R")


@dataclass(frozen=True)
class Flags:
    """The fields of a class of options as flags.

    Args:
        kind: The class.
        panel: Title of the panel of the help that they are in.
        names: Other names of some fields' flags, without dashes.
        without: Fields that are not flags.
        defaults: Other defaults to show in the help, where the command has its own.
    """

    kind: type
    panel: str
    names: Mapping[str, str] = field(default_factory=dict)
    without: Sequence[str] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)

    def flag(self, name: str) -> str:
        """The flag of a field: --start for start_step."""
        return "--" + self.names.get(name, name).replace("_", "-")

    def fields(self) -> dict[str, parameters.Parameter]:
        """The fields that are flags; nested options are not."""
        known = parameters.fields_of(self.kind)
        return {n: p for n, p in known.items() if n not in self.without and not n.endswith("sha256")}

    def arguments(self) -> list[inspect.Parameter]:
        """Keyword arguments of a command, one per flag; all are None by default, so that it is known what was given."""
        group = panel(self.panel)
        return [
            inspect.Parameter(
                argument_name(self, name),
                inspect.Parameter.KEYWORD_ONLY,
                default=None,
                annotation=Annotated[self._type(name, p), self._shown(name, p, group)],
            )
            for name, p in self.fields().items()
        ]

    def _type(self, name: str, p: parameters.Parameter) -> Any:
        if name in READERS.several:
            return list[str] | None
        if p.choices:
            return Literal[p.choices] | None  # type: ignore[valid-type]
        return (p.kind if p.kind in (int, float, bool) and name not in READERS.one else str) | None

    def _shown(self, name: str, p: parameters.Parameter, group: Group) -> Parameter:
        default = self.defaults.get(name, p.default)
        shown = default_text(default)
        about = " ".join(p.doc.split()).replace(". None is ", ". Default: ").replace("None is ", "default: ")
        if p.range is not None and not p.choices:
            about += f" ({p.range.text(self.names.get(name, name))})"
        if name in READERS.several:
            about += " Repeat for more."
        show = (lambda _: shown) if shown else False
        shape: dict[str, Any] = {"metavar": READERS.shapes.get(name)} if METAVAR else {}
        return Parameter(name=self.flag(name), help=about, group=group, negative="", show_default=show, **shape)


def default_text(default: Any) -> str:
    """A default as the help shows it; "" where the sentence says what None means, or nothing is the default."""
    if default is None or default == () or default is False:
        return ""
    if not isinstance(default, tuple):
        return str(default)
    return format_specs(default) if all(isinstance(each, Spec) for each in default) else ", ".join(map(str, default))


def argument_name(flags: Flags, name: str) -> str:
    """Name of the argument of a field: that of its flag."""
    return re.sub(r"\W", "_", flags.flag(name).removeprefix("--"))


def with_flags(**groups: Sequence[Flags]) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """A command that has the flags of these groups; it is given what was given of each group, by field name.

    Errors about what the user gave end the program with one line.
    """

    def decorate(command: Callable[..., R]) -> Callable[..., R]:
        signature = inspect.signature(command, eval_str=True)
        own = [p for name, p in signature.parameters.items() if name not in groups]

        @wraps(command)
        def call(*args: Any, **kwargs: Any) -> R:
            with user_errors():
                sets: dict[str, dict[str, Any]] = {}
                for key, members in groups.items():
                    sets[key] = {}
                    for flags in members:
                        for name in flags.fields():
                            value = kwargs.pop(argument_name(flags, name), None)
                            if value is not None:
                                sets[key][name] = READERS.read(name, value)
                return command(*args, **kwargs, **sets)

        added = [argument for members in groups.values() for flags in members for argument in flags.arguments()]
        call.__signature__ = inspect.Signature([*own, *added])  # type: ignore[attr-defined]
        call.__annotations__ = {p.name: p.annotation for p in (*own, *added)}
        call.__doc__ = description(command.__doc__)
        del call.__wrapped__  # type: ignore[attr-defined]
        return call

    return decorate
