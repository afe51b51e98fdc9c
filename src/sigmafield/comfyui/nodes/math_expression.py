"""A node that computes a number by a formula."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from sigmafield.comfyui.declare import node
from sigmafield.comfyui.expressions import evaluate
from sigmafield.comfyui.nodes.text import LETTERS
from sigmafield.comfyui.nodes.values import Text
from sigmafield.comfyui.sockets import Autogrow, Socket

Number = Annotated[int | float, Socket("FLOAT,INT,BOOLEAN")]


@node("ComfyMathExpression", "utils", title="Math Expression", outputs=("FLOAT", "INT", "BOOL"), version=3)
def math_expression(
    expression: Text = "a + b",
    *,
    values: Annotated[Mapping[str, int | float], Autogrow(Number, "value", min=1, names=LETTERS)],
) -> tuple[float, int, bool]:
    """The value of a formula, as a number, as a whole number that is cut off, and as true or false.

    Args:
        expression: The formula in Python's notation, with the names a, b, … and `values`, the list of them.
        values: The values a, b, ….
    """
    given = {name: each for name, each in values.items() if each is not None}
    found = evaluate(expression, {**given, "values": list(given.values())})
    try:
        return float(found), int(found), bool(found)
    except OverflowError:
        raise ValueError(f"the value of expression {expression!r} is too large for a number") from None
