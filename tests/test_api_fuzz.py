"""The API under a schema-driven fuzzer: what its description says is what it does.

Requests are made from the OpenAPI document, right ones and wrong ones, and sent over real sockets.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
import schemathesis
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from orchestrator.service.tokens import Role
from orchestrator.states import JobState
from tests.apis import Api, served

pytestmark = pytest.mark.slow

EXAMPLES = 30
SETTINGS = hypothesis.settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
    phases=[hypothesis.Phase.generate],
)
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """One server for the whole description."""
    with served(tmp_path_factory.mktemp("home")) as made:
        yield made


@pytest.fixture(scope="module")
def ended(api: Api) -> str:
    """A job that has ended, so that nothing waits for it."""
    job: str = api.submit()["job"]
    api.move(job, JobState.STARTING, JobState.RUNNING, JobState.SUCCEEDED, odd=float("nan"))
    return job


@pytest.fixture(scope="module")
def headers(api: Api) -> dict[str, str]:
    """An administrator's: nothing is refused for want of a role."""
    return {"Authorization": f"Bearer {api.tokens[Role.ADMIN]}"}


@pytest.fixture(scope="module")
def described(api: Api, headers: dict[str, str]) -> Any:
    """The OpenAPI document, as it is served."""
    return schemathesis.openapi.from_url(f"{api.url}/openapi.json", headers=headers)


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_what_is_described_is_what_happens(
    described: Any, headers: dict[str, str], ended: str, mode: GenerationMode
) -> None:
    """No 5xx, and statuses, media types and documents as described, whatever is asked."""
    tried = 0

    def check(case: Any) -> None:
        nonlocal tried
        tried += 1
        if "job" in (case.path_parameters or {}) and tried % 2:
            case.path_parameters["job"] = ended
        wait = (case.query or {}).get("wait")
        if isinstance(wait, (int, float)):
            case.query["wait"] = min(wait, 0.01)
        case.call_and_validate(checks=CHECKS, headers=headers, timeout=60)

    for result in described.get_all_operations():
        operation = result.ok()
        with contextlib.suppress(hypothesis.errors.Unsatisfiable):  # nothing can be wrong in it
            SETTINGS(hypothesis.given(operation.as_strategy(generation_mode=mode))(check))()
    assert tried > 20 * EXAMPLES // 2
