"""Recipes of any hand: what is not one is refused with one line, and what is accepted comes back the same."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sigmafield as sf
from sigmafield.core.parameters import fields_of
from sigmafield.core.registry import Spec, parse_specs
from sigmafield.recipes.label import read_label

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=20)  # half surrogates too
SPEC_LIKE = st.text("euler(s_churn=0.5)+karras,[]{}'\"-1einf*", max_size=30)
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=6,
)
NESTED = {
    "regions": sf.Region, "loras": sf.Lora, "controls": sf.ControlImage, "tiling": sf.Tiling, "detail": sf.Detail,
    "demofusion": sf.DemoFusion, "references": sf.Reference,
    "ip_adapters": sf.AdapterImage,
}  # fmt: skip


def objects(cls):
    """JSON objects with some of the fields of a class, of any type."""
    return st.dictionaries(st.sampled_from(sorted(fields_of(cls))), ANY_JSON | SPEC_LIKE, max_size=4)


FIELDS = st.dictionaries(
    st.sampled_from([*fields_of(sf.Recipe), "version", "unknown"]),
    ANY_JSON | SPEC_LIKE | st.one_of(*map(objects, NESTED.values())) | st.sampled_from([2, "random", "karras", "auto"]),
    max_size=5,
)


def refused_in_one_line(read, text):
    """Nothing, or the recipe; the only exception is a ValueError of one line."""
    message = ""
    try:
        return read(text)
    except ValueError as error:
        message = str(error)
    assert "\n" not in message
    assert len(message) < 2000
    return None


@given(FIELDS)
@settings(deadline=None, max_examples=50)
def test_any_entries(entries):
    recipe = refused_in_one_line(sf.Recipe.from_json, json.dumps({"prompt": "x", **entries}))
    if recipe is not None:
        assert sf.Recipe.from_json(recipe.to_json()) == recipe


@settings(deadline=None, max_examples=50)
@given(ANY_JSON | st.fixed_dictionaries({"recipe": FIELDS, "image": ANY_JSON}))
def test_any_json(value):
    refused_in_one_line(sf.Recipe.from_json, json.dumps(value))
    refused_in_one_line(read_label, json.dumps(value))


@given(st.text() | st.binary())
@settings(deadline=None, max_examples=50)
@pytest.mark.typed_elsewhere
def test_any_text(text):
    refused_in_one_line(sf.Recipe.from_json, text)


@given(SPEC_LIKE)
@settings(deadline=None, max_examples=50)
def test_any_spec(text):
    specs = refused_in_one_line(lambda text: parse_specs(text, "sampler", "euler"), text)
    assert specs is None or all(isinstance(spec, Spec) for spec in specs)


@pytest.mark.parametrize(
    "text, message",
    [
        ("[" * 100_000, "the recipe is not JSON: "),
        ('{"prompt": "x", "steps": ' + "9" * 5000 + "}", "the recipe is not JSON: "),
        ('{"prompt": "x", "steps": ' + "9" * 400 + "}", "the recipe needs 1 ≤ steps ≤ 10000; got 999"),
        ('{"prompt": "x", "cfg": ' + "9" * 400 + "}", "the recipe needs cfg to be finite; got inf"),
        ('{"prompt": "x", "cfg": 1e308}', "the recipe needs cfg within ±3.40282e+38, what float32 holds; got 1e+308"),
        ('{"prompt": "x", "image": []}', "the recipe: image must be text; got []"),
        ('{"prompt": "x", "version": 2.0}', "the recipe is of version 2.0; this sigmafield reads version 2"),
        ('{"prompt": "\\ud800"}', "the recipe needs prompt to be Unicode text, which UTF-8 can hold; got '\\ud800'"),
        ('{"prompt": "x", "sampler": "' + "(" * 500 + '"}', "sampler must be names with parameters"),
        ('{"prompt": "x", "guidance": "' + "a+" * 9999 + 'a"}', "guidance must be names with parameters"),
        ('{"prompt": "x", "sampler": "f(a={[]: 1})"}', "sampler must be names with parameters"),
        ('{"prompt": "x", "regions": [{"a": 1}]}', "the recipe: regions[0] has an unknown entry 'a'; known: height"),
        ('{"prompt": "x", "loras": null}', "the recipe: loras must be a list of"),
        ("null", "the recipe must be a JSON object; got None"),
    ],
    ids=lambda text: text[:30],
)
def test_odd_recipes(text, message):
    with pytest.raises(ValueError, match="^") as caught:
        sf.Recipe.from_json(text)
    assert str(caught.value).startswith(message)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "text, message",
    [
        ('{"prompt": "x"}', "what the image carries must be an object with a recipe; got {'prompt': 'x'}"),
        ('{"recipe": {"prompt": "x", "steps": "8"}}', "the recipe: steps must be a whole number; got '8'"),
        ('{"recipe": {"prompt": "x"}, "image": 1}', "image must be one of the batch of 1, from 0; got 1"),
    ],
)
def test_odd_labels(text, message):
    with pytest.raises(ValueError, match="^") as caught:
        read_label(text)
    assert str(caught.value) == message


@pytest.mark.parametrize("drawn", [-1, "random"])
def test_a_drawn_seed_is_in_the_recipe(drawn):
    recipe, other = sf.Recipe("x", seed=drawn), sf.Recipe("x", seed=drawn)
    assert isinstance(recipe.seed, int) and 0 <= recipe.seed < 2**53 and recipe.seed != other.seed
    assert sf.Recipe.from_json(recipe.to_json()).seed == recipe.seed


@pytest.mark.typed_elsewhere
def test_numbers_of_numpy_are_numbers():
    spec = sf.Spec("dpmpp_2m_sde", {"eta": np.float32(0.5)})
    recipe = sf.Recipe("x", cfg=np.float32(3), steps=np.int8(3), seed=np.uint64(2**64 - 1), sampler=spec)
    assert recipe == sf.Recipe("x", cfg=3.0, steps=3, seed=2**64 - 1, sampler="dpmpp_2m_sde(eta=0.5)")
    assert sf.Recipe.from_json(recipe.to_json()) == recipe


@pytest.mark.parametrize(
    "given, message",
    [
        ({"guidance": 5}, "guidance must be names with parameters, such as 'apg(eta=0.5)+cfg_norm'; got 5"),
        ({"noise": 0}, "noise must be names with parameters, such as 'pyramid(discount=0.8)'; got 0"),
        ({"width": np.zeros(3), "height": 8}, "the recipe needs width to be a whole number; got array([0., 0., 0.])"),
        ({"map_schedule": np.zeros(3)}, "the recipe needs map_schedule = delayed or own; got array([0., 0., 0.])"),
        ({"seed": -2}, "the recipe needs -1 ≤ seed ≤ 18446744073709551615; got -2"),
        ({"negative": "\udcff"}, "the recipe needs negative to be Unicode text, which UTF-8 can hold; got '\\udcff'"),
    ],
)
@pytest.mark.typed_elsewhere
def test_values_of_another_type_are_named(given, message):
    with pytest.raises(ValueError, match="^") as caught:
        sf.Recipe("x", **given)
    assert str(caught.value) == message
