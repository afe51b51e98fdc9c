"""Nodes of numbers, texts, switches and lists."""

import math

import pytest

from sigmafield.comfyui.context import Context
from sigmafield.comfyui.declare import NODES
from sigmafield.comfyui.expressions import evaluate
from sigmafield.comfyui.nodes import text, values
from sigmafield.comfyui.nodes.math_expression import math_expression


def test_primitives_give_their_value():
    assert values.primitive_int(-7) == values.seed_node(5) - 12 == -7
    assert values.primitive_float(0.5) == 0.5 and values.primitive_boolean(True) is True
    assert values.primitive_string("a") == "a" and values.primitive_string_multiline("a\nb") == "a\nb"
    with pytest.raises(ValueError, match="value ≤ 9223372036854775807"):
        values.primitive_int(2**63)


@pytest.mark.parametrize(
    "value, expected",
    [
        (True, (1.0, 1)),
        (-2.7, (-2.7, -2)),
        (3, (3.0, 3)),
        (" 9007199254740993 ", (2.0**53, 2**53 + 1)),
        ("-1.5e1", (-15.0, -15)),
    ],
)
def test_numbers_are_made_of_anything(value, expected):
    assert values.number_convert(value) == expected


@pytest.mark.parametrize("value", ["", "a", "nan", "inf", math.inf, "1e999", None])
def test_what_is_not_a_number_is_refused(value):
    with pytest.raises(ValueError, match="needs a finite number"):
        values.number_convert(value)


def test_resolutions():
    assert values.resolution_selector("16:9 (Widescreen)", 0.4, multiple=32) == (864, 480)
    s = math.sqrt(2 * 2**20 / 6)
    assert values.resolution_selector("2:3 (Portrait Photo)", 2.0) == (round(2 * s / 8) * 8, round(3 * s / 8) * 8)


def test_a_switch_asks_for_the_chosen_side_only():
    needs = NODES["ComfySwitchNode"].needs
    assert needs and needs.ask({"switch": True, "on_true": None, "on_false": None}, Context()) == ["on_true"]
    assert needs.ask({"switch": False, "on_true": None, "on_false": 1}, Context()) == []
    assert needs.ask({"switch": True, "on_false": None}, Context()) == []  # nothing is linked there
    assert values.switch(False, 1, 2) == 1 and values.switch(True) is None


def test_a_combo_of_ones_own_gives_text_and_number():
    assert values.custom_combo("b", 1, option1="a", option2="b") == ("b", 1)
    combo = NODES["CustomCombo"]
    assert combo.validate and combo.validate.ask({"choice": "anything"}, Context()) is True
    assert combo.call({"choice": "b", "index": 1, "option1": "a"}, Context()).values == ("b", 1)


@pytest.mark.parametrize(
    "value, shown",
    [("a", "a"), (1.5, "1.5"), (True, "True"), ({"a": [1]}, '{\n    "a": [\n        1\n    ]\n}'), ({1}, "{1}")],
)
def test_any_value_is_shown_as_text(value, shown):
    made = values.preview_any(value)
    assert made.value == shown and made.ui == {"text": (shown,)}


def test_lists_are_joined_and_taken_apart():
    assert values.create_list({"input0": [1, 2], "input1": ["a"]}) == [1, 2, "a"]
    assert values.get_item_from_list([4, 5, 6], [-1]) == 6 and values.get_item_from_list([4, 5, 6]) == 4
    with pytest.raises(ValueError, match="a list of 3 items; got 3"):
        values.get_item_from_list([4, 5, 6], [3])


def test_texts_are_changed_as_python_does():
    assert text.string_concatenate("a", "b", "-") == "a-b"
    assert text.string_substring("abcdef", 1, -1) == "bcde" and text.string_length("añ日") == 3
    words = {
        mode: text.case_converter("hELLO wORLD", mode)
        for mode in ("UPPERCASE", "lowercase", "Capitalize", "Title Case")
    }
    assert list(words.values()) == ["HELLO WORLD", "hello world", "Hello world", "Hello World"]
    assert [text.string_trim(" a ", mode) for mode in ("Both", "Left", "Right")] == ["a", "a ", " a"]
    assert text.string_replace("aXbX", "X", "y") == "ayby"
    assert text.string_contains("Heart", "heart") is False and text.string_contains("Heart", "heart", False) is True
    for mode, expected in (("Starts With", True), ("Ends With", False), ("Equal", False)):
        assert text.string_compare("Abc", "ab", mode, False) is expected
        assert text.string_compare("Abc", "ab", mode) is False


