"""Parameters are declared once: annotation and docstring give their type, their range and their one sentence."""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
import pytest

from sigmafield.core.parameters import NonNegative, Range, check, checked, fields_of, keywords, schema_of, settle
from sigmafield.core.plain import from_plain, to_plain
from sigmafield.core.registry import Spec
from sigmafield.models.overrides import MODEL_SAMPLINGS
from sigmafield.recipes.mods import MODS
from sigmafield.runs.mixing_spec import TERMS
from sigmafield.samplers import SAMPLERS
from sigmafield.schedules import SCHEDULES

ROOMS = {
    "samplers": {name: row.parameters for name, row in SAMPLERS.items()},
    "schedules": {name: row.parameters for name, row in SCHEDULES.items()},
    "guidance": {name: row.parameters for name, row in MODS.items()},
    "overrides": {name: keywords(function) for name, function in MODEL_SAMPLINGS.items()},
    "mixing": {name: row.parameters for name, row in TERMS.items()},
}


@pytest.mark.parametrize("room", ROOMS)
def test_every_parameter_is_documented(room):
    missing = [f"{owner}.{p.name}" for owner, known in ROOMS[room].items() for p in known.values() if not p.doc]
    assert not missing


@dataclass(frozen=True)
class Box:
    """A box.

    Args:
        side: Side in pixels.
        at: Corner (x, y).
    """

    side: Annotated[int, Range(1)]
    at: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Options:
    """Options.

    Args:
        name: Name of it,
            over two lines.
        eta: Share: of noise.
        order: Order.
        shift: Time shift.
        stride: Stride.
        boxes: Boxes.
        inner: Main box.
        mods: Guidance.
        params: Anything.
    """

    name: str
    eta: NonNegative = 1.0
    order: Literal[2, 3] = 3
    shift: float | Literal["size"] | None = None
    stride: Annotated[int | None, Range(1)] = None
    top: Annotated[float, Range("eta", math.inf)] = math.inf
    on: bool = False
    boxes: Sequence[Box] = ()
    inner: Box | None = None
    mods: tuple[Spec, ...] = ()
    params: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        settle(self, "options")


def test_fields_have_type_default_range_and_documentation():
    known = fields_of(Options)
    assert list(known) == list(Options.__dataclass_fields__)
    assert known["name"].required and known["name"].doc == "Name of it, over two lines."
    assert known["eta"].doc == "Share: of noise." and known["eta"].range == Range(0) and known["eta"].default == 1.0
    assert known["order"].choices == (2, 3) and known["shift"].words == ("size",) and known["on"].doc == ""
    assert known["params"].default == {} and not known["params"].required


def test_schema_states_what_is_allowed():
    schema = schema_of(Options)
    assert json.loads(json.dumps(schema, allow_nan=False))["required"] == ["name"]
    properties = schema["properties"]
    assert properties["eta"] == {"type": "number", "minimum": 0, "default": 1.0, "description": "Share: of noise."}
    assert properties["order"] == {"enum": [2, 3], "default": 3, "description": "Order."}
    assert properties["stride"] == {
        "type": ["integer", "null"], "minimum": 1, "default": None, "description": "Stride."
    }  # fmt: skip
    assert properties["top"] == {"type": "number", "description": "top ≥ eta."}
    assert properties["shift"]["anyOf"] == [{"type": "number"}, {"enum": ["size"]}, {"type": "null"}]
    assert properties["boxes"]["items"] == schema_of(Box)
    assert properties["inner"]["type"] == ["object", "null"]
    assert schema_of(Box)["properties"]["at"]["prefixItems"] == [{"type": "integer"}, {"type": "integer"}]


def test_range_at_the_ends_of_a_schema():
    def f(*, a: Annotated[float, Range(0, 1, above=True, below=True)] = 0.5, b: Annotated[int, Range(1, 4)] = 1): ...

    assert keywords(f)["a"].schema() == {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1, "default": 0.5}
    assert keywords(f)["b"].schema() == {"type": "integer", "minimum": 1, "maximum": 4, "default": 1}


