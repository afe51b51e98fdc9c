"""Arithmetic expressions in Python's notation, evaluated without Python: only numbers, in bounded time and memory."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sigmafield.core.registry import near_miss, shown

Number = int | float
Value = Number | Sequence[Number]

EXPONENT = 4000
"""The largest exponent, and the largest number of bits that are shifted by."""

BITS = 64 * EXPONENT
"""Largest size of a whole number."""

LENGTH = 4000
"""Largest number of characters."""

OPERATORS: Mapping[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
    ast.BitXor: operator.xor,
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
    ast.Invert: operator.invert,
    ast.Not: operator.not_,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}


def _power(base: Number, exponent: Number) -> Number:
    if abs(exponent) > EXPONENT or (isinstance(base, int) and base.bit_length() * abs(exponent) > BITS):
        raise ValueError(f"exponents are at most {EXPONENT}, and whole numbers have at most {BITS} bits")
    found = base**exponent
    if isinstance(found, complex):
        raise ValueError("a power of a negative number is not a real number")
    return found


def _shifted(shift: Callable[[int, int], int]) -> Callable[[int, int], int]:
    def call(value: int, by: int) -> int:
        if by > EXPONENT:
            raise ValueError(f"numbers are shifted by at most {EXPONENT} bits; got {by}")
        return shift(value, by)

    return call


def _round(value: Number, digits: int | None = None) -> Number:
    if digits is not None and abs(digits) > EXPONENT:
        raise ValueError(f"numbers are rounded to at most {EXPONENT} digits; got {digits}")
    return round(value, digits)


def _sum(*values: Any) -> Number:
    return sum(values[0]) if len(values) == 1 and isinstance(values[0], (list, tuple)) else sum(values)


BINARY: Mapping[type[ast.AST], Callable[..., Any]] = {
    **OPERATORS,
    ast.Pow: _power,
    ast.LShift: _shifted(operator.lshift),
    ast.RShift: _shifted(operator.rshift),
}

FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "sum": _sum,
    "min": min,
    "max": max,
    "abs": abs,
    "round": _round,
    "pow": _power,
    "sqrt": math.sqrt,
    "ceil": math.ceil,
    "floor": math.floor,
    "log": math.log,
    "log2": math.log2,
    "log10": math.log10,
    "sin": math.sin,
    "cos": math.cos,
    "tan": math.tan,
    "int": int,
    "float": float,
}


def evaluate(text: str, names: Mapping[str, Value]) -> Number:
    """The value of an expression such as "max(a, 64) // 8 * 8 if b > 0 else 512".

    Arithmetic, comparisons, `and`, `or`, `not`, `… if … else …`, bits, and the functions of `FUNCTIONS`.

    Args:
        text: The expression.
        names: Numbers and lists of numbers by the names that it may use.

    Raises:
        ValueError: It is not such an expression, or its value is not a finite number.
    """
    try:
        if len(text) > LENGTH:
            raise ValueError(f"it has more than {LENGTH} characters")
        found = _value(ast.parse(text.strip(), mode="eval").body, names)
        if not isinstance(found, (int, float)) or not math.isfinite(found):
            raise ValueError("its value is not a finite number")
        return found
    except SyntaxError as error:
        reason = f"it is not an expression: {error.msg}"
    except (RecursionError, MemoryError):
        reason = "it is nested too deeply"
    except (ArithmeticError, TypeError, ValueError) as error:
        reason = str(error)
    raise ValueError(f"expression {shown(text)}: {reason}")


def _value(node: ast.expr, names: Mapping[str, Value]) -> Any:
    """The value of a part of an expression."""
    match node:
        case ast.Constant(value=bool() | int() | float()):
            return node.value
        case ast.Name(id=name):
            if name not in names:
                raise ValueError(f"unknown name {shown(name)}{near_miss(name, [*names, *FUNCTIONS])}")
            return names[name]
        case ast.BinOp(left=left, op=op, right=right) if type(op) in BINARY:
            return _bounded(BINARY[type(op)], _number(left, names), _number(right, names))
        case ast.UnaryOp(op=op, operand=operand):
            return OPERATORS[type(op)](_number(operand, names))
        case ast.BoolOp(op=op, values=values):
            found: Any = None
            for each in values:
                found = _number(each, names)
                if bool(found) == isinstance(op, ast.Or):
                    break
            return found
        case ast.Compare(left=left, ops=ops, comparators=others) if all(type(op) in OPERATORS for op in ops):
            numbers = [_number(each, names) for each in (left, *others)]
            return all(OPERATORS[type(op)](a, b) for op, a, b in zip(ops, numbers, numbers[1:]))
        case ast.IfExp(test=test, body=body, orelse=orelse):
            return _value(body if _number(test, names) else orelse, names)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]):
            if name not in FUNCTIONS:
                raise ValueError(f"unknown function {shown(name)}{near_miss(name, FUNCTIONS)}")
            return _bounded(FUNCTIONS[name], *(_value(each, names) for each in args))
        case _:
            raise ValueError(f"{shown(ast.unparse(node))} is not arithmetic")


def _number(node: ast.expr, names: Mapping[str, Value]) -> Number:
    found = _value(node, names)
    if not isinstance(found, (int, float)):
        raise ValueError(f"{shown(ast.unparse(node))} is not a number")
    return found


def _bounded(function: Callable[..., Any], *values: Any) -> Any:
    """The function's value, unless it is a whole number of too many bits."""
    found = function(*values)
    if isinstance(found, int) and found.bit_length() > BITS:
        raise ValueError(f"whole numbers have at most {BITS} bits")
    return found
