"""A class of ComfyUI's first form, with INPUT_TYPES, RETURN_TYPES and FUNCTION, as a definition."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, cast

from sigmafield.comfyui.asked import asked
from sigmafield.comfyui.context import Blocked, Context, Folders, Outcome
from sigmafield.comfyui.definition import Definition, Hook, Output, Result, Slot
from sigmafield.comfyui.sockets import Choices


def v1_definition(name: str, cls: type, title: str | None = None, module: str = "nodes") -> Definition:
    """The definition of a class; an object of it is made for each node, and kept.

    Args:
        name: Its class type.
        cls: The class.
        title: Its name in the interface.
        module: "custom_nodes.PACK".

    Raises:
        ValueError: It lacks something that such a class has.
    """
    missing = [each for each in ("INPUT_TYPES", "RETURN_TYPES", "FUNCTION") if not hasattr(cls, each)]
    if missing or not hasattr(cls, cls.FUNCTION):
        raise ValueError(f"{name} has no {', '.join(missing) or cls.FUNCTION}")
    made = cast("Any", cls)
    groups: Mapping[str, Mapping[str, Any]] = made.INPUT_TYPES()
    outputs = _outputs(made)
    objects: dict[str, Any] = {}

    def object_of(context: Context) -> Any:
        return objects.setdefault(context.node, made())

    method = inspect.signature(getattr(cls, made.FUNCTION))
    hidden = {key: kind if isinstance(kind, str) else kind[0] for key, kind in groups.get("hidden", {}).items()}
    return Definition(
        name=name,
        category=getattr(made, "CATEGORY", "sd"),
        call=_caller(object_of, made.FUNCTION, hidden, len(outputs), bool(getattr(made, "INPUT_IS_LIST", False))),
        inputs=tuple(
            _slot(made, group, key, spec)
            for group in ("required", "optional")
            for key, spec in groups.get(group, {}).items()
        ),
        outputs=outputs,
        hidden=hidden,
        title=title,
        doc=getattr(made, "DESCRIPTION", ""),
        takes_lists=bool(getattr(made, "INPUT_IS_LIST", False)),
        shows=bool(getattr(made, "OUTPUT_NODE", False)),
        fresh=bool(getattr(made, "NOT_IDEMPOTENT", False)),
        waits=inspect.iscoroutinefunction(getattr(cls, made.FUNCTION)),
        extra_inputs=any(each.kind is inspect.Parameter.VAR_KEYWORD for each in method.parameters.values()),
        deprecated=bool(getattr(made, "DEPRECATED", False)),
        experimental=bool(getattr(made, "EXPERIMENTAL", False)),
        module=module,
        validate=_validator(made.VALIDATE_INPUTS) if hasattr(cls, "VALIDATE_INPUTS") else None,
        fingerprint=Hook.of(made.IS_CHANGED) if hasattr(cls, "IS_CHANGED") else None,
        needs=_needs(object_of) if hasattr(cls, "check_lazy_status") else None,
        aliases=tuple(getattr(made, "SEARCH_ALIASES", ())),
    )


def _slot(cls: Any, group: str, name: str, spec: Sequence[Any]) -> Slot:
    """An input from its tuple (type, options); a list of choices is asked for again whenever it is shown."""
    kind, options = spec[0], dict(spec[1]) if len(spec) > 1 else {}
    doc = str(options.pop("tooltip", ""))
    if not isinstance(kind, (list, tuple)):
        return Slot(name, str(kind), options, group == "required", None, doc)

    def choices(folders: Folders) -> list[Any]:
        return list(cls.INPUT_TYPES()[group][name][0])

    return Slot(name, "COMBO", options, group == "required", Choices(choices), doc)


def _outputs(cls: Any) -> tuple[Output, ...]:
    types = ["COMBO" if isinstance(kind, (list, tuple)) else str(kind) for kind in cls.RETURN_TYPES]
    names = list(getattr(cls, "RETURN_NAMES", ()) or types)
    listed = list(getattr(cls, "OUTPUT_IS_LIST", ()) or [False] * len(types))
    if len(names) != len(types) or len(listed) != len(types):
        raise ValueError(
            f"{cls.__name__} has {len(types)} outputs, {len(names)} names and {len(listed)} OUTPUT_IS_LIST"
        )
    return tuple(Output(kind, str(shown), bool(many)) for kind, shown, many in zip(types, names, listed))


def _caller(
    object_of: Callable[[Context], Any], method: str, hidden: Mapping[str, str], n: int, listed: bool
) -> Callable[[Mapping[str, Any], Context], Result]:
    def call(inputs: Mapping[str, Any], context: Context) -> Result:
        values = asked(context)
        more = {key: values.get(kind) for key, kind in hidden.items()}
        more = {key: [value] for key, value in more.items()} if listed else more
        made = getattr(object_of(context), method)(**inputs, **more)
        return _awaited(made, n) if inspect.isawaitable(made) else v1_outcome(made, n)

    return call


async def _awaited(made: Awaitable[Any], n: int) -> Outcome:
    return v1_outcome(await made, n)


def v1_outcome(made: Any, n: int) -> Outcome:
    """What a method returned as an outcome.

    Args:
        made: A tuple, a dict with "ui", "result" and "expand", or a `Blocked`.
        n: The number of outputs.

    Raises:
        TypeError: It is something else.
    """
    parts: Mapping[str, Any] = made if isinstance(made, Mapping) else {"result": made}
    result = parts.get("result", ())
    if isinstance(result, Blocked):
        result = (result,) * n
    if not isinstance(result, (tuple, list)):
        raise TypeError(f"a node returns a tuple with its outputs; got {type(result).__name__}")
    return Outcome(tuple(cast("Sequence[Any]", result)), parts.get("ui"), parts.get("expand"))


def _validator(check: Callable[..., Any]) -> Hook:
    """A class's VALIDATE_INPUTS, any error of which is what is wrong with the inputs."""
    hook = Hook.of(check)

    def ask(**given: Any) -> Any:
        try:
            return check(**given)
        except Exception as error:
            raise ValueError(f"{type(error).__name__}: {error}") from error

    return Hook(ask, hook.names, hook.every)


def _needs(object_of: Callable[[Context], Any]) -> Hook:
    def ask(context: Context, **given: Any) -> Sequence[str]:
        return object_of(context).check_lazy_status(**given)

    return Hook(ask, frozenset({"context"}), every=True)