@pytest.mark.parametrize(
    "given, error",
    [
        ({"eta": True}, "options needs eta to be a number; got True"),
        ({"eta": "1"}, "options needs eta to be a number; got '1'"),
        ({"eta": -1}, "options needs eta ≥ 0; got -1"),
        ({"eta": math.nan}, "options needs eta ≥ 0; got nan"),
        ({"eta": None}, "options needs eta to be a number; got None"),
        ({"order": 2.0}, "options needs order = 2 or 3; got 2.0"),
        ({"order": 4}, "options needs order = 2 or 3; got 4"),
        ({"shift": "sized"}, "options needs shift = a number or size; got 'sized'"),
        ({"stride": 1.0}, "options needs stride to be a whole number; got 1.0"),
        ({"stride": 0}, "options needs stride ≥ 1; got 0"),
        ({"top": 0.5}, "options needs top ≥ eta; got 0.5 and eta = 1"),
        ({"on": 1}, "options needs on to be true or false; got 1"),
        ({"name": 1}, "options needs name to be text; got 1"),
        ({"boxes": (1,)}, "options needs boxes to be a list of Box objects; got (1,)"),
        ({"inner": {"side": 1}}, "options needs inner to be an object of Box; got {'side': 1}"),
    ],
)
def test_fields_are_strict(given, error):
    with pytest.raises(ValueError, match=f"^{re.escape(error)}$"):
        Options(**{"name": "a", **given})


@pytest.mark.parametrize("number", [2, 2.0, np.float32(2), np.int64(2), np.float64(2)], ids=lambda v: type(v).__name__)
def test_numbers_become_floats(number):
    eta = Options("a", eta=number, top=number).eta
    assert type(eta) is float and eta == 2.0
    assert Options("a", shift=number).shift == 2.0


def test_numpy_integers_become_integers():
    options = Options("a", stride=np.int32(3), order=np.int64(2), inner=Box(np.int16(4), (np.uint8(1), 2)))
    assert type(options.stride) is int and type(options.order) is int
    with pytest.raises(ValueError, match="stride"):
        Options("a", stride=np.float32(3))


def test_checked_passes_converted_values():
    @checked
    def f(*, eta: NonNegative = 1.0):
        return eta

    assert type(f(eta=np.float32(1))) is float
    with pytest.raises(ValueError, match=r"f has no parameter 'eat'; did you mean eta\?"):
        f(eat=1)


def test_required_fields_are_needed():
    with pytest.raises(ValueError, match="options needs name; it has no default"):
        check("options", fields_of(Options), {})


def test_functions_may_be_parameters():
    def f(*, weight: Callable[[float], float] = abs): ...

    assert keywords(f)["weight"].values == "a function"
    assert check("f", keywords(f), {"weight": math.sin}) == {"weight": math.sin}
    with pytest.raises(ValueError, match="f needs weight to be a function; got 1"):
        check("f", keywords(f), {"weight": 1})


def test_json_brings_back_the_same_value():
    options = Options(
        "a", eta=2, shift="size", boxes=(Box(1), Box(2, (3, 4))), inner=Box(5), mods=(Spec("apg", {"eta": 0.5}),),
        params={"a": [1]},
    )  # fmt: skip
    assert from_plain(Options, json.loads(json.dumps(to_plain(options))), "options") == options
    assert from_plain(Options, {"name": "a", "mods": "apg(eta=0.5)+cfg_norm"}, "options").mods == (
        Spec("apg", {"eta": 0.5}),
        Spec("cfg_norm"),
    )
    assert from_plain(Options, {"name": "a", "mods": ["apg(eta=0.5)"]}, "options").mods == options.mods


@pytest.mark.parametrize(
    "values, error",
    [
        ([], r"^options must be an object; got \[\]"),
        ({}, "^options needs name; it has no default"),
        ({"name": "a", "etta": 1}, r"^options has an unknown entry 'etta'; did you mean eta\?"),
        ({"name": "a", "stride": 1.5}, "^options: stride must be a whole number; got 1.5"),
        ({"name": "a", "eta": True}, "^options: eta must be a number; got True"),
        ({"name": "a", "boxes": [{"side": 1}, {"side": "2"}]}, r"^options: boxes\[1\]: side must be a whole number"),
        ({"name": "a", "boxes": [{"sides": 1}]}, r"^options: boxes\[0\] has an unknown entry 'sides'"),
        ({"name": "a", "inner": {"side": 1, "at": [1]}}, r"^options: inner: at must be 2 values .*; got \[1\]"),
        ({"name": "a", "mods": "apg("}, "^options: mods must be names with parameters"),
    ],
)
def test_json_is_strict(values, error):
    with pytest.raises(ValueError, match=error):
        from_plain(Options, values, "options")
