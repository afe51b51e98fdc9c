"""The OpenAPI document says what the server does, and whatever follows it makes no error of the server."""

from __future__ import annotations

import re
from dataclasses import MISSING, fields

import pytest
from serving import Client

from sigmafield.recipes.recipe import Recipe
from sigmafield.serve.http.routes import ROUTES


@pytest.fixture(scope="module")
def document(server: Client) -> dict:
    return server.get("/openapi.json").json


def test_every_route_is_in_the_document_with_a_sentence(document):
    assert document["openapi"] == "3.1.0"
    there = {(path, method.upper()) for path, row in document["paths"].items() for method in row}
    assert there == {(route.path, route.method) for route in ROUTES}
    assert all(operation["summary"].endswith(".") for row in document["paths"].values() for operation in row.values())


def test_every_entry_of_a_recipe_has_its_type_default_and_sentence(document):
    known = document["components"]["schemas"]["Recipe"]["properties"]
    assert known.keys() == {field.name for field in fields(Recipe)} | {"version"}
    for field in fields(Recipe):
        schema = known[field.name]
        assert schema["description"] and {"type", "anyOf", "enum"} & schema.keys(), field.name
        assert ("default" in schema) == (field.default is not MISSING), field.name
    assert known["denoise"]["exclusiveMinimum"] == 0 and known["denoise"]["maximum"] == 1
    assert known["steps"]["maximum"] == 400, "the server's limit"


def test_names_to_choose_from_are_listed_by_a_route(server, document):
    """x-choices is the address of a list in which the entry's default is; forms show it as a choice."""
    known = document["components"]["schemas"]["Recipe"]["properties"]
    given = {name: schema["x-choices"] for name, schema in known.items() if "x-choices" in schema}
    assert {"model", "sampler", "schedule", "guidance"} == given.keys()
    for name, path in given.items():
        [rows] = [value for value in server.get(path).json.values() if isinstance(value, list)]
        names = {row.get("name", row.get("id")) for row in rows}
        assert names and known[name]["default"] in (None, [], *names), name
    assert all(known[name]["contentMediaType"] == "image/*" for name in ("image", "mask", "denoise_map"))


def test_every_reference_leads_somewhere(document):
    names = set(re.findall(r"#/components/schemas/(\w+)", str(document)))
    assert names <= document["components"]["schemas"].keys()


def test_pages_need_nothing_from_elsewhere(server):
    """Everything that the pages load is this server's own."""
    for path in ("/", "/docs"):
        text = server.get(path).body.decode()
        loaded = re.findall(r'(?:src|href)="([^"]+)"', text)
        assert not re.search(r"https?://", text)
        for each in loaded:
            if each.startswith("/"):
                assert server.get(each).status == 200, each
    assert server.get("/page/none.js").status == 404


def test_the_document_says_when_a_token_is_needed(guarded):
    paths = guarded.get("/openapi.json").json["paths"]
    assert paths["/v1/jobs"]["post"]["security"] == [{"token": []}] and "security" not in paths["/healthz"]["get"]
