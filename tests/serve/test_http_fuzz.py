"""Requests like those of the OpenAPI document, and such that do not quite follow it, give no error of the server."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from unittest import SkipTest

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from hypothesis.strategies import booleans
from serving import serving, settings_of

from sigmafield.serve.engine import Engine
from sigmafield.serve.settings import EngineSettings

EXAMPLES = 12
"""Of each route, right ones and wrong ones each."""

LEFT_OUT = ("/v1/events", "/readyz")
"""The former does not end, and the latter says that the engine is not started."""


@pytest.mark.slow
def test_no_request_gives_an_error_of_the_server_or_an_answer_that_is_not_described(root: Path, tmp_path: Path):
    """The engine is not started: jobs wait in its queue."""
    import schemathesis  # half of the time of a short run
    from schemathesis import GenerationMode
    from schemathesis.checks import not_a_server_error
    from schemathesis.errors import SchemathesisError
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        response_schema_conformance,
        status_code_conformance,
    )

    checks = [not_a_server_error, content_type_conformance, response_schema_conformance, status_code_conformance]
    quiet = settings(
        max_examples=EXAMPLES, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    counted = 0
    engine = Engine(tmp_path, EngineSettings(devices=("cpu",), queue_length=10**6))
    with serving(engine, settings_of(root, wait_seconds=0.01), tmp_path) as client:
        job = client.submit()
        schema = schemathesis.openapi.from_url(f"{client.url}/openapi.json")
        for operation in (found.ok() for found in schema.get_all_operations()):
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE) if operation.path not in LEFT_OUT else ():

                @quiet
                @given(case=operation.as_strategy(generation_mode=mode), own=booleans())
                def check(case: schemathesis.Case, own: bool) -> None:
                    nonlocal counted
                    if own and "id" in case.path_parameters and case.path != "/v1/jobs/{id}/events":
                        case.path_parameters["id"] = job
                    case.call_and_validate(checks=checks, timeout=20)
                    counted += 1

                with suppress(SchemathesisError, Unsatisfiable, SkipTest):  # nothing to get wrong
                    check()
    engine.stop()
    assert counted > 20 * EXAMPLES, counted
