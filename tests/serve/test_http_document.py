"""The OpenAPI document says what the server does, and whatever follows it makes no error of the server."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import MISSING, fields
from pathlib import Path
from unittest import SkipTest

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from hypothesis.strategies import booleans
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.errors import SchemathesisError
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from serving import Client, serving, settings_of

from sigmafield.recipes.recipe import Recipe
from sigmafield.serve.engine import Engine
from sigmafield.serve.http.routes import ROUTES
from sigmafield.serve.settings import EngineSettings

CHECKS = [not_a_server_error, content_type_conformance, response_schema_conformance, status_code_conformance]


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


def fuzzed(root: Path, folder: Path, examples: int, path: str = "") -> int:
    """Sends requests that follow the document, and such that do not quite; gives their number.

    Of one path, or of all.
    None may give an error of the server, or an answer that the document does not describe. The engine is not started:
    jobs wait in its queue.
    """
    engine = Engine(folder, EngineSettings(devices=("cpu",), queue_length=10**6))
    counted = 0
    with serving(engine, settings_of(root, wait_seconds=0.01), folder) as client:
        job = client.submit()
        schema = schemathesis.openapi.from_url(f"{client.url}/openapi.json")
        for operation in (found.ok() for found in schema.get_all_operations()):
            # the former does not end, and the latter says that the engine has not started
            if operation.path in ("/v1/events", "/readyz") or path not in ("", operation.path):
                continue
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):

                @settings(
                    max_examples=examples, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
                    suppress_health_check=list(HealthCheck),
                )  # fmt: skip
                @given(case=operation.as_strategy(generation_mode=mode), own=booleans())
                def check(case: schemathesis.Case, own: bool) -> None:
                    nonlocal counted
                    if own and "id" in case.path_parameters and case.path != "/v1/jobs/{id}/events":
                        case.path_parameters["id"] = job
                    case.call_and_validate(checks=CHECKS, timeout=20)
                    counted += 1

                with suppress(SchemathesisError, Unsatisfiable, SkipTest):  # nothing to get wrong
                    check()
    engine.stop()
    return counted


def test_requests_that_are_nearly_right_give_no_error_of_the_server(root, tmp_path):
    assert fuzzed(root, tmp_path, 10, "/v1/jobs/{id}/clone") >= 10


@pytest.mark.slow
def test_requests_like_those_of_the_document_give_no_error_of_the_server(root, tmp_path):
    assert fuzzed(root, tmp_path, 60) > 2000