def test_regular_expressions():
    said = "Cat 12, dog 3\ncat 45"
    assert text.regex_match(said, r"^CAT \d+$", multiline=True) and not text.regex_match(
        said, "^CAT", case_insensitive=False
    )
    assert text.regex_match(said, "3.cat", dotall=True) and not text.regex_match(said, "3.cat")
    found = {
        mode: text.regex_extract(said, r"(cat) (\d+)", mode, group_index=2)
        for mode in ("First Match", "All Matches", "First Group", "All Groups")
    }
    assert list(found.values()) == ["Cat 12", "Cat 12\ncat 45", "12", "12\n45"]
    assert text.regex_extract(said, "x(y)", "First Group") == text.regex_extract(said, "cat", "All Groups") == ""
    assert text.regex_replace(said, r"cat (\d+)", r"\1 cats", count=1) == "12 cats, dog 3\ncat 45"
    assert text.regex_replace("aA", "a", "b", case_insensitive=False) == "bA"
    with pytest.raises(ValueError, match=r"regex_pattern '\(' is not a regular expression"):
        text.regex_replace("a", "(", "b")


def test_values_are_put_into_a_text():
    assert text.string_format("{a}: {b:.2f} {{}} {a!r}", values={"a": "x", "b": 1.5}) == "x: 1.50 {} 'x'"
    with pytest.raises(ValueError, match="cannot be filled with the values a"):
        text.string_format("{b}", values={"a": 1})
    with pytest.raises(ValueError, match="cannot be filled"):  # attributes of values stay out of reach
        text.string_format("{a.__class__}", values={"a": 1})


@pytest.mark.parametrize(
    "said, key, expected",
    [
        ('{"a": 1}', "a", "1"),
        ('So: {x} {"a": "b"} {"a": "c"}', "a", "b"),
        ('{"a": null}', "a", ""),
        ("[]", "a", ""),
        ('{"b": 1}', "a", ""),
    ],
)
def test_a_value_of_the_first_json_object(said, key, expected):
    assert text.json_extract_string(said, key) == expected


@pytest.mark.parametrize(
    "expression, expected",
    [
        ("a + b * 2 - c / 4", 3 + 5 * 2 - 0.5 / 4),
        ("-a // 2", -3 // 2),
        ("a ** 2 % 4", 3**2 % 4),
        ("round (2.5) + round(3.5) + round(0.127, 2)", 2 + 4 + 0.13),
        ("max(a, b, 1) if a > 2 and not b == 4 else 0", 5),
        ("1 < a < 4 <= b", True),
        ("a & 2 | 8 ^ ~b", 3 & 2 | 8 ^ ~5),
        ("a << 2 >> 1", 3 << 2 >> 1),
        ("sum(values) + sum(a, b)", 8.5 + 8),
        ("min(values) + max(values)", 0.5 + 5),
        ("int(log2(64)) + ceil(0.2) + floor(-0.5) + abs(-c)", 6 + 1 - 1 + 0.5),
        ("sqrt(16) + pow(2, 3) + log10(100) + float(1) + sin(0) + cos(0) + tan(0) + log(1)", 4 + 8 + 2 + 1 + 1),
        ("0 or a", 3),
    ],
)
def test_expressions_are_pythons(expression, expected):
    found = math_expression(expression, values={"a": 3, "b": 5, "c": 0.5})
    assert found == (float(expected), int(expected), bool(expected))


@pytest.mark.parametrize(
    "expression, message",
    [
        ("", "not an expression"),
        ("a +", "not an expression"),
        ("a / 0", "division by zero"),
        ("x + 1", "unknown name 'x'"),
        ("sqr(4)", "unknown function 'sqr'.*sqrt"),
        ("sqrt(-1)", "expression"),
        ("(-8) ** 0.5", "not a real number"),
        ("2 ** 4001", "at most 4000"),
        ("10 ** 4000 ** 1", "too large"),
        ("1 << 5000", "at most 4000 bits"),
        ("round(5, -9000000)", "at most 4000 digits"),
        ("(9 ** 4000) ** 4000", "whole numbers have at most"),
        ("1e308 * 10", "not a finite number"),
        ("values", "not a finite number"),
        ("values * 3", "'values' is not a number"),
        ("'a' * 3", "not arithmetic"),
        ("a.real", "not arithmetic"),
        ("(lambda: 1)()", "not arithmetic"),
        ("__import__('os')", "unknown function"),
        ("[1 for x in values]", "not arithmetic"),
        ("max(a, key=abs)", "not arithmetic"),
        ("a @ a", "not arithmetic"),
        ("(" * 500 + "1" + ")" * 500, "expression"),
        ("1+" * 3000 + "1", "more than 4000 characters"),
        ("-" * 3000 + "1", "expression"),
    ],
)
def test_what_is_not_arithmetic_is_refused(expression, message):
    with pytest.raises(ValueError, match="(?s)" + message):
        math_expression(expression, values={"a": 3})


def test_expressions_cannot_grow_without_bounds():
    product = "*".join(["9**4000"] * 30)
    with pytest.raises(ValueError, match="at most 256000 bits"):
        evaluate(product, {})
