"""How a node is written: a typed function with a decorator, from which its definition is read.

    @node("LatentUpscaleBy", "latent", title="Upscale Latent By")
    def latent_upscale_by(
        samples: Latent, upscale_method: Resize, scale_by: Annotated[float, Range(0.01, 8), Input(step=0.01)] = 1.5
    ) -> Latent:
        \"\"\"Resizes latents by a factor.

        Args:
            samples: The latents.
            upscale_method: The interpolation.
            scale_by: The factor.
        \"\"\"

- Parameters are the inputs, in ComfyUI's order; write `*` first where one with a default precedes one without.
- `int`, `float`, `bool` and `str` are widgets, `Literal` and `Choices` are combos, `Range` is their range. Other types
  have a `Socket`; `sigmafield.comfyui.values` names the usual ones. `Input` has the remaining options.
- An input is optional where its default is None, or with `Input(optional=True)`. A default that ComfyUI does not have
  must not be given.
- A parameter of type `Context` receives the folders and the prompt; it and `Hidden` ones are not inputs.
- `Autogrow` inputs arrive as a dict, `Dynamic` ones as an object of the chosen dataclass (with `kw_only=True`).
- The return annotation gives the outputs: `Latent`, `tuple[Image, Mask]`, `None`; `Shown[…]` with what an interface
  shows; `Remarked[…]` with a text for while the prompt runs; `Expanded[…]` for a graph; `Stepped[…]` for a generator
  that yields `Progress`. `outputs` names them where the names are not the types. A list of outputs is
  `Annotated[list[…], Socket("LATENT", listed=True)]`.
- With `takes_lists` every parameter is a sequence: `latents: Sequence[Latent]`, `size: Sequence[int] = (1,)`.
- `validate`, `fingerprint` and `needs` are functions that take some of the inputs by name, and `context`.

Called in Python, the function checks its numbers, words and choices, and a generator is run to its end. Modules in
`sigmafield.comfyui.nodes` are found by themselves: nothing else has to be registered.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from functools import wraps
from typing import Any, ParamSpec, Protocol, TypeVar, cast, get_type_hints, overload, runtime_checkable

import docstring_parser

from sigmafield.comfyui.asked import asked
from sigmafield.comfyui.context import Blocked, Context, Expanded, Outcome, Progress, Remark, Remarked, Shown
from sigmafield.comfyui.definition import Definition, Hook, Result
from sigmafield.comfyui.signature import inputs_of, objects_of, outputs_of
from sigmafield.comfyui.sockets import Hidden, note
from sigmafield.core.parameters import Parameter, check, parameters
from sigmafield.core.registry import Registry

P = ParamSpec("P")
T = TypeVar("T")

NODES: Registry[Definition] = Registry("node class")
"""Definitions by class type, of the modules that have been imported; `all_nodes` imports all."""


@runtime_checkable
class Declare(Protocol):
    """What `node` returns: it takes a function, and gives one that checks its arguments and runs to its end."""

    @overload
    def __call__(self, function: Callable[P, Generator[Progress, None, T]], /) -> Callable[P, T]: ...
    @overload
    def __call__(self, function: Callable[P, T], /) -> Callable[P, T]: ...


def node(
    name: str,
    category: str,
    *,
    title: str | None = None,
    outputs: Sequence[str] = (),
    version: int = 1,
    shows: bool = False,
    takes_lists: bool = False,
    fresh: bool = False,
    deprecated: bool = False,
    experimental: bool = False,
    module: str = "nodes",
    boundary: str | None = None,
    aliases: Sequence[str] = (),
    validate: Callable[..., Any] | None = None,
    fingerprint: Callable[..., Any] | None = None,
    needs: Callable[..., Sequence[str]] | None = None,
) -> Declare:
    """Make a node class of a function and add it to `NODES`; the arguments are those of `Definition`.

    Args:
        name: ComfyUI's `class_type`.
        category: Its path in the menu.
        title: Its name in the interface.
        outputs: Names of the outputs, where they are not their types.
        version: 3 for a class whose entry in ComfyUI has "multiselect" and "output_matchtypes".
        shows: Whether it is run for its own sake.
        takes_lists: Whether it is called once, with lists.
        fresh: Whether two equal nodes must both run.
        deprecated: Whether there is a better class.
        experimental: Whether it may change.
        module: "nodes" for ComfyUI's own classes, "custom_nodes.PACK" for those of a pack.
        boundary: "start" or "end" of a loop.
        aliases: Other words under which it is found.
        validate: Raises ValueError for inputs that do not work.
        fingerprint: Gives a value that changes when the node must run again.
        needs: Gives the names of the lazy inputs that are needed.
    """

    def declare(function: Callable[..., Any]) -> Callable[..., Any]:
        hints = get_type_hints(function, include_extras=True)
        known = parameters(function, lambda argument: argument.name in hints)
        documented = docstring_parser.parse(function.__doc__ or "", docstring_parser.DocstringStyle.GOOGLE)
        kinds = [each.kind for each in inspect.signature(function).parameters.values()]
        NODES.add(
            Definition(
                name=name,
                category=category,
                call=_caller(function, name, hints, () if takes_lists else known),
                inputs=inputs_of(function, version, takes_lists),
                outputs=outputs_of(hints.get("return"), outputs),
                hidden=_hidden(hints),
                title=title,
                doc=documented.short_description or "",
                takes_lists=takes_lists,
                shows=shows,
                fresh=fresh,
                waits=inspect.iscoroutinefunction(inspect.unwrap(function)),
                extra_inputs=inspect.Parameter.VAR_KEYWORD in kinds,
                deprecated=deprecated,
                experimental=experimental,
                version=version,
                module=module,
                validate=validate and Hook.of(validate),
                fingerprint=fingerprint and Hook.of(fingerprint),
                needs=needs and Hook.of(needs),
                boundary=boundary,
                aliases=aliases,
            )
        )
        return _checked(function, name, () if takes_lists else known)

    return cast(Declare, declare)


def _checked(function: Callable[P, T], name: str, known: Sequence[Parameter]) -> Callable[P, T]:
    """The function with its widgets checked at each call, and run to its end."""
    signature = inspect.signature(function)

    @wraps(function)
    def call(*args: P.args, **given: P.kwargs) -> T:
        bound = signature.bind(*args, **given)
        _check(name, known, bound.arguments)
        made = function(*bound.args, **bound.kwargs)
        return _finished(cast("Generator[Any, None, T]", made)) if inspect.isgenerator(made) else made

    return call


def _finished(steps: Generator[Any, None, T]) -> T:
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def _check(name: str, known: Sequence[Parameter], given: Mapping[str, Any]) -> None:
    """Raise ValueError unless the numbers, words and choices have their types and are in their ranges."""
    widgets = {each.name: each for each in known if each.kind is not None or each.choices}
    check(name, widgets, {key: value for key, value in given.items() if key in widgets})


def _hidden(hints: Mapping[str, Any]) -> dict[str, str]:
    """The parameters that the executor fills in: what with, by name."""
    return {key: kind.type for key, hint in hints.items() if (kind := note(hint, Hidden)) is not None}


def _caller(
    function: Callable[..., Any], name: str, hints: Mapping[str, Any], known: Sequence[Parameter]
) -> Callable[[Mapping[str, Any], Context], Result]:
    """The function as the executor calls it: inputs by name, with what it asks the context for, to an outcome."""
    contexts = [key for key, hint in hints.items() if hint is Context and key != "return"]
    hidden = _hidden(hints)
    n = len(outputs_of(hints.get("return"), ()))

    def call(inputs: Mapping[str, Any], context: Context) -> Result:
        values = asked(context)
        given = {**objects_of(hints, inputs), **{key: values[kind] for key, kind in hidden.items()}}
        _check(name, known, given)
        made = function(**given, **dict.fromkeys(contexts, context))
        if inspect.isgenerator(made):
            return _stepping(cast("Generator[Progress, None, Any]", made), n)
        return _awaited(made, n) if inspect.isawaitable(made) else outcome(made, n)

    return call


def _stepping(steps: Generator[Progress, None, Any], n: int) -> Generator[Progress, None, Outcome]:
    return outcome((yield from steps), n)


async def _awaited(made: Awaitable[Any], n: int) -> Outcome:
    return outcome(await made, n)


def outcome(made: Any, n: int) -> Outcome:
    """What a node function returned, in one form.

    Args:
        made: The value of the only output, a tuple of several, None without any, a `Blocked` for all of them, or a
            `Shown`, `Remarked` or `Expanded` of these.
        n: The number of outputs.
    """
    value = made.value if isinstance(made, (Shown, Remarked, Expanded)) else made
    if isinstance(value, Blocked):
        values = (value,) * n
    else:
        values = (value,) if n == 1 else () if value is None else tuple(value)
    ui = made.ui if isinstance(made, Shown) else None
    remark = Remark(made.text) if isinstance(made, Remarked) else None
    return Outcome(values, ui, made.graph if isinstance(made, Expanded) else None, remark)
