"""A node as a class that ComfyUI itself can load."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from sigmafield.comfyui.context import Context, Folders, Outcome
from sigmafield.comfyui.definition import Definition, Hook
from sigmafield.comfyui.object_info import object_info

DYNAMIC = ("COMFY_AUTOGROW_V3", "COMFY_DYNAMICCOMBO_V3")
"""Types whose inputs depend on what is linked, which version 1 of ComfyUI's classes cannot have."""


def v1_class(node: Definition, folders: Callable[[], Folders]) -> type:
    """The class of a node as an entry of ComfyUI's NODE_CLASS_MAPPINGS.

    Args:
        node: The node.
        folders: Where files are, asked at each call, as ComfyUI's folders may change.

    Raises:
        ValueError: It has inputs that only version 3 of ComfyUI's classes can have.
    """
    if dynamic := [each.name for each in node.inputs if each.type in DYNAMIC]:
        raise ValueError(f"{node.name} cannot be a class of version 1: its input {dynamic[0]} grows with its links")
    members: dict[str, Any] = {
        "INPUT_TYPES": classmethod(lambda cls: _input_types(node, folders())),
        "RETURN_TYPES": tuple("*" if each.template else each.type for each in node.outputs),
        "RETURN_NAMES": tuple(each.name for each in node.outputs),
        "OUTPUT_IS_LIST": tuple(each.listed for each in node.outputs),
        "INPUT_IS_LIST": node.takes_lists,
        "OUTPUT_NODE": node.shows,
        "NOT_IDEMPOTENT": node.fresh,
        "DEPRECATED": node.deprecated,
        "EXPERIMENTAL": node.experimental,
        "SEARCH_ALIASES": list(node.aliases),
        "CATEGORY": node.category,
        "DESCRIPTION": node.doc,
        "FUNCTION": "run",
        "run": _runner(node, folders),
    }
    if node.fingerprint:
        members["IS_CHANGED"] = classmethod(_asked(node.fingerprint, folders, "cls"))
    if node.validate:
        members["VALIDATE_INPUTS"] = classmethod(_validated(node.validate, folders))
    if node.needs:
        members["check_lazy_status"] = _asked(node.needs, folders, "self")
    return type(node.name, (), members)


def _input_types(node: Definition, folders: Folders) -> dict[str, Any]:
    groups = object_info(node, folders)["input"]
    plain = {
        key: {name: tuple(_plain(each)) for name, each in group.items()}
        for key, group in groups.items()
        if key != "hidden"
    }
    return plain | ({"hidden": dict(node.hidden)} if node.hidden else {})


def _plain(described: list[Any]) -> list[Any]:
    """An input's type and options, with a type of any kind in place of a template's."""
    kind, options = described
    return ["*", {key: value for key, value in options.items() if key != "template"}] if _matches(kind) else described


def _matches(kind: Any) -> bool:
    return kind == "COMFY_MATCHTYPE_V3"


def _runner(node: Definition, folders: Callable[[], Folders]) -> Callable[..., Any]:
    """The method that runs the node to its end."""

    def context(given: Mapping[str, Any]) -> Context:
        asked = {kind: given.get(name) for name, kind in node.hidden.items()}
        return Context(
            folders(),
            node=asked.get("UNIQUE_ID") or "",
            prompt=asked.get("PROMPT") or {},
            extra=asked.get("EXTRA_PNGINFO"),
        )

    def inputs(given: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in given.items() if name not in node.hidden}

    def run(self: object, **given: Any) -> Any:
        made = node.call(inputs(given), context(given))
        return _result(_drained(made) if inspect.isgenerator(made) else made)

    async def run_async(self: object, **given: Any) -> Any:
        made: Any = node.call(inputs(given), context(given))
        return _result(await made)

    return run_async if node.waits else run


def _drained(steps: Any) -> Outcome:
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def _result(made: Any) -> Any:
    """An outcome as ComfyUI reads it."""
    if made.ui is None and made.graph is None:
        return made.values
    parts = {"ui": made.ui, "result": made.values, "expand": made.graph}
    return {key: value for key, value in parts.items() if value is not None}


def _asked(hook: Hook, folders: Callable[[], Folders], owner: str) -> Callable[..., Any]:
    def ask(first: object, **given: Any) -> Any:
        return hook.ask(given, Context(folders()))

    return _signed(ask, hook, owner)


def _validated(hook: Hook, folders: Callable[[], Folders]) -> Callable[..., Any]:
    def ask(cls: object, **given: Any) -> Any:
        try:
            found = hook.ask(given, Context(folders()))
        except ValueError as error:
            return str(error)
        return True if found is None else found

    return _signed(ask, hook, "cls")


def _signed(function: Callable[..., Any], hook: Hook, owner: str) -> Callable[..., Any]:
    """The function with the hook's parameters, which ComfyUI reads to see what it takes."""
    kinds = [inspect.Parameter(owner, inspect.Parameter.POSITIONAL_ONLY)]
    plain = inspect.Parameter.POSITIONAL_OR_KEYWORD  # keyword-only parameters are not among getfullargspec's args
    kinds += [inspect.Parameter(name, plain) for name in sorted(hook.names - {"context"})]
    every = [inspect.Parameter("given", inspect.Parameter.VAR_KEYWORD)] if hook.every else []
    function.__signature__ = inspect.Signature([*kinds, *every])  # pyright: ignore[reportFunctionMemberAccess]
    return function
