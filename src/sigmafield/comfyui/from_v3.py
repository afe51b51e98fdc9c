"""A class of ComfyUI's third form, with define_schema and execute, as a definition."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

from sigmafield.comfyui.asked import asked
from sigmafield.comfyui.context import Blocked, Context, Outcome
from sigmafield.comfyui.definition import Definition, Hook, Output, Result, Slot
from sigmafield.comfyui.from_v1 import v1_outcome
from sigmafield.comfyui.v3_api import Hidden, NodeOutput, V3Input, V3Output


def v3_classes(entry: Callable[[], Any]) -> list[Any]:
    """The classes that a pack's comfy_entrypoint leads to."""

    async def classes() -> list[Any]:
        extension = entry()
        extension = await extension if inspect.isawaitable(extension) else extension
        return await extension.get_node_list()

    with ThreadPoolExecutor(1) as pool:  # the caller may have an event loop of its own
        return pool.submit(asyncio.run, classes()).result()


def v3_definition(cls: Any, module: str) -> Definition:
    """The definition of a class.

    Args:
        cls: The class.
        module: "custom_nodes.PACK".
    """
    schema = cls.define_schema()
    n = len(schema.outputs)
    wanted = {*schema.hidden, *((Hidden.prompt, Hidden.extra_pnginfo) if schema.is_output_node else ())}
    return Definition(
        name=schema.node_id,
        category=schema.category,
        call=_caller(cls, n),
        inputs=tuple(sorted(map(_slot, schema.inputs), key=lambda each: not each.required)),
        outputs=tuple(map(_output, schema.outputs)),
        hidden={each.name: each.value for each in Hidden if each in wanted},
        title=schema.display_name,
        doc=schema.description,
        takes_lists=schema.is_input_list,
        shows=schema.is_output_node,
        fresh=schema.not_idempotent,
        waits=inspect.iscoroutinefunction(cls.execute),
        extra_inputs=schema.accept_all_inputs,
        deprecated=schema.is_deprecated,
        experimental=schema.is_experimental,
        version=3,
        module=module,
        validate=Hook.of(cls.validate_inputs) if hasattr(cls, "validate_inputs") else None,
        fingerprint=Hook.of(cls.fingerprint_inputs) if hasattr(cls, "fingerprint_inputs") else None,
        needs=Hook.of(cls.check_lazy_status) if hasattr(cls, "check_lazy_status") else None,
        aliases=tuple(schema.search_aliases),
    )


def _slot(given: V3Input) -> Slot:
    options = dict(given.options)
    return Slot(given.id, given.type, options, not given.optional, None, str(options.pop("tooltip", "")))


def _output(given: V3Output) -> Output:
    return Output(given.type, given.display_name or given.id or given.type, given.is_output_list, given.template)


def _caller(cls: Any, n: int) -> Callable[[Mapping[str, Any], Context], Result]:
    def call(inputs: Mapping[str, Any], context: Context) -> Result:
        given = {name.lower(): value for name, value in asked(context).items()}
        hidden = SimpleNamespace(**given, auth_token_comfy_org=None, api_key_comfy_org=None, context=context)
        made = type(cls.__name__, (cls,), {"hidden": hidden}).execute(**inputs)
        return _awaited(made, n) if inspect.isawaitable(made) else _outcome(made, n)

    return call


async def _awaited(made: Awaitable[Any], n: int) -> Outcome:
    return _outcome(await made, n)


def _outcome(made: Any, n: int) -> Outcome:
    if made is None:
        return Outcome()
    if not isinstance(made, NodeOutput):
        return v1_outcome(made, n)
    if made.block_execution is not None:
        return Outcome((Blocked(made.block_execution or None),) * n)
    ui = made.ui.as_dict() if hasattr(made.ui, "as_dict") else made.ui
    return Outcome(tuple(made.values), ui, made.expand)


def v3_definitions(entry: Callable[[], Any], module: str) -> Iterator[tuple[str, Callable[[], Definition]]]:
    """The names of a pack's classes, and what makes their definitions."""
    found: Sequence[Any] = v3_classes(entry)
    for cls in found:
        yield cls.__name__, lambda cls=cls: v3_definition(cls, module)
