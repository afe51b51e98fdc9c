"""Notes in the annotations of a node's parameters: what ComfyUI calls a type, and the options of its widgets.

samples: Annotated[LatentDict, Socket("LATENT")]
cfg: Annotated[float, Range(0, 100), Input(step=0.1, round=0.01)] = 8.0
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, get_args, get_origin

from sigmafield.comfyui.context import Folders

T = TypeVar("T")


@dataclass(frozen=True)
class Socket:
    """A value that comes from another node.

    Args:
        type: ComfyUI's name of the type: "LATENT", "IMAGE,MASK" for one of several, "*" for any.
        listed: For an output: whether the value is a list, each item of which goes to the next node on its own.
    """

    type: str
    listed: bool = False


@dataclass(frozen=True)
class Match:
    """A value of any of several types; outputs with the same template have the type of the input.

    Args:
        template: Name of the template.
        allowed: Allowed types, "*" or "IMAGE,MASK".
    """

    template: str
    allowed: str = "*"


@dataclass(frozen=True)
class Autogrow:
    """A group of sockets of one type that grows as links are added; the node receives them as a dict by name.

    Args:
        of: Annotated type of one value.
        input: Name of the value in the template.
        prefix: Names are prefix0, prefix1, …; "" where `names` are given.
        min: Fewest values.
        max: Most values.
        names: The names themselves, in place of a prefix.
    """

    of: Any
    input: str
    prefix: str = ""
    min: int = 1
    max: int = 10
    names: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)  # a mapping has no hash
class Dynamic:
    """A choice, each option of which has inputs of its own: the fields of a frozen dataclass, which the node receives.

    Args:
        options: The dataclass of each option, by the option's text.
    """

    options: Mapping[str, type]


@dataclass(frozen=True)
class Choices:
    """A choice from a list that is made when it is asked for, such as the files in a folder.

    Args:
        of: The list, from the folders.
        files: Whether the choices are names of files.
    """

    of: Callable[[Folders], Sequence[str]]
    files: bool = False


@dataclass(frozen=True)
class Hidden:
    """A value that the executor gives: "PROMPT", "EXTRA_PNGINFO" or "UNIQUE_ID"."""

    type: str


@dataclass(frozen=True)
class Input:
    """Options of an input, in ComfyUI's words; None leaves an option out.

    Args:
        optional: Whether a prompt may leave the input out; it is, too, where the default is None.
        lazy: Whether it is evaluated only if the node's `needs` asks for it.
        step: Increment of a number in the interface.
        round: Precision of a number in the interface; False: as typed.
        display: How a number is shown: "number", "slider", "color".
        control_after_generate: Whether the interface changes the number after each prompt, as it does for seeds.
        multiline: Whether a text has several lines.
        dynamic_prompts: Whether {a|b} in a text is replaced by one of the words, in the interface.
        placeholder: Shown in an empty text.
        force_input: Whether a number or text has a socket and no widget.
        more: Other options by ComfyUI's name.
    """

    optional: bool = False
    lazy: bool | None = None
    step: int | float | None = None
    round: int | float | bool | None = None
    display: str | None = None
    control_after_generate: bool | str | None = None
    multiline: bool | None = None
    dynamic_prompts: bool | None = None
    placeholder: str | None = None
    force_input: bool | None = None
    more: tuple[tuple[str, Any], ...] = ()

    def options(self) -> dict[str, Any]:
        """The options by ComfyUI's names."""
        found = {
            "step": self.step,
            "round": self.round,
            "display": self.display,
            "control_after_generate": self.control_after_generate,
            "multiline": self.multiline,
            "dynamicPrompts": self.dynamic_prompts,
            "placeholder": self.placeholder,
            "forceInput": self.force_input,
            "lazy": self.lazy,
        }
        return {name: value for name, value in found.items() if value is not None} | dict(self.more)


Seed = Annotated[int, Input(control_after_generate=True)]
"""A seed, which the interface changes after each prompt; add its range."""


def files(folder: str) -> Choices:
    """The files of a folder of models, such as "checkpoints"."""
    return Choices(lambda folders: folders.names(folder), files=True)


def notes(hint: Any) -> list[Any]:
    """The notes of an annotation, those of the alternatives of a union as well."""
    if get_origin(hint) is Annotated:
        inner, *found = get_args(hint)
        return [*found, *notes(inner)]
    return [note for each in get_args(hint) if each is not type(None) for note in notes(each)] if _union(hint) else []


def note(hint: Any, kind: type[T]) -> T | None:
    """The first note of a kind; None without one."""
    return next((each for each in notes(hint) if isinstance(each, kind)), None)


def _union(hint: Any) -> bool:
    return getattr(get_origin(hint), "__name__", "") in ("Union", "UnionType")
